"""Training loss of ASFormer (arXiv 2110.08568, section 3.4; `ChinaYi/ASFormer:model.py`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from actloc_jax.losses.asrf import weighted_cross_entropy


def log_probability_steps(logits: jax.Array) -> jax.Array:
    """Squared change of the log probabilities from each frame to the next; no gradient reaches the earlier frame.

    Args:
        logits: [batch, time, classes].

    Returns:
        [batch, time - 1, classes] float32.
    """
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.square(log_probability[:, 1:] - jax.lax.stop_gradient(log_probability[:, :-1]))


def asformer_loss(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    visible: jax.Array | None = None,
    smoothing_weight: float = 0.15,
    threshold: float = 4.0,
) -> jax.Array:
    """Cross entropy and truncated smoothing, summed over the stages.

    The smoothing is a mean over all steps inside `mask`, those that lead to a frame outside `visible` counting as
    zeros, as in the original. Padding frames outside `mask` do not enter the mean.

    Args:
        logits: [stages, batch, time, classes].
        labels: [batch, time] int, -1 where ignored.
        mask: [batch, time] bool, True for the frames of the sequence.
        visible: [batch, time] bool, see `backbones.asformer.ASFormer`; None for all of `mask`.
        smoothing_weight: weight of the smoothing.
        threshold: changes of a log probability beyond it are cut off.

    Returns:
        [batch] float32, the loss of each video by itself.
    """
    visible = mask if visible is None else visible & mask
    steps = jnp.maximum(jnp.sum(mask, axis=1) - 1, 1)

    def stage_loss(logits: jax.Array) -> jax.Array:
        smoothing = jnp.mean(jnp.minimum(log_probability_steps(logits), threshold**2), axis=-1)
        smoothing = jnp.sum(jnp.where(visible[:, 1:], smoothing, 0), axis=1) / steps
        return weighted_cross_entropy(logits, labels) + smoothing_weight * smoothing

    return jnp.sum(jax.vmap(stage_loss)(logits), axis=0)
