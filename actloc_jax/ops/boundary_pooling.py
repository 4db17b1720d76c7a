"""Boundary max pooling: what is strongest around the start and around the end of each segment.

Lin et al., "Learning Salient Boundary Feature for Anchor-free Temporal Action Localization" (CVPR 2021), section 3.3;
source: `klauscc/TALLFormer:AFSD/prop_pooling`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def boundary_max_pool(x: jax.Array, windows: jax.Array) -> jax.Array:
    """Maximum of the first half of the channels over start windows, of the second half over end windows.

    The gradient goes to the first maximum of a window.

    Args:
        x: [batch, time, channels], an even number of channels.
        windows: [batch, segments, 4]: first and last frame of the start window, then of the end window, both included.
            They are cut to whole frames towards zero and moved into the array; where the last frame then lies before
            the first, the value at the first counts.

    Returns:
        [batch, segments, channels].
    """
    batch, time, channels = x.shape
    frames = jnp.clip(jax.lax.stop_gradient(windows).astype(jnp.int32), 0, time - 1)
    sides = jnp.moveaxis(x.reshape(batch, time, 2, channels // 2), 2, 1).reshape(2 * batch, time, channels // 2)
    windows = jnp.moveaxis(frames.reshape(batch, -1, 2, 2), 2, 1).reshape(2 * batch, -1, 2)
    pooled = _window_max(sides, windows[..., 0], windows[..., 1])
    return jnp.moveaxis(pooled.reshape(batch, 2, -1, channels // 2), 1, 2).reshape(batch, -1, channels)


def _window_max(x: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """Maxima over frames first..last [batch, segments] of every channel, [batch, segments, channels].

    A window is covered by two spans of the same power of two, whose maxima are tables: the cost does not depend on the
    length of the windows. The tables hold where the maximum is, so that its gradient is that of a look-up.
    """
    last = jnp.maximum(first, last)
    values = jax.lax.stop_gradient(x)
    where = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32)[:, None], x.shape)
    spans = [(values, where)]
    for span in 2 ** np.arange(int(x.shape[1]).bit_length() - 1):
        later = [jnp.roll(table, -span, axis=1) for table in spans[-1]]  # what wraps around is never looked up
        spans.append(_first_max(spans[-1], later))
    values, where = (jnp.stack(tables, axis=1) for tables in zip(*spans, strict=True))  # [batch, power, time, channels]
    lengths = last - first + 1
    power = jnp.sum(lengths[..., None] >= 2 ** np.arange(1, len(spans)), axis=-1)
    rows = jnp.arange(len(x))[:, None]
    second = last + 1 - 2**power
    _, chosen = _first_max(
        (values[rows, power, first], where[rows, power, first]),
        (values[rows, power, second], where[rows, power, second]),
    )
    return jnp.take_along_axis(x, chosen, axis=1)


def _first_max(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The larger (value, frame) of each pair, the first among equals."""
    larger = second[0] > first[0]
    return jnp.where(larger, second[0], first[0]), jnp.where(larger, second[1], first[1])
