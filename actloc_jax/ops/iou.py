"""Temporal overlap of segments, in every arithmetic that the published code uses (numpy and JAX arrays alike).

Temporal intersection over union is one line, but the repositories disagree in details that decide which detection
survives: a length with or without an epsilon, ends that count as one more unit, the hull in place of the union. Each
variant is an `Overlap` with a name. A segment is (start, end) in whatever unit the caller uses; only `INCLUSIVE_TIOU`
depends on that unit.

This module imports neither numpy nor JAX: it computes with the namespace of the arrays it is given.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

Array = Any
"""A `numpy.ndarray` or a `jax.Array`."""


class Bounds(NamedTuple):
    """Segments as three arrays of one shape (or of shapes that broadcast).

    Attributes:
        start: first instant.
        end: last instant.
        length: length as the overlap measures it, see `Overlap.bounds`.
    """

    start: Array
    end: Array
    length: Array


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Intersection over union and its variants.

    Where both segments have length zero and nothing is added to the denominator, the ratio 0/0 is taken as 0: two
    instants share nothing.

    Attributes:
        denominator: what the intersection is divided by: the union of the two, their hull (equal to the union where
            they overlap), or the length of the first alone.
        added: added to every length and to the intersection, for ends that belong to the segment ("+1").
        length_epsilon: added to the lengths, not to the intersection.
        denominator_epsilon: added to the denominator.
        least_denominator: the denominator is at least this.
        least_length: the first segment counts as at least this long.
    """

    denominator: Literal["union", "hull", "first"] = "union"
    added: float = 0.0
    length_epsilon: float = 0.0
    denominator_epsilon: float = 0.0
    least_denominator: float = 0.0
    least_length: float = 0.0

    def __post_init__(self) -> None:
        if self.denominator not in ("union", "hull", "first"):
            raise ValueError(f'denominator={self.denominator!r} is unknown; use "union", "hull" or "first"')

    def bounds(self, segments: Array) -> Bounds:
        """Splits segments [..., 2] (start, end) into arrays [...] and measures their lengths."""
        start, end = segments[..., 0], segments[..., 1]
        return Bounds(start, end, end - start + (self.added + self.length_epsilon))

    def ratio(self, first: Bounds, second: Bounds) -> Array:
        """Overlap of every pair, of the shape that the arrays of the two arguments broadcast to."""
        xp = second.start.__array_namespace__()
        intersection = xp.minimum(first.end, second.end) - xp.maximum(first.start, second.start)
        if self.added:
            intersection = intersection + self.added
        intersection = xp.maximum(intersection, 0.0)
        first_length = xp.maximum(first.length, self.least_length) if self.least_length else first.length
        if self.denominator == "union":
            denominator = first_length + second.length - intersection
        elif self.denominator == "hull":
            denominator = xp.maximum(first.end, second.end) - xp.minimum(first.start, second.start)
        else:
            denominator = first_length + xp.zeros_like(intersection)
        if self.denominator_epsilon:
            denominator = denominator + self.denominator_epsilon
        if self.least_denominator:
            denominator = xp.maximum(denominator, self.least_denominator)
        if not self._is_positive:
            denominator = xp.where(denominator == 0, xp.ones_like(denominator), denominator)
        return intersection / denominator

    def __call__(self, first: Array, second: Array) -> Array:
        """Overlap of segments that broadcast.

        Args:
            first, second: [..., 2] start and end, of one namespace and a floating type.

        Returns:
            [...] in 0..1 (the "first" denominator included). `overlap(a[:, None], b)` is the matrix of all pairs.
        """
        return self.ratio(self.bounds(first), self.bounds(second))

    @property
    def _is_positive(self) -> bool:
        """Whether no pair of segments with start <= end has a denominator of zero."""
        return any((self.added, self.length_epsilon, self.denominator_epsilon, self.least_denominator))


@dataclasses.dataclass(frozen=True)
class SpotOverlap(Overlap):
    """The overlap of SPOT's soft-NMS (`sauradip/SPOT:utils/postprocess_utils.py`), which is no IoU.

    0 where the segments do not touch, else `(min(e1, e2) - min(s1, s2)) / (max(e1, e2) - min(e1, e2) + e2 - s2)`. It is
    asymmetric and exceeds 1 where the second segment is nested or starts late.
    """

    def ratio(self, first: Bounds, second: Bounds) -> Array:
        """As `Overlap.ratio`, of the same shape; `first` is the selected segment."""
        xp = second.start.__array_namespace__()
        earlier_end = xp.minimum(first.end, second.end)
        numerator = earlier_end - xp.minimum(first.start, second.start)
        denominator = xp.maximum(first.end, second.end) - earlier_end + second.length
        touching = (second.start <= first.end) & (first.start <= second.end) & (denominator != 0)
        return xp.where(touching, numerator / xp.where(touching, denominator, 1.0), 0.0)


TIOU = Overlap()
"""Plain temporal IoU: the ActivityNet evaluation, voting, DETAD."""

EPSILON_TIOU = Overlap(length_epsilon=1e-6)
"""NMS of ActionFormer, TriDet and the FuSTAL student (`libs/utils/csrc/nms_cpu.cpp`)."""

INCLUSIVE_TIOU = Overlap(added=1.0)
"""NMS of CoLA and the FuSTAL generator: lengths and intersection count one more, although the unit is seconds."""

HULL_TIOU = Overlap("hull", denominator_epsilon=1e-9)
"""Proposal filter of FuSTAL: intersection over hull."""

FLOORED_TIOU = Overlap(least_denominator=1e-6)
"""TALLFormer's `segment_overlaps`, used by its weighting NMS, its assigner and its evaluation."""

FLOORED_COVERAGE = Overlap("first", least_denominator=1e-6)
"""The same in the mode "iof": share of the first segment that the second covers."""

AFSD_TIOU = Overlap(least_length=1e-5)
"""Soft-NMS of AFSD, TALLFormer's ActivityNet detector: the selected segment is at least 1e-5 long."""

SPOT_OVERLAP = SpotOverlap()
"""Soft-NMS of SPOT."""
