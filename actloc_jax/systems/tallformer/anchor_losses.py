"""Targets and losses of the anchors: THUMOS14 (`klauscc/TALLFormer:vedatad/criteria/segment_anchor_criterion.py`)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.backbones.daotad import AnchorOutput
from actloc_jax.losses.focal import focal_loss
from actloc_jax.ops import anchors as anchor_ops
from actloc_jax.ops.anchors import IGNORED, Anchors, Assignment
from actloc_jax.systems.tallformer.overlap_losses import OVERLAP_LOSSES


@dataclasses.dataclass(frozen=True)
class AnchorLossSettings:
    """How the anchors are trained.

    Attributes:
        assignment: which segment an anchor belongs to.
        alpha: weight of the true class in the focal loss.
        gamma: power of the focal loss.
        segment_loss: a key of `OVERLAP_LOSSES`.
        class_weight: of the class loss.
        segment_weight: of the segment loss.
    """

    assignment: Assignment = dataclasses.field(default_factory=Assignment)
    alpha: float = 0.25
    gamma: float = 2.0
    segment_loss: str = "diou"
    class_weight: float = 1.0
    segment_weight: float = 1.0


class AnchorTargets(NamedTuple):
    """What every anchor should say.

    Attributes:
        labels: int32 [batch, anchors], the class; `classes` for background.
        counts: bool [batch, anchors], False for anchors that are ignored.
        segments: float32 [batch, anchors, 2], frames; zeros for anchors that are not positive.
        positive: bool [batch, anchors].
    """

    labels: jax.Array
    counts: jax.Array
    segments: jax.Array
    positive: jax.Array

    @property
    def number(self) -> jax.Array:
        """What losses are divided by: positive anchors, at least 1 for each video, float32 scalar."""
        return jnp.maximum(self.positive.sum(axis=1), 1).sum().astype(jnp.float32)


class AnchorLoss(NamedTuple):
    """Scalars: the loss and its parts."""

    total: jax.Array
    classification: jax.Array
    segment: jax.Array


def anchor_targets(
    anchors: Anchors, segments: jax.Array, labels: jax.Array, num_classes: int, rule: Assignment
) -> AnchorTargets:
    """Assigns segments to anchors.

    Args:
        anchors: of the window.
        segments: float32 [batch, slots, 2], frames of the window.
        labels: int32 [batch, slots], -1 where there is no segment.
        num_classes: classes, without background.
        rule: of the assignment. A window without segments is background all over, as published.
    """
    assigned = anchor_ops.assign(anchors.segments, segments, labels >= 0, rule).segment
    assigned = jnp.where(anchors.inside, assigned, IGNORED)
    positive = assigned > 0
    if segments.shape[1] == 0:
        of_anchor = jnp.zeros((*assigned.shape, 2), jnp.float32)
        classes = jnp.full_like(assigned, num_classes)
    else:
        slot = jnp.where(positive, assigned - 1, 0)
        of_anchor = jnp.take_along_axis(segments, slot[:, :, None], axis=1)
        classes = jnp.take_along_axis(labels, slot, axis=1)
    return AnchorTargets(
        labels=jnp.where(positive, classes, num_classes).astype(jnp.int32),
        counts=assigned != IGNORED,
        segments=jnp.where(positive[:, :, None], of_anchor, 0),
        positive=positive,
    )


def anchor_loss(
    output: AnchorOutput, anchors: Anchors, targets: AnchorTargets, settings: AnchorLossSettings
) -> AnchorLoss:
    """Focal loss of all anchors that count, and overlap loss of the positive ones, over the number of those.

    Args:
        output: of the network.
        anchors: of the window.
        targets: of the anchors.
        settings: weights.

    Raises:
        ValueError: a `segment_loss` that the table does not hold.
    """
    if settings.segment_loss not in OVERLAP_LOSSES:
        raise ValueError(f"segment_loss is {settings.segment_loss!r}; known: {', '.join(sorted(OVERLAP_LOSSES))}")
    logits, deltas = (jnp.concatenate(levels, axis=1) for levels in output)
    true = jax.nn.one_hot(targets.labels, logits.shape[2], dtype=jnp.float32)  # zeros for background
    focal = focal_loss(logits, true, alpha=settings.alpha, gamma=settings.gamma)
    classification = jnp.sum(focal, where=targets.counts[:, :, None]) / targets.number

    decoded = anchor_ops.decode(jnp.asarray(anchors.segments), deltas)
    apart = OVERLAP_LOSSES[settings.segment_loss](decoded, targets.segments)
    segment = jnp.sum(apart, where=targets.positive) / targets.number
    classification, segment = settings.class_weight * classification, settings.segment_weight * segment
    return AnchorLoss(classification + segment, classification, segment)
