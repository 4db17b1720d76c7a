"""Targets derived from frame labels: boundary sequences and soft labels (numpy only; time first)."""

from __future__ import annotations

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
