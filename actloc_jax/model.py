"""A checkpoint that is ready to predict: what `--mode=predict` runs, and what Python programs load."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import systems, workdirs
from actloc_jax.extract import NO_NETWORKS, Networks
from actloc_jax.own_videos import as_features
from actloc_jax.results import RESULTS
from actloc_jax.results.pages import find_videos, with_media
from actloc_jax.results.timeline import Timeline
from actloc_jax.results.types import Result
from actloc_jax.systems.runner import Runner
from actloc_jax.training import checkpoints

log = logging.getLogger(__name__)


class Model:
    """A model of any system; its compiled programs are kept between calls. Made by `load`.

    Attributes:
        name: where it was read from, for messages.
        system: the system it belongs to.
        settings: its config, with the ways to decode that were asked for.
        meta: what the checkpoint says beside its parameters: class names, stage, frame rate.
        networks: what makes features of videos.
    """

    def __init__(
        self,
        name: str,
        variables: dict[str, Any],
        meta: dict[str, Any],
        settings: ConfigDict,
        networks: Networks = NO_NETWORKS,
    ) -> None:
        self.name, self.settings, self.meta, self.networks = name, settings, meta, networks
        self.system = systems.of(settings)
        self._variables = variables
        self._runner = Runner(self.system.predictor(settings, meta["class_names"], meta["stage"]))

    def results(self, inputs: Sequence[str]) -> dict[str, list[Result]]:
        """The results of all videos by source, the system's own answer first.

        Args:
            inputs: files or folders of what the system reads, features or videos; of videos, features are made first.

        Raises:
            FileNotFoundError: no input there.
            ValueError: the inputs do not fit the checkpoint; all problems are named.
        """
        recipe = self.system.recipe(self.settings, self.meta["stage"])
        if recipe is not None:
            inputs = as_features(inputs, recipe, self.networks)
        source = self.system.inputs(self.settings, self.meta, inputs)
        log.info("predicting %d videos with %s (stage %s)", len(source), self.name, self.meta["stage"])
        return self._runner.run(self._variables, source, seed=self.settings.eval.seed)

    def predict(self, video: epath.PathLike | np.ndarray, *, name: str = "array") -> Timeline:
        """What the model finds in one video.

        Args:
            video: a file of what the system reads, a video or features, or an array of what such a `.npy` file holds:
                features [time, channels], or frames uint8 [time, height, width, 3].
            name: of the video, if it is an array.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it does not fit the checkpoint, or is a folder of several videos.
        """
        if not isinstance(video, str | os.PathLike):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, f"{name}.npy")
                np.save(path, np.asarray(video))
                return self.predict(path)
        found = self.predict_all([video])
        if len(found) != 1:
            raise ValueError(f"{video} holds {len(found)} videos; expected one. Use predict_all.")
        return found[0]

    def predict_all(self, inputs: Sequence[epath.PathLike]) -> list[Timeline]:
        """What the model finds in each video of files and folders; raises as `predict`."""
        return self.timelines(self.results([os.fspath(path) for path in inputs]), find_videos(inputs))

    def timelines(self, results: Mapping[str, list[Result]], media: Mapping[str, epath.Path]) -> list[Timeline]:
        """Results as readers get them, with the file of each video where `media` has it."""
        found = RESULTS[self.system.task].video_timelines(
            results, self.meta["class_names"], frame_rate=self.meta["frame_rate"], options=self.settings.eval
        )
        facts = {"config": self.settings.name, "stage": self.meta["stage"]}
        return [with_media(timeline, media, **facts) for timeline in found]


def load(
    checkpoint: epath.PathLike | None, *, config: ConfigDict | None = None, networks: Networks = NO_NETWORKS
) -> Model:
    """Reads a model.

    Args:
        checkpoint: a model folder, or a workdir whose last stage is meant; None for a config that needs no model.
        config: where given, its `decode` and `eval` groups replace the checkpoint's.
        networks: what makes features of videos, for systems that read features (docs/own_video.md).

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: it is damaged or of another system than the config.
    """
    meta = None if config is None else systems.of(config).without_model(config)
    if meta is not None:
        return Model("no model", {}, meta, config, networks)
    if checkpoint is None:
        raise ValueError("--mode=predict needs --checkpoint=<model folder or workdir>.")
    folder = checkpoints.find_model(checkpoint)
    with _quiet("absl"):  # Orbax warns that it only reads
        variables, meta = checkpoints.load_model(folder)
    workdirs.check_predicts(meta, folder)
    if config is not None:
        workdirs.check_system(meta, config.system, folder)
    return Model(str(folder), variables, meta, workdirs.checkpoint_config(meta, config), networks)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without a logger's warnings, for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
