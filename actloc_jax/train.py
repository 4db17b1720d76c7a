"""THE loop: runs a system's stages in a workdir, one after another; it knows no system by name.

A stage that trains: restore or start, then steps with logging, checkpoints and evaluations, until its epochs are over.
A stage that is a job: run it if it is not done. A second run in the same workdir goes on where the first stopped, with
the same parameters bit for bit as one that never stopped: the step's key is folded from the seed and the step, and the
data iterator's state lies in the checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import evaluate, systems, workdirs
from actloc_jax.layers import functional
from actloc_jax.systems import api
from actloc_jax.training import checkpoints, sharding
from actloc_jax.training.logging import MetricWriter, log_to_file, read_metrics
from actloc_jax.training.progress import Progress
from actloc_jax.training.state import Gradients, TrainStep, without

log = logging.getLogger(__name__)

_LOGGED_IN_TRAINING = ("train/", "learning_rate/")


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; the state is saved and the run can be started again."""


def train(config: ConfigDict, workdir: epath.PathLike) -> dict[str, dict[str, float]]:
    """Trains every stage of `config` in `workdir`, then evaluates the last one that trains on the test split.

    Returns:
        metrics by source (the system's own answer first), as `evaluate.evaluate` gives them; none without such a stage.

    Raises:
        ValueError, FileNotFoundError: the config or the data cannot be used; said before the first step.
        Interrupted: the run was asked to stop, and has saved.
    """
    workdir = epath.Path(workdir)
    system = systems.of(config)
    workdirs.prepare(workdir, config)
    process = jax.process_index()
    with log_to_file(workdir, process_index=process), StopSignals() as stop:
        mesh = sharding.make_mesh(model=config.train.model_parallel)
        log.info("workdir %s, %d device(s): %s", workdir, mesh.size, mesh.devices.flat[0].device_kind)
        with sharding.first_process_first():  # the demo's data are generated into the workdir
            dataset = system.dataset(config, workdir)
        splits = (config.data.train_split, config.data.test_split, config.eval.selection_split)
        for view in (dataset, *dataset.views.values()):
            workdirs.check_splits(view, splits)
        stages = system.stages(config, dataset, workdir)
        with MetricWriter(workdir, process_index=process, wandb=_wandb_options(config)) as writer:
            run = _Run(system, dataset, config, workdir, mesh, writer, stop)
            for index, stage in enumerate(stages):
                log.info("stage %d/%d: %s", index + 1, len(stages), stage.name)
                if isinstance(stage, api.TrainStage):
                    _train_stage(stage, index, run)
                elif stage.done():
                    log.info("%s: nothing left to do", stage.name)
                else:
                    with stop.at_once(stage.name):
                        stage.run()
            trained = [stage.name for stage in stages if isinstance(stage, api.TrainStage)]
            if not trained:
                return {}
            last = workdir / "checkpoints" / trained[-1] / "best"
            earlier = _earlier_scores(workdir, trained[:-1])
            return evaluate.evaluate(config, workdir, checkpoint=last, dataset=dataset, earlier=earlier)


