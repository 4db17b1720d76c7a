"""The metric writer: what reaches the files, what a resumed run removes, and what the other processes leave alone."""

from __future__ import annotations

import json
import logging
import math
import sys
import types

import numpy as np
import pytest
import tqdm
from matplotlib.figure import Figure
from tensorboardX.proto import event_pb2

from actloc_jax.training import textfiles
from actloc_jax.training.logging import MetricWriter, TerminalHandler, drop_rows_after, log_to_file, read_metrics


def steps_of(workdir, stage):
    return [row["step"] for row in read_metrics(workdir) if row["stage"] == stage]


def tensorboard_events(workdir, stage):
    """Every event of a stage, read with tensorboardX's own protocol classes."""
    events = []
    for file in sorted((workdir / "tensorboard" / stage).iterdir()):
        data, position = file.read_bytes(), 0
        while position < len(data):  # a TFRecord: length, checksum of it, bytes, checksum
            length = int.from_bytes(data[position : position + 8], "little")
            events.append(event_pb2.Event.FromString(data[position + 12 : position + 12 + length]))
            position += 16 + length
    return events


def tensorboard_scalars(workdir, stage):
    """(step, tag, value) of every summary of a stage."""
    events = tensorboard_events(workdir, stage)
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def test_rows_carry_stage_step_epoch_time_and_values(tmp_path):
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(3, {"train/loss": np.float32(0.5), "train/ce": np.array(2.0)}, stage="refiner", epoch=1)
        writer.write(4, {"train/loss": math.nan}, stage="refiner")
    first, second = read_metrics(tmp_path / "run")
    assert first.pop("time") > 1.6e9
    assert first == {"stage": "refiner", "step": 3, "epoch": 1, "train/loss": 0.5, "train/ce": 2.0}
    assert second["train/loss"] is None
    assert second["epoch"] is None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 4]


def test_tensorboard_gets_one_run_per_stage(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5}, stage="backbone")
        writer.write(1, {"loss": 0.25}, stage="refiner")
    assert tensorboard_scalars(tmp_path, "backbone") == [(1, "loss", 0.5)]
    assert tensorboard_scalars(tmp_path, "refiner") == [(1, "loss", 0.25)]


def test_rows_are_on_disk_before_the_run_ends(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"loss": 1.0}, stage="s")
    assert len(read_metrics(tmp_path)) == 1
    writer.close()
    writer.close()


