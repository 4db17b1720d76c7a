"""Progress: plain lines with speed and time left, a bar on a terminal, silence elsewhere."""

from __future__ import annotations

import io
import logging

import pytest

from actloc_jax.training.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_plain_lines_tell_speed_and_time_left_without_compilation(caplog):
    caplog.set_level(logging.INFO)
    clock = Clock()
    progress = Progress(100, name="refiner", initial=10, stream=io.StringIO(), clock=clock, interval_sec=5)
    clock.now += 60  # compiling
    progress.update(11, loss=1.23456)
    for step in range(12, 101):
        clock.now += 2
        progress.update(step, loss=0.5)
    first, second, *_, last = lines(caplog)
    assert first == "refiner step 11/100, loss 1.235"
    assert second == "refiner step 14/100, loss 0.5, 0.5 steps/s, 2m 52s left"
    assert last == "refiner step 100/100, loss 0.5, 0.5 steps/s, 0s left"
    assert len(lines(caplog)) == 1 + 29 + 1, "one line at the start, one every 6 s, one at the end"


def test_bar_on_a_terminal(caplog):
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    with Progress(4, name="refiner", stream=terminal) as progress:
        progress.update(4, loss=0.25)
    assert "refiner: 100%" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "loss=0.25" in terminal.getvalue()
    assert lines(caplog) == []


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_other_processes_are_silent(caplog, stream):
    caplog.set_level(logging.INFO)
    with Progress(4, stream=stream, process_index=1) as progress:
        progress.update(4, loss=0.25)
    assert lines(caplog) == []
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59.4, "59s"), (200, "3m 20s"), (18420, "5h 07m"), (183600, "2d 03h")]
)
def test_durations_read_as_people_write_them(seconds, text):
    assert duration(seconds) == text
