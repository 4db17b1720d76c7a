"""Losses that keep a backbone in shape while TST is trained through it (stage 3), and BaFormer's vote.

After the adapters of `baiyang4/TST-action-segmentation:tst/wrapper.py`. Losses are given per video, [batch] float32, as
the original computes them on batches of one; labels are -1 where ignored. The loss of the backbone "asformer" is
`losses.asrf.asrf_loss`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from actloc_jax.losses.asformer import log_probability_steps
from actloc_jax.losses.asrf import weighted_cross_entropy

SMOOTHING_WEIGHT = 0.15
LARGEST_SMOOTHING = 16.0


def diffact_loss(encoder_logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross entropy and smoothing of the encoder's logits; sampled predictions carry no gradient.

    Unlike in DiffAct's own training the mean smoothing is cut off, not each of its elements, and frames without a label
    take part in it.

    Args:
        encoder_logits: [batch, time, classes].
        labels: [batch, time] int.
        mask: [batch, time] bool, True on valid frames.
    """
    inside = (mask[:, 1:] & mask[:, :-1])[..., None]
    steps = jnp.maximum(jnp.sum(inside, axis=(1, 2)), 1)
    smoothing = jnp.sum(jnp.where(inside, log_probability_steps(encoder_logits), 0), axis=(1, 2))
    smoothing = smoothing / (steps * encoder_logits.shape[-1])
    return weighted_cross_entropy(encoder_logits, labels) + SMOOTHING_WEIGHT * jnp.minimum(smoothing, LARGEST_SMOOTHING)


def ltcontext_loss(stage_logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """The loss of `diffact_loss`, mean over the stages [stages, batch, time, classes] of LTContext."""
    return jnp.mean(jax.vmap(lambda logits: diffact_loss(logits, labels, mask))(stage_logits), axis=0)


def baformer_loss(class_logits: jax.Array | None, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """The loss of `diffact_loss` on the frame decoder's logits [batch, time, classes]; 0 if it has none."""
    if class_logits is None:
        return jnp.zeros(labels.shape[0])
    return diffact_loss(class_logits, labels, mask)


def fact_loss(frame_logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy of the frame logits [batch, time, classes] of FACT's last block."""
    return weighted_cross_entropy(frame_logits, labels)


def baformer_predictions(query_logits: jax.Array, query_masks: jax.Array) -> jax.Array:
    """Frame predictions of BaFormer: its queries vote for their class on the frames of their mask.

    Args:
        query_logits: [batch, queries, classes].
        query_masks: [batch, queries, time] logits.

    Returns:
        [batch, time, classes] float32, not normalised.
    """
    classes = jax.nn.softmax(query_logits.astype(jnp.float32), axis=-1)
    return jnp.einsum("bqc,bqt->btc", classes, jax.nn.sigmoid(query_masks.astype(jnp.float32)))
