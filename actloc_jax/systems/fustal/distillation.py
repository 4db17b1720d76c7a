"""The labels that the student's average gives to the student (`fqhank/FuSTAL:Student-Training`), numpy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from actloc_jax.data.grid import Grid


class PseudoLabels(NamedTuple):
    """Labels of one video.

    Attributes:
        segments: float32 [segments, 2], grid units.
        labels: int32 [segments].
    """

    segments: np.ndarray
    labels: np.ndarray


def pseudo_labels(
    segments: np.ndarray, scores: np.ndarray, labels: np.ndarray, grid: Grid, *, min_score: float = 0.4
) -> PseudoLabels | None:
    """Turns the predictions of one video into its labels.

    Args:
        segments: [predictions, 2] seconds from the start of what the features show, after suppression.
        scores: [predictions].
        labels: [predictions].
        grid: of the features, with its rate.
        min_score: that a prediction must exceed; if none does, the best one alone is kept.

    Returns:
        Labels in the order of the predictions, starts before the first step moved to it; None without any prediction.
    """
    if len(scores) == 0:
        return None
    kept = np.flatnonzero(scores > min_score)
    if len(kept) == 0:
        kept = np.argmax(scores, keepdims=True)
    on_grid = np.maximum(grid.to_grid(segments[kept]), 0)
    return PseudoLabels(on_grid.astype(np.float32), labels[kept].astype(np.int32))
