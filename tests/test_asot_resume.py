"""A training of ASOT that is killed or stopped and started again ends with the same parameters, bit for bit."""

from __future__ import annotations

import json
import logging
import pathlib
from typing import Any

import numpy as np
import pytest

from actloc_jax import splits, train
from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints
from tests.tiny import tiny_asot

STEPS = 16  # two epochs of 16 videos, two at a time


class Killed(BaseException):
    """Ends a run where it is, as SIGKILL would: nobody catches it."""


class NoEvaluator:
    """In place of evaluations, which have no part in the state of a training."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def scores(self, *arguments: Any) -> dict[str, dict[str, float]]:
        """Metrics of nothing."""
        return {"ASOT": {"MoF": 0.0}}

    rehearse = scores


def _train(workdir: pathlib.Path) -> None:
    config = tiny_asot(train__checkpoint_steps=4, train__log_steps=1, asot__evaluate_every=0, asot__kmeans=False)
    splits.each(config, workdir, train.train)


def test_killed_and_stopped_runs_end_like_an_undisturbed_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(train.evaluate, "Evaluator", NoEvaluator)
    monkeypatch.setattr(train.evaluate, "evaluate", lambda *arguments, **options: {})
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _train(undisturbed)

    flush = train._flush

    def kill(pending: list[Any], *rest: Any) -> Any:
        if pending[-1][0] == 6:  # after the checkpoint of step 4, before that of step 8
            raise Killed
        return flush(pending, *rest)

    monkeypatch.setattr(train, "_flush", kill)
    with pytest.raises(Killed):
        _train(disturbed)
    monkeypatch.setattr(train, "_flush", flush)

    asked = []

    def agreed(self: train.StopSignals, at_sync_point: bool) -> str | None:
        asked.append(at_sync_point)
        return "SIGTERM" if len(asked) == 6 else None

    with monkeypatch.context() as patched:
        patched.setattr(train.StopSignals, "agreed", agreed)
        with pytest.raises(train.Interrupted, match=r"stopped by SIGTERM in stage asot at step 10 of 16"):
            _train(disturbed)
    _train(disturbed)

    assert [line for line in caplog.messages if "resumed" in line] == [
        "asot: resumed from step 4",
        "asot: resumed from step 10",
    ]
    expected, _ = checkpoints.load_model(undisturbed / "checkpoints" / "asot" / "best")
    found, _ = checkpoints.load_model(disturbed / "checkpoints" / "asot" / "best")
    expected, found = flatten(expected["params"]), flatten(found["params"])
    assert expected.keys() == found.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    steps = [
        [row["step"] for row in map(json.loads, (workdir / "metrics.jsonl").open()) if "train/loss" in row]
        for workdir in (undisturbed, disturbed)
    ]
    assert steps[0] == steps[1] == list(range(1, STEPS + 1))
