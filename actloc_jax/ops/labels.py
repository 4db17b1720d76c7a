"""Post-processing of per-frame class labels and probabilities (numpy only; time first).

The published pipelines differ in where they filter and in how they end the last segment; each variant is here under its
own name or argument. Sources: `Finspire13/DiffAct:main.py,dataset.py,utils.py` and
`baiyang4/TST-action-segmentation:tst/predict.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import ndimage

SegmentEnd = Literal["exclusive", "minus_one"]


def average_offsets(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of the predictions for the sequences that start at frames 0..rate-1, cut to the shortest.

    Args:
        probabilities: one [time_i, classes] array per offset.

    Returns:
        [shortest time, classes], in the dtype of the input.
    """
    if not probabilities:
        raise ValueError("no predictions to average")
    shortest = min(len(one) for one in probabilities)
    return np.mean([one[:shortest] for one in probabilities], axis=0)


def median_filter_probabilities(probabilities: np.ndarray, size: int) -> np.ndarray:
    """Median over time for each class, then division by the sum over classes (DiffAct's `median`).

    The window is mirrored at the ends (the edge frame repeats). For an even `size` it starts `size // 2` frames
    before the current one and the element of rank `size // 2` is taken, as SciPy does.

    Args:
        probabilities: [time, classes].
        size: window in frames.

    Returns:
        [time, classes]; a frame whose medians are all zero stays zero.
    """
    smoothed = ndimage.median_filter(probabilities, size=(size, 1))
    total = smoothed.sum(axis=1, keepdims=True)
    return np.divide(smoothed, total, out=np.zeros_like(smoothed), where=total != 0)


def median_filter_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """Median over time of class INDICES [time] int, as published with TST for 50Salads and Breakfast.

    Classes have no order, so the middle of a window that holds classes 2 and 9 can be class 5. The published numbers
    contain this step; `mode_filter` is the sane choice.
    """
    return ndimage.median_filter(labels, size=size)


