"""Trainings in this process without evaluations: killed where a test says, and what they leave."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from actloc_jax import evaluate, train
from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints
from actloc_jax.training.logging import read_metrics


class _Killed(BaseException):
    """Ends a run where it is, as SIGKILL would: nobody catches it."""


class _NoEvaluator:
    """In place of an evaluator; its metrics are those of nothing."""

    def scores(self, *arguments: Any) -> dict[str, dict[str, float]]:
        return {"ASOT": {"MoF": 0.0}}

    rehearse = scores


def skip_evaluations(patch: pytest.MonkeyPatch) -> None:
    """From here on trainings do not evaluate, which has no part in their state."""
    patch.setattr(evaluate, "Evaluator", lambda *arguments: _NoEvaluator())
    patch.setattr(evaluate, "evaluate", lambda *arguments, **options: {})


def kill(run: Callable[[], Any], *, stage: str, step: int) -> None:
    """Starts a training and kills it in `stage` before it logs `step`; fails if it ends on its own."""
    flush = train._flush

    def flush_or_die(pending: list[Any], of: Any, *rest: Any) -> Any:
        if (of.name, pending[-1][0]) == (stage, step):
            raise _Killed
        return flush(pending, of, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "_flush", flush_or_die)
        with pytest.raises(_Killed):
            run()


def parameters(workdir: pathlib.Path, stage: str) -> dict[str, np.ndarray]:
    """The parameters of a stage's model by path."""
    model, _ = checkpoints.load_model(workdir / "checkpoints" / stage / "best")
    return flatten(model["params"])


def assert_same_parameters(found: pathlib.Path, expected: pathlib.Path, stage: str) -> None:
    """The models of a stage in two workdirs are the same, bit for bit."""
    ours, theirs = parameters(found, stage), parameters(expected, stage)
    assert ours.keys() == theirs.keys()
    for path, values in theirs.items():
        np.testing.assert_array_equal(ours[path], values, err_msg=f"{stage} {path}")


def train_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of training losses in the order of the file."""
    return [row for row in read_metrics(workdir) if "train/loss" in row]


def train_steps(workdir: pathlib.Path) -> list[tuple[str, int]]:
    """Stage and step of the rows of training losses, in the order of the file."""
    return [(row["stage"], row["step"]) for row in train_rows(workdir)]
