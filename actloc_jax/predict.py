"""Prediction on a user's own files: a checkpoint and inputs in, the field's formats and a figure per video out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import systems, workdirs
from actloc_jax.results import RESULTS
from actloc_jax.results.types import Result
from actloc_jax.systems.runner import Runner
from actloc_jax.training import checkpoints

log = logging.getLogger(__name__)


def predict(
    checkpoint: epath.PathLike | None,
    inputs: Sequence[str],
    workdir: epath.PathLike,
    *,
    config: ConfigDict | None = None,
) -> list[Result]:
    """Predicts every input and writes `predictions/` and `figures/` into `workdir`.

    Args:
        checkpoint: a model folder, or a workdir whose last stage is meant; None for a config that needs no model.
        inputs: files or folders of what the system reads (features for the segmentation systems).
        workdir: where results go; made where missing.
        config: where given, its `decode` and `eval` groups replace the checkpoint's.

    Returns:
        the system's results, one per video.

    Raises:
        FileNotFoundError: no checkpoint or input there.
        ValueError: the inputs do not fit the checkpoint; all problems are named.
    """
    workdir = epath.Path(workdir)
    meta = None if config is None else systems.of(config).without_model(config)
    if meta is not None:
        folder, model, settings = "no model", {}, config
    elif checkpoint is None:
        raise ValueError("--mode=predict needs --checkpoint=<model folder or workdir>.")
    else:
        folder = checkpoints.find_model(checkpoint)
        model, meta = checkpoints.load_model(folder)
        if config is not None:
            workdirs.check_system(meta, config.system, folder)
        settings = workdirs.checkpoint_config(meta, config)
    system = systems.of(settings)
    source = system.inputs(settings, meta, inputs)
    predictor = system.predictor(settings, meta["class_names"], meta["stage"])
    log.info("predicting %d videos with %s (stage %s)", len(source), folder, meta["stage"])
    results = Runner(predictor).run(model, source, seed=settings.eval.seed)
    name, answers = next(iter(results.items()))
    if jax.process_index() == 0:
        task = RESULTS[system.task]
        task.write(answers, meta["class_names"], workdir / "predictions")
        task.timelines(
            results, meta["class_names"], workdir / "figures", frame_rate=meta["frame_rate"], options=settings.eval
        )
        log.info("%s: %d predictions in %s", name, len(answers), workdir / "predictions")
        log.info("timelines in %s", workdir / "figures")
    return answers
