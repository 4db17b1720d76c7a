"""SPOT killed in its stages and started again ends with the same parameters, bit for bit."""

from __future__ import annotations

import logging
import pathlib

import pytest

from actloc_jax import splits, train
from tests.runs import assert_same_parameters, kill, skip_evaluations, train_rows, train_steps
from tests.tiny import tiny_spot

STEPS = {"pretrain": 6, "finetune": 12}  # 200 videos, 96 at a time; 20 labelled ones, 8 at a time
KILLS = (("pretrain", 4), ("finetune", 2), ("finetune", 9))  # stage, and the step that it does not live to log
RESUMED = ["pretrain: resumed from step 4", "finetune: resumed from step 8"]


def _train(workdir: pathlib.Path) -> None:
    config = tiny_spot(
        train__checkpoint_steps=4, train__log_steps=1, pretrain__epochs=2, finetune__epochs=4, eval__select=None
    )
    config.finetune.evaluate_every = 0
    config.stages = ("pretrain", "finetune")
    splits.each(config, workdir, train.train)


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    skip_evaluations(monkeypatch)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _train(undisturbed)

    for stage, step in KILLS:
        kill(lambda: _train(disturbed), stage=stage, step=step)
    _train(disturbed)

    assert [line for line in caplog.messages if "resumed" in line] == RESUMED
    for stage in STEPS:
        assert_same_parameters(disturbed, undisturbed, stage)
    logged = [
        [(row["train/loss"], row.get("train/unlabelled/trusted")) for row in train_rows(workdir)]
        for workdir in (undisturbed, disturbed)
    ]
    assert logged[0] == logged[1]
    steps = [(stage, step + 1) for stage, last in STEPS.items() for step in range(last)]
    assert train_steps(disturbed) == train_steps(undisturbed) == steps
    trusted = {row["train/unlabelled/trusted"] for row in train_rows(undisturbed) if row["stage"] == "finetune"}
    assert len(trusted) > STEPS["finetune"] // 2  # thresholds move
