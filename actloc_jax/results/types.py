"""The two result types that leave a system, and the form in which a reader gets them."""

from __future__ import annotations

import dataclasses

import numpy as np

EMBEDDED_FRAMES = 256  # enough for a figure, small enough to keep for every video


def embedded_frames(time: int) -> np.ndarray:
    """Frames whose embeddings a result carries: all of a short video, else 256 evenly spaced ones; int64 [frames]."""
    count = min(time, EMBEDDED_FRAMES)
    return np.arange(count) * (time - 1) // max(count - 1, 1)


@dataclasses.dataclass(frozen=True)
class FrameLabels:
    """A class for every frame of a video.

    Attributes:
        video: name of the video.
        labels: int32 [time] class indices (cluster ids, where nobody named the classes) at the video's annotation rate.
        confidence: float32 [time] in 0..1, or None.
        scores: float32 [time, classes] assignment of every frame, such as the rows of a soft assignment, or None.
        embedding: float32 [frames, channels] unit embeddings of the frames `embedded_frames(time)`, or None.
        loss: the system's loss on the video, or None.
    """

    video: str
    labels: np.ndarray
    confidence: np.ndarray | None = None
    scores: np.ndarray | None = None
    embedding: np.ndarray | None = None
    loss: float | None = None


@dataclasses.dataclass(frozen=True)
class ScoredSegments:
    """Detected segments of a video.

    Attributes:
        video: name of the video.
        segments: float32 or float64 [segments, 2] start and end in seconds.
        labels: int32 [segments] class indices.
        scores: float32 or float64 [segments].
    """

    video: str
    segments: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


Result = FrameLabels | ScoredSegments


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a video with one class, for readers and their files.

    Attributes:
        start, end: seconds; frames (the end exclusive) where the frame rate of the labels is unknown.
        label: name of the class.
        score: of a detection; the mean confidence of labelled frames, where the system gives one; else None.
    """

    start: float
    end: float
    label: str
    score: float | None = None
