"""Attention of every frame to a few frames around it, spaced like the taps of a dilated convolution (DiffAct).

Arrays are [channels, batch, time]: networks that use this have few channels, and it is along time that the vector units
of a CPU are filled (measured 1.4 times faster than [batch, time, channels] at 24 channels and 1100 frames).
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

OUTSIDE = 1e-6  # the weight of a frame outside the video, before the logarithm, as published


def pad_time(x: jax.Array, margin: int) -> jax.Array:
    """[..., time] to [..., margin + time + margin], zeros (False) around."""
    zeros = jnp.zeros((*x.shape[:-1], margin), x.dtype)
    return jnp.concatenate([zeros, x, zeros], axis=-1)


def tap(padded: jax.Array, index: int, dilation: int, time: int) -> jax.Array:
    """What tap `index` of a dilated window sees from each of `time` frames; `padded` has the window's margins."""
    return jax.lax.slice_in_dim(padded, index * dilation, index * dilation + time, axis=padded.ndim - 1)


def local_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, taps: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the values at the taps, and the mass of the weights.

    Frames outside the video take part in the softmax with score 0 + log(1e-6), and are then dropped without
    renormalising, so that frames at the borders lose a little mass (`Finspire13/DiffAct:model.py`, AttLayer).

    Args:
        query: [channels, batch, time].
        key: [channels, batch, margin + time + margin], zero outside the video; margin = taps // 2 * dilation.
        value: the same shape, zero outside the video.
        mask: [batch, time] bool, True = frame of the video.
        taps: odd number of frames seen.
        dilation: frames between them.

    Returns:
        [channels, batch, time] float32, and [batch, time] float32 in 0..1 (what a bias of the values is weighted by).
    """
    channels, _, time = query.shape
    products = jnp.stack([query * tap(key, j, dilation, time) for j in range(taps)], axis=1)
    # A dot with ones instead of a sum, and maximum and sums tap by tap: XLA's CPU backend reduces leading axes slowly.
    ones = jnp.ones(channels, jnp.float32)
    scores = jnp.einsum("c,ckbt->kbt", ones, products, precision=jax.lax.Precision.HIGHEST)
    padded_mask = pad_time(mask, taps // 2 * dilation)
    inside = jnp.stack([tap(padded_mask, j, dilation, time) for j in range(taps)]).astype(jnp.float32)
    scores = scores / math.sqrt(channels) + jnp.log(inside + OUTSIDE)
    weights = jnp.exp(scores - jax.lax.stop_gradient(functools.reduce(jnp.maximum, scores)))
    weights = weights * inside / sum(weights)
    spread = [jnp.einsum("c,bt->cbt", ones, weight) for weight in weights]  # its gradient is a dot with ones again
    context = sum(weight * tap(value, j, dilation, time) for j, weight in enumerate(spread))
    return context, sum(weights)
