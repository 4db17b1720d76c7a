"""Multi-head attention in which every frame sees the valid frames at most so many frames away.

The scores are computed for blocks of queries against the keys around each block, so that memory grows with the length
of the sequence and not with its square. Source of what is computed, not of how:
`happyharrycn/actionformer_release:libs/modeling/blocks.py` (`LocalMaskedMHCA`, `MaskedMHCA`).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

HIDDEN = -1e30  # finite, so that a query that sees nothing gives no NaN


def window_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: jax.Array,
    *,
    reach: int | None,
    position_bias: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention, computed in float32.

    Args:
        query: [batch, time, heads, width].
        key: [batch, time, heads, width].
        value: [batch, time, heads, width].
        valid: [batch, time] bool, the frames that may be seen.
        reach: how far a query sees to either side, in frames; None: every frame.
        position_bias: [heads, 2 * reach + 1], added to the scores by distance, from `-reach` to `reach`.

    Returns:
        [batch, time, heads, width] in the dtype of `value`; without meaning on frames that are not valid.
    """
    time = query.shape[1]
    query = query / math.sqrt(query.shape[-1])
    if reach is None:
        return _attend(query, key, value, valid[:, None, None, :])
    block = max(2 * reach, 16)
    seen = _around(valid, block, reach)[:, :, None, None, :] & _band(block, reach)
    bias = None if position_bias is None else _by_distance(position_bias, block, reach)
    output = _attend(_blocks(query, block), _around(key, block, reach), _around(value, block, reach), seen, bias)
    return output.reshape(output.shape[0], -1, *output.shape[3:])[:, :time]


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """[..., queries, heads, width] against [..., keys, heads, width]; `seen` broadcasts to [..., heads, q, k]."""
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen, scores, HIDDEN), axis=-1)
    weights = jnp.where(seen, weights, 0).astype(value.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


def _band(block: int, reach: int) -> np.ndarray:
    """Which keys of a block's surroundings are within reach of its queries: bool [block, block + 2 * reach]."""
    offset = np.arange(block + 2 * reach)[None, :] - np.arange(block)[:, None]
    return (offset >= 0) & (offset <= 2 * reach)


def _by_distance(bias: jax.Array, block: int, reach: int) -> jax.Array:
    """[heads, 2 * reach + 1] to [heads, block, block + 2 * reach]; without meaning out of reach."""
    offset = np.arange(block + 2 * reach)[None, :] - np.arange(block)[:, None]
    return bias[:, np.clip(offset, 0, 2 * reach)]


def _blocks(x: jax.Array, block: int) -> jax.Array:
    """[batch, time, ...] to [batch, blocks, block, ...], zeros at the end."""
    batch, time = x.shape[:2]
    count = -(-time // block)
    x = jnp.pad(x, [(0, 0), (0, count * block - time)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(batch, count, block, *x.shape[2:])


def _around(x: jax.Array, block: int, reach: int) -> jax.Array:
    """[batch, time, ...] to [batch, blocks, block + 2 * reach, ...]: each block with its surroundings, or zeros."""
    batch, time = x.shape[:2]
    count = -(-time // block)
    x = jnp.pad(x, [(0, 0), (reach, (count + 1) * block - time - reach)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(batch, count + 1, block, *x.shape[2:])
    return jnp.concatenate([x[:, :-1], x[:, 1:]], axis=2)[:, :, : block + 2 * reach]
