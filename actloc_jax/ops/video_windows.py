"""Windows of video: cutting a grid of tokens into boxes, and which tokens of a shifted box are neighbours.

Axes are [batch, time, height, width, channels]; a size, window or shift is a triple (time, height, width) of tokens.
What depends on sizes alone is numpy and becomes a constant of the compiled program.

Source of what is computed: `SwinTransformer/Video-Swin-Transformer:mmaction/models/backbones/swin_transformer.py`.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

Triple = tuple[int, int, int]


def fitted(size: Triple, window: Triple, shift: Triple) -> tuple[Triple, Triple]:
    """Window and shift on a grid of `size`: along an axis no longer than the window, one window and no shift."""
    small = [length <= extent for length, extent in zip(size, window, strict=True)]
    used = [length if is_small else extent for length, extent, is_small in zip(size, window, small, strict=True)]
    moved = [0 if is_small else step for step, is_small in zip(shift, small, strict=True)]
    return tuple(used), tuple(moved)


def end_padding(size: Triple, window: Triple) -> Triple:
    """Tokens to add at the end of each axis so that windows tile it."""
    return tuple(-length % extent for length, extent in zip(size, window, strict=True))


def pad_end(x: jax.Array, padding: Triple) -> jax.Array:
    """`x` [batch, time, height, width, channels] with zeros at the end of its three middle axes."""
    return jnp.pad(x, [(0, 0), *((0, count) for count in padding), (0, 0)]) if any(padding) else x


def partition(x: jax.Array, window: Triple) -> jax.Array:
    """Cuts a grid into windows.

    Args:
        x: [batch, time, height, width, channels], every size a multiple of the window's.
        window: its size.

    Returns:
        [batch, windows, tokens, channels]; windows and the tokens in them run over time, height, width in this order.
    """
    batch, *size, channels = x.shape
    (nt, nh, nw), (t, h, w) = _counts(tuple(size), window), window
    x = x.reshape(batch, nt, t, nh, h, nw, w, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, nt * nh * nw, t * h * w, channels)


def merge(windows: jax.Array, window: Triple, size: Triple) -> jax.Array:
    """The inverse of `partition`: [batch, windows, tokens, channels] to [batch, *size, channels]."""
    batch, *_, channels = windows.shape
    (nt, nh, nw), (t, h, w) = _counts(size, window), window
    x = windows.reshape(batch, nt, nh, nw, t, h, w, channels).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, *size, channels)


@functools.cache
def regions(size: Triple, window: Triple, shift: Triple) -> np.ndarray:
    """Which tokens of a window were neighbours before the grid was rolled by `-shift`.

    Args:
        size: of the grid, multiples of `window`.
        window: its size.
        shift: by how much the grid was rolled; 0 along an axis that was not.

    Returns:
        int32 [windows, tokens]; tokens of one window with different numbers come from opposite ends of the grid.
    """
    labels = np.zeros(size, np.int32)
    for axis, (length, extent, step) in enumerate(zip(size, window, shift, strict=True)):
        place = np.arange(length)
        along = (place >= length - extent).astype(np.int32) + (place >= length - step) if step else 0 * place
        labels = 3 * labels + along.reshape([-1 if other == axis else 1 for other in range(3)])
    (nt, nh, nw), (t, h, w) = _counts(size, window), window
    return labels.reshape(nt, t, nh, h, nw, w).transpose(0, 2, 4, 1, 3, 5).reshape(nt * nh * nw, t * h * w)


@functools.cache
def relative_positions(window: Triple, tokens: int) -> np.ndarray:
    """The row of the table of relative positions for each pair of tokens of a window.

    Where a window is smaller than `window`, the published code numbers its tokens like the first ones of a full window
    and not by their places; this is exact where only the time axis is shorter.

    Args:
        window: the full size.
        tokens: how many tokens the window in use has, at most as many as the full one.

    Returns:
        int32 [tokens, tokens], numbers below `table_rows(window)`, queries first.
    """
    places = np.stack(np.unravel_index(np.arange(math.prod(window))[:tokens], window), axis=-1)
    apart = places[:, None] - places[None, :] + np.array(window) - 1
    return np.ravel_multi_index(tuple(np.moveaxis(apart, -1, 0)), [2 * n - 1 for n in window]).astype(np.int32)


def table_of_pairs(table: jax.Array, window: Triple, tokens: int) -> jax.Array:
    """`table[relative_positions(window, tokens)]`, heads first, from slices: their gradient is no scatter.

    Args:
        table: [table_rows(window), heads].
        window: the full size.
        tokens: of the window in use.

    Returns:
        [heads, queries, keys] of `tokens` each.
    """
    time, height, width = window
    frames = -(-tokens // (height * width))  # the others hold none of the tokens
    values = table.T.reshape(-1, *(2 * extent - 1 for extent in window))[:, time - frames : time + frames - 1]
    heads = len(values)
    values = _queries_and_keys(_queries_and_keys(values, 3), 2)  # [heads, distances in time, h, h', w, w']
    # Per place of the query in its frame, all keys at falling distance in time: a query reads a run of these.
    values = jnp.flip(values.transpose(0, 2, 4, 1, 3, 5), 3).reshape(heads, height * width, 2 * frames - 1, -1)
    rows = [values[:, :, frames - 1 - frame : 2 * frames - 1 - frame] for frame in range(frames)]
    count = frames * height * width
    return jnp.stack(rows, 1).reshape(heads, count, count)[:, :tokens, :tokens]


def _queries_and_keys(values: jax.Array, axis: int) -> jax.Array:
    """An axis of the distances -(n - 1) to n - 1 becomes one of n queries and, behind it, one of n keys."""
    extent = (values.shape[axis] + 1) // 2
    rows = [jax.lax.slice_in_dim(values, query, query + extent, axis=axis) for query in range(extent)]
    return jnp.stack([jnp.flip(row, axis) for row in rows], axis)


def table_rows(window: Triple) -> int:
    """How many relative positions two tokens of a window can have."""
    return math.prod(2 * extent - 1 for extent in window)


def _counts(size: Triple, window: Triple) -> Triple:
    """Number of windows along each axis.

    Raises:
        ValueError: they do not tile the grid.
    """
    if any(length % extent for length, extent in zip(size, window, strict=True)):
        raise ValueError(f"windows of {window} tokens do not tile a grid of {size}; pad it by end_padding first.")
    return tuple(length // extent for length, extent in zip(size, window, strict=True))
