"""The losses on classes, masks and features that both stages of SPOT share.

Paper section 3.3; source: `sauradip/SPOT:spot_lib/loss_spot.py`. All are computed in float32. Which snippets count is
given as [batch, time] bool: rows that only fill a batch and snippets without a sure pseudo-label do not.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

LOG_EPSILON = 1e-6  # added to probabilities before the logarithm
SMOOTHING = 10.0  # added to the number of positive and of all entries


@dataclasses.dataclass(frozen=True)
class DetectionSettings:
    """How classes and masks are trained.

    Attributes:
        class_weight: of the class loss (lambda_1).
        entropy_share: of the mask loss, the rest being dice (lambda_2).
        focal_on_mean: quirk: the focal factor acts on the mean cross-entropy. False: on every snippet's.
        dice_without_factor_two: quirk: a perfect mask has dice loss 1/2. False: 0.
    """

    class_weight: float = 0.5
    entropy_share: float = 0.4
    focal_on_mean: bool = True
    dice_without_factor_two: bool = True


class DetectionLoss(NamedTuple):
    """Scalars: `total = classes + masks`, both weighted."""

    total: jax.Array
    classes: jax.Array
    masks: jax.Array


def detection_loss(
    logits: jax.Array,
    masks: jax.Array,
    labels: jax.Array,
    mask_target: jax.Array,
    counted: jax.Array,
    settings: DetectionSettings,
) -> DetectionLoss:
    """Class loss and mask loss of a batch.

    Args:
        logits: [batch, time, classes + 1].
        masks: [batch, time, snippet] in 0..1.
        labels: [batch, time] int, background = classes.
        mask_target: [batch, time, snippet] in 0..1.
        counted: [batch, time] bool, snippets that count, in the mask loss with the masks that they predict.
        settings: weights and quirks.
    """
    classes = settings.class_weight * class_loss(logits, labels, counted, on_mean=settings.focal_on_mean)
    masks = mask_loss(masks, mask_target, counted, settings)
    return DetectionLoss(classes + masks, classes, masks)


def class_loss(logits: jax.Array, labels: jax.Array, counted: jax.Array, *, on_mean: bool = True) -> jax.Array:
    """Focal loss (power 2) of [batch, time, classes] logits, mean over the snippets that count; see above."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    if on_mean:
        return _focal(mean_of(entropy, counted))
    return mean_of(_focal(entropy), counted)


def mask_loss(masks: jax.Array, target: jax.Array, counted: jax.Array, settings: DetectionSettings) -> jax.Array:
    """Balanced cross-entropy of all entries and dice of every video: a scalar; arguments as for `detection_loss`."""
    masks, target = masks.astype(jnp.float32), target.astype(jnp.float32)
    share = settings.entropy_share
    dice = dice_loss(masks, target, counted, factor=1.0 if settings.dice_without_factor_two else 2.0)
    return share * balanced_entropy(masks, target, counted) + (1 - share) * dice


def balanced_entropy(masks: jax.Array, target: jax.Array, counted: jax.Array) -> jax.Array:
    """Cross-entropy in which ones and zeros of the whole batch weigh about the same; other targets do not count.

    Args:
        masks, target: [batch, time, snippet] float32.
        counted: [batch, snippet] bool.
    """
    ones, zeros = (target == 1) & counted[:, None, :], (target == 0) & counted[:, None, :]
    positives = SMOOTHING + ones.sum(dtype=jnp.float32)
    entries = SMOOTHING + positives + zeros.sum(dtype=jnp.float32)
    ratio = entries / positives
    of_ones, of_zeros = ratio / 2, ratio / (2 * (ratio - 1))
    # One logarithm per entry: of the probability of what is true.
    probability = jnp.where(ones, masks, 1 - masks)
    weight = jnp.where(ones, of_ones, jnp.where(zeros, of_zeros, 0))
    return -jnp.sum(weight * jnp.log(probability + LOG_EPSILON)) / entries


def dice_loss(masks: jax.Array, target: jax.Array, counted: jax.Array, *, factor: float = 2.0) -> jax.Array:
    """1 - overlap of all masks of a video with their targets, mean over the videos with a snippet that counts.

    Args:
        masks, target: [batch, time, snippet] float32.
        counted: [batch, snippet] bool.
        factor: of the product of the two, 2 in the dice coefficient.
    """
    weight = counted[:, None, :].astype(jnp.float32)
    product = jnp.sum(weight * masks * target, axis=(1, 2))
    squares = jnp.sum(weight * (jnp.square(masks) + jnp.square(target)), axis=(1, 2))
    return mean_of(1 - (factor * product + 1) / (squares + 1), counted.any(axis=1))


def reconstruction_loss(features: jax.Array, target: jax.Array, present: jax.Array) -> jax.Array:
    """Mean squared difference of [batch, time, channels] arrays over the videos that are `present` [batch] bool."""
    difference = features.astype(jnp.float32) - target.astype(jnp.float32)
    return mean_of(jnp.square(difference).mean(axis=(1, 2)), present)


def order_loss(logits: jax.Array, swapped: jax.Array, present: jax.Array) -> jax.Array:
    """Cross-entropy of [batch, 2] logits; class 0 where `swapped` [batch] bool. Videos not `present` do not count."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, 1 - swapped.astype(jnp.int32))
    return mean_of(entropy, present)


def mean_of(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean of the values that count, 0 if there is none; both of one shape."""
    return jnp.sum(values, where=counted) / jnp.maximum(counted.sum(), 1)


def _focal(entropy: jax.Array) -> jax.Array:
    """Cross-entropy times the squared probability of being wrong."""
    return jnp.square(1 - jnp.exp(-entropy)) * entropy
