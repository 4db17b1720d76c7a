"""What segmentation metrics are without looking at a video: the levels to compare a score with (numpy only)."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actloc_jax.metrics.segmentation import evaluate


def chance_levels(
    train_truths: Mapping[str, Sequence[str]],
    test_truths: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """Scores of two predictors that never see the test videos.

    `majority class` labels every frame with the most frequent training class. `random training video` takes the labels
    of a random training video, stretched to the length of the test video: it knows the grammar but not what happens.

    Args:
        train_truths, test_truths: video -> [time] class names.
        seed: of the choice of training videos.
        options: passed to `evaluate` (background, segment_end, ...).

    Returns:
        predictor -> scores as from `evaluate`.
    """
    rng = np.random.default_rng(seed)
    counts = collections.Counter(name for names in train_truths.values() for name in names)
    majority = counts.most_common(1)[0][0]
    sequences = [np.asarray(names) for names in train_truths.values()]
    constant = {video: [majority] * len(truth) for video, truth in test_truths.items()}
    stretched = {
        video: _stretch(sequences[rng.integers(len(sequences))], len(truth)) for video, truth in test_truths.items()
    }
    return {
        "majority class": evaluate(constant, test_truths, **options),
        "random training video": evaluate(stretched, test_truths, **options),
    }


def _stretch(labels: np.ndarray, length: int) -> np.ndarray:
    """Resamples labels to `length` frames."""
    return labels[np.arange(length) * len(labels) // length]
