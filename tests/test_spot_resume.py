"""SPOT killed in its stages and started again ends with the same parameters, bit for bit."""

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
from tests.test_asot_resume import Killed, NoEvaluator
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
    monkeypatch.setattr(train.evaluate, "Evaluator", NoEvaluator)
    monkeypatch.setattr(train.evaluate, "evaluate", lambda *arguments, **options: {})
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _train(undisturbed)

    flush = train._flush
    for stage, step in KILLS:

        def kill(pending: list[Any], of: Any, *rest: Any, stage: str = stage, step: int = step) -> Any:
            if (of.name, pending[-1][0]) == (stage, step):
                raise Killed
            return flush(pending, of, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(train, "_flush", kill)
            with pytest.raises(Killed):
                _train(disturbed)
    _train(disturbed)

    assert [line for line in caplog.messages if "resumed" in line] == RESUMED
    for stage in STEPS:
        expected, _ = checkpoints.load_model(undisturbed / "checkpoints" / stage / "best")
        found, _ = checkpoints.load_model(disturbed / "checkpoints" / stage / "best")
        expected, found = flatten(expected["params"]), flatten(found["params"])
        assert expected.keys() == found.keys()
        for path, values in expected.items():
            np.testing.assert_array_equal(found[path], values, err_msg=path)
    logged = [
        [
            (row["stage"], row["step"], row["train/loss"], row.get("train/unlabelled/trusted"))
            for row in map(json.loads, lines)
            if "train/loss" in row
        ]
        for lines in ((workdir / "metrics.jsonl").open() for workdir in (undisturbed, disturbed))
    ]
    assert logged[0] == logged[1]
    assert [row[:2] for row in logged[0]] == [
        (stage, step + 1) for stage, last in STEPS.items() for step in range(last)
    ]
    assert len({row[3] for row in logged[0] if row[0] == "finetune"}) > STEPS["finetune"] // 2  # thresholds move
