"""A checkpoint that is ready to predict: what `--mode=predict` runs, and what Python programs load."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from actloc_jax import systems, workdirs
from actloc_jax.results.types import Result
from actloc_jax.systems.runner import Runner
from actloc_jax.training import checkpoints

log = logging.getLogger(__name__)


class Model:
    """A model of any system; its compiled programs are kept between calls. Made by `load`.

    Attributes:
        name: where it was read from.
        system: the system it belongs to.
        settings: its config, with the ways to decode that were asked for.
        meta: what the checkpoint says beside its parameters: class names, stage, frame rate.
    """

    def __init__(self, name: str, variables: dict[str, Any], meta: dict[str, Any], settings: ConfigDict) -> None:
        self.name, self.settings, self.meta = name, settings, meta
        self.system = systems.of(settings)
        self._variables = variables
        self._runner = Runner(self.system.predictor(settings, meta["class_names"], meta["stage"]))

    def results(self, inputs: Sequence[str]) -> dict[str, list[Result]]:
        """The results of all videos by source, the system's own answer first.

        Args:
            inputs: files or folders of what the system reads.

        Raises:
            FileNotFoundError: no input there.
            ValueError: the inputs do not fit the checkpoint; all problems are named.
        """
        source = self.system.inputs(self.settings, self.meta, inputs)
        log.info("predicting %d videos with %s (stage %s)", len(source), self.name, self.meta["stage"])
        return self._runner.run(self._variables, source, seed=self.settings.eval.seed)


def load(checkpoint: epath.PathLike | None, *, config: ConfigDict | None = None) -> Model:
    """Reads a model.

    Args:
        checkpoint: a model folder, or a workdir whose last stage is meant; None for a config that needs no model.
        config: where given, its `decode` and `eval` groups replace the checkpoint's.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: it is damaged or of another system than the config.
    """
    meta = None if config is None else systems.of(config).without_model(config)
    if meta is not None:
        return Model("no model", {}, meta, config)
    if checkpoint is None:
        raise ValueError("--mode=predict needs --checkpoint=<model folder or workdir>.")
    folder = checkpoints.find_model(checkpoint)
    variables, meta = checkpoints.load_model(folder)
    workdirs.check_predicts(meta, folder)
    if config is not None:
        workdirs.check_system(meta, config.system, folder)
    return Model(str(folder), variables, meta, workdirs.checkpoint_config(meta, config))
