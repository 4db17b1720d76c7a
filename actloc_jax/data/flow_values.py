"""Optical flow in pixels as the values that I3D reads, in the three published ways (numpy only).

Flow is [..., height, width, 2]: to the right, then down, in pixels from one frame to the next.
"""

from __future__ import annotations

import numpy as np

BOUND = 20.0
"""Pixels; larger motion is cut."""


def shared_levels(flow: np.ndarray) -> np.ndarray:
    """Levels 0 to 256, float32 of the same shape: no motion is 128, `BOUND` is 256, one more than a byte holds.

    Source: `v-iashin/video_features:models/transforms.py`.
    """
    return np.rint(128 + np.float32(255 / 40) * np.clip(flow.astype(np.float32), -BOUND, BOUND))


def image_levels(flow: np.ndarray) -> np.ndarray:
    """Levels 0 to 255, uint8 of the same shape, as tools for TSN store flow as images.

    No motion lies between 127 and 128: 128.
    """
    flow = flow.astype(np.float64)
    levels = np.rint(255 * (flow + BOUND) / (2 * BOUND))
    return np.where(flow <= -BOUND, 0, np.where(flow >= BOUND, 255, levels)).astype(np.uint8)


def from_levels(levels: np.ndarray) -> np.ndarray:
    """Levels 0 to 255 to [-1, 1], float32: of flow and of RGB."""
    return (2 * levels.astype(np.float64) / 255 - 1).astype(np.float32)


def divided(flow: np.ndarray) -> np.ndarray:
    """Cut and divided by `BOUND`, float32 of the same shape: no motion is 0 (MS-TCN).

    Source: `ahsaniqbal/Kinetics-FeatureExtractor`.
    """
    return np.clip(flow.astype(np.float32), -BOUND, BOUND) / np.float32(BOUND)
