"""A training of ASOT that is killed or stopped and started again ends with the same parameters, bit for bit."""

from __future__ import annotations

import logging
import pathlib

import pytest

from actloc_jax import splits, train
from tests.runs import assert_same_parameters, kill, skip_evaluations, train_steps
from tests.tiny import tiny_asot

STEPS = 16  # two epochs of 16 videos, two at a time


def _train(workdir: pathlib.Path) -> None:
    config = tiny_asot(train__checkpoint_steps=4, train__log_steps=1, asot__evaluate_every=0, asot__kmeans=False)
    splits.each(config, workdir, train.train)


def test_killed_and_stopped_runs_end_like_an_undisturbed_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    skip_evaluations(monkeypatch)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _train(undisturbed)

    kill(lambda: _train(disturbed), stage="asot", step=6)  # after the checkpoint of step 4, before that of step 8

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
    assert_same_parameters(disturbed, undisturbed, "asot")
    assert train_steps(disturbed) == train_steps(undisturbed) == [("asot", step + 1) for step in range(STEPS)]
