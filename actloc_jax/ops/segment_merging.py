"""Segments refined by the candidates that suppression removes: voting and non-maximum weighting (numpy only)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from actloc_jax.ops import iou
from actloc_jax.ops.iou import Overlap
from actloc_jax.ops.nms import Selected, class_members


def vote(
    selected: np.ndarray,
    segments: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    *,
    weight_by_overlap: bool = False,
    alone: Literal["keep", "nan"] = "keep",
) -> np.ndarray:
    """Moves every selected segment to the weighted mean of all candidates that overlap it enough.

    Args:
        selected: [selected, 2] segments after suppression.
        segments: [candidates, 2] all candidates before it.
        scores: [candidates] their scores before it, the weights.
        threshold: least tIoU of a candidate that votes.
        weight_by_overlap: weights are score times tIoU, as in ActionFormer; TriDet and FuSTAL use the score alone.
        alone: a selected segment of length zero has no overlap, not even with itself; it stays, or becomes NaN as in
            the originals.

    Returns:
        [selected, 2] refined segments.
    """
    selected, segments = np.asarray(selected), np.asarray(segments)
    overlap = iou.TIOU(selected[:, None], segments)
    weights = np.where(overlap >= threshold, np.asarray(scores), 0).astype(segments.dtype)
    if weight_by_overlap:
        weights *= overlap
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        refined = (weights / total) @ segments
    return np.where(total == 0, selected, refined) if alone == "keep" else refined


def weighted_nms(
    segments: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    threshold: float = 0.5,
    above: float = 0.005,
    most: int | None = 1200,
    overlap: Overlap = iou.FLOORED_TIOU,
) -> tuple[np.ndarray, Selected]:
    """Non-maximum weighting, the published suppression of TALLFormer (`vedatad/misc/segment/segment.py`).

    The best candidate of a class gathers those of its class that overlap it enough; the result is their mean weighted
    by score times overlap, with the score of the best.

    Args:
        segments: [candidates, 2]; scores: [candidates]; labels: [candidates].
        threshold: least overlap of a member.
        above: candidates must have a score above this.
        most: at most this many results. None: no limit.
        overlap: of the best (first) with the others.

    Returns:
        Merged segments [selected, 2], and the best candidates by descending score over all classes (the first in the
        input among equals).

    Raises:
        ValueError: as for `suppress`.
    """
    segments, scores, members = class_members(segments, scores, labels)
    merged, index = [], []
    for rows in members:
        rows = rows[scores[rows] > above]
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        while len(rows):
            shared = overlap(segments[rows[:1]], segments[rows])
            shared[0] = 1
            near = shared >= threshold
            weights = scores[rows[near]] * shared[near]
            merged.append((weights / weights.sum()) @ segments[rows[near]])
            index.append(rows[0])
            rows = rows[~near]
    index = np.array(index, np.int64)
    best = np.lexsort((index, -scores[index]))[:most]
    return np.array(merged, segments.dtype).reshape(-1, 2)[best], Selected(index[best], scores[index[best]])
