"""FuSTAL killed in its stages and started again ends with the same parameters, bit for bit."""

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
    monkeypatch.setattr(train.evaluate, "Evaluator", NoEvaluator)
    monkeypatch.setattr(train.evaluate, "evaluate", lambda *arguments, **options: {})
    compiled: dict[str, Any] = {}  # all runs have the same program, compiled once
    compile_step = train._compiled_step

    def compile_once(stage: Any, *rest: Any) -> Any:
        if stage.name not in compiled:
            compiled[stage.name] = compile_step(stage, *rest)
        return compiled[stage.name]

    monkeypatch.setattr(train, "_compiled_step", compile_once)
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
    for stage in ("generator", "student"):
        expected, _ = checkpoints.load_model(undisturbed / "checkpoints" / stage / "best")
        found, _ = checkpoints.load_model(disturbed / "checkpoints" / stage / "best")
        expected, found = flatten(expected["params"]), flatten(found["params"])
        assert expected.keys() == found.keys()
        for path, values in expected.items():
            np.testing.assert_array_equal(found[path], values, err_msg=path)
    logged = [
        [(row["stage"], row["step"], row["train/loss"]) for row in map(json.loads, lines) if "train/loss" in row]
        for lines in ((workdir / "metrics.jsonl").open() for workdir in (undisturbed, disturbed))
    ]
    assert logged[0] == logged[1]
    assert [row[:2] for row in logged[0]] == [
        (stage, step + 1) for stage in ("generator", "student") for step in range(STEPS)
    ]
    proposals = [json.loads((workdir / "proposals/train.json").read_text()) for workdir in (undisturbed, disturbed)]
    assert proposals[0]["results"] == proposals[1]["results"]
