"""Eight (fake) devices train and predict like one."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from actloc_jax.training.logging import read_metrics
from tests.runs import parameters, train_rows

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
from actloc_jax import splits, train
from tests.tiny import tiny_config
config = tiny_config(diffact__epochs=1, diffact__evaluate_every=1)
config.stages = ("diffact",)
splits.each(config, __import__("etils.epath").epath.Path(sys.argv[1]), train.train)
"""
ASOT_PROGRAM = """
import sys
from actloc_jax import evaluate, splits, train
from tests.tiny import tiny_asot
evaluate.evaluate = lambda *arguments, **options: {}  # no report; the training has evaluated
config = tiny_asot(asot__batch_size=8, asot__kmeans=False)
splits.each(config, __import__("etils.epath").epath.Path(sys.argv[1]), train.train)
"""
FUSTAL_PROGRAM = """
import sys, pytest
from actloc_jax import splits, train
from tests.runs import skip_evaluations
from tests.tiny import tiny_fustal
skip_evaluations(pytest.MonkeyPatch())
config = tiny_fustal(student__labels="annotated", student__distil_from=0, student__batch_size=24, eval__select=None)
config.student.learning_rate = 1e-4
config.generator.update({"batch_size": 16, "steps": 5, "evaluate_every": 0})
config.train.update({"log_steps": 1})
config.stages = ("generator", "student")
splits.each(config, __import__("etils.epath").epath.Path(sys.argv[1]), train.train)
"""
SPOT_PROGRAM = """
import sys, pytest
from actloc_jax import splits, train
from tests.runs import skip_evaluations
from tests.tiny import tiny_spot
skip_evaluations(pytest.MonkeyPatch())
config = tiny_spot(eval__select=None, train__log_steps=1, pretrain__epochs=2)
config.pretrain.learning_rate = config.finetune.learning_rate = 1e-4
config.stages = ("pretrain", "finetune")
splits.each(config, __import__("etils.epath").epath.Path(sys.argv[1]), train.train)
"""


def _train(workdir: pathlib.Path, devices: int, program: str = PROGRAM) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    answer = subprocess.run(
        [sys.executable, "-c", program, str(workdir)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert len(json.loads((workdir / "versions.json").read_text())["devices"]) == devices


def test_eight_devices_train_and_predict_like_one(tmp_path: pathlib.Path) -> None:
    _train(tmp_path / "one", 1)
    _train(tmp_path / "eight", 8)
    expected, found = (parameters(tmp_path / name, "diffact") for name in ("one", "eight"))
    for path, values in expected.items():
        if path.endswith(("conv/bias", "att_v/bias")):
            continue  # an instance norm follows: their gradient is rounding noise, which Adam scales to a full step
        np.testing.assert_allclose(found[path], values, atol=2e-5, err_msg=path)
    for file in (tmp_path / "one" / "predictions").iterdir():
        other = tmp_path / "eight" / "predictions" / file.name
        same = np.array(file.read_text().split()) == np.array(other.read_text().split())
        assert same.mean() > 0.99


@pytest.mark.slow
def test_eight_devices_train_and_evaluate_asot_like_one(tmp_path: pathlib.Path) -> None:
    runs = {"one": 1, "eight": 8}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _train(tmp_path / name, runs[name], ASOT_PROGRAM), runs))
    expected, found = (parameters(tmp_path / name, "asot") for name in runs)
    for path, values in expected.items():
        np.testing.assert_allclose(found[path], values, atol=1e-4, err_msg=path)
    expected, found = ([row for row in read_metrics(tmp_path / name) if "ASOT/MoF" in row] for name in runs)
    assert [row["step"] for row in expected] == [row["step"] for row in found] == [4]
    assert abs(found[0]["ASOT/loss"] - expected[0]["ASOT/loss"]) < 1e-3
    assert abs(found[0]["ASOT/MoF"] - expected[0]["ASOT/MoF"]) < 0.5


@pytest.mark.slow
def test_eight_devices_train_fustal_like_one(tmp_path: pathlib.Path) -> None:
    """The last batch of an epoch has filler rows, on some devices nothing else."""
    runs = {"one": 1, "eight": 8}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _train(tmp_path / name, runs[name], FUSTAL_PROGRAM), runs))
    for stage in ("generator", "student"):
        expected, found = (parameters(tmp_path / name, stage) for name in runs)
        for path, values in expected.items():
            np.testing.assert_allclose(found[path], values, atol=1e-5, err_msg=path)
    expected, found = (train_rows(tmp_path / name) for name in runs)
    assert len(expected) == 5 + 6
    for before, after in zip(expected, found, strict=True):
        assert (before["stage"], before["step"]) == (after["stage"], after["step"])
        np.testing.assert_allclose(after["train/loss"], before["train/loss"], rtol=1e-4)
        assert before.get("train/count/labels") == after.get("train/count/labels")


@pytest.mark.slow
def test_eight_devices_train_spot_like_one(tmp_path: pathlib.Path) -> None:
    """Six steps of each stage, two with filler rows, on some devices nothing else; masks share one median."""
    runs = {"one": 1, "eight": 8}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _train(tmp_path / name, runs[name], SPOT_PROGRAM), runs))
    for stage in ("pretrain", "finetune"):
        expected, found = (parameters(tmp_path / name, stage) for name in runs)
        for path, values in expected.items():
            np.testing.assert_allclose(found[path], values, atol=1e-5, err_msg=path)
    expected, found = (train_rows(tmp_path / name) for name in runs)
    assert [row["stage"] for row in expected] == [row["stage"] for row in found] == ["pretrain"] * 6 + ["finetune"] * 6
    for row, other in zip(expected, found, strict=True):
        for name in (name for name in row if name.startswith("train/")):
            assert other[name] == pytest.approx(row[name], rel=1e-4), (name, row["step"])
    trusted = [row["train/unlabelled/trusted"] for row in expected if row["stage"] == "finetune"]
    assert min(trusted) > 0
    assert len(set(trusted)) > 3  # thresholds of classes move, from counts over all devices
