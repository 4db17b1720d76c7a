"""The set loss of TST: predicted segments are matched one to one with true ones, then classified and masked.

Source: `tst/matcher.py` and `tst/losses.py` of the published code, in the manner of MaskFormer (Cheng et al., NeurIPS
2021). Two of its habits are kept on purpose: the match looks at overlap only, not at labels; and the mask losses are
divided by the number of true segments, although only matched pairs are summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.layers.functional import Network
from actloc_jax.ops.matching import match_runs
from actloc_jax.ops.segments import Runs, runs
from actloc_jax.systems.tst.capacity import largest_run_count, loss_with_capacity, segment_capacities
from actloc_jax.systems.tst.refiner import FRAME_BLOCKS, frame_labels

IGNORE = -1
FOCAL_ALPHA = 0.25  # weight of frames inside the segment; those outside weigh 1 - alpha


class SetLoss(NamedTuple):
    """Loss of every video, [batch] float32 each: the total is summed over the rounds, the parts are means over them."""

    total: jax.Array
    classification: jax.Array
    focal: jax.Array
    dice: jax.Array


def set_loss(
    segment_logits: jax.Array,
    segment_masks: jax.Array,
    matched: jax.Array,
    valid: jax.Array,
    truth: Runs,
    mask: jax.Array,
    *,
    bg_weight: float,
) -> SetLoss:
    """Classification, focal and dice loss of matched segments, for every round of refinement.

    Args:
        segment_logits: [rounds, batch, runs, classes + 1], the last class being "no action".
        segment_masks: [rounds, batch, runs, time] logits.
        matched: [batch, runs] int32, the true run of every segment, -1 if none, as `match_runs` gives.
        valid: [batch, runs] bool, True for slots that hold a segment.
        truth: runs of the true labels, of any capacity that holds those matched.
        mask: [batch, time] bool, True = valid.
        bg_weight: weight of "no action", the target of unmatched segments, in the classification loss.

    Returns:
        The losses; 0 for a video without any valid frame.
    """
    is_matched = matched >= 0
    classification = _classification_loss(segment_logits, matched, valid, truth, bg_weight)

    inside = truth.run_of_frame[:, None, :] == jnp.where(is_matched, matched, -2)[:, :, None]
    focal, dice = mask_losses(segment_masks, inside, mask)
    true_segments = jnp.maximum(truth.count, 1)
    focal = jnp.sum(jnp.where(is_matched, focal, 0), axis=2) / true_segments
    dice = jnp.sum(jnp.where(is_matched, dice, 0), axis=2) / true_segments

    return SetLoss(
        total=jnp.sum(classification + focal + dice, axis=0),
        classification=jnp.mean(classification, axis=0),
        focal=jnp.mean(focal, axis=0),
        dice=jnp.mean(dice, axis=0),
    )


def tst_loss(
    network: Network,
    params: Mapping[str, Any],
    features: jax.Array,
    predictions: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    bg_weight: float,
    rngs: nnx.Rngs | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Training loss of the refiner on a batch: the mean over its videos.

    The loss, not its parts, can be differentiated, by `params` and by `features`.

    Args:
        network: the `Refiner`.
        params: its parameters.
        features: [batch, time, feature_dim] frame features.
        predictions: [batch, time, classes] frame class scores.
        labels: [batch, time] int32 true labels; -1 where there is none.
        mask: [batch, time] bool, True = valid; a row without valid frames is a filler and does not count.
        bg_weight: weight of the class "no action".
        rngs: makes dropout active; None for evaluation.

    Returns:
        The scalar loss, and its parts "classification", "focal" and "dice" (means over videos and rounds).
    """
    memory = network(params, features, mask, method="encode_frames", rngs=rngs)
    proposed = frame_labels(predictions, mask)
    capacities = segment_capacities(labels.shape[1])
    truth = runs(labels, mask & (labels != IGNORE), capacities[-1])
    matched = match_runs(runs(proposed, mask, capacities[-1]), truth)

    def segment_loss(capacity: int, trained: tuple, fixed: tuple) -> tuple[jax.Array, dict[str, jax.Array]]:
        params, memory = trained
        proposed, matched, truth, mask, key = fixed
        dropout = None if key is None else nnx.Rngs(dropout=key)
        output = network({**frame_params, **params}, memory, proposed, capacity, method="refine_segments", rngs=dropout)
        loss = set_loss(
            output.segment_logits,
            output.segment_masks,
            matched[:, :capacity],
            output.runs.valid,
            truth,
            mask,
            bg_weight=bg_weight,
        )
        present = jnp.any(mask, axis=1)
        videos = jnp.maximum(jnp.sum(present), 1)
        mean = {name: jnp.sum(jnp.where(present, value, 0)) / videos for name, value in loss._asdict().items()}
        return mean.pop("total"), mean

    key = None if rngs is None else rngs.dropout()
    largest = largest_run_count(proposed, mask)
    # Only what a capacity's branch trains goes through it: its gradients are compiled once per capacity.
    frame_params = {name: block for name, block in params.items() if name in FRAME_BLOCKS}
    segment_params = {name: block for name, block in params.items() if name not in FRAME_BLOCKS}
    return loss_with_capacity(
        segment_loss, capacities, largest, (segment_params, memory), (proposed, matched, truth, mask, key)
    )


def mask_losses(logits: jax.Array, inside: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Focal and dice loss of every segment's mask.

    Args:
        logits: [..., batch, runs, time].
        inside: [batch, runs, time] bool, the target.
        mask: [batch, time] bool, True = valid.

    Returns:
        Two arrays [..., batch, runs].
    """
    frame = mask[:, None, :]
    logits = logits.astype(jnp.float32)
    # For a logit turned towards its target, cross-entropy is softplus(-x) and one minus the target's probability is
    # sigmoid(-x).
    away = jnp.where(inside, -logits, logits)
    alpha = jnp.where(inside, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    focal = jnp.where(frame, alpha * jnp.square(jax.nn.sigmoid(away)) * jax.nn.softplus(away), 0)
    focal = jnp.sum(focal, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)[:, None]

    probability = jnp.where(frame, jax.nn.sigmoid(logits), 0)
    common = jnp.sum(jnp.where(inside, probability, 0), axis=-1)
    sizes = jnp.sum(probability, axis=-1) + jnp.sum(inside, axis=-1)
    dice = 1 - (2 * common + 1) / (sizes + 1)
    return focal, dice


def _classification_loss(
    logits: jax.Array, matched: jax.Array, valid: jax.Array, truth: Runs, bg_weight: float
) -> jax.Array:
    """[rounds, batch] cross-entropy of the segments, the mean weighted by the weights of their targets."""
    no_action = logits.shape[-1] - 1
    label = jnp.take_along_axis(truth.label, jnp.maximum(matched, 0), axis=1)
    target = jnp.where(matched >= 0, label, no_action)
    weight = jnp.where(valid, jnp.where(target == no_action, bg_weight, 1.0), 0.0)
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.sum(jax.nn.one_hot(target, no_action + 1) * log_probability, axis=-1)
    total = jnp.sum(weight, axis=1)
    return -jnp.sum(weight * chosen, axis=2) / jnp.where(total > 0, total, 1.0)
