"""Recall of temporal proposals: how many true segments the N best segments of each video cover (numpy only).

AR@N is the mean of that recall over tIoU thresholds. Classes are not looked at. The N best of every video are counted,
as in the tables of the field; ActivityNet's proposal server instead shares a budget of N per video on average among the
videos in proportion to their numbers of proposals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from actloc_jax.metrics.detection import ACTIVITYNET_TIOU, name
from actloc_jax.metrics.detection_matching import SANE, Detections, Instances, pairs_within

NUMBERS = (1, 5, 10, 50, 100, 200)
"""Usual numbers of proposals."""


def recalls(
    predictions: Mapping[str, Detections],
    truths: Mapping[str, Instances],
    numbers: Sequence[int] = NUMBERS,
    thresholds: Sequence[float] = ACTIVITYNET_TIOU,
) -> np.ndarray:
    """Share of the true instances that one of the N best detections of their video overlaps enough.

    Args:
        predictions: video -> detections; equal scores in their order. Videos without ground truth are not looked at.
        truths: video -> true instances.
        numbers: the N.
        thresholds: least tIoU of a hit.

    Returns:
        [numbers, thresholds] in 0..1. One detection may hit several instances.

    Raises:
        ValueError: no true instance, or a number below 1.
    """
    if not numbers or min(numbers) < 1:
        raise ValueError(f"numbers of proposals must be at least 1, found {tuple(numbers)}")
    if not any(len(truth) for truth in truths.values()):
        raise ValueError(f"no true instance in {len(truths)} videos: there is nothing to recall")
    found = {(number, threshold): 0 for number in numbers for threshold in thresholds}
    instances = sum(len(truth) for truth in truths.values())
    for video, truth in truths.items():
        if video not in predictions or len(predictions[video]) == 0 or len(truth) == 0:
            continue
        order = np.argsort(-predictions[video].scores, kind="stable")[: max(numbers)]
        segments = predictions[video].segments[order]
        pairs = pairs_within(
            *(np.zeros(len(segments), np.int64), segments, np.zeros(len(truth), np.int64), truth.segments, SANE)
        )
        overlap = np.zeros((len(segments), len(truth)))
        overlap[pairs.prediction, pairs.instance] = pairs.overlap
        best = np.maximum.accumulate(overlap, axis=0)
        for number, threshold in found:
            found[number, threshold] += np.count_nonzero(best[min(number, len(best)) - 1] >= threshold)
    counts = np.array([[found[number, threshold] for threshold in thresholds] for number in numbers])
    return counts / instances


def average_recall(
    predictions: Mapping[str, Detections],
    truths: Mapping[str, Instances],
    numbers: Sequence[int] = NUMBERS,
    thresholds: Sequence[float] = ACTIVITYNET_TIOU,
) -> dict[str, float]:
    """`{"AR@1": ..., "AR@5": ..., ...}` in percent; arguments and errors as for `recalls`."""
    means = 100.0 * recalls(predictions, truths, numbers, thresholds).mean(axis=1)
    return {name(number, "AR"): float(mean) for number, mean in zip(numbers, means, strict=True)}
