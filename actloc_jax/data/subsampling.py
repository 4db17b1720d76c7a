"""Cutting a video's features, labels and boundaries to one length, and taking every r-th frame of them."""

from __future__ import annotations

import numpy as np


def downsample_boundary(boundary: np.ndarray, rate: int) -> np.ndarray:
    """Keeps every boundary when only every `rate`-th frame is kept.

    A boundary between two kept frames moves to the kept frame before it.

    Args:
        boundary: `[time]`, 1 at boundaries.
        rate: frames per kept frame.

    Returns:
        float32 `[ceil(time / rate)]`. With `rate` 1 the values are kept as they are; else they are 0 or 1.
    """
    if rate == 1:
        return boundary.astype(np.float32)
    kept = np.zeros(-(-len(boundary) // rate), np.float32)
    kept[np.flatnonzero(boundary == 1) // rate] = 1
    return kept


def align_and_downsample(
    features: np.ndarray, labels: np.ndarray, boundary: np.ndarray, rate: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts a video's arrays to the shortest and takes every `rate`-th frame.

    After `baiyang4/TST-action-segmentation:asformer_tst/libs/transformer.py`.

    Args:
        features: `[time, channels]`.
        labels: `[time]`; its length may differ from that of the features by a few frames.
        boundary: `[time]`, 1 where a segment starts, as long as `labels`.
        rate: frames per kept frame.

    Returns:
        Features `[kept, channels]`, labels `[kept]`, boundary float32 `[kept]`.
    """
    time = min(len(features), len(labels))
    return features[:time:rate], labels[:time:rate], downsample_boundary(boundary[:time], rate)
