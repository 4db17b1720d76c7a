"""Two processes on one machine train like one, are killed and go on to the same parameters, and predict together."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints
from actloc_jax.training.logging import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
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
TIMEOUT_SEC = 300.0  # of a run; generous, since other tests share the cores


class Job:
    """The command line, run by one process or by several that find each other on this machine.

    Args:
        options: of the command line.
        folder: of what the processes say, one file each.
        cache: of compiled programs.
        processes: their number.
    """

    def __init__(self, *options: str, folder: pathlib.Path, cache: pathlib.Path, processes: int = 2) -> None:
        command = [sys.executable, "-m", "actloc_jax.main", f"--compilation_cache={cache}", *options]
        # Compiling takes most of the time, and every process but the first does it in every run.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        if processes > 1:
            environment |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}", "JAX_NUM_PROCESSES": str(processes)}
        folder.mkdir(parents=True)
        self._outputs = [folder / f"process_{index}.txt" for index in range(processes)]
        self._processes = []
        for index, path in enumerate(self._outputs):
            with path.open("w") as file:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env={**environment, "JAX_PROCESS_ID": str(index)},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def outputs(self) -> list[str]:
        """What each process has said so far."""
        return [path.read_text() for path in self._outputs]

    def finish(self) -> list[str]:
        """Waits until all processes have ended well; returns what they said."""
        self._wait(lambda codes: all(code == 0 for code in codes), broken=lambda code: code not in (None, 0))
        return self.outputs()

    def kill_when(self, ready: Callable[[], bool]) -> None:
        """Kills all processes at the first moment that `ready` holds; none may have ended before."""
        self._wait(lambda codes: ready(), broken=lambda code: code is not None)
        self._kill()

    def signal_when(self, ready: Callable[[], bool], number: int, *, to: int) -> list[int]:
        """Sends a signal to one process once `ready` holds, waits for the end of all; returns their exit codes."""
        self._wait(lambda codes: ready(), broken=lambda code: code is not None)
        self._processes[to].send_signal(number)
        self._wait(lambda codes: None not in codes, broken=lambda code: False)
        return [process.returncode for process in self._processes]

    def _wait(self, done: Callable[[list[int | None]], bool], broken: Callable[[int | None], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SEC
        while True:
            codes = [process.poll() for process in self._processes]
            late = time.monotonic() > deadline
            if late or any(map(broken, codes)):
                self._kill()
                said = "\n".join(f"--- process {i}:\n{text[-3000:]}" for i, text in enumerate(self.outputs()))
                pytest.fail(f"{'too late' if late else 'ended too early or badly'}, exit codes {codes}\n{said}")
            if done(codes):
                return
            time.sleep(0.02)

    def _kill(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _parameters(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    model, _ = checkpoints.load_model(workdir / "checkpoints" / "diffact" / "best")
    return flatten(model["params"])


def _train_steps(workdir: pathlib.Path) -> list[int]:
    """Steps whose training loss has been logged, in the order of the file."""
    return [row["step"] for row in read_metrics(workdir) if "train/loss" in row]


def _labels(folder: pathlib.Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().split() for path in folder.iterdir()}


@pytest.mark.slow
def test_two_processes_train_like_one_go_on_when_killed_and_predict(tmp_path: pathlib.Path) -> None:
    one, two, killed, out = (tmp_path / name for name in ("one", "two", "killed", "out"))

    def start(workdir: pathlib.Path, *options: str, **more: int) -> Job:
        """A job whose processes write what they say into a folder of its own; all share the compiled programs."""
        folder = tmp_path / "said" / str(time.monotonic_ns())
        return Job(*options, f"--workdir={workdir}", folder=folder, cache=tmp_path / "cache", **more)

    start(one, *TRAIN, processes=1).finish()
    said = start(two, *TRAIN).finish()
    assert ["diffact step" in text for text in said] == [True, False], "only the first process tells its progress"
    _check_same_training(one, two)
    _check_written_once(two)

    middle_of_second_epoch = STEPS_PER_EPOCH + STEPS_PER_EPOCH // 2
    start(killed, *TRAIN).kill_when(lambda: len(_train_steps(killed)) >= middle_of_second_epoch)
    assert len(_train_steps(killed)) < EPOCHS * STEPS_PER_EPOCH
    for text in start(killed, *TRAIN).finish():
        assert "diffact: resumed from step" in text
    _check_resumed(two, killed)

    # The noise of DiffAct is seeded by the position of the video: the first one is predicted as in the evaluation.
    video = (two / "demo_data" / "splits" / "test.split1.bundle").read_text().split()[0].removesuffix(".txt")
    features = two / "demo_data" / "features" / f"{video}.npy"
    start(out, "--mode=predict", f"--checkpoint={two}", f"--inputs={features}").finish()
    assert _labels(out / "predictions") == {video: _labels(two / "predictions")[video]}


def _check_same_training(one: pathlib.Path, two: pathlib.Path) -> None:
    """Two processes end with the parameters, losses and predictions of a single one, up to rounding."""
    expected, found = _parameters(one), _parameters(two)
    assert expected.keys() == found.keys()
    for path, values in expected.items():
        if path.endswith(("conv/bias", "att_v/bias")):
            continue  # an instance norm follows: their gradient is rounding noise, which Adam scales to a full step
        np.testing.assert_allclose(found[path], values, atol=2e-5, err_msg=path)
    losses = [[row["train/loss"] for row in read_metrics(run) if "train/loss" in row] for run in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    expected, found = _labels(one / "predictions"), _labels(two / "predictions")
    assert expected.keys() == found.keys()
    for video, labels in expected.items():
        assert np.mean(np.array(labels) == np.array(found[video])) > 0.99, video


def _check_written_once(workdir: pathlib.Path) -> None:
    """Every file of the run is there, and nothing in it twice."""
    assert json.loads((workdir / "versions.json").read_text())["processes"] == 2
    assert json.loads((workdir / "config.json").read_text())["stages"] == ["diffact"]
    assert json.loads((workdir / "evaluation.json").read_text())["metrics"].keys() == {"DiffAct"}
    assert _train_steps(workdir) == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    evaluations = [row["step"] for row in read_metrics(workdir) if "train/loss" not in row]
    assert evaluations == [EPOCHS * STEPS_PER_EPOCH]
    assert len(list((workdir / "tensorboard" / "diffact").iterdir())) == 1
    log = (workdir / "log.txt").read_text()
    assert [log.count(words) for words in ("stage 1/1: diffact", "results on test.split1")] == [1, 1]
    assert not [path for path in workdir.rglob("*") if path.name.endswith((".tmp", ".unfinished"))]


def _check_resumed(undisturbed: pathlib.Path, resumed: pathlib.Path) -> None:
    """A killed run that went on is like one that never was, bit for bit."""
    expected, found = _parameters(undisturbed), _parameters(resumed)
    assert expected.keys() == found.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    assert _train_steps(resumed) == _train_steps(undisturbed), "steps logged twice or lost"
    assert _labels(resumed / "predictions") == _labels(undisturbed / "predictions")
