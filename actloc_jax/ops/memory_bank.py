"""Feature rows of many videos in one flat array: which rows a batch of windows sees, reading and writing them.

The rows of all videos lie behind one another; an offset table says where each video begins, so that a short video costs
what it needs and not what the longest one needs. Rows that a window reaches beyond its video read as zero and are not
written. All functions are pure, with shapes that do not depend on the videos.

Over devices the array is split along its rows or along its channels. Each device reads what it holds, and one
collective brings every row to the device that has its window in the batch: adding up (`"rows"`, the others hold zeros)
or exchanging (`"channels"`, in which each device sends a share of each row and far fewer bytes move). Neither rounds.

Source: `klauscc/TALLFormer:vedatad/partial_feedback/memory_bank.py`, on memory-mapped files there.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

OUTSIDE = jnp.iinfo(jnp.int32).max
"""Number of a row that does not exist."""

Layout = Literal["rows", "channels"]


def window_rows(
    offsets: jax.Array, videos: jax.Array, chunks: jax.Array, shifts: jax.Array, rows_per_chunk: int
) -> jax.Array:
    """Numbers of the rows that chunks of windows stand for.

    Args:
        offsets: [videos + 1] int32, first row of each video and the end of the last.
        videos: [batch] int32, which video each window is of; negative for windows without one.
        chunks: [batch, chunks] int32, numbers of chunks inside the window; negative for none.
        shifts: [batch] int32, rows between the first one of the video and the first one of the window; may be negative.
        rows_per_chunk: rows that one chunk has.

    Returns:
        [batch, chunks, rows_per_chunk] int32, `OUTSIDE` where the video has no such row.
    """
    videos, chunks = videos[:, None, None], chunks[..., None]
    inside = chunks * rows_per_chunk + jnp.arange(rows_per_chunk) + shifts[:, None, None]
    first, end = offsets[videos], offsets[videos + 1]
    exists = (videos >= 0) & (chunks >= 0) & (inside >= 0) & (inside < end - first)
    return jnp.where(exists, first + inside, OUTSIDE)


def read_rows(rows: jax.Array, numbers: jax.Array) -> jax.Array:
    """Rows by number, zero where there is none.

    Args:
        rows: [rows, channels].
        numbers: [...] int32, none of them negative.

    Returns:
        [..., channels] of the type of `rows`.
    """
    return rows.at[numbers].get(mode="fill", fill_value=0)


def write_rows(rows: jax.Array, numbers: jax.Array, values: jax.Array) -> jax.Array:
    """`rows` with some replaced; of values for the same row the last one stays, as if they were written in order.

    Args:
        rows: [rows, ...].
        numbers: [n] int32, none of them negative; those without a row are left out.
        values: [n, ...], or one value for all.

    Returns:
        [rows, ...] of the type of `rows`.
    """
    # A scatter may apply updates of one row in any order, so all but the last go to rows that do not exist.
    distinct_outside = rows.shape[0] + jnp.arange(len(numbers), dtype=jnp.int32)
    targets = jnp.where(is_last(numbers) & (numbers < rows.shape[0]), numbers, distinct_outside)
    return rows.at[targets].set(jnp.asarray(values, rows.dtype), mode="drop", unique_indices=True)


def is_last(numbers: jax.Array) -> jax.Array:
    """[n] bool, True where no later element of `numbers` [n] is the same."""
    order = jnp.argsort(numbers, stable=True)
    ordered = numbers[order]
    last = jnp.append(ordered[1:] != ordered[:-1], True)
    return jnp.zeros(len(numbers), bool).at[order].set(last)


def after(numbers: jax.Array, read: jax.Array) -> jax.Array:
    """The same numbers, known to the compiler only once `read` is: what was read is then never what was written.

    Without it XLA sees no order between reading rows and writing others in place, and copies the whole array first.
    Both are of any shape; `numbers` are int32.
    """
    if not read.size:
        return numbers
    never = read.reshape(-1)[0].astype(jnp.float32) > jnp.inf
    return numbers + never.astype(numbers.dtype)


def read_shard(rows: jax.Array, numbers: jax.Array, *, axis: str, layout: Layout) -> jax.Array:
    """Inside `jax.shard_map`: the rows for this device's part of the batch, wherever they lie.

    Args:
        rows: this device's part, [rows / devices, channels] or [rows, channels / devices].
        numbers: [batch, ...] int32, of the whole batch, the same on all devices.
        axis: mesh axis over which rows and batch are split.
        layout: which axis of the rows is split.

    Returns:
        [batch / devices, ..., channels].
    """
    if layout == "rows":
        held = read_rows(rows, _own_rows(rows, numbers, axis))
        return lax.psum_scatter(held, axis, scatter_dimension=0, tiled=True)
    held = read_rows(rows, numbers)
    return lax.all_to_all(held, axis, split_axis=0, concat_axis=held.ndim - 1, tiled=True)


def write_shard(rows: jax.Array, numbers: jax.Array, values: jax.Array, *, axis: str, layout: Layout) -> jax.Array:
    """Inside `jax.shard_map`: writes what all devices computed into this device's part of the rows.

    Args:
        rows: as for `read_shard`.
        numbers: [batch, ...] int32, of the whole batch, the same on all devices.
        values: [batch / devices, ..., channels], of this device's part of the batch.
        axis: as for `read_shard`.
        layout: as for `read_shard`.

    Returns:
        This device's part of the rows; of values for the same row the last one in order of the batch stays.
    """
    values = values.astype(rows.dtype)
    if layout == "rows":
        everyone = lax.all_gather(values, axis, axis=0, tiled=True)
        return write_rows(rows, _own_rows(rows, numbers, axis).reshape(-1), everyone.reshape(-1, rows.shape[1]))
    everyone = lax.all_to_all(values, axis, split_axis=values.ndim - 1, concat_axis=0, tiled=True)
    return write_rows(rows, numbers.reshape(-1), everyone.reshape(-1, rows.shape[1]))


def _own_rows(rows: jax.Array, numbers: jax.Array, axis: str) -> jax.Array:
    """Numbers counted from this device's first row; `OUTSIDE` for rows of earlier devices."""
    first = lax.axis_index(axis) * rows.shape[0]
    return jnp.where(numbers >= first, numbers - first, OUTSIDE)
