"""From snippets to videos: what the generator and the student learn from video labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SMALLEST_LOG = -100.0  # as PyTorch's binary cross-entropy clamps


def top_mean(values: jax.Array, number: jax.Array | int) -> jax.Array:
    """Mean of the largest values along time.

    Args:
        values: [batch, time, classes].
        number: how many, one for all rows or [batch]; clipped to [1, time]. May be traced.

    Returns:
        [batch, classes]. Of equal values the first ones count, which decides where the gradient goes.
    """
    time = values.shape[1]
    number = jnp.broadcast_to(jnp.clip(number, 1, time), values.shape[:1])[:, None, None]
    fixed = jax.lax.stop_gradient(values)
    smallest = jnp.take_along_axis(jnp.sort(fixed, axis=1), time - number, axis=1)
    above, equal = fixed > smallest, fixed == smallest
    room = number - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (jnp.cumsum(equal, axis=1) <= room))
    return jnp.where(chosen, values, 0).sum(axis=1) / number[:, 0].astype(values.dtype)


def video_loss(scores: jax.Array, labels: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """Binary cross-entropy between class probabilities and labels that sum to 1, mean over videos and classes.

    Args:
        scores: [batch, classes] probabilities.
        labels: [batch, classes], 1 for every class of the video.
        present: [batch] bool, False for rows that only fill the batch; None: all are real.
    """
    labels = labels / jnp.maximum(labels.sum(axis=1, keepdims=True), 1)
    loss = -(labels * _log(scores) + (1 - labels) * _log(1 - scores)).mean(axis=1)
    if present is None:
        return loss.mean()
    return jnp.sum(loss, where=present) / jnp.maximum(present.sum(), 1)


def _log(x: jax.Array) -> jax.Array:
    """log(x), at least `SMALLEST_LOG`, with a finite gradient."""
    return jnp.where(x > 0, jnp.maximum(jnp.log(jnp.where(x > 0, x, 1)), SMALLEST_LOG), SMALLEST_LOG)
