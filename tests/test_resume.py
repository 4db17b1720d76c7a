"""A run that is stopped or killed and started again ends with the parameters of one that never was, bit for bit."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints

ROOT = pathlib.Path(__file__).parents[1]
TINY = {
    "backbone.encoder.num_layers": 2,
    "backbone.encoder.width": 8,
    "backbone.encoder.feature_layers": "(0,1)",
    "backbone.decoder.num_layers": 2,
    "backbone.decoder.width": 8,
    "backbone.decoder.time_dim": 8,
    "backbone.diffusion.sampling_steps": 2,
    "refiner.inner_dim": 8,
    "refiner.segment_dim": 8,
    "refiner.num_layers": 3,
    "diffact.epochs": 6,
    "diffact.evaluate_every": 6,
    "tst.epochs": 6,
    "tst.evaluate_every": 6,
    "train.checkpoint_steps": 4,
    "train.log_steps": 1,
    "eval.timelines": 0,
}


def _start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "actloc_jax.main", "--config=configs/tst_gtea.py:demo", f"--workdir={workdir}"]
    command += [f"--compilation_cache={cache}", *(f"--config.{name}={value}" for name, value in TINY.items())]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _rows(workdir: pathlib.Path, stage: str) -> list[str]:
    path = workdir / "metrics.jsonl"
    return [line for line in path.read_text().splitlines() if f'"stage": "{stage}"' in line] if path.exists() else []


def _interrupt(workdir: pathlib.Path, cache: pathlib.Path, stage: str, after: int, number: int) -> str:
    """Starts a run, sends the signal once `stage` has logged `after` steps, and returns what the run said."""
    process = _start(workdir, cache)
    deadline = time.monotonic() + 240
    while len(_rows(workdir, stage)) < after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == (-number if number == signal.SIGKILL else 143), output
    return output


def _finish(workdir: pathlib.Path, cache: pathlib.Path) -> str:
    process = _start(workdir, cache)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def test_killed_and_stopped_runs_end_like_an_undisturbed_one(tmp_path: pathlib.Path) -> None:
    undisturbed, disturbed, cache = tmp_path / "undisturbed", tmp_path / "disturbed", tmp_path / "cache"
    _finish(undisturbed, cache)
    for left in ("config.json", "versions.json", "log.txt", "report.html", "evaluation.json"):
        assert (undisturbed / left).exists(), left

    said = _interrupt(disturbed, cache, "diffact", 14, signal.SIGTERM)
    assert "stopped by SIGTERM in stage diffact" in said
    _interrupt(disturbed, cache, "tst", 10, signal.SIGKILL)
    assert "tst: resumed from step" in _finish(disturbed, cache)

    for stage in ("diffact", "tst"):
        expected, _ = checkpoints.load_model(undisturbed / "checkpoints" / stage / "best")
        found, _ = checkpoints.load_model(disturbed / "checkpoints" / stage / "best")
        expected, found = flatten(expected["params"]), flatten(found["params"])
        assert expected.keys() == found.keys()
        for path, values in expected.items():
            np.testing.assert_array_equal(found[path], values, err_msg=f"{stage} {path}")
        assert len(_rows(disturbed, stage)) == len(_rows(undisturbed, stage)), "steps logged twice or lost"
