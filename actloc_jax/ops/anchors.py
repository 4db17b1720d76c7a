"""Temporal anchors: where they are, which segment each of them belongs to, and segments in terms of them.

Source: `klauscc/TALLFormer:vedatad/models/mesh_grids`, `vedatad/misc/segment/{assigners,coders}`. Segments are
(start, end) in frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.ops import iou

Array = Any
"""A `numpy.ndarray` or a `jax.Array`."""

IGNORED = -1
BACKGROUND = 0
LARGEST_LOG_LENGTH = 1.0  # a segment is at most e times as long as its anchor


@dataclasses.dataclass(frozen=True)
class AnchorShapes:
    """The anchors of every row of every level.

    Attributes:
        strides: frames per row of each level.
        scale: length of the shortest anchor of a row, in strides.
        per_octave: anchors of a row; lengths grow by equal factors, and the next would be twice the first.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    scale: float = 2.0
    per_octave: int = 5

    def around_zero(self, stride: int) -> np.ndarray:
        """The anchors of row 0: float32 [per_octave, 2]."""
        factors = (self.scale * 2.0 ** (np.arange(self.per_octave) / self.per_octave)).astype(np.float32)
        half = np.float32(0.5) * np.float32(stride) * factors
        return np.stack([-half, half], axis=1)


class Anchors(NamedTuple):
    """All anchors of a window: levels in order, in each level row by row.

    Attributes:
        segments: float32 [anchors, 2], frames of the window; they may stick out of it.
        inside: bool [anchors], whether their row has frames of the window before its padding.
        ends: one past the last anchor of every level.
    """

    segments: np.ndarray
    inside: np.ndarray
    ends: tuple[int, ...]

    def levels(self, values: Array) -> list[Array]:
        """Splits [..., anchors, values] into its levels."""
        return [values[..., begin:end, :] for begin, end in zip((0, *self.ends), self.ends, strict=False)]


def make_anchors(lengths: Sequence[int], shapes: AnchorShapes, frames: int | None = None) -> Anchors:
    """The anchors of a window. Those of row r are centred at frame r * stride, without half a stride, as published.

    Args:
        lengths: rows of each level.
        shapes: strides and lengths.
        frames: of the window, its padding included; rows that begin after them have no anchors `inside`. None: all
            rows count.

    Raises:
        ValueError: not as many lengths as strides.
    """
    if len(lengths) != len(shapes.strides):
        raise ValueError(f"{len(lengths)} levels, but anchors for {len(shapes.strides)}: strides {shapes.strides}")
    segments, inside = [], []
    for length, stride in zip(lengths, shapes.strides, strict=True):
        rows = np.arange(length)
        shifted = shapes.around_zero(stride) + (rows * stride).astype(np.float32)[:, None, None]
        segments.append(shifted.reshape(-1, 2))
        inside.append(np.repeat(rows * stride < (np.inf if frames is None else frames), shapes.per_octave))
    ends = np.cumsum([len(part) for part in segments])
    return Anchors(np.concatenate(segments), np.concatenate(inside), tuple(int(end) for end in ends))


def encode(anchors: Array, segments: Array) -> Array:
    """Segments [..., 2] as deltas of their anchors [..., 2]: shift of the centre in lengths, and log length."""
    xp = anchors.__array_namespace__()
    centre, length = _centre_and_length(anchors)
    other_centre, other_length = _centre_and_length(segments)
    return xp.stack([(other_centre - centre) / length, xp.log(other_length / length)], axis=-1)


def decode(anchors: Array, deltas: Array, end: float | None = None) -> Array:
    """The inverse of `encode`; log lengths are limited to `LARGEST_LOG_LENGTH`.

    Args:
        anchors: [..., anchors, 2]; deltas: [..., anchors, 2], of one namespace.
        end: where given, segments are clipped to 0..end.
    """
    xp = deltas.__array_namespace__()
    centre, length = _centre_and_length(anchors)
    new_length = length * xp.exp(xp.minimum(deltas[..., 1], LARGEST_LOG_LENGTH))
    new_centre = centre + length * deltas[..., 0]
    segments = xp.stack([new_centre - 0.5 * new_length, new_centre + 0.5 * new_length], axis=-1)
    return segments if end is None else xp.clip(segments, 0, end)


def _centre_and_length(segments: Array) -> tuple[Array, Array]:
    return 0.5 * (segments[..., 0] + segments[..., 1]), segments[..., 1] - segments[..., 0]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """When an anchor belongs to a segment.

    Attributes:
        positive: least overlap with which it does.
        negative: an anchor that overlaps every segment less is background; between the two it is ignored.
        claims_without_overlap: a segment claims the anchors that overlap it best even if that overlap is 0, so that a
            segment of no length makes all anchors positive that touch no other (published). False: only with overlap.
    """

    positive: float = 0.6
    negative: float = 0.4
    claims_without_overlap: bool = True


class Assigned(NamedTuple):
    """Which segment each anchor belongs to.

    Attributes:
        segment: int32 [batch, anchors]: the number of the segment, counted from 1; `BACKGROUND`; or `IGNORED`.
        overlap: float32 [batch, anchors] with the segment that overlaps it best; 0 where there is none.
    """

    segment: jax.Array
    overlap: jax.Array


def assign(anchors: np.ndarray, segments: jax.Array, valid: jax.Array, rule: Assignment) -> Assigned:
    """Gives every anchor the segment that it overlaps enough, then every segment the anchors that overlap it best.

    In the second step later segments overrule earlier ones and the first step.

    Args:
        anchors: float32 [anchors, 2].
        segments: float32 [batch, slots, 2].
        valid: [batch, slots] bool, False for empty slots.
        rule: thresholds.
    """
    batch, slots = valid.shape
    if slots == 0:
        shape = (batch, len(anchors))
        return Assigned(jnp.full(shape, BACKGROUND, jnp.int32), jnp.zeros(shape, jnp.float32))
    # The barrier: a fused program may compute an overlap twice, with other roundings, and then it equals no maximum.
    overlaps = jax.lax.optimization_barrier(iou.FLOORED_TIOU(segments[:, :, None, :], jnp.asarray(anchors)))
    overlaps = jnp.where(valid[:, :, None], overlaps, -1.0)
    nearest = jnp.maximum(overlaps.max(axis=1), 0.0)
    number = jnp.argmax(overlaps, axis=1).astype(jnp.int32) + 1
    assigned = jnp.where(nearest < rule.negative, BACKGROUND, IGNORED)
    assigned = jnp.where(nearest >= rule.positive, number, assigned)

    best = overlaps.max(axis=2, keepdims=True)
    claimed = (overlaps == best) & valid[:, :, None]
    if not rule.claims_without_overlap:
        claimed &= best > 0
    last = slots - jnp.argmax(claimed[:, ::-1], axis=1).astype(jnp.int32)
    return Assigned(jnp.where(claimed.any(axis=1), last, assigned), nearest)