def mode_filter(labels: np.ndarray, size: int) -> np.ndarray:
    """Most frequent class of a sliding window; the smallest class wins ties.

    Args:
        labels: [time] int.
        size: window in frames, from `size // 2` before the current frame on, mirrored at the ends.

    Returns:
        [time], dtype of `labels`.
    """
    classes, indices = np.unique(labels, return_inverse=True)
    padded = np.pad(indices, (size // 2, size - 1 - size // 2), mode="symmetric")
    best_count = np.zeros(len(labels), np.int64)
    best = np.zeros(len(labels), np.int64)
    for index in range(len(classes)):
        running = np.concatenate([[0], np.cumsum(padded == index)])
        count = running[size:] - running[:-size]
        better = count > best_count
        best[better], best_count[better] = index, count[better]
    return classes[best]


def purge_short_segments(labels: np.ndarray, longest: int, *, segment_end: SegmentEnd) -> np.ndarray:
    """Overwrites segments of at most `longest` frames with the labels of their neighbours.

    The first segment takes the next label and the last one the previous label; others take the previous label in their
    first half (`length // 2` frames) and the next label in the rest. All neighbours are those of the given labels, so
    that adjacent short segments copy each other. A single segment keeps its label (the DiffAct original fails there).

    Args:
        labels: [time] int.
        longest: segments up to this many frames are overwritten.
        segment_end: `"exclusive"` (TST): the last segment ends at T. `"minus_one"` (DiffAct): it ends at T - 1, so
            that it counts one frame less and the last frame is never overwritten.

    Returns:
        [time], dtype of `labels`.
    """
    if segment_end not in ("exclusive", "minus_one"):
        raise ValueError(f'segment_end={segment_end!r} is unknown; use "exclusive" or "minus_one"')
    labels = np.asarray(labels)
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    if len(starts) == 1:
        return labels.copy()
    lengths = np.diff(np.append(starts, len(labels)))
    counted = lengths.copy()
    counted[-1] -= segment_end == "minus_one"
    run_labels = labels[starts]
    following = np.append(run_labels[1:], run_labels[-2])
    previous = np.concatenate([run_labels[1:2], run_labels[:-1]])
    run = np.repeat(np.arange(len(starts)), lengths)
    position = np.arange(len(labels)) - starts[run]
    replacement = np.where(position < counted[run] // 2, previous[run], following[run])
    overwritten = (counted[run] <= longest) & (position < counted[run])
    return np.where(overwritten, replacement, labels)


def restore_full_rate(values: np.ndarray, full_length: int, *, rate: int, left: int, right: int) -> np.ndarray:
    """Spreads sub-sampled values over all frames: every frame takes its nearest tick, the earlier one in a tie.

    Args:
        values: [ticks, ...], one value per tick at frames left, left + rate, ... < full_length - right.
        full_length: number of frames.
        rate: frames between ticks.
        left, right: frames before the first tick, and frames at the end that cannot hold a tick.

    Returns:
        [full_length, ...]; frames outside the ticks take the first or last value.

    Raises:
        ValueError: the number of values is not the number of ticks.
    """
    ticks = len(range(left, full_length - right, rate))
    if ticks == 0 or len(values) != ticks:
        raise ValueError(
            f"{len(values)} values for {ticks} ticks: {full_length} frames, every {rate}th from frame {left} on, "
            f"the last {right} frames without a tick"
        )
    nearest = (np.arange(full_length) - left + (rate - 1) // 2) // rate
    return np.asarray(values)[np.clip(nearest, 0, ticks - 1)]


def repeat_frames(labels: np.ndarray, rate: int) -> np.ndarray:
    """Repeats every sub-sampled frame `rate` times, as TST and ASFormer do.

    Returns:
        [rate * ceil(frames / rate), ...]: up to `rate - 1` frames longer than the video.
    """
    return np.repeat(labels, rate, axis=0)


def postprocess_labels(labels: np.ndarray, kind: str | None, value: int = 0) -> np.ndarray:
    """TST's post-processing of sub-sampled labels.

    Args:
        labels: [time] int.
        kind: `"purge"` (published for GTEA, value 3), `"median"` over class indices (50Salads 30, Breakfast 15),
            `"mode"` (what the median should have been), or None.
        value: longest purged segment, or window in frames.

    Raises:
        ValueError: an unknown kind.
    """
    if kind is None:
        return labels
    if kind == "purge":
        return purge_short_segments(labels, value, segment_end="exclusive")
    if kind == "median":
        return median_filter_labels(labels, value)
    if kind == "mode":
        return mode_filter(labels, value)
    raise ValueError(f"post-processing {kind!r} is unknown; use one of None, 'median', 'mode', 'purge'")


def labels_from_offsets(
    probabilities: Sequence[np.ndarray],
    full_length: int,
    *,
    rate: int,
    kind: str | None = None,
    value: int = 0,
    segment_end: SegmentEnd = "minus_one",
) -> np.ndarray:
    """DiffAct's way from sub-sampled class probabilities to a label for every frame.

    Average over offsets, median over probabilities, argmax, nearest-tick restore, then mode or purge at the full rate.

    Args:
        probabilities: [time_i, classes] for the sequences that start at offsets 0..rate-1 (aggregated modes), or only
            the one of offset `rate // 2` (`decoder-noagg`).
        full_length: frames of the video.
        rate: sub-sampling.
        kind: `"median"`, `"mode"`, `"purge"` or None.
        value: window, or longest purged segment, in frames.
        segment_end: how a purge counts the last segment; DiffAct counts it one frame too short (`"minus_one"`).

    Returns:
        [full_length] int class indices.

    Raises:
        ValueError: an unknown kind, or neither one nor `rate` sequences.
    """
    if kind not in (None, "median", "mode", "purge"):
        raise ValueError(f"post-processing {kind!r} is unknown; use one of None, 'median', 'mode', 'purge'")
    if len(probabilities) not in (1, rate):
        raise ValueError(
            f"expected the predictions of 1 or {rate} offsets (sample rate {rate}), got {len(probabilities)}"
        )
    mean = average_offsets(probabilities)
    if kind == "median":
        mean = median_filter_probabilities(mean, value)
    right = (rate - 1) // 2 if len(probabilities) == rate else 0
    labels = restore_full_rate(mean.argmax(axis=1), full_length, rate=rate, left=rate // 2, right=right)
    if kind == "mode":
        return mode_filter(labels, value)
    if kind == "purge":
        return purge_short_segments(labels, value, segment_end=segment_end)
    return labels
