"""Runs of equal labels on the device: a label sequence seen as segments, with a static capacity.

The number of runs depends on the data, the shapes must not: every video gets `capacity` slots and says how many it
uses. A run keeps its true index even where it has no slot, so that nothing is lost silently: `Runs.count` tells.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

NO_RUN = -1


class Runs(NamedTuple):
    """The maximal runs of equal labels of a batch of sequences, in temporal order.

    Attributes:
        run_of_frame: [batch, time] int32, index of the frame's run, -1 outside the mask. At or above the capacity for
            the frames of runs that have no slot.
        start: [batch, runs] int32, first frame of the run; 0 in empty slots.
        end: [batch, runs] int32, one past the last frame of the run; 0 in empty slots.
        label: [batch, runs] int32, label of the run; 0 in empty slots.
        valid: [batch, runs] bool, True where the slot holds a run.
        count: [batch] int32, number of runs of the sequence; larger than the capacity if slots were missing.
    """

    run_of_frame: jax.Array
    start: jax.Array
    end: jax.Array
    label: jax.Array
    valid: jax.Array
    count: jax.Array

    @property
    def capacity(self) -> int:
        """Number of slots per sequence."""
        return self.start.shape[1]

    def first(self, capacity: int) -> Runs:
        """The same runs with fewer slots."""
        slots = (slot[:, :capacity] for slot in (self.start, self.end, self.label, self.valid))
        return Runs(self.run_of_frame, *slots, self.count)

    @property
    def members(self) -> jax.Array:
        """[batch, runs, time] bool, True where the frame belongs to the run."""
        return self.run_of_frame[:, None, :] == jnp.arange(self.capacity)[:, None]


def run_starts(labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Marks the first frame of every run.

    Args:
        labels: [batch, time] int32.
        mask: [batch, time] bool, True = valid.

    Returns:
        [batch, time] bool.
    """
    changed = (labels[:, 1:] != labels[:, :-1]) | ~mask[:, :-1]
    return mask & jnp.pad(changed, ((0, 0), (1, 0)), constant_values=True)


def runs(labels: jax.Array, mask: jax.Array, capacity: int) -> Runs:
    """Finds the runs of equal labels among the valid frames.

    Args:
        labels: [batch, time] int32.
        mask: [batch, time] bool, True = valid.
        capacity: number of slots per sequence, static.

    Returns:
        The first `capacity` runs of every sequence, and the run index of every frame.
    """
    batch, length = labels.shape
    starts = run_starts(labels, mask)
    followed = jnp.pad(mask[:, 1:] & ~starts[:, 1:], ((0, 0), (0, 1)))
    ends = mask & ~followed
    run_of_frame = jnp.where(mask, jnp.cumsum(starts, axis=1, dtype=jnp.int32) - 1, NO_RUN)
    count = jnp.sum(starts, axis=1, dtype=jnp.int32)

    rows = jnp.arange(batch)[:, None]
    frames = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), labels.shape)

    def per_run(values: jax.Array, where: jax.Array) -> jax.Array:
        slots = jnp.where(where, run_of_frame, capacity)  # slots past the end are dropped
        return jnp.zeros((batch, capacity), jnp.int32).at[rows, slots].set(values, mode="drop")

    return Runs(
        run_of_frame=run_of_frame,
        start=per_run(frames, starts),
        end=per_run(frames + 1, ends),
        label=per_run(labels.astype(jnp.int32), starts),
        valid=jnp.arange(capacity) < count[:, None],
        count=count,
    )


def paint(found: Runs, values: jax.Array, otherwise: jax.Array) -> jax.Array:
    """Gives every frame the value of its run.

    Args:
        found: runs of the sequences.
        values: [batch, runs], one value per run.
        otherwise: [batch, time], value of the frames whose run has no slot and of those in no run.

    Returns:
        [batch, time], of the type of `values`.
    """
    held = (found.run_of_frame >= 0) & (found.run_of_frame < found.capacity)
    slots = jnp.clip(found.run_of_frame, 0, found.capacity - 1)
    return jnp.where(held, jnp.take_along_axis(values, slots, axis=1), otherwise.astype(values.dtype))
