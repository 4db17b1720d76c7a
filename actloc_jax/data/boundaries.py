"""Targets derived from frame labels: boundary sequences, soft labels, class weights (numpy only; time first)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage


def boundary_sequence(labels: np.ndarray, sigma: float | None = None) -> np.ndarray:
    """DiffAct's boundary target: one on both sides of every change of label, smoothed over time.

    After the Gaussian filter (mirrored edges, radius round(4 sigma)) values are clipped at the peak that an isolated
    pair of ones would have, then divided by the maximum (`Finspire13/DiffAct:dataset.py:get_boundary_seq`).

    Args:
        labels: [time] int, at the full frame rate.
        sigma: width of the filter in frames; None for none.

    Returns:
        [time] float64 in 0..1; zeros for a video of one segment, where the original fails.
    """
    labels = np.asarray(labels)
    changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    boundary = np.zeros(len(labels))
    boundary[changes] = 1
    boundary[changes - 1] = 1
    if sigma is None or len(changes) == 0:
        return boundary
    boundary = ndimage.gaussian_filter1d(boundary, sigma)
    pair = np.zeros(len(labels))
    pair[[len(labels) // 2 - 1, len(labels) // 2]] = 1
    boundary = np.minimum(boundary, ndimage.gaussian_filter1d(pair, sigma).max())
    return boundary / boundary.max()


def renormalise_boundary(boundary: np.ndarray) -> np.ndarray:
    """Divides a sub-sampled boundary sequence by its maximum once more, as DiffAct does in training.

    Returns:
        [time], dtype kept; zeros stay zeros.
    """
    peak = boundary.max(initial=0)
    return boundary / peak if peak > 0 else boundary


def start_sequence(labels: np.ndarray) -> np.ndarray:
    """ASRF's boundary target: 1 at frame 0 and at every frame whose label differs from the one before.

    Returns:
        [time] float32.
    """
    labels = np.asarray(labels)
    return np.concatenate([[True], labels[1:] != labels[:-1]]).astype(np.float32)


def subsample_starts(starts: np.ndarray, rate: int) -> np.ndarray:
    """Sub-samples a 0/1 sequence without losing a one: frame i goes to floor(i / rate).

    Returns:
        [ceil(time / rate)] float32.
    """
    short = np.zeros(-(-len(starts) // rate), np.float32)
    short[np.flatnonzero(starts) // rate] = 1
    return short


def soft_labels(labels: np.ndarray, num_classes: int, sigma: float) -> np.ndarray:
    """One-hot labels blurred along time by a Gaussian, not renormalised (DiffAct's soft targets).

    Args:
        labels: [time] int; values outside 0..num_classes-1 give zero rows before the blur.
        num_classes: number of classes.
        sigma: width in (sub-sampled) frames; mirrored edges, radius round(4 sigma).

    Returns:
        [time, classes] float32.
    """
    one_hot = (np.asarray(labels)[:, None] == np.arange(num_classes)).astype(np.float32)
    return ndimage.gaussian_filter1d(one_hot, sigma, axis=0)


def class_counts(labels: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """Frames per class over several videos; labels outside 0..num_classes-1 are not counted.

    Returns:
        [classes] int64.
    """
    counts = np.zeros(num_classes, np.int64)
    for sequence in labels:
        known = (sequence >= 0) & (sequence < num_classes)
        counts += np.bincount(sequence[known].astype(np.int64), minlength=num_classes)
    return counts


def smoothed_class_weights(labels: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """DiffAct's class weights, n_total / ((n_c + 10) C), from the training labels at the full frame rate.

    Returns:
        [classes] float64.
    """
    counts = class_counts(labels, num_classes)
    return counts.sum() / ((counts + 10) * num_classes)


def median_frequency_weights(labels: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """ASRF's class weights: median frequency over class frequency, the lower middle element as the median.

    Source: `baiyang4/TST-action-segmentation:asformer_tst/libs/class_weight.py`.

    Returns:
        [classes] float32; infinite for a class without frames, as in the original.
    """
    counts = class_counts(labels, num_classes)
    frequency = counts.astype(np.float32) / np.float32(counts.sum())
    median = np.sort(frequency)[(num_classes - 1) // 2]
    with np.errstate(divide="ignore"):
        return (median / frequency).astype(np.float32)