def test_resume_removes_what_lies_beyond_the_step(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for stage in ("backbone", "refiner"):
            for step in (1, 2, 3, 4):
                writer.write(step, {"loss": 1.0}, stage=stage)
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.resume(2, stage="refiner")
        writer.write(3, {"loss": 7.0}, stage="refiner")
    assert steps_of(tmp_path, "backbone") == [1, 2, 3, 4]
    assert steps_of(tmp_path, "refiner") == [1, 2, 3]
    assert read_metrics(tmp_path)[-1]["loss"] == 7.0


def test_resuming_an_earlier_stage_removes_the_later_ones(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for stage in ("backbone", "refiner"):
            writer.write(1, {"loss": 1.0}, stage=stage)
            writer.write(2, {"loss": 1.0}, stage=stage)
    assert drop_rows_after(tmp_path, "backbone", 1) == 3
    assert [(row["stage"], row["step"]) for row in read_metrics(tmp_path)] == [("backbone", 1)]
    assert drop_rows_after(tmp_path, "refiner", 0) == 0, "a stage that has not begun removes nothing"
    assert not list(tmp_path.glob("*.tmp"))


def test_resume_marks_the_step_for_tensorboard(tmp_path):
    """TensorBoard hides what an interrupted run logged from the step of a session's start on."""
    with MetricWriter(tmp_path) as writer:
        writer.resume(10, stage="s")
        writer.write(11, {"loss": 1.0}, stage="s")
    started = event_pb2.SessionLog.START
    starts = [event.step for event in tensorboard_events(tmp_path, "s") if event.session_log.status == started]
    assert starts == [11]


def test_a_row_cut_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "s", "step": 1}\n{"stage": "s", "st')
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(2, {"loss": 1.0}, stage="s")
    assert steps_of(tmp_path, "s") == [1, 2]


def test_other_processes_write_nothing(tmp_path):
    workdir = tmp_path / "run"
    with MetricWriter(workdir, process_index=1) as writer, log_to_file(workdir, process_index=1):
        writer.resume(0, stage="s")
        writer.write(1, {"loss": 1.0}, stage="s")
        writer.figure(1, "name", Figure())
    assert not workdir.exists()


def test_figures_are_files_and_events(tmp_path):
    figure = Figure()
    figure.subplots().plot([0, 1])
    with MetricWriter(tmp_path) as writer:
        writer.figure(5, "timelines/S1", figure)
    assert (tmp_path / "figures" / "timelines" / "S1.png").read_bytes().startswith(b"\x89PNG")
    assert [event[:2] for event in tensorboard_scalars(tmp_path, "figures")] == [(5, "timelines/S1")]


def test_reserved_names_are_refused(tmp_path):
    with (
        MetricWriter(tmp_path, tensorboard=False) as writer,
        pytest.raises(ValueError, match=r"must not be named \['step'\]"),
    ):
        writer.write(1, {"step": 3}, stage="s")


def test_wandb_missing_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "actloc_jax\[wandb\]"'):
        MetricWriter(tmp_path, wandb={"project": "p"})


def test_wandb_gets_rows_and_the_run_is_continued(tmp_path, monkeypatch):
    calls = []

    class Run:
        id = "abc"

        def log(self, values):
            calls.append(values)

        def finish(self):
            calls.append("finish")

    module = types.SimpleNamespace(init=lambda **options: calls.append(options) or Run())
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        with MetricWriter(tmp_path, tensorboard=False, wandb={"project": "p"}) as writer:
            writer.write(1, {"loss": 0.5}, stage="s")
    started, row, finished, again = calls[:4]
    assert started == {"resume": "allow", "project": "p", "dir": str(tmp_path)}
    assert row == {"s/loss": 0.5, "s/step": 1}
    assert finished == "finish"
    assert again["id"] == "abc"


def test_log_to_file_appends_with_the_time(tmp_path):
    logger = logging.getLogger("actloc_jax.somewhere")
    logger.setLevel(logging.INFO)
    for message in ("first", "second"):
        with log_to_file(tmp_path):
            logger.info("%s run", message)
    logger.info("not to the file")
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert first.endswith("INFO actloc_jax.somewhere: first run")
    assert second.endswith("INFO actloc_jax.somewhere: second run")
    assert first[:2] == "20"


def test_the_terminal_shows_messages_above_the_bar(capsys):
    logger = logging.getLogger("actloc_jax.elsewhere")
    logger.setLevel(logging.INFO)
    handler = TerminalHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    with tqdm.tqdm(total=2, desc="bar", file=sys.stderr):
        logger.info("in the middle")
    logger.removeHandler(handler)
    lines = capsys.readouterr().err.split("\n")
    assert any(line.endswith("\rINFO: in the middle") for line in lines), "the bar is wiped before the message"
    assert "bar" in lines[-2], "and drawn again below it"


def test_a_message_that_cannot_be_printed_is_reported(capsys):
    record = logging.LogRecord("name", logging.INFO, "file.py", 1, "%d frames", ("no number",), None)
    TerminalHandler().emit(record)
    assert "--- Logging error ---" in capsys.readouterr().err


def test_remote_files_are_written_whole(tmp_path, monkeypatch):
    store = {"log": "before, cut"}

    class Remote:
        def __init__(self, path):
            self.path = path

        def __fspath__(self):
            return self.path

        def exists(self):
            return True

        def read_text(self):
            return store["log"]

        def write_text(self, text):
            store["log"] = text

    monkeypatch.setattr(textfiles.epath, "Path", Remote)
    file = textfiles.AppendFile("gs://bucket/log")
    file.write("one\n")
    assert store["log"] == "before, cut", "uploads must be rare"
    monkeypatch.setattr(textfiles, "_REMOTE_INTERVAL_SEC", -1.0)
    file.write("two\n")
    assert store["log"] == "before, cut\none\ntwo\n"
    file.close()
