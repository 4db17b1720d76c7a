"""What a signal does: a training is asked to save and end, a job ends at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from actloc_jax.train import Interrupted, StopSignals

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread"
)


def _signal(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_training_is_asked() -> None:
    with StopSignals() as stop:
        assert stop.agreed(True) is None
        _signal(signal.SIGTERM)
        assert stop.agreed(False) == "SIGTERM"
        _signal(signal.SIGTERM)  # asked again, it still saves
        with pytest.raises(KeyboardInterrupt):
            _signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_ends_at_once(number: int) -> None:
    kept = r"in stage fill_bank; what it has finished is kept"
    with StopSignals() as stop, pytest.raises(Interrupted, match=kept), stop.at_once("fill_bank"):
        _signal(number)


def test_a_job_does_not_begin_after_a_signal() -> None:
    with StopSignals() as stop:
        _signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"SIGTERM in stage fill_bank"), stop.at_once("fill_bank"):
            pytest.fail("the job began")


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
