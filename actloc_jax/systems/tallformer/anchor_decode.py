"""From what the heads say about the anchors of every window to the detections of a video: THUMOS14, numpy only.

Source: `klauscc/TALLFormer:vedatad/models/heads`, `vedatad/misc/segment/segment.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actloc_jax.ops import anchors as anchor_ops
from actloc_jax.ops import iou, nms
from actloc_jax.ops.anchors import Anchors
from actloc_jax.ops.iou import Overlap
from actloc_jax.ops.nms import Suppression
from actloc_jax.ops.segment_merging import weighted_nms


@dataclasses.dataclass(frozen=True)
class AnchorDecodeSettings:
    """Which candidates are kept, and how they are merged.

    Attributes:
        per_level: at most so many anchors of each level of a window, those with the highest score of any class.
        above: score that a pair of anchor and class must exceed.
        threshold: least overlap of candidates that are merged.
        most: detections of a video.
        overlap: of the best candidate with the others.
        suppression: a rule of `ops/nms.py` that takes the place of merging; classes are kept apart by shifting them.
            None: non-maximum weighting, as published.
    """

    per_level: int = 1000
    above: float = 0.005
    threshold: float = 0.5
    most: int | None = 1200
    overlap: Overlap = iou.FLOORED_TIOU
    suppression: Suppression | None = None


class Window(NamedTuple):
    """Where a window lies in its video, in frames.

    Attributes:
        start: its first frame.
        length: its frames, without padding.
    """

    start: int
    length: int


class Candidates(NamedTuple):
    """Segments before merging.

    Attributes:
        segments: float32 [candidates, 2], frames of the video.
        scores: float32 [candidates, classes].
    """

    segments: np.ndarray
    scores: np.ndarray


class Merged(NamedTuple):
    """Detections of a video by falling score.

    Attributes:
        segments: float32 [detections, 2], frames of the video.
        scores: float32 [detections].
        labels: int64 [detections].
    """

    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def window_candidates(
    logits: np.ndarray, deltas: np.ndarray, anchors: Anchors, window: Window, settings: AnchorDecodeSettings
) -> Candidates:
    """The anchors of a window as segments of its video; those in its padding are clipped to it like all others.

    Args:
        logits: float32 [anchors, classes], levels in order.
        deltas: float32 [anchors, 2].
        anchors: of the window.
        window: its place.
        settings: thresholds.
    """
    scores = 1 / (1 + np.exp(-np.asarray(logits, np.float32)))
    rows = np.concatenate([_best_rows(scores, *level, settings.per_level) for level in _spans(anchors)])
    segments = anchor_ops.decode(anchors.segments[rows], np.asarray(deltas, np.float32)[rows], window.length)
    return Candidates((segments + np.float32(window.start)).astype(np.float32), scores[rows])


def merge(candidates: Sequence[Candidates], settings: AnchorDecodeSettings) -> Merged:
    """Merges the candidates of all windows of a video, class by class.

    Raises:
        ValueError: candidates that are not finite.
    """
    segments, scores = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
    row, label = np.nonzero(scores > settings.above)
    segments, scores = segments[row], scores[row, label]
    if settings.suppression is not None:
        chosen = nms.suppress(nms.shift_classes(segments, label), scores, settings.suppression)
        kept = chosen.index[: settings.most]
        return Merged(segments[kept], chosen.scores[: settings.most], label[kept])
    merged, chosen = weighted_nms(
        segments,
        scores,
        label,
        threshold=settings.threshold,
        above=settings.above,
        most=settings.most,
        overlap=settings.overlap,
    )
    return Merged(merged, chosen.scores, label[chosen.index])


def _spans(anchors: Anchors) -> list[tuple[int, int]]:
    """First and one past the last anchor of every level."""
    return list(zip((0, *anchors.ends), anchors.ends, strict=False))


def _best_rows(scores: np.ndarray, begin: int, end: int, most: int) -> np.ndarray:
    """The anchors of a level: all in order, or the best ones by falling score where there are more than `most`."""
    if end - begin <= most:
        return np.arange(begin, end)
    best = scores[begin:end].max(axis=1)
    return begin + np.argsort(-best, kind="stable")[:most]