def _earlier_scores(workdir: epath.Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """What the last evaluation in the training of each stage said, of its first source."""
    scores = {}
    for row in read_metrics(workdir):
        found = [name.rpartition("/") for name in row if "/" in name and not name.startswith(_LOGGED_IN_TRAINING)]
        if row["stage"] in names and found:
            source = found[0][0]
            scores[row["stage"]] = {metric: row[f"{source}/{metric}"] for other, _, metric in found if other == source}
    return {f"after stage {name}": scores[name] for name in names if name in scores}


def _wandb_options(config: ConfigDict) -> dict[str, str] | None:
    return {"project": config.train.wandb, "name": config.name} if config.train.wandb else None


@dataclasses.dataclass(frozen=True)
class _Run:
    """What all stages of a run share."""

    system: api.System
    dataset: api.Dataset
    config: ConfigDict
    workdir: epath.Path
    mesh: jax.sharding.Mesh
    writer: MetricWriter
    stop: StopSignals


# ----------------------------------------------------------------------------------------------------- one stage


def _train_stage(stage: api.TrainStage, index: int, run: _Run) -> None:
    """Trains a stage from its newest checkpoint, or from the start, to its last epoch."""
    config, writer, stop = run.config, run.writer, run.stop
    total = stage.epochs * stage.steps_per_epoch
    folder = run.workdir / "checkpoints" / stage.name
    runs = checkpoints.RunCheckpoints(folder / "run")
    if runs.latest_step == total and checkpoints.has_model(folder / "best"):
        log.info("%s: already trained for %d epochs", stage.name, stage.epochs)
        runs.close()
        return
    meta = workdirs.model_meta(config, run.dataset, stage.name, index)
    iterator = stage.batches()
    state, shardings, step = _start(stage, config, runs, iterator, run.mesh)
    writer.resume(step, stage=stage.name)
    train_step = _compiled_step(stage, shardings, run.mesh)
    evaluator = evaluate.Evaluator(run.system, stage.predictor, run.dataset.seen_by(stage.name), config)
    best = _Best(folder / "best", stage, meta)
    if step == 0:
        best.score_of(next(iter(evaluator.rehearse(stage.model(state)).values())))
    key = jax.random.key(config.train.seed)
    pending: list[tuple[int, dict[str, jax.Array]]] = []
    progress = Progress(total, initial=step, name=stage.name, process_index=jax.process_index())

    while step < total:
        state, scalars = train_step(state, sharding.put_batch(next(iterator), run.mesh), key)
        pending.append((step, scalars))
        step += 1
        epoch, epoch_ended = (step - 1) // stage.steps_per_epoch, step % stage.steps_per_epoch == 0
        sync_point = epoch_ended or step % config.train.log_steps == 0
        stopped = stop.agreed(sync_point)
        if sync_point or stopped:
            means = _flush(pending, stage, writer, epoch)
            progress.update(step, loss=means["loss"])
        if epoch_ended and (stage.evaluate_at(epoch) or step == total):
            metrics = evaluator.scores(stage.model(state), config.eval.selection_split)
            writer.write(step, _flat(metrics), stage=stage.name, epoch=epoch + 1)
            log.info("%s after epoch %d:\n%s", stage.name, epoch + 1, evaluate.table(metrics))
            best.offer(stage.model(state), step, next(iter(metrics.values())))
        if stopped or step == total or step % config.train.checkpoint_steps == 0:
            runs.save(state, step=step, iterator_state=iterator.get_state(), meta=meta)
        if stopped and step < total:
            progress.close()
            raise Interrupted(
                f"stopped by {stopped} in stage {stage.name} at step {step} of {total}, and saved. "
                f"Run the same command again to go on."
            )
    progress.close()
    runs.close()


def _start(
    stage: api.TrainStage, config: ConfigDict, runs: checkpoints.RunCheckpoints, iterator: Any, mesh: jax.sharding.Mesh
) -> tuple[Any, Any, int]:
    """The state to go on from, where it lies, and its step: the workdir's newest checkpoint, else a fresh one."""
    key = jax.random.fold_in(jax.random.key(config.train.seed), 2**31 - 1)
    abstract = jax.eval_shape(stage.scratch, key)
    shardings = sharding.state_shardings(abstract, mesh, stage.shardings)
    if runs.latest_step is not None:
        template = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract, shardings
        )
        state, iterator_state, _ = runs.restore(template)
        iterator.set_state(iterator_state)
        log.info("%s: resumed from step %d", stage.name, runs.latest_step)
        return state, shardings, runs.latest_step
    # State that is split over devices may not fit on one: it is made where it belongs.
    state = jax.jit(stage.scratch, out_shardings=shardings)(key) if stage.shardings else stage.scratch(key)
    if stage.warm_start is not None:
        state = stage.warm_start(state)
    log.info("%s: starts with %s parameters", stage.name, f"{functional.count(state.params):,}")
    return sharding.put_state(state, shardings), shardings, 0


