"""Post-processing of frame predictions with action boundaries, and how well boundaries are found (ASRF, WACV 2021).

Host side, NumPy only. After `baiyang4/TST-action-segmentation:asformer_tst/libs/{postprocess,metric,transformer}.py`
(arXiv 2007.06866, section 3.3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

TieFallback = Literal["published", "fixed"]


def boundary_probability(scores: np.ndarray) -> np.ndarray:
    """Boundary scores `[time]` as float32 probabilities: a sigmoid, unless all of them already lie in [0, 1]."""
    if scores.min() >= 0 and scores.max() <= 1:
        return scores.astype(np.float32)
    return (1 / (1 + np.exp(-scores))).astype(np.float32)


def boundary_peaks(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Frames at which a segment starts: strict local maxima of at least `threshold`.

    Values under the threshold count as 0. Frame 0 is always a peak and the last frame never is; a plateau has no peak.

    Args:
        probability: boundary probabilities `[time]`.
        threshold: smallest value that counts.

    Returns:
        Frame indices, increasing, int64 `[peaks]`.
    """
    kept = np.where(probability < threshold, 0, probability)
    peak = np.zeros(kept.size, bool)
    peak[1:-1] = (kept[:-2] < kept[1:-1]) & (kept[2:] < kept[1:-1])
    peak[0] = True
    return np.flatnonzero(peak)


def refine_with_boundaries(
    class_scores: np.ndarray,
    boundary_scores: np.ndarray,
    *,
    threshold: float = 0.5,
    tie_fallback: TieFallback = "published",
) -> np.ndarray:
    """Gives every span between two boundary peaks its most frequent label.

    Between equally frequent labels the one with the larger sum of class scores over the span wins.

    Args:
        class_scores: `[time, classes]`, logits or probabilities; the label of a frame is their first maximum.
        boundary_scores: `[time]`, logits or probabilities.
        threshold: see `boundary_peaks`.
        tie_fallback: `"published"` compares the sums of tied labels to an initial best of 0, as the released code
            does, so that where no sum is positive the label of the span before is used again. In the first span,
            where there is none and the released code fails, and everywhere if `"fixed"`, the sums are only compared
            with each other.

    Returns:
        Labels int64 `[time]`.

    Raises:
        ValueError: if the lengths differ or `tie_fallback` is unknown.
    """
    if tie_fallback not in get_args(TieFallback):
        raise ValueError(f"tie_fallback is {tie_fallback!r}; expected one of {', '.join(get_args(TieFallback))}")
    if len(class_scores) != len(boundary_scores):
        raise ValueError(f"{len(class_scores)} frames of class scores but {len(boundary_scores)} of boundary scores")
    labels = np.argmax(class_scores, axis=1)
    refined = np.empty_like(labels)
    starts = boundary_peaks(boundary_probability(boundary_scores), threshold)
    for start, end in zip(starts, [*starts[1:], len(labels)], strict=True):
        counts = np.bincount(labels[start:end])
        tied = np.flatnonzero(counts == counts.max())
        winner = tied[0]
        if len(tied) > 1:
            sums = np.array([class_scores[start:end, label].sum() for label in tied])
            winner = tied[np.argmax(sums)]
            if tie_fallback == "published" and start > 0 and not sums.max() > 0:
                winner = refined[start - 1]
        refined[start:end] = winner
    return refined


def relabel_short_segments(labels: np.ndarray, max_length: int = 15) -> np.ndarray:
    """Gives every segment of at most `max_length` frames the label of the frame before it.

    As in the released code, a short first segment takes the label of the last frame of the video, and the range of a
    short last segment sits one frame too early, so that the last frame keeps its label.

    Args:
        labels: integers `[time]`.
        max_length: longest segment that is relabelled, in frames.

    Returns:
        Labels `[time]` of the same dtype.
    """
    time = len(labels)
    relabelled = labels.copy()
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    for start, end in zip(starts, [*starts[1:], time], strict=True):
        if end - start > max_length:
            continue
        if end == time:
            start, end = start - 1, end - 1
        if start >= 0:
            relabelled[start:end] = relabelled[start - 1]
    return relabelled


def gaussian_smooth(values: np.ndarray, taps: int = 15, sigma: float = 1.0) -> np.ndarray:
    """Filters along time with a sampled Gaussian that is not normalised; edges are reflected without repetition.

    Args:
        values: float `[time, ...]`, more than `taps // 2` frames.
        taps: odd length of the kernel.
        sigma: standard deviation in frames.

    Returns:
        float32 of the same shape.
    """
    offsets = np.arange(taps, dtype=np.float32) - (taps - 1) / 2
    kernel = np.exp(-np.square(offsets / sigma) / 2) / (sigma * math.sqrt(2 * math.pi))
    half = taps // 2
    padded = np.pad(values.astype(np.float32), [(half, half)] + [(0, 0)] * (values.ndim - 1), mode="reflect")
    time = len(values)
    return sum(kernel[tap] * padded[tap : tap + time] for tap in range(taps)).astype(np.float32)


def smoothed_probabilities(class_scores: np.ndarray, taps: int = 15) -> np.ndarray:
    """Class probabilities filtered over time.

    Args:
        class_scores: `[time, classes]`: probabilities if every frame sums to one, else logits.
        taps: length of the Gaussian kernel.

    Returns:
        float32 `[time, classes]`; its argmax gives the smoothed labels.
    """
    scores = class_scores.astype(np.float32)
    if not np.allclose(scores.sum(axis=1), 1):
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    return gaussian_smooth(scores, taps)


@dataclasses.dataclass(frozen=True)
class BoundaryCounts:
    """Boundaries of one video found (`hits`), invented (`false_alarms`), missed (`misses`), of how many `frames`."""

    hits: int
    false_alarms: int
    misses: int
    frames: int


def count_boundaries(
    predicted: np.ndarray, truth: np.ndarray, *, threshold: float = 0.7, tolerance: int = 5
) -> BoundaryCounts:
    """Matches predicted to true boundaries of one video, in order of time.

    A predicted boundary hits the nearest true one (the earlier of two) if that lies within `tolerance` frames and is
    not hit yet.

    Args:
        predicted: boundary probabilities `[time]`.
        truth: boundary indicator or smoothed indicator `[time]`.
        threshold: smallest value of a peak on either side.
        tolerance: frames.
    """
    truth_peaks = boundary_peaks(truth, threshold)
    hit = np.zeros(truth_peaks.size, bool)
    false_alarms = 0
    for peak in boundary_peaks(predicted, threshold):
        distance = np.abs(truth_peaks - peak)
        nearest = np.argmin(distance)
        if distance[nearest] <= tolerance and not hit[nearest]:
            hit[nearest] = True
        else:
            false_alarms += 1
    return BoundaryCounts(int(hit.sum()), false_alarms, int((~hit).sum()), len(predicted))


def score_boundaries(counts: Iterable[BoundaryCounts]) -> dict[str, float]:
    """Accuracy, precision, recall and F1 in percent over all videos.

    Accuracy is the share of frames that are neither a false alarm nor a miss.
    """
    counts = list(counts)
    hits = sum(count.hits for count in counts)
    false_alarms = sum(count.false_alarms for count in counts)
    misses = sum(count.misses for count in counts)
    frames = sum(count.frames for count in counts)
    precision = hits / (hits + false_alarms)
    recall = hits / (hits + misses)
    return {
        "accuracy": 100 * (frames - false_alarms - misses) / frames,
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * 2 * precision * recall / (precision + recall + 1e-7),
    }
