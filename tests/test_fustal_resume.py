"""FuSTAL killed in its stages and started again ends with the same parameters, bit for bit."""

from __future__ import annotations

import json
import logging
import pathlib
from typing import Any

import pytest

from actloc_jax import splits, train
from tests.runs import assert_same_parameters, kill, skip_evaluations, train_rows, train_steps
from tests.tiny import tiny_fustal

STEPS = 16  # of each stage; the student's second epoch, from step 8 on, learns from its own average
KILLS = (("generator", 7), ("student", 6), ("student", 13))  # stage, and the step that it does not live to log
RESUMED = ["generator: resumed from step 4", "student: resumed from step 4", "student: resumed from step 12"]


def _train(workdir: pathlib.Path) -> None:
    config = tiny_fustal(train__checkpoint_steps=4, train__log_steps=1, student__evaluate_every=0, eval__select=None)
    config.generator.update({"evaluate_every": 0, "steps": STEPS})
    splits.each(config, workdir, train.train)


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    skip_evaluations(monkeypatch)
    compiled: dict[str, Any] = {}  # all runs have the same program, compiled once
    compile_step = train._compiled_step

    def compile_once(stage: Any, *rest: Any) -> Any:
        if stage.name not in compiled:
            compiled[stage.name] = compile_step(stage, *rest)
        return compiled[stage.name]

    monkeypatch.setattr(train, "_compiled_step", compile_once)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _train(undisturbed)

    for stage, step in KILLS:
        kill(lambda: _train(disturbed), stage=stage, step=step)
    _train(disturbed)

    assert [line for line in caplog.messages if "resumed" in line] == RESUMED
    for stage in ("generator", "student"):
        assert_same_parameters(disturbed, undisturbed, stage)
    losses = [[row["train/loss"] for row in train_rows(workdir)] for workdir in (undisturbed, disturbed)]
    assert losses[0] == losses[1]
    steps = [(stage, step + 1) for stage in ("generator", "student") for step in range(STEPS)]
    assert train_steps(disturbed) == train_steps(undisturbed) == steps
    proposals = [json.loads((workdir / "proposals/train.json").read_text()) for workdir in (undisturbed, disturbed)]
    assert proposals[0]["results"] == proposals[1]["results"]