def _compiled_step(stage: api.TrainStage, shardings: Any, mesh: jax.sharding.Mesh):
    """The stage's step, jitted with the state donated; says when a new batch shape compiles its first half again."""

    everywhere = sharding.replicated(mesh)
    rows = sharding.batch_sharding(mesh)
    seen, updated = without(shardings, "extra", "opt_state"), without(shardings, "extra", "batch_stats")
    found = Gradients(shardings.params, shardings.batch_stats, shardings.extra, everywhere)
    compiled = TrainStep(
        jax.jit(
            stage.train_step.gradients,
            donate_argnums=0,
            in_shardings=(shardings.extra, seen, rows, everywhere),
            out_shardings=found,
        ),
        jax.jit(
            stage.train_step.update,
            donate_argnums=0,
            in_shardings=(updated, shardings.params, everywhere),
            out_shardings=(updated, everywhere),
        ),
    )
    shapes: set[tuple[Any, ...]] = set()

    def run(state: Any, batch: api.Batch, key: jax.Array):
        shape = tuple(sorted((name, array.shape) for name, array in batch.items()))
        if shape in shapes:
            return compiled(state, batch, key)
        start = time.monotonic()
        output = compiled(state, batch, key)
        shapes.add(shape)
        largest = max((array.shape for array in batch.values()), key=len)
        log.info(
            "%s: compiled the step for batches %s in %.1f s (shape %d)",
            stage.name,
            list(largest),
            time.monotonic() - start,
            len(shapes),
        )
        return output

    return run


def _flush(
    pending: list[tuple[int, dict[str, jax.Array]]], stage: api.TrainStage, writer: MetricWriter, epoch: int
) -> dict[str, float]:
    """Fetches the scalars of the steps since the last flush, refuses non-finite losses, writes their means."""
    steps = [step for step, _ in pending]
    fetched = jax.device_get([scalars for _, scalars in pending])
    pending.clear()
    losses = np.asarray([scalars["loss"] for scalars in fetched])
    if not np.isfinite(losses).all():
        bad = steps[int(np.argmin(np.isfinite(losses)))]
        raise ValueError(
            f"The loss of stage {stage.name} is {losses[~np.isfinite(losses)][0]} at step {bad} (epoch "
            f"{bad // stage.steps_per_epoch}). Lower the learning rate, or look for bad features with --mode=inspect; "
            f"train.debug_nans=True finds the operation."
        )
    means = {name: float(np.mean([scalars[name] for scalars in fetched])) for name in fetched[0]}
    rates = {f"learning_rate/{group}": rate for group, rate in stage.rates(steps[-1]).items()}
    writer.write(
        steps[-1] + 1,
        {f"train/{name}": value for name, value in means.items()} | rates,
        stage=stage.name,
        epoch=epoch + 1,
    )
    return means


class _Best:
    """Keeps the model of the best evaluation by `stage.select` (ties: the later), or the last one where it is None."""

    def __init__(self, folder: epath.Path, stage: api.TrainStage, meta: dict[str, Any]) -> None:
        self.folder, self.select, self.meta = folder, stage.select, meta
        self.score = checkpoints.load_meta(folder)["score"] if checkpoints.has_model(folder) else None

    def score_of(self, metrics: dict[str, float]) -> float | None:
        """The metric to select by. Raises ValueError if it is not among `metrics`."""
        if self.select is not None and self.select not in metrics:
            raise ValueError(f"Models are selected by {self.select!r}, but the evaluation gives {', '.join(metrics)}.")
        return None if self.select is None else metrics[self.select]

    def offer(self, model: Any, step: int, metrics: dict[str, float]) -> None:
        """Saves the model if its metrics are at least as good as the best so far."""
        score = self.score_of(metrics)
        if score is not None and self.score is not None and score < self.score:
            return
        self.score = score
        meta = {**self.meta, "score": score, "metrics": metrics}
        checkpoints.save_model(self.folder, sharding.to_host(model), meta, step=step)


class StopSignals:
    """While entered, SIGTERM and SIGINT only set `requested`; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._job: str | None = None

    def __enter__(self) -> StopSignals:
        self._previous = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            pass
        return self

    def agreed(self, at_sync_point: bool) -> str | None:
        """The signal's name once every process knows of one; in a multi-process job asked for at sync points only."""
        if jax.process_count() == 1:
            return self.requested
        if at_sync_point and any(sharding.gather_objects([self.requested])):
            return self.requested or "a signal to another process"
        return None

    @contextlib.contextmanager
    def at_once(self, job: str) -> Iterator[None]:
        """While entered, a signal raises `Interrupted`: what a job has finished is in its files, nothing is lost."""
        self._job = job
        try:
            if self.requested:
                self._leave()
            yield
        finally:
            self._job = None

    def _leave(self) -> None:
        raise Interrupted(
            f"stopped by {self.requested} in stage {self._job}; what it has finished is kept. "
            f"Run the same command again to go on."
        )

    def _note(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        if self._job:
            self._leave()

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _flat(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{source}/{name}": value for source, scores in metrics.items() for name, value in scores.items()}
