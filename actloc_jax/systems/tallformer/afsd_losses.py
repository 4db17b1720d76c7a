"""Targets and losses of the detector without anchors: ActivityNet and HACS.

Source: `klauscc/TALLFormer:AFSD/anet_video_cls/{multisegment_loss,train}.py`. Everything is in frames of the video as
the network sees it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.afsd import FRAMES_PER_ROW, AfsdOutput, AfsdSizes

SMALLEST_UNION = float(np.finfo(np.float32).eps)
SMALLEST_PROBABILITY = 1e-6
LEAST_LOG = -100.0


@dataclasses.dataclass(frozen=True)
class AfsdLossSettings:
    """How the detector is trained.

    Attributes:
        ranges: of each level, the distance to the farther end of a segment: above the first, up to the second number.
        overlap: a row trains its refined class as an action where its coarse segment overlaps the true one so much.
        background: weight of background in the class losses; an action has the rest.
        gamma: power of the class losses.
        distance_weight: of both losses of distances.
        class_weight: of both class losses and of the centre loss.
        row_weight: of the boundaries of rows, relative to those of frames.
        overlap_moves_segments: the overlap that the centre should predict has a gradient, so that the centre loss moves
            segments, too (published). False: it is a target only.
    """

    ranges: tuple[tuple[float, float], ...] = ((0, 30), (15, 60), (30, 120), (60, 240), (96, 768), (256, 768))
    overlap: float = 0.6
    background: float = 0.25
    gamma: float = 2.0
    distance_weight: float = 1.0
    class_weight: float = 1.0
    row_weight: float = 0.1
    overlap_moves_segments: bool = True


class AfsdTargets(NamedTuple):
    """What the detector should say.

    Attributes:
        distances: float32 [batch, rows, 2] to start and end; without meaning where no segment is.
        positive: bool [batch, rows], whether the row belongs to a segment.
        boundaries: float32 [batch, frames, 2], 1 around starts and around ends.
        video_classes: int32 [batch].
    """

    distances: jax.Array
    positive: jax.Array
    boundaries: jax.Array
    video_classes: jax.Array


class AfsdLoss(NamedTuple):
    """Scalars: the loss and its parts, without their weights."""

    total: jax.Array
    distance: jax.Array
    classification: jax.Array
    refinement: jax.Array
    refined_classification: jax.Array
    centre: jax.Array
    start: jax.Array
    end: jax.Array
    video: jax.Array


def afsd_targets(
    sizes: AfsdSizes, segments: jax.Array, valid: jax.Array, video_classes: jax.Array, settings: AfsdLossSettings
) -> AfsdTargets:
    """Gives every row the shortest segment that it lies in and whose farther end is in its range.

    Args:
        sizes: of the network.
        segments: float32 [batch, slots, 2], frames.
        valid: bool [batch, slots], False for empty slots.
        video_classes: int32 [batch], the class of a video's first segment.
        settings: ranges of the levels.

    Raises:
        ValueError: not one range for each level.
    """
    if len(settings.ranges) != sizes.levels:
        raise ValueError(f"{len(settings.ranges)} ranges for {sizes.levels} levels; expected one for each")
    low, high = np.asarray(settings.ranges, np.float32)[sizes.level_of_row].T
    centre = sizes.priors * np.float32(sizes.frames)
    left, right = centre[:, None] - segments[:, None, :, 0], segments[:, None, :, 1] - centre[:, None]
    farther = jnp.maximum(left, right)
    possible = (left >= 0) & (right >= 0) & (farther > low[:, None]) & (farther <= high[:, None]) & valid[:, None]
    shortest = jnp.argmin(jnp.where(possible, left + right, jnp.inf), axis=2)[:, :, None]
    distances = [jnp.take_along_axis(side, shortest, axis=2) for side in (left, right)]
    boundaries = boundary_maps(segments, valid, sizes.frames)
    return AfsdTargets(jnp.concatenate(distances, axis=2), possible.any(axis=2), boundaries, video_classes)


def boundary_maps(segments: jax.Array, valid: jax.Array, frames: int) -> jax.Array:
    """Frames around starts and ends: a tenth of the segment, at least 2 frames, centred on the boundary and rounded.

    Args:
        segments: float32 [batch, slots, 2], frames.
        valid: bool [batch, slots].
        frames: of a video.

    Returns:
        float32 [batch, frames, 2], 0 or 1.
    """
    half = jnp.maximum((segments[..., 1] - segments[..., 0]) / 10, 2)[..., None] / 2
    first, last = (jnp.clip(jnp.round(segments + side * half), 0, frames - 1)[:, None] for side in (-1, 1))
    time = np.arange(frames, dtype=np.float32)[:, None, None]
    around = (time >= first) & (time <= last) & valid[:, None, :, None]  # [batch, frames, slots, 2]
    return around.any(axis=2).astype(jnp.float32)


def afsd_loss(output: AfsdOutput, targets: AfsdTargets, settings: AfsdLossSettings) -> AfsdLoss:
    """All losses; each is divided by the rows of its video that it is about, then averaged over the videos.

    Args:
        output: of the network.
        targets: of the videos.
        settings: weights.
    """
    positive, number = targets.positive, jnp.maximum(targets.positive.sum(axis=1), 1)
    coarse = jax.lax.stop_gradient(output.distances)
    overlap = overlap_of_distances(coarse, targets.distances)
    best = jnp.max(overlap, axis=1, keepdims=True, where=positive, initial=-jnp.inf)
    refined_positive = positive & (overlap >= jnp.minimum(settings.overlap, best))
    refined_number = jnp.maximum(refined_positive.sum(axis=1), 1)

    def mean(loss: jax.Array, rows: jax.Array | None, divisor: jax.Array) -> jax.Array:
        return jnp.mean(jnp.sum(loss, axis=1, where=rows) / divisor)

    half = 0.5 * coarse.sum(axis=2, keepdims=True)
    refinement = _smooth_l1(output.refinements - (targets.distances - coarse) / half).sum(axis=2)
    fit = jnp.maximum(overlap_of_distances(refined_distances(output), targets.distances), 0)
    if not settings.overlap_moves_segments:
        fit = jax.lax.stop_gradient(fit)
    centre = jax.nn.softplus(output.centres) - output.centres * fit
    distance = mean(giou_of_distances(output.distances, targets.distances), positive, number)
    classification = mean(_class_loss(output.classes, positive, settings), None, number)
    refinement = mean(refinement, refined_positive, refined_number)
    refined = mean(_class_loss(output.refined_classes, refined_positive, settings), None, refined_number)
    centre = mean(centre, positive, number)
    start, end = _boundary_losses(output, targets.boundaries, settings)
    log_probability = jax.nn.log_softmax(output.video_classes)
    video = -jnp.mean(jnp.take_along_axis(log_probability, targets.video_classes[:, None], axis=1))
    total = settings.distance_weight * (distance + refinement) + start + end + video
    total += settings.class_weight * (classification + refined + centre)
    return AfsdLoss(total, distance, classification, refinement, refined, centre, start, end, video)


def refined_distances(output: AfsdOutput) -> jax.Array:
    """Distances after refinement, [batch, rows, 2]: each moves by parts of half the coarse segment."""
    half = 0.5 * output.distances.sum(axis=2, keepdims=True)
    return half * output.refinements + output.distances


def overlap_of_distances(distances: jax.Array, true: jax.Array) -> jax.Array:
    """Overlap of two segments around the same centre, [..., 2] to [...]; negative where one lies beside the centre."""
    shared = jnp.minimum(distances, true).sum(axis=-1)
    union = distances.sum(axis=-1) + true.sum(axis=-1) - shared
    return shared / jnp.maximum(union, SMALLEST_UNION)


def giou_of_distances(distances: jax.Array, true: jax.Array) -> jax.Array:
    """1 - overlap + the share of the hull that neither covers, [..., 2] to [...] as above."""
    shared, hull = jnp.minimum(distances, true).sum(axis=-1), jnp.maximum(distances, true).sum(axis=-1)
    union = distances.sum(axis=-1) + true.sum(axis=-1) - shared
    return 1 - overlap_of_distances(distances, true) + (hull - union) / jnp.maximum(hull, SMALLEST_UNION)


def _class_loss(logits: jax.Array, action: jax.Array, settings: AfsdLossSettings) -> jax.Array:
    """Focal loss of background and action, [batch, rows, 2] to [batch, rows]."""
    probability = jax.nn.softmax(logits, axis=-1)
    of_true = jnp.where(action, probability[..., 1], probability[..., 0]) + SMALLEST_PROBABILITY
    weight = jnp.where(action, 1 - settings.background, settings.background)
    return -weight * (1 - of_true) ** settings.gamma * jnp.log(of_true)


def _boundary_losses(output: AfsdOutput, maps: jax.Array, settings: AfsdLossSettings) -> tuple[jax.Array, jax.Array]:
    """Losses of start and end: the mean of tanh over channels is the probability of a boundary."""
    of_rows = [_entropy(rows, maps[:, ::FRAMES_PER_ROW]) for rows in output.row_boundaries]
    start, end = _entropy(output.boundaries, maps) + settings.row_weight * sum(of_rows)
    return start, end


def _entropy(features: jax.Array, maps: jax.Array) -> jax.Array:
    """Cross entropy [2] of starts (first half of the channels) and ends; logarithms are at least `LEAST_LOG`."""
    batch, time, channels = features.shape
    probability = jnp.tanh(features).reshape(batch, time, 2, channels // 2).mean(axis=3)
    loss = maps * _log(probability) + (1 - maps) * _log(1 - probability)
    return -loss.mean(axis=(0, 1))


def _log(x: jax.Array) -> jax.Array:
    positive = x > 0
    return jnp.where(positive, jnp.maximum(jnp.log(jnp.where(positive, x, 1)), LEAST_LOG), LEAST_LOG)


def _smooth_l1(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * x * x, size - 0.5)
