"""Two processes fill TALLFormer's bank and train with it; one is killed, one is asked to stop, and nothing is lost."""

from __future__ import annotations

import pathlib
import signal

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.distributed.tallformer_runs import state_of
from tests.jobs import Job
from tests.runs import train_steps
from tests.tiny import tiny_tallformer_training

STEPS = 24  # of two windows of seven videos: four an epoch, the last one with a video again


def _config(root: pathlib.Path) -> ConfigDict:
    config = tiny_tallformer_training(root, train__epochs=6, train__batch_size=2, train__checkpoint_steps=4)
    config.eval.select = "mAP"
    config.memory.layout = "rows"  # the first half of the rows lies in the first process
    return config


def _flags(config: ConfigDict) -> list[str]:
    """The command line that makes this config of the demo."""
    demo = tiny_demo().to_dict()

    def changed(found: dict, wanted: dict, prefix: str) -> list[str]:
        flags = []
        for name, value in wanted.items():
            if isinstance(value, dict):
                flags += changed(found[name], value, f"{prefix}{name}.")
            elif found[name] != value:
                flags.append(f"--config.{prefix}{name}={value}")
        return flags

    return changed(demo, config.to_dict(), "")


def tiny_demo() -> ConfigDict:
    """The demo as the command line begins with it."""
    from configs import tallformer_thumos

    return tallformer_thumos.get_config("demo")


@pytest.mark.slow
def test_a_killed_process_and_a_stopped_one_leave_the_same_end(tmp_path: pathlib.Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    config = _config(tmp_path / "videos")
    options = ("--config=configs/tallformer_thumos.py:demo", *_flags(config))

    def start(workdir: pathlib.Path) -> Job:
        return Job(*options, f"--workdir={workdir}", folder=tmp_path / "said", cache=tmp_path / "cache")

    said = start(undisturbed).finish()
    assert ["features of 4 of 4 videos" in said[0], "features of 3 of 3 videos" in said[1]] == [True, True]

    codes = start(disturbed).signal_when(lambda: len(train_steps(disturbed)) >= 6, signal.SIGKILL, to=1)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0, "the other one cannot go on alone"
    filled = {path.name: path.stat().st_mtime_ns for path in (disturbed / "bank").glob("*.npy")}
    job = start(disturbed)
    codes = job.signal_when(lambda: len(train_steps(disturbed)) >= 14, signal.SIGTERM, to=1)
    assert codes == [143, 143]
    said = job.outputs()
    assert "stopped by a signal to another process in stage train" in said[0]
    assert "stopped by SIGTERM in stage train" in said[1]
    for text in start(disturbed).finish():
        assert "train: resumed from step" in text
    assert {path.name: path.stat().st_mtime_ns for path in (disturbed / "bank").glob("*.npy")} == filled

    expected, found = state_of(undisturbed, config), state_of(disturbed, config)
    assert expected["step"] == STEPS
    assert expected["extra/bank/written"].max() == STEPS - 1
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    assert train_steps(disturbed) == train_steps(undisturbed) == [("train", step + 1) for step in range(STEPS)]
