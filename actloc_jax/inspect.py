"""Inspection: everything that is wrong with the data at once, and what would be trained on it; trains nothing."""

from __future__ import annotations

import logging
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import systems
from actloc_jax.layers import functional
from actloc_jax.systems import api
from actloc_jax.training import sharding

log = logging.getLogger(__name__)


def inspect(config: ConfigDict, workdir: epath.PathLike) -> int:
    """Reads every split of the data set, then describes each stage: batches, networks, memory of the compiled step.

    Returns:
        the number of problems that would keep a training from starting.
    """
    system = systems.of(config)
    with sharding.first_process_first():  # the demo's data are generated into the workdir
        dataset = system.dataset(config, epath.Path(workdir))
    errors = 0
    for name, view in {"": dataset, **dataset.views}.items():
        if name:
            log.info("the same videos as stage %s sees them:", name)
        errors += sum(_report_split(view, split) for split in (config.data.train_split, config.data.test_split))
    log.info("%d classes: %s", len(dataset.class_names), ", ".join(dataset.class_names))
    if errors:
        log.error("%d problem(s) must be solved before training", errors)
        return errors
    for stage in system.stages(config, dataset, epath.Path(workdir)):
        if isinstance(stage, api.TrainStage):
            _report_stage(stage)
        else:
            log.info("stage %s: a job, %s", stage.name, "done" if stage.done() else "not done")
    return 0


def _report_split(dataset: api.Dataset, split: str) -> int:
    problems = dataset.problems(split)
    errors = sum(problem.severity == "error" for problem in problems)
    for problem in problems:
        log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "[%s] %s", split, problem.message)
    log.info(
        "[%s] %d videos, %d error(s), %d warning(s)",
        split,
        len(dataset.source(split)) if not errors else 0,
        errors,
        len(problems) - errors,
    )
    return errors


def _report_stage(stage: api.TrainStage) -> None:
    state = jax.eval_shape(stage.scratch, jax.random.key(0))
    log.info(
        "stage %s: %d epochs of %d steps, %s parameters",
        stage.name,
        stage.epochs,
        stage.steps_per_epoch,
        f"{functional.count(state.params):,}",
    )
    for name, part in state.params.items():
        log.info("  %s: %s", name, f"{functional.count(part) if isinstance(part, dict) else part.size:,}")
    try:
        batch = next(stage.batches())
    except FileNotFoundError as error:
        log.info("  batches come from an earlier stage that has not run yet: %s", error)
        return
    for name, array in batch.items():
        log.info("  batch %s: %s %s", name, array.dtype, list(array.shape))
    log.info("  memory of one step: %s", _memory(stage, state, batch))


def _memory(stage: api.TrainStage, state: Any, batch: api.Batch) -> str:
    """State, and the compiled step's own need, in MB."""
    compiled = jax.jit(stage.train_step, donate_argnums=0).lower(state, batch, jax.random.key(0)).compile()
    analysis = compiled.memory_analysis()
    sizes = {"state": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))}
    if analysis is not None:
        sizes |= {"batch": analysis.argument_size_in_bytes - sizes["state"], "activations": analysis.temp_size_in_bytes}
    return ", ".join(f"{name} {max(size, 0) / 2**20:.1f} MB" for name, size in sizes.items())
