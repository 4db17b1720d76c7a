"""The losses of the student (`dingfengshi/TriDet:libs/modeling/{losses,meta_archs}.py`, `fqhank/FuSTAL`)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.backbones.detector import DetectorOutput
from actloc_jax.layers.dropout import drop
from actloc_jax.losses.focal import focal_loss
from actloc_jax.ops.boundary_bins import expected_distances
from actloc_jax.systems.fustal.points import Targets
from actloc_jax.systems.fustal.video_level import top_mean, video_loss

SMALLEST_UNION = 1e-8
SMALLEST_REGRESSION = 0.01  # in the balance of a loss weight that is not positive


@dataclasses.dataclass(frozen=True)
class DetectionLossSettings:
    """How detections are trained.

    Attributes:
        regression_weight: of the regression loss; at most 0: as much as the class loss has.
        iou_power: of the overlap that the class loss of a Trident head is multiplied with.
        label_smoothing: moves the class targets away from 0 and 1.
        momentum: of the normaliser.
        boundaries_outside: as in `DecodeSettings`.
    """

    regression_weight: float = 1.0
    iou_power: float = 0.2
    label_smoothing: float = 0.0
    momentum: float = 0.9
    boundaries_outside: bool = True


class DetectionLoss(NamedTuple):
    """Scalars: the loss, its parts, and the normaliser after this batch."""

    total: jax.Array
    classification: jax.Array
    regression: jax.Array
    normaliser: jax.Array


def detection_loss(
    output: DetectorOutput, targets: Targets, normaliser: jax.Array, settings: DetectionLossSettings
) -> DetectionLoss:
    """Classification and regression of all points.

    Args:
        output: of the network.
        targets: of the points.
        normaliser: scalar, running mean of the number of positive points, from `initial_normaliser`.
        settings: weights.
    """
    logits, mask = jnp.concatenate(output.classes, axis=1), jnp.concatenate(output.masks, axis=1)
    positive = (targets.classes.sum(axis=2) > 0) & mask
    number = positive.sum()
    normaliser = settings.momentum * normaliser + (1 - settings.momentum) * jnp.maximum(number, 1)

    floor = settings.label_smoothing / (logits.shape[2] + 1)
    smooth = targets.classes * (1 - settings.label_smoothing) + floor
    focal = focal_loss(logits, smooth)
    if output.starts:  # a distance for every class: the pairs of a positive point and one of its classes
        known = None if settings.boundaries_outside else output.masks
        distances = expected_distances(output.starts, output.ends, output.offsets, known)
        pairs = positive[:, :, None] & (targets.classes > 0)
        overlap, penalised = _overlaps(distances, targets.distances[:, :, None, :], pairs)
        focal = jnp.where(pairs, focal * _power(overlap, settings.iou_power), focal)
    else:
        pairs = positive
        _, penalised = _overlaps(jnp.concatenate(output.offsets, axis=1), targets.distances, pairs)
    classification = jnp.sum(focal, where=mask[:, :, None]) / normaliser
    regression = jnp.sum(penalised, where=pairs) / normaliser
    weight = settings.regression_weight
    if weight <= 0:
        balance = jnp.maximum(regression, SMALLEST_REGRESSION)
        weight = jax.lax.stop_gradient(classification / balance)
    return DetectionLoss(classification + weight * regression, classification, regression, normaliser)


def initial_normaliser(value: float = 100.0) -> jax.Array:
    """The normaliser before the first batch, float32 scalar."""
    return jnp.asarray(value, jnp.float32)


def centre_iou(distances: jax.Array, targets: jax.Array) -> jax.Array:
    """Overlap of two segments around the same point, [..., 2] distances to start and end to [...]."""
    shared = jnp.minimum(distances, targets).sum(axis=-1)
    union = distances.sum(axis=-1) + targets.sum(axis=-1) - shared
    return shared / jnp.maximum(union, SMALLEST_UNION)


def centre_diou_loss(distances: jax.Array, targets: jax.Array) -> jax.Array:
    """1 - overlap + the squared distance of the centres in units of the hull (Zheng et al., AAAI 2020).

    [..., 2] to [...], as `centre_iou`.
    """
    hull = jnp.maximum(distances, targets).sum(axis=-1)
    apart = 0.5 * (distances[..., 1] - distances[..., 0] - targets[..., 1] + targets[..., 0])
    return 1 - centre_iou(distances, targets) + jnp.square(apart / jnp.maximum(hull, SMALLEST_UNION))


def student_video_loss(
    output: DetectorOutput,
    labels: jax.Array,
    keep: jax.Array | None = None,
    *,
    rate: float = 0.7,
    ratio: int = 5,
    of_batch: bool = True,
    present: jax.Array | None = None,
) -> jax.Array:
    """The loss of the video's classes, from the logits of the finest level.

    Args:
        output: of the network.
        labels: [batch, classes], 1 for every class of the video.
        keep: bool in the shape of the finest level's logits, what dropout keeps; None: no dropout.
        rate: of dropout.
        ratio: one in so many steps counts.
        of_batch: the number of steps that count is taken from the steps of the whole batch, and padding and dropped
            logits count as logit 0, as published. False: from each video's own steps, and the others do not count.
        present: [batch] bool, False for rows that only fill the batch; None: all are real.
    """
    logits, mask = output.classes[0], output.masks[0]
    if of_batch:
        number = mask.sum() // ratio
        logits = drop(logits, keep, rate)
    else:
        number = jnp.maximum(mask.sum(axis=1) // ratio, 1)
        seen = mask[:, :, None] if keep is None else mask[:, :, None] & keep
        number = jnp.minimum(number, jnp.maximum(seen.sum(axis=1).min(axis=1), 1))
        logits = jnp.where(seen, logits, jnp.finfo(logits.dtype).min / logits.shape[1])
    return video_loss(jax.nn.softmax(top_mean(logits, number), axis=1), labels, present)


def _overlaps(distances: jax.Array, targets: jax.Array, pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Overlap and regression loss where `pairs` [...]; elsewhere of equal segments, so that gradients stay finite."""
    targets = jnp.where(pairs[..., None], targets, 1.0)
    distances = jnp.where(pairs[..., None], distances, targets)
    return centre_iou(distances, targets), centre_diou_loss(distances, targets)


def _power(overlap: jax.Array, power: float) -> jax.Array:
    """`overlap ** power` with gradient 0 instead of infinity at overlap 0."""
    return jnp.where(overlap > 0, jnp.where(overlap > 0, overlap, 1) ** power, 0)
