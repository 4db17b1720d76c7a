"""Attention of every frame to a few frames around it, spaced like the taps of a dilated convolution (DiffAct).

Arrays are [channels, batch, time]: networks that use this have few channels, and it is along time that the vector units
of a CPU are filled (measured 1.4 times faster than [batch, time, channels] at 24 channels and 1100 frames).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

OUTSIDE = 1e-6  # the weight of a frame outside the video, before the logarithm, as published


def pad_time(x: jax.Array, margin: int) -> jax.Array:
    """[..., time] to [..., margin + time + margin], zeros (False) around."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(margin, margin)])


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
    margin = taps // 2 * dilation
    ones = jnp.ones(channels, jnp.float32)
    # A dot with ones instead of a sum: XLA's CPU backend reduces leading axes slowly.
    scores = jnp.stack(
        [
            jnp.einsum("c,cbt->bt", ones, query * tap(key, j, dilation, time), precision=jax.lax.Precision.HIGHEST)
            for j in range(taps)
        ]
    )
    padded_mask = pad_time(mask, margin)
    inside = jnp.stack([tap(padded_mask, j, dilation, time) for j in range(taps)]).astype(jnp.float32)
    scores = scores / math.sqrt(channels) + jnp.log(inside + OUTSIDE)
    weights = jax.nn.softmax(scores, axis=0) * inside
    context = sum(weights[j] * tap(value, j, dilation, time) for j in range(taps))
    return context, jnp.sum(weights, axis=0)
