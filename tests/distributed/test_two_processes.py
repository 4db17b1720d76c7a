"""Two processes on one machine train like one, are killed and go on to the same parameters, and predict together."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from actloc_jax.training.logging import read_metrics
from tests.jobs import Job
from tests.runs import assert_same_parameters, parameters, train_rows, train_steps

EPOCHS, STEPS_PER_EPOCH = 4, 6  # 24 videos in batches of 4, two rows from each process
TINY = {
    "backbone.encoder.num_layers": 1,
    "backbone.encoder.width": 8,
    "backbone.encoder.feature_layers": "(0,)",
    "backbone.decoder.num_layers": 1,
    "backbone.decoder.width": 8,
    "backbone.decoder.time_dim": 8,
    "backbone.diffusion.sampling_steps": 2,
    "diffact.epochs": EPOCHS,
    "diffact.evaluate_every": EPOCHS,
    "diffact.batch_size": 4,
    "train.checkpoint_steps": 4,
    "train.log_steps": 1,
    "eval.timelines": 0,
}
TRAIN = ("--config=configs/tst_gtea.py:demo,stages=diffact", *(f"--config.{k}={v}" for k, v in TINY.items()))


def _labels(folder: pathlib.Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().split() for path in folder.iterdir()}


@pytest.mark.slow
def test_two_processes_train_like_one_go_on_when_killed_and_predict(tmp_path: pathlib.Path) -> None:
    one, two, killed, out = (tmp_path / name for name in ("one", "two", "killed", "out"))

    def start(workdir: pathlib.Path, *options: str, **more: int) -> Job:
        """A job; all share the compiled programs."""
        return Job(*options, f"--workdir={workdir}", folder=tmp_path / "said", cache=tmp_path / "cache", **more)

    start(one, *TRAIN, processes=1).finish()
    said = start(two, *TRAIN).finish()
    assert ["diffact step" in text for text in said] == [True, False], "only the first process tells its progress"
    _assert_same_training(one, two)
    _assert_written_once(two)

    middle_of_second_epoch = STEPS_PER_EPOCH + STEPS_PER_EPOCH // 2
    start(killed, *TRAIN).kill_when(lambda: len(train_steps(killed)) >= middle_of_second_epoch)
    assert len(train_steps(killed)) < EPOCHS * STEPS_PER_EPOCH
    for text in start(killed, *TRAIN).finish():
        assert "diffact: resumed from step" in text
    _assert_resumed(two, killed)

    # The noise of DiffAct is seeded by the position of the video: the first one is predicted as in the evaluation.
    video = (two / "demo_data" / "splits" / "test.split1.bundle").read_text().split()[0].removesuffix(".txt")
    features = two / "demo_data" / "features" / f"{video}.npy"
    start(out, "--mode=predict", f"--checkpoint={two}", f"--inputs={features}").finish()
    assert _labels(out / "predictions") == {video: _labels(two / "predictions")[video]}


def _assert_same_training(one: pathlib.Path, two: pathlib.Path) -> None:
    """Two processes end with the parameters, losses and predictions of a single one, up to rounding."""
    expected, found = parameters(one, "diffact"), parameters(two, "diffact")
    assert expected.keys() == found.keys()
    for path, values in expected.items():
        if path.endswith(("conv/bias", "att_v/bias")):
            continue  # an instance norm follows: their gradient is rounding noise, which Adam scales to a full step
        np.testing.assert_allclose(found[path], values, atol=2e-5, err_msg=path)
    losses = [[row["train/loss"] for row in train_rows(run)] for run in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    expected, found = _labels(one / "predictions"), _labels(two / "predictions")
    assert expected.keys() == found.keys()
    for video, labels in expected.items():
        assert np.mean(np.array(labels) == np.array(found[video])) > 0.99, video


def _assert_written_once(workdir: pathlib.Path) -> None:
    """Every file of the run is there, and nothing in it twice."""
    assert json.loads((workdir / "versions.json").read_text())["processes"] == 2
    assert json.loads((workdir / "config.json").read_text())["stages"] == ["diffact"]
    assert json.loads((workdir / "evaluation.json").read_text())["metrics"].keys() == {"DiffAct"}
    assert train_steps(workdir) == [("diffact", step + 1) for step in range(EPOCHS * STEPS_PER_EPOCH)]
    evaluations = [row["step"] for row in read_metrics(workdir) if "train/loss" not in row]
    assert evaluations == [EPOCHS * STEPS_PER_EPOCH]
    assert len(list((workdir / "tensorboard" / "diffact").iterdir())) == 1
    log = (workdir / "log.txt").read_text()
    assert [log.count(words) for words in ("stage 1/1: diffact", "results on test.split1")] == [1, 1]
    assert not [path for path in workdir.rglob("*") if path.name.endswith((".tmp", ".unfinished"))]


def _assert_resumed(undisturbed: pathlib.Path, resumed: pathlib.Path) -> None:
    """A killed run that went on is like one that never was, bit for bit."""
    assert_same_parameters(resumed, undisturbed, "diffact")
    assert train_steps(resumed) == train_steps(undisturbed), "steps logged twice or lost"
    assert _labels(resumed / "predictions") == _labels(undisturbed / "predictions")
