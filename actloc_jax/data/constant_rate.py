"""Which frames of a video are shown at a constant rate, as ffmpeg's `fps` filter chooses them (numpy only).

Published extractors called ffmpeg for this and encoded the video again on the way, which loses quality. Only the choice
of the frames is theirs here.
"""

from __future__ import annotations

import fractions

import numpy as np


def frames_at_rate(
    times: np.ndarray, time_base: fractions.Fraction, fps: float | fractions.Fraction, *, last_duration: int = 0
) -> np.ndarray:
    """The frame of the video that each frame of the result shows.

    A frame begins in the slot nearest to its time, halves away from zero. A slot shows the last frame that has begun;
    so frames are dropped (the first of two in one slot) or repeated. The result ends where the last frame does.

    Args:
        times: [frames] integers that rise, when each frame is shown, in units of `time_base`.
        time_base: seconds of a unit.
        fps: slots per second.
        last_duration: how long the last frame is shown, in the same units; 0 if unknown.

    Returns:
        [frames at the new rate] int64; empty if the last frame begins in the first slot and its duration is unknown.

    Raises:
        ValueError: no frames, or a rate that is not positive.
    """
    if len(times) == 0 or not fps > 0:
        raise ValueError(f"{len(times)} frames cannot be shown at {fps} frames per second; both must be above 0")
    rate = time_base * fractions.Fraction(fps).limit_denominator(10**6)
    slots = _rounded(np.asarray(times, np.int64), rate)
    end = int(_rounded(np.asarray(int(times[-1]) + last_duration), rate))
    return np.searchsorted(slots, np.arange(slots[0], end), side="right") - 1


def varies(times: np.ndarray, tolerance: float = 0.25) -> bool:
    """Whether a video has no constant rate: a frame is shown for a time that is far from the usual.

    Args:
        times: [frames] integers that rise, when each frame is shown.
        tolerance: least share of the usual time that counts as far. Containers round times, Matroska to milliseconds.
    """
    if len(times) < 3:
        return False
    steps = np.diff(times)
    usual = float(np.median(steps))
    return bool((np.abs(steps - usual) > tolerance * usual + 1).any())


def _rounded(times: np.ndarray, rate: fractions.Fraction) -> np.ndarray:
    """times * rate in whole numbers, halves away from zero: no division that could miss a half."""
    doubled = 2 * np.abs(times) * rate.numerator + rate.denominator
    return np.sign(times) * (doubled // (2 * rate.denominator))
