"""What ASOT computes between embeddings and clusters: costs, soft codes, pseudo-labels and the loss.

Source: paper section 4.2, `mingu6/action_seg_ot:src/train.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from actloc_jax.ops import transport

LOG_FLOOR = 1e-11  # added to soft codes before the logarithm, as published


def affinities(embedding: jax.Array, clusters: jax.Array) -> jax.Array:
    """Similarity of frames to clusters: [batch, time, width] and [clusters, width] to [batch, time, clusters]."""
    return jnp.einsum("btd,kd->btk", embedding, clusters, precision=jax.lax.Precision.HIGHEST)


def soft_codes(affinity: jax.Array, temperature: float) -> jax.Array:
    """Softmax over the clusters, [batch, time, clusters]."""
    return jax.nn.softmax(affinity / temperature, axis=-1)


def assignment_cost(affinity: jax.Array, lengths: jax.Array, rho: float) -> jax.Array:
    """What it costs to assign a frame to a cluster: dissimilarity, and distance from the cluster's place in time.

    Args:
        affinity: [batch, time, clusters].
        lengths: [batch], frames over which the clusters are expected in the order of their numbers.
        rho: weight of that expectation.
    """
    _, time, clusters = affinity.shape
    return 1 - affinity + transport.temporal_prior(lengths, time, clusters, rho)


def frame_losses(plan: jax.Array, codes: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross-entropy of every frame's codes against its pseudo-label, [batch, time]; 0 outside the mask."""
    return jnp.where(mask, -jnp.sum(plan * jnp.log(codes + LOG_FLOOR), axis=-1), 0)


def training_loss(plan: jax.Array, codes: jax.Array, mask: jax.Array, present: jax.Array) -> jax.Array:
    """Mean of `frame_losses` over all sampled frames, repeats included.

    Args:
        plan: [batch, time, clusters] pseudo-labels.
        codes: [batch, time, clusters] soft codes.
        mask: [batch, time] bool, False on repeats.
        present: [batch] bool, False for filler rows of a batch.
    """
    total = jnp.sum(frame_losses(plan, codes, mask), where=present[:, None])
    return total / (jnp.maximum(jnp.sum(present), 1) * mask.shape[1])


def validation_loss(plan: jax.Array, codes: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over videos of the sum over frames, as published: as many times the training loss as a video has frames.

    A scalar; arguments as in `training_loss`, and every video counts.
    """
    return jnp.mean(jnp.sum(frame_losses(plan, codes, mask), axis=1))
