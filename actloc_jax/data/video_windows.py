"""Segments of a window of a video, in frames (numpy only).

Source: `klauscc/TALLFormer:vedatad/datasets/pipelines/transforms.py` (`TemporalRandomCrop`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from actloc_jax.data.video_augmentation import Random, draw_integer


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a video and the segments of it that count.

    Attributes:
        start: first frame.
        length: frames.
        kept: [n] bool, the segments that count.
        segments: [kept, 2] float32 frames, clipped to the window and counted from its start.
    """

    start: int
    length: int
    kept: np.ndarray
    segments: np.ndarray


def seconds_to_frames(segments: np.ndarray, fps: float) -> np.ndarray:
    """[n, 2] seconds as float32 frames; as published, the frame rate is rounded to a whole number first."""
    return np.asarray(segments, np.float32).reshape(-1, 2) * np.float32(round(fps))


def random_window(
    frames: int,
    segments: np.ndarray,
    rng: Random,
    *,
    length: int,
    threshold: float = 0.75,
    trials: int = 1,
) -> Window:
    """A window anywhere in the video.

    Args:
        frames: of the video, at least 1.
        segments: [n, 2] frames.
        rng: draws the start.
        length: frames of the window; a shorter video is its own window.
        threshold: see `segments_inside`.
        trials: windows drawn until one has a segment; with 1, as published, some windows have none.

    Returns:
        The window; without segments if the last trial has none.
    """
    size = min(length, frames)
    for _ in range(trials):
        start = draw_integer(rng, frames - size + 1)
        window = segments_inside(segments, start, size, threshold)
        if len(window.segments):
            break
    return window


def segments_inside(segments: np.ndarray, start: int, length: int, threshold: float = 0.75) -> Window:
    """The window from `start` with the segments of [n, 2] frames that count in it.

    A segment counts when more than `threshold` of it lies in the window, or it covers more than that of the window.
    """
    segments = np.asarray(segments, np.float32).reshape(-1, 2)
    low, high = np.float32(start), np.float32(start + length)
    clipped = np.stack([np.maximum(segments[:, 0], low), np.minimum(segments[:, 1], high)], axis=1)
    inside = np.maximum(clipped[:, 1] - clipped[:, 0], 0)
    lengths = np.maximum(segments[:, 1] - segments[:, 0], np.float32(1e-6))
    kept = np.maximum(inside / lengths, inside / np.float32(length)) > threshold
    return Window(start, length, kept, clipped[kept] - low)
