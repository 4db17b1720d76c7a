"""How far a stage is: a bar with the time left on a terminal, plain lines in a log otherwise."""

from __future__ import annotations

import logging
import sys
import time
import types
from collections.abc import Callable
from typing import Any, TextIO

import tqdm

log = logging.getLogger(__name__)


class Progress:
    """Shows steps done, speed and time left; only process 0 shows anything.

    On a terminal a bar; otherwise a log line for the first update, then at most every `interval_sec`, and for the last
    step. The time left is judged from the speed since the first update, so that compilation does not count.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        name: str = "",
        process_index: int = 0,
        interval_sec: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts at step `initial` of `total`.

        Args:
            total: steps when all is done.
            initial: steps done before this run.
            name: what is going on, such as the stage's name.
            process_index: this process; all but 0 stay silent.
            interval_sec: least seconds between two plain lines.
            stream: where the bar goes, standard error by default; it decides between bar and lines.
            clock: seconds, for tests.
        """
        self._total, self._step, self._name = total, initial, name
        self._active = process_index == 0
        self._interval_sec, self._clock = interval_sec, clock
        self._first: tuple[int, float] | None = None  # step and time of the first update
        self._last_line: tuple[int, float] | None = None
        stream = sys.stderr if stream is None else stream
        self._bar: tqdm.tqdm | None = None
        if self._active and stream.isatty():
            self._bar = tqdm.tqdm(total=total, initial=initial, desc=name, file=stream, unit="step", dynamic_ncols=True)

    def update(self, step: int, **scalars: Any) -> None:
        """Says that `step` steps are done, with scalars worth a look, such as `loss=0.3`."""
        if not self._active:
            return
        shown = {name: f"{float(value):.4g}" for name, value in scalars.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._step)
        self._step = step
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        if self._bar is None and self._line_is_due(now):
            self._last_line = (step, now)
            words = [f"{self._name} step {step}/{self._total}".strip(), *(f"{k} {v}" for k, v in shown.items())]
            speed = self._steps_per_sec(now)
            if speed:
                words += [f"{speed:.3g} steps/s", f"{duration((self._total - step) / speed)} left"]
            log.info("%s", ", ".join(words))

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self.close()

    def _line_is_due(self, now: float) -> bool:
        if self._last_line is None:
            return True
        step, at = self._last_line
        return now - at >= self._interval_sec or (self._step >= self._total and step != self._step)

    def _steps_per_sec(self, now: float) -> float | None:
        step, at = self._first or (self._step, now)
        return (self._step - step) / (now - at) if self._step > step and now > at else None


def duration(seconds: float) -> str:
    """A time span as people write it: `45s`, `3m 20s`, `5h 07m`, `2d 03h`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d {seconds % 86400 // 3600:02d}h"
