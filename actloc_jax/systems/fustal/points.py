"""The points of the student's pyramid, and which of them belong to which segment.

Source: `dingfengshi/TriDet:libs/modeling/{loc_generators,meta_archs}.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SAME_LENGTH = 1e-3  # segments this much longer than the shortest one are as short


class Points(NamedTuple):
    """One point per step of every level, levels in order; grid units are steps of the finest level.

    Attributes:
        time: float32 [points], grid units.
        low: float32 [points], the smallest distance that a point regresses, grid units.
        high: float32 [points], the largest.
        stride: float32 [points], grid units per step of the level.
    """

    time: np.ndarray
    low: np.ndarray
    high: np.ndarray
    stride: np.ndarray


class Targets(NamedTuple):
    """What every point should say.

    Attributes:
        classes: float32 [batch, points, classes], 1 for the classes of the segments that a point belongs to.
        distances: float32 [batch, points, 2] to start and end in steps of the level; without meaning where no class is.
    """

    classes: jax.Array
    distances: jax.Array


def make_points(length: int, strides: Sequence[int], ranges: Sequence[tuple[float, float]]) -> Points:
    """The points of a pyramid.

    Args:
        length: steps of the finest level, a multiple of every stride.
        strides: of the levels.
        ranges: smallest and largest distance of each level, in grid units.

    Raises:
        ValueError: not as many ranges as levels, or a length that no step of the coarsest level fits.
    """
    if len(strides) != len(ranges):
        raise ValueError(f"{len(ranges)} regression ranges for {len(strides)} levels; expected one each")
    if any(length % stride for stride in strides):
        raise ValueError(f"length {length} is not a multiple of the strides {tuple(strides)}")
    number = [length // stride for stride in strides]
    time = np.concatenate([np.arange(0, length, stride) for stride in strides])
    low, high = np.repeat(np.asarray(ranges), number, axis=0).T
    return Points(*(np.asarray(values, np.float32) for values in (time, low, high, np.repeat(strides, number))))


def assign(
    points: Points, segments: jax.Array, labels: jax.Array, num_classes: int, *, radius: float | None = 1.5
) -> Targets:
    """Gives every point the shortest segment that it lies in and whose boundaries are in its range.

    Segments as short as the shortest one (to `SAME_LENGTH`) add their classes.

    Args:
        points: of the pyramid.
        segments: float32 [batch, number, 2], grid units.
        labels: int32 [batch, number], -1 where there is no segment.
        num_classes: classes.
        radius: a point belongs to a segment only this many steps of its level from the segment's centre; None: anywhere
            inside.
    """
    start, end = segments[:, None, :, 0], segments[:, None, :, 1]
    time, stride = points.time[:, None], points.stride[:, None]
    left, right = time - start, end - time  # [batch, points, number]
    if radius is None:
        inside = jnp.minimum(left, right) > 0
    else:
        centre = 0.5 * (start + end)
        from_start = time - jnp.maximum(centre - stride * radius, start)
        to_end = jnp.minimum(centre + stride * radius, end) - time
        inside = jnp.minimum(from_start, to_end) > 0
    farthest = jnp.maximum(left, right)
    in_range = (farthest >= points.low[:, None]) & (farthest <= points.high[:, None])
    possible = inside & in_range & (labels >= 0)[:, None, :]
    lengths = jnp.where(possible, end - start, jnp.inf)
    if segments.shape[1] == 0:
        shape = (segments.shape[0], len(points.time))
        return Targets(jnp.zeros((*shape, num_classes)), jnp.zeros((*shape, 2)))
    shortest = lengths.min(axis=2, keepdims=True)
    chosen = possible & (lengths <= shortest + SAME_LENGTH)
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)  # zeros for -1
    classes = jnp.minimum(jnp.einsum("bpn,bnc->bpc", chosen.astype(jnp.float32), one_hot), 1)
    best = jnp.argmin(lengths, axis=2)[:, :, None]
    distances = jnp.concatenate([jnp.take_along_axis(side, best, axis=2) for side in (left, right)], axis=2)
    return Targets(classes, distances / stride)
