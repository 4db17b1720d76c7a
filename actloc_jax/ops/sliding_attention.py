"""Sliding-window attention of ASFormer (arXiv 2110.08568, section 3.2; `ChinaYi/ASFormer:model.py`).

The sequence is cut into blocks of `block` frames. The queries of one block share one window of keys: the block itself
and half a block on either side. Keys are gathered by reshaping and shifting, never query by query, so that the cost is
`time * 2 * block` products in two dense matrix products.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

WindowPattern = Literal["published", "band"]

# Hidden keys are not removed from the softmax: they enter with the logarithm of this weight, and their share of the
# mass is then dropped without renormalising. Checkpoints depend on it.
_HIDDEN = np.float32(1e-6)
_LOG_HIDDEN = float(np.log(_HIDDEN))
_LOG_SEEN = float(np.log(np.float32(1.0) + _HIDDEN))


def window_mask(block: int, pattern: WindowPattern) -> np.ndarray:
    """Which keys of the window each query of a block may see.

    Column `j` of the window is frame `j - block // 2` counted from the start of the block.

    Args:
        block: frames per block.
        pattern: `"band"` lets query `i` see the columns `i .. i + block - 1`, a window centred on the query.
            `"published"` is what the released code computes and released weights were trained with: each pass of its
            loop overwrites all rows, so that every query sees the union of all bands, which for an even block is all
            columns but the last and for an odd block all columns.

    Returns:
        Bool `[block, block + 2 * (block // 2)]`.

    Raises:
        ValueError: if `pattern` is not one of the two.
    """
    if pattern not in get_args(WindowPattern):
        raise ValueError(f"window_pattern is {pattern!r}; expected one of {', '.join(get_args(WindowPattern))}")
    columns = np.arange(block + 2 * (block // 2))
    if pattern == "published":
        return np.broadcast_to(columns < 2 * block - 1, (block, columns.size))
    offset = columns[None, :] - np.arange(block)[:, None]
    return (offset >= 0) & (offset < block)


def sliding_window_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    block: int,
    pattern: WindowPattern = "published",
    visible: jax.Array | None = None,
) -> jax.Array:
    """Single-head attention of every frame to the window of its block.

    Frames outside `mask` do not exist: they are zero vectors of weight 1e-6, exactly like the zeros with which the
    published code fills the last block, so that extending the padding changes nothing.

    Args:
        query: `[batch, time, channels]`.
        key: `[batch, time, channels]`.
        value: `[batch, time, value_channels]`.
        mask: bool `[batch, time]`, True for the frames of the sequence.
        block: frames per block; may exceed the length of the sequence.
        pattern: see `window_mask`.
        visible: bool `[batch, time]`, the frames that may be attended to; None for all of `mask`. A frame of the
            sequence that is not visible keeps its key in the denominator, with the weight 1e-6.

    Returns:
        `[batch, time, value_channels]` in the dtype of `value`; frames outside `mask` hold no meaning.
    """
    time = query.shape[1]
    visible = mask if visible is None else visible & mask
    key = jnp.where(mask[..., None], key, 0)
    window = window_mask(block, pattern)
    if block >= time:
        # One block: its window covers every frame, and what it has beyond them is nothing but zero keys.
        start = block // 2
        seen = visible[:, None, :] & window[:time, start : start + time]
        return _attend(query, key, value, seen, zero_keys=window.shape[1] - time)
    seen = _windows(visible, block)[:, :, None, :] & window
    output = _attend(_blocks(query, block), _windows(key, block), _windows(value, block), seen, zero_keys=0)
    return output.reshape(output.shape[0], -1, output.shape[-1])[:, :time]


def _blocks(x: jax.Array, block: int) -> jax.Array:
    """`[batch, time, ...]` to `[batch, blocks, block, ...]`, zero-padded at the end."""
    batch, time = x.shape[:2]
    count = -(-time // block)
    x = jnp.pad(x, [(0, 0), (0, count * block - time)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(batch, count, block, *x.shape[2:])


def _windows(x: jax.Array, block: int) -> jax.Array:
    """`[batch, time, ...]` to `[batch, blocks, window, ...]`: each block with half a block on either side, or zeros."""
    batch, time = x.shape[:2]
    half = block // 2
    count = -(-time // block)
    x = jnp.pad(x, [(0, 0), (half, (count + 1) * block - time - half)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(batch, count + 1, block, *x.shape[2:])
    return jnp.concatenate([x[:, :-1], x[:, 1:]], axis=2)[:, :, : block + 2 * half]


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array, *, zero_keys: int) -> jax.Array:
    """Softmax over the window in float32, then the mass of unseen keys is dropped.

    `zero_keys` counts unseen keys that are zero vectors and not part of `key`: each adds `1e-6` to the denominator.
    """
    scores = jnp.einsum("...qc,...kc->...qk", query, key, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(query.shape[-1]) + jnp.where(seen, _LOG_SEEN, _LOG_HIDDEN)
    top = jnp.max(scores, axis=-1, keepdims=True)
    if zero_keys:
        top = jnp.maximum(top, _LOG_HIDDEN)
    top = jax.lax.stop_gradient(top)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True) + zero_keys * jnp.exp(_LOG_HIDDEN - top)
    weights = jnp.where(seen, weights / total, 0).astype(value.dtype)
    return jnp.einsum("...qk,...kc->...qc", weights, value)
