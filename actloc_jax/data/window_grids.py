"""Which frames are behind each row of features, for every published recipe (numpy only).

A video of F frames (at the rate of the recipe) has F - 1 fields of optical flow: field k leads from frame k to k + 1.
A row of features reads a window of frames and a window of fields. Sources, one for each function:
`ahsaniqbal/Kinetics-FeatureExtractor` (MS-TCN), `Finspire13/pytorch-i3d-feature-extraction` (THUMOS14),
`v-iashin/video_features`, `open-mmlab/mmaction2` (TSN); the windows of CoLA as its users describe them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NOTHING = -1
"""In place of a frame or a field: zeros. A field of zeros is one in which nothing moves."""


class Windows(NamedTuple):
    """What each row of features reads.

    Attributes:
        frames: [rows, window] int32, numbers of frames; `NOTHING` for zeros.
        fields: [rows, window of the flow] int32, numbers of fields; `NOTHING` where the flow is zero.
    """

    frames: np.ndarray
    fields: np.ndarray


def centred(frames: int, *, window: int = 21) -> Windows:
    """One row per frame, with the frame in the middle; beyond the ends the first or last frame stands still (MS-TCN).

    Args:
        frames: of the video.
        window: odd.
    """
    positions = np.arange(frames)[:, None] + np.arange(window) - window // 2
    moving = (positions >= 0) & (positions < frames - 1)
    return _windows(np.clip(positions, 0, max(frames - 1, 0)), np.where(moving, positions, NOTHING))


def inside(frames: int, *, window: int = 21) -> np.ndarray:
    """Which frames of `centred` are in the video, [frames, window] bool: others may be replaced by zeros."""
    positions = np.arange(frames)[:, None] + np.arange(window) - window // 2
    return (positions >= 0) & (positions < frames)


def shifted(frames: int, *, window: int = 21, batch: int = 1) -> Windows:
    """`centred` as the published program computes it: one frame is read twice, from there on windows are late by one.

    Its loader repeats a frame once more behind the second batch. Whether published features were made with this program
    is not known.

    Args:
        frames: of the video.
        window: odd.
        batch: rows that it computed together.
    """
    half = window // 2
    before = np.arange(min(frames, 2 * batch + half + 1))  # what it has read when the second batch is full
    read = np.concatenate([np.zeros(half, int), before, before[-1:], np.arange(len(before), frames)])
    read = np.concatenate([read, np.full(window, max(frames - 1, 0))])
    positions = np.arange(frames)[:, None] + np.arange(window)
    moving = read[positions + 1] == read[positions] + 1
    return _windows(read[positions], np.where(moving, read[positions], NOTHING))


def sliding(frames: int, *, window: int = 16, stride: int = 4) -> Windows:
    """Windows that lie in the video, one every `stride` frames; of `window` frames or fewer none (THUMOS14).

    The published program counts fields as it counts frames, so that there can be one row fewer: see `field_rows`.
    """
    return _regular(_sliding_rows(frames, window, stride), window, stride)


def field_rows(frames: int, *, window: int = 16, stride: int = 4) -> int:
    """Rows of `sliding` for which there is flow too."""
    return _sliding_rows(frames - 1, window, stride)


def without_overlap(frames: int, *, window: int = 16) -> Windows:
    """floor(frames / window) windows one after another; what is left of the video is dropped (CoLA, W-TALC).

    The last field of the video is read twice where a window ends with the video.
    """
    found = _regular(frames // window, window, window)
    return found._replace(fields=np.minimum(found.fields, max(frames - 2, 0)))


def stacks(frames: int, *, window: int = 64, stride: int = 64) -> Windows:
    """Windows of `window` fields, so of one frame more than are read; a rest that is shorter is dropped.

    The default of `video_features`, where a window is called a stack and its stride a step.
    """
    return _regular(max((frames - 1 - window) // stride + 1, 0), window, stride)


def interval_centres(frames: int, *, interval: int = 16, fields: int = 5) -> Windows:
    """The frame in the middle of every `interval` frames, and the fields around it (TSN).

    A last interval counts if its middle is in the video. Fields are counted as frames are, and stay in the video.

    Args:
        frames: of the video.
        interval: frames from one row to the next.
        fields: odd, how many around the middle.
    """
    centres = np.arange(interval // 2, frames, interval)[:, None]
    around = centres + np.arange(fields) - fields // 2
    return _windows(centres, np.clip(around, 0, max(frames - 1, 0)))


def standing_still(windows: Windows, frames: int) -> Windows:
    """Windows of a longer video on one of `frames`: its last frame stands still until the longer one ends."""
    fields = np.where(windows.fields < frames - 1, windows.fields, NOTHING)
    return _windows(np.minimum(windows.frames, frames - 1), fields)


def _sliding_rows(frames: int, window: int, stride: int) -> int:
    return (frames - window) // stride + 1 if frames > window else 0


def _regular(rows: int, window: int, stride: int) -> Windows:
    """Frames i * stride ... + window - 1 for row i, and the fields of the same numbers."""
    positions = np.arange(rows)[:, None] * stride + np.arange(window)
    return _windows(positions, positions)


def _windows(frames: np.ndarray, fields: np.ndarray) -> Windows:
    return Windows(frames.astype(np.int32), fields.astype(np.int32))
