"""From the generator's activations to scored proposals (`fqhank/FuSTAL`, after CoLA), in float64 NumPy.

Curves of activation are cut at many thresholds; every run above a threshold is a proposal, and its score is how much
more active it is than its surroundings. Thresholds are compared with float64 values interpolated from float32 ones, so
that none of this can be done in float32.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class ProposalSettings:
    """How proposals are made.

    Attributes:
        class_threshold: video-level probability from which a class is looked for.
        class_thresholds: cuts of the curves of the classes.
        action_thresholds: cuts of the curve of actionness.
        upscale: how much finer the curves are than the snippets.
        surroundings: width of the surroundings on either side, relative to the run.
        video_weight: weight of the video-level probability in a proposal's score.
        extrapolate: whether curves go on beyond the last snippet along the line through the last two, as published;
            otherwise they stay at its value.
        snippet_frames: frames of a snippet.
        frame_rate: frames per second that the features were made from.
    """

    class_threshold: float = 0.2
    class_thresholds: tuple[float, ...] = tuple(np.arange(0, 0.25, 0.025).tolist())
    action_thresholds: tuple[float, ...] = tuple(np.arange(0.1, 0.925, 0.025).tolist())
    upscale: int = 24
    surroundings: float = 0.25
    video_weight: float = 0.2
    extrapolate: bool = True
    snippet_frames: float = 16
    frame_rate: float = 25.0


class Proposals(NamedTuple):
    """Proposals of one video, classes in the order of their first appearance.

    Attributes:
        labels: int32 [proposals].
        scores: float64 [proposals], not probabilities.
        segments: float64 [proposals, 2], seconds.
    """

    labels: Array
    scores: Array
    segments: Array


def propose(
    activations: Array,
    actionness: Array,
    video_scores: Array,
    num_snippets: int,
    settings: ProposalSettings,
) -> Proposals:
    """All proposals of one video, before any suppression.

    Args:
        activations: [time, classes] float32 of the sampled snippets, at least two.
        actionness: [time] float32.
        video_scores: [classes] float32.
        num_snippets: snippets of the video before sampling.
        settings: thresholds and scales.

    Raises:
        ValueError: fewer than two snippets.
    """
    time = len(activations)
    if time < 2:
        raise ValueError(f"the video has {time} snippets; proposals need at least 2 to interpolate between")
    classes = predicted_classes(video_scores, settings.class_threshold)
    curves = upsample(min_max(activations[:, classes]), settings.upscale, extrapolate=settings.extrapolate)
    action = upsample(min_max(actionness[:, None]), settings.upscale, extrapolate=settings.extrapolate)
    seconds = settings.snippet_frames * num_snippets / (settings.upscale * time * settings.frame_rate)

    found: list[tuple[Array, Array, Array]] = []  # place of the class in `classes`, score, run
    for threshold in settings.class_thresholds:
        cut = np.where(curves < threshold, 0, curves)
        column, runs = runs_above_zero(cut)
        found.append((column, contrast(cut, column, runs, settings.surroundings), runs))
    for threshold in settings.action_thresholds:
        _, runs = runs_above_zero(np.where(action < threshold, 0, action))
        column = np.repeat(np.arange(len(classes)), len(runs))
        runs = np.tile(runs, (len(classes), 1))
        found.append((column, contrast(curves, column, runs, settings.surroundings), runs))

    column, score, runs = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _, first, place = np.unique(column, return_index=True, return_inverse=True)
    order = np.argsort(first[place], kind="stable")
    column, score, runs = column[order], score[order], runs[order]
    labels = classes[column]
    scores = score + settings.video_weight * video_scores[labels].astype(np.float64)
    return Proposals(labels.astype(np.int32), scores, np.stack([runs[:, 0], runs[:, 1] + 1], axis=1) * seconds)


def predicted_classes(video_scores: Array, threshold: float) -> Array:
    """Classes with at least this probability, ascending, or else the likeliest: int64 [classes found]."""
    found = np.flatnonzero(video_scores >= threshold)
    return found if len(found) else np.argmax(video_scores, keepdims=True)


def min_max(curves: Array) -> Array:
    """Every curve [time, curves] stretched to [0, 1] over time, float32; a curve that is constant becomes zero."""
    low = np.maximum(curves.min(axis=0), 0)
    span = np.maximum(curves.max(axis=0), 0) - low
    return np.clip((curves - low) / np.where(span > 0, span, 1), 0, 1)


def upsample(curves: Array, scale: int, *, extrapolate: bool = True) -> Array:
    """Linear interpolation at every 1 / `scale` of a snippet: [time, curves] to float64 [time * scale, curves].

    Positions beyond the last snippet continue the line through the last two, and so may leave [0, 1]; without
    `extrapolate` they keep the last value.
    """
    time = len(curves)
    position = np.arange(0, time, 1 / scale)
    if not extrapolate:
        position = np.minimum(position, time - 1)
    # A position on a snippet belongs to the line that ends there, as in SciPy's `interp1d`.
    right = np.clip(np.ceil(position).astype(int), 1, time - 1)
    left = right - 1
    slope = (curves[right] - curves[left]).astype(np.float64)
    return slope * (position - left)[:, None] + curves[left]


def runs_above_zero(curves: Array) -> tuple[Array, Array]:
    """Stretches of at least two positions above zero, curve after curve, in order of time.

    Args:
        curves: [positions, curves].

    Returns:
        The curve of each run, int64 [runs], and its first and last position, int64 [runs, 2].
    """
    above = np.pad(curves.T > 0, ((0, 0), (1, 1)))
    change = np.diff(above.astype(np.int8), axis=1)
    column, first = np.nonzero(change == 1)
    _, after = np.nonzero(change == -1)
    long = after - first > 1
    return column[long], np.stack([first, after - 1], axis=1)[long]


def contrast(curves: Array, column: Array, runs: Array, surroundings: float) -> Array:
    """How much larger a curve is, on average, in a run than around it.

    Args:
        curves: [positions, curves].
        column: [runs], the curve of each run.
        runs: [runs, 2], first and last position.
        surroundings: width of the surroundings on either side, relative to the run's.

    Returns:
        float64 [runs]; a run without surroundings is compared with zero.
    """
    total = np.concatenate([np.zeros((1, curves.shape[1])), np.cumsum(curves, axis=0)])

    def sum_over(first: Array, after: Array) -> Array:
        return total[after, column] - total[first, column]

    first, after = runs[:, 0], runs[:, 1] + 1
    width = after - first
    before = np.maximum(0, np.trunc(first - surroundings * width)).astype(int)
    beyond = np.minimum(len(curves) - 1, np.trunc(runs[:, 1] + surroundings * width)).astype(int) + 1
    beyond = np.maximum(beyond, after)
    around = (first - before) + (beyond - after)
    outside = sum_over(before, first) + sum_over(after, beyond)
    return sum_over(first, after) / np.maximum(width, 1) - outside / np.maximum(around, 1)
