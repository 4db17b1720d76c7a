"""Snippets of a video, one every 16 frames, resized to a fixed number of steps: BSN, BMN and SPOT (numpy only).

Snippets are [snippets, channels]. Three published ways; the first made the features that SPOT reads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_MARGIN = 1e-4  # by which samples stay away from the first and the last snippet


def pooled(
    snippets: np.ndarray,
    *,
    frames: int,
    seconds: float,
    steps: int = 100,
    interval: int = 16,
    samples: int = 3,
    pool: Callable[..., np.ndarray] = np.mean,
) -> np.ndarray:
    """Each step is the mean (or maximum) of some points in its time; a step behind the last snippet is zero.

    Source: `wzmsltw/BSN-boundary-sensitive-network:data/activitynet_feature_cuhk/data_process.py`.

    Args:
        snippets: [snippets, channels].
        frames: of the video.
        seconds: of the video.
        steps: T.
        interval: frames from one snippet to the next.
        samples: points of a step.
        pool: `np.mean` or `np.max`.

    Returns:
        [steps, channels] float64.
    """
    if len(snippets) == 1:
        return np.repeat(snippets, steps, axis=0)
    spacing = interval / (frames / seconds)
    centres = spacing / 2 + np.arange(len(snippets)) * spacing
    covered = len(snippets) * interval / frames * seconds
    result = np.zeros([steps, snippets.shape[1]])
    for step in range(steps):
        start, end = step / steps * covered, (step + 1) / steps * covered
        if end >= centres[0] and start <= centres[-1]:
            points = np.linspace(max(start, centres[0] + _MARGIN), min(end, centres[-1] - _MARGIN), samples)
            result[step] = pool(_between(centres, snippets, points), axis=0)
    return result


def spread(snippets: np.ndarray, *, steps: int = 100) -> np.ndarray:
    """[steps, channels]: points at equal distances from the first snippet to the last."""
    if len(snippets) == 1:
        return np.repeat(snippets, steps, axis=0)
    return _between(np.arange(len(snippets)), snippets, np.linspace(0, len(snippets) - 1, steps))


def pooled_by_index(snippets: np.ndarray, *, steps: int = 100, samples: int = 3) -> np.ndarray:
    """[steps, channels]: as `pooled`, but counted in snippets; the last third of each step is not looked at.

    Source: `open-mmlab/mmaction2:tools/data/activitynet/activitynet_feature_postprocessing.py`.
    """
    if len(snippets) == 1:
        return np.repeat(snippets, steps, axis=0)
    size = (len(snippets) - 1 - 2 * _MARGIN) / steps
    points = _MARGIN + (np.arange(steps)[:, None] + np.arange(samples) / samples) * size
    return _between(np.arange(len(snippets)), snippets, points.ravel()).reshape(steps, samples, -1).mean(axis=1)


def _between(places: np.ndarray, values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[points, channels], linear between the values."""
    return np.stack([np.interp(points, places, channel) for channel in values.T], axis=1)
