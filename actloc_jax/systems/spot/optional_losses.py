"""Losses of SPOT's source that its published training switches off.

Consistency with a teacher is an option of `finetune.py`; the other two can take the place of the class loss.
Source: `sauradip/SPOT:spot_lib/loss_spot.py`, `spot_train.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from actloc_jax.systems.spot.losses import LOG_EPSILON, SMOOTHING, mean_of


def mask_consistency(masks: jax.Array, teacher: jax.Array, present: jax.Array) -> jax.Array:
    """Mean squared difference of [batch, time, snippet] masks over the videos that are `present` [batch] bool."""
    return mean_of(jnp.square(masks - teacher).mean(axis=(1, 2)), present)


def class_consistency(logits: jax.Array, teacher: jax.Array, present: jax.Array) -> jax.Array:
    """Divergence from the teacher's classes [batch, time, classes] (one-hot or soft), mean over all entries."""
    divergence = jax.scipy.special.xlogy(teacher, teacher) - teacher * jax.nn.log_softmax(logits, axis=2)
    return mean_of(divergence.mean(axis=(1, 2)), present)


def ramp_up(epoch: jax.Array | float, length: float) -> jax.Array:
    """Scalar, exp(-5) at epoch 0 to 1 at epoch `length` (Laine and Aila, arXiv 1610.02242); 1 where `length` is 0."""
    if length == 0:
        return jnp.ones(())
    return jnp.exp(-5 * jnp.square(1 - jnp.clip(epoch, 0, length) / length))


class ClassGroups(NamedTuple):
    """Classes by how often they occur: bool [classes] each."""

    rare: jax.Array
    common: jax.Array
    frequent: jax.Array


def suppression_loss(
    logits: jax.Array,
    labels: jax.Array,
    groups: ClassGroups,
    key: jax.Array,
    *,
    threshold: float = 0.3,
    weights_of_last_snippet: bool = True,
) -> jax.Array:
    """Binary cross-entropy in which a class is only held against a snippet that it is taken for.

    Wang et al., "Adaptive class suppression loss" (CVPR 2021), for snippets. A foreground snippet counts its own class
    and those with a probability of at least `threshold`; a background snippet counts background and the frequent
    classes, in one of ten videos also the common ones, in one of a hundred the rare ones.

    Args:
        logits: [batch, time, classes + 1], background last.
        labels: [batch, time] int, background = classes.
        groups: of the classes.
        key: chooses the background videos, for every snippet anew.
        threshold: see above.
        weights_of_last_snippet: quirk: what counts at the last snippet counts at all of them.

    Returns:
        Scalar: sum over everything that counts, divided by the number of snippets.
    """
    batch, time, outputs = logits.shape
    target = jax.nn.one_hot(labels, outputs)
    background = labels == outputs - 1
    likely = jax.nn.sigmoid(jax.lax.stop_gradient(logits)) >= threshold
    of_rare, of_common = jax.random.split(key)
    chosen = _share(of_rare, background, 0.01)[:, :, None] & groups.rare
    chosen |= _share(of_common, background, 0.1)[:, :, None] & groups.common
    suppressed = jnp.pad(chosen | groups.frequent, ((0, 0), (0, 0), (0, 1)), constant_values=True)
    counted = jnp.where(background[:, :, None], suppressed, likely | (target > 0))
    if weights_of_last_snippet:
        counted = jnp.broadcast_to(counted[:, -1:], counted.shape)
    entropy = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), target)
    return jnp.sum(entropy, where=counted) / (batch * time)


def hardest_negatives_loss(probabilities: jax.Array, target: jax.Array, *, share: float = 0.6) -> jax.Array:
    """Log loss of all positives and of the largest `share` of every snippet's negatives.

    Args:
        probabilities: [batch, time, classes] in 0..1.
        target: [batch, time, classes], 1 or 0.
        share: of the classes.

    Returns:
        Scalar: the mean over positives (10 added to their number) and 10 times the mean over the hardest negatives.
    """
    hardest = int(probabilities.shape[2] * share)
    positives = jnp.sum(target * jnp.log(probabilities + LOG_EPSILON)) / (SMOOTHING + jnp.sum(target == 1))
    negatives = -(1 - target) * jnp.log(1 - probabilities + LOG_EPSILON)
    return 10 * jax.lax.top_k(negatives, hardest)[0].mean() - positives


def _share(key: jax.Array, rows: jax.Array, share: float) -> jax.Array:
    """`share` (rounded down) of the marked rows of every column of [batch, time], at random: bool."""
    order = jnp.where(rows, jax.random.uniform(key, rows.shape), 2.0)
    rank = jnp.argsort(jnp.argsort(order, axis=0), axis=0)
    # The product is rounded as float64 would: in float32, 0.1 * 10 videos could miss 1.
    number = jnp.floor(rows.sum(axis=0) * share + 1e-6)
    return (rank < number) & rows
