"""The contract between the loop and a system: frozen dataclasses of functions, no base class.

A system turns a config into a data set, a list of stages and a predictor. A stage either trains or is a job; the loop
runs them in order in one workdir, and a later stage may read what an earlier one left there. Two result types leave a
system, frame labels and scored segments; files, metrics and figures behind them are shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from actloc_jax.results.types import Result
from actloc_jax.training.state import Batch, TrainState, TrainStep


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """One batch to predict: arrays [batch, ...] with filler rows at the end, and what each real row is."""

    arrays: Batch
    rows: Sequence[Any]


class Input(NamedTuple):
    """An array that a predictor takes.

    Attributes:
        axes: size by name of the axis, in order; None where it is free, for `batch` and `time`.
        dtype: of its values.
    """

    axes: Mapping[str, int | None]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays that `Predictor.predict` needs, for whoever compiles it without a video at hand.

    Attributes:
        arrays: by name; `mask` and `index` are filled in where they are not given.
        lengths: usual sizes of the axis `time`; empty where it is not free.
        least, multiple: a size of the axis `time` is at least this, and a multiple of that.
        complete: `arrays -> arrays`, adds those that follow from the others; traceable.
    """

    arrays: Mapping[str, Input]
    lengths: tuple[int, ...] = ()
    least: int = 1
    multiple: int = 1
    complete: Callable[[Batch], Batch] = lambda arrays: arrays

    def shapes(self, batch: int, time: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes at one size of the free axes."""
        free = {"batch": batch, "time": time}
        return {
            name: jax.ShapeDtypeStruct([size or free[axis] for axis, size in array.axes.items()], array.dtype)
            for name, array in self.arrays.items()
        }


def feature_inputs(channels: int, *others: str) -> dict[str, Input]:
    """`features` [batch, time, channels] and those of `mask` [batch, time] and `index` [batch] that are named."""
    known = {"mask": Input({"batch": None, "time": None}, "bool"), "index": Input({"batch": None}, "int32")}
    features = Input({"batch": None, "time": None, "channels": channels}, "float32")
    return {"features": features} | {name: known[name] for name in others}


@dataclasses.dataclass(frozen=True)
class Predictor:
    """From a model to results.

    Attributes:
        batches: `source -> EvalBatch`es; the source is a random-access sequence of records.
        predict: `(model, batch arrays, key) -> dict of arrays [batch, ...]`; pure, jitted by the caller.
        decode: `(outputs as numpy, rows) -> {source name: results}`; the first name is the system's own answer, others
            (a backbone's answer, single votes) are for comparison.
        inputs: the batch arrays that `predict` reads; None where they do not come from a user's features or frames.
    """

    batches: Callable[[Sequence[Any]], Iterator[EvalBatch]]
    predict: Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]
    decode: Callable[[dict[str, np.ndarray], Sequence[Any]], dict[str, list[Result]]]
    inputs: Inputs | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Videos of an experiment.

    Attributes:
        class_names: by class index.
        source: `split name -> random-access sequence of records` (dicts with at least `video`).
        truth: `split name -> {video: ground truth}` in the task's own form.
        problems: `split name -> problems`, everything wrong with a split at once; each has a severity ("error" or
            "warning") and a message.
        frame_rate: annotation frames per second, for time axes.
        chance: `split name -> metrics of guessing`.
        also_scored: `split name -> {name: ground truth}`, other evaluations of the same predictions, on other videos.
        views: stage -> the videos as this stage sees them, where that differs (other features of the same videos).
    """

    class_names: tuple[str, ...]
    source: Callable[[str], Sequence[Any]]
    truth: Callable[[str], dict[str, Any]]
    problems: Callable[[str], Sequence[Any]]
    frame_rate: float
    chance: Callable[[str], dict[str, float]]
    also_scored: Callable[[str], Mapping[str, dict[str, Any]]] = lambda split: {}
    views: Mapping[str, Dataset] = dataclasses.field(default_factory=dict)

    def seen_by(self, stage: str) -> Dataset:
        """The videos as a stage sees them."""
        return self.views.get(stage, self)


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """A stage that trains.

    Attributes:
        name: also the folder of its checkpoints.
        epochs, steps_per_epoch: its length; one step is one batch.
        scratch: `key -> TrainState` at step 0; traceable, so that shapes are known without allocating.
        warm_start: `state -> state` with parameters of an earlier stage or of a converted file; runs once, on the host.
        batches: `() -> iterator` over endless host batches with `get_state` and `set_state`.
        train_step: gradients and update, pure; the loop jits both, with the state donated.
        predictor: for evaluation during and after this stage.
        evaluate_at: `epoch -> whether to evaluate after it`; epochs count from 0.
        select: metric whose best evaluation is kept (ties: the later), or None for the last.
        model: `state -> {"params", "batch_stats"}`, what prediction needs of the state.
        rates: `step -> learning rate by group`, for the log.
        shardings: rules for state that is not replicated.
    """

    name: str
    epochs: int
    steps_per_epoch: int
    scratch: Callable[[jax.Array], TrainState]
    batches: Callable[[], Any]
    train_step: TrainStep
    predictor: Predictor
    evaluate_at: Callable[[int], bool]
    select: str | None = None
    warm_start: Callable[[TrainState], TrainState] | None = None
    model: Callable[[TrainState], dict[str, Any]] = lambda state: state.model
    rates: Callable[[int], dict[str, float]] = lambda step: {}
    shardings: Sequence[tuple[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class JobStage:
    """A stage that writes files: `run()` resumes where it was stopped, `done()` says that nothing is left to do."""

    name: str
    run: Callable[[], None]
    done: Callable[[], bool]


Stage = TrainStage | JobStage


def check_stages(config: Any, known: Collection[str]) -> None:
    """Refuses stages that a system does not have.

    Raises:
        ValueError: `config.stages` is empty or names one.
    """
    if not config.stages or not set(config.stages) <= set(known):
        raise ValueError(
            f"config.stages={tuple(config.stages)} is unknown; the stages of {config.system} are {', '.join(known)}."
        )


@dataclasses.dataclass(frozen=True)
class System:
    """What the loop knows of a paper.

    Attributes:
        name: key in SYSTEMS.
        task: key in RESULTS; names the shared files, metrics and figures.
        dataset: `(config, workdir) -> Dataset`; may generate the demo's data into the workdir.
        stages: `(config, dataset, workdir) -> stages`, in order.
        inputs: `(config, meta, paths) -> random-access sequence of records`, for predict on a user's files.
        predictor: `(config, class names, stage name) -> Predictor`, from a checkpoint's meta alone.
        without_model: `config -> meta`, what stands for a checkpoint's meta if the config predicts without a model, or
            None if it needs one.
        recipe: `(config, stage) -> recipe` of the features that a model reads (data/feature_recipes.py), "" where it is
            not known; None if it reads videos.
    """

    name: str
    task: str
    dataset: Callable[[Any, epath.Path], Dataset]
    stages: Callable[[Any, Dataset, epath.Path], Sequence[Stage]]
    inputs: Callable[[Any, dict[str, Any], Sequence[str]], Sequence[Any]]
    predictor: Callable[[Any, Sequence[str], str], Predictor]
    without_model: Callable[[Any], dict[str, Any] | None] = lambda config: None
    recipe: Callable[[Any, str], str | None] = lambda config, stage: config.data.get("recipe", "")
