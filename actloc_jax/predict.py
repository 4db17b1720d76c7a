"""Prediction on a user's own files: a checkpoint and inputs in; the field's formats, figures and pages out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.extract import NO_NETWORKS, Networks
from actloc_jax.model import load
from actloc_jax.results import RESULTS, pages
from actloc_jax.results.types import Result

log = logging.getLogger(__name__)


def predict(
    checkpoint: epath.PathLike | None,
    inputs: Sequence[str],
    workdir: epath.PathLike,
    *,
    config: ConfigDict | None = None,
    videos: Sequence[epath.PathLike] = (),
    networks: Networks = NO_NETWORKS,
) -> list[Result]:
    """Predicts every input and writes `predictions/`, `figures/`, `timelines/` and `index.html` into `workdir`.

    Args:
        checkpoint: a model folder, or a workdir whose last stage is meant; None for a config that needs no model.
        inputs: files or folders of what the system reads, features or videos; of videos, features are made first.
        workdir: where results go; made where missing.
        config: where given, its `decode` and `eval` groups replace the checkpoint's.
        videos: files or folders of the videos, to be shown where `inputs` are their features.
        networks: what makes features of videos.

    Returns:
        the system's results, one per video.

    Raises:
        FileNotFoundError: no checkpoint or input there.
        ValueError: the inputs do not fit the checkpoint; all problems are named.
    """
    workdir = epath.Path(workdir)
    model = load(checkpoint, config=config, networks=networks)
    results = model.results(inputs)
    name, answers = next(iter(results.items()))
    if jax.process_index() == 0:
        task, class_names = RESULTS[model.system.task], model.meta["class_names"]
        task.write(answers, class_names, workdir / "predictions")
        task.timelines(
            results, class_names, workdir / "figures", frame_rate=model.meta["frame_rate"],
            options=model.settings.eval,
        )  # fmt: skip
        timelines = model.timelines(results, pages.find_videos([*inputs, *videos]))
        pages.write_texts(timelines, workdir)
        index = pages.write_pages(
            timelines, workdir, title=f"Predictions of {model.settings.name}", videos=len(timelines)
        )
        log.info("%s: %d predictions in %s", name, len(answers), workdir / "predictions")
        log.info("figures in %s; tables, subtitles and pages in %s", workdir / "figures", workdir / pages.FOLDER)
        log.info("to look at in a browser: %s", index)
    return answers
