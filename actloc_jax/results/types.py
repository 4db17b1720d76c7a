"""The two result types that leave a system."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FrameLabels:
    """A class for every frame of a video.

    Attributes:
        video: name of the video.
        labels: int32 [time] class indices at the video's annotation rate.
        confidence: float32 [time] in 0..1, or None.
    """

    video: str
    labels: np.ndarray
    confidence: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ScoredSegments:
    """Detected segments of a video.

    Attributes:
        video: name of the video.
        segments: float32 [segments, 2] start and end in seconds.
        labels: int32 [segments] class indices.
        scores: float32 [segments].
    """

    video: str
    segments: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


Result = FrameLabels | ScoredSegments
