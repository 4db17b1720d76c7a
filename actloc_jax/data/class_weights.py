"""Weights against unbalanced classes, counted on full-rate training labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def smoothed_class_weights(labels: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """DiffAct's class weights `n / ((n_c + 10) C)`: n frames of all C classes, n_c of class c.

    After `Finspire13/DiffAct:dataset.py`. Labels outside the classes are not counted.

    Args:
        labels: class ids `[time]` of each training video at the full frame rate.
        num_classes: number of classes.

    Returns:
        float64 `[num_classes]`.
    """
    counts = np.zeros(num_classes, np.int64)
    for video in labels:
        video = np.asarray(video, np.int64)
        counts += np.bincount(video[(video >= 0) & (video < num_classes)], minlength=num_classes)
    return counts.sum() / ((counts + 10) * num_classes)


def median_frequency_weights(labels: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """Class weights `median frequency / frequency` (Eigen and Fergus, ICCV 2015, section 6.3.2).

    The median of an even number of classes is the lower of the two in the middle, as in PyTorch. A class without a
    frame has an infinite weight, as in the original; no label selects it.

    Args:
        labels: class ids `[time]` of each video.
        num_classes: number of classes.

    Returns:
        float32 `[num_classes]`.

    Raises:
        ValueError: if a label is not one of the classes.
    """
    counts = np.zeros(num_classes, np.int64)
    for video in labels:
        video = np.asarray(video, np.int64)
        if video.min() < 0 or video.max() >= num_classes:
            raise ValueError(f"labels run from {video.min()} to {video.max()}; expected ids 0 to {num_classes - 1}")
        counts += np.bincount(video, minlength=num_classes)
    frequency = counts.astype(np.float32) / np.float32(counts.sum())
    median = np.sort(frequency)[(num_classes - 1) // 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return median / frequency


def boundary_positive_weight(boundaries: Iterable[np.ndarray]) -> float:
    """Weight of boundary frames in the boundary loss: all frames divided by boundary frames.

    Args:
        boundaries: 0/1 `[time]` of each video.
    """
    boundaries = list(boundaries)
    return sum(len(video) for video in boundaries) / sum(int(np.sum(video == 1)) for video in boundaries)
