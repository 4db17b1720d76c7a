"""A run that is stopped or killed and started again ends with the parameters of one that never was, bit for bit."""

from __future__ import annotations

import pathlib
import signal

import pytest

from actloc_jax.training.logging import read_metrics
from tests.jobs import Job
from tests.runs import assert_same_parameters

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
TRAIN = ("--config=configs/tst_gtea.py:demo", *(f"--config.{name}={value}" for name, value in TINY.items()))


def _steps(workdir: pathlib.Path, stage: str) -> list[int]:
    """The steps of all rows of a stage, in the order of the file."""
    return [row["step"] for row in read_metrics(workdir) if row["stage"] == stage]


@pytest.mark.slow  # tests/test_asot_resume.py does the same, in one process, by default
def test_killed_and_stopped_runs_end_like_an_undisturbed_one(tmp_path: pathlib.Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"

    def start(workdir: pathlib.Path) -> Job:
        return Job(*TRAIN, f"--workdir={workdir}", folder=tmp_path / "said", cache=tmp_path / "cache", processes=1)

    start(undisturbed).finish()
    for left in ("config.json", "versions.json", "log.txt", "report.html", "evaluation.json"):
        assert (undisturbed / left).exists(), left

    job = start(disturbed)
    assert job.signal_when(lambda: len(_steps(disturbed, "diffact")) >= 14, signal.SIGTERM, to=0) == [143]
    assert "stopped by SIGTERM in stage diffact" in job.outputs()[0]
    codes = start(disturbed).signal_when(lambda: len(_steps(disturbed, "tst")) >= 10, signal.SIGKILL, to=0)
    assert codes == [-signal.SIGKILL]
    (said,) = start(disturbed).finish()
    assert "tst: resumed from step" in said

    for stage in ("diffact", "tst"):
        assert_same_parameters(disturbed, undisturbed, stage)
        assert _steps(disturbed, stage) == _steps(undisturbed, stage), "steps logged twice or lost"
