"""Non-maximum suppression of scored segments on the host, in the arithmetic of each published code (numpy only).

All groups of candidates (the classes of a video, or of many videos) run in step: pick number k of every group is one
numpy operation over the candidates that are left, so that no compiled extension is needed. `ops/device_nms.py` holds
the same procedure with fixed shapes for the device.

A procedure is a `Suppression`; those of the papers have names (`ACTIONFORMER_SOFT`, `SPOT_SOFT`, ...) and are varied
with `dataclasses.replace`. Segments are [candidates, 2] (start, end) in any unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from actloc_jax.ops import iou
from actloc_jax.ops.iou import Bounds, Overlap

Decay = Literal["hard", "zero", "linear", "gaussian"]
Order = Literal["first", "last", "sorted", "argsort", "swap"]


@dataclasses.dataclass(frozen=True)
class Suppression:
    """What happens to the candidates that overlap the selected one, and in which order candidates are selected.

    The best remaining candidate is selected again and again; the others lose score by their overlap with it.

    Attributes:
        decay: `"hard"` removes a candidate whose overlap reaches the threshold; `"zero"` multiplies its score by 0,
            `"linear"` by 1 - overlap; `"gaussian"` multiplies every score by exp(-overlap^2 / sigma).
        threshold: of the overlap, for all but `"gaussian"`.
        inclusive: whether an overlap equal to the threshold reaches it.
        sigma: of `"gaussian"`.
        divisor: of `"gaussian"`: what overlaps at all is also divided by this (SPOT: scores can grow).
        min_score: a candidate whose score falls below is removed. It is looked at after each selection, so the very
            first selection is kept whatever its score. None: no limit.
        above: candidates must have a score above this to enter. None: all enter.
        positive: selection ends where the best score is not positive.
        selects_last: whether the last candidate that remains is selected, too. In SPOT and AFSD it is lost.
        order: which of equal scores is selected: the `"first"` or the `"last"` in the input; the first after a stable
            sort by descending score (`"sorted"`) or after numpy's `argsort(scores)[::-1]` (`"argsort"`: the last in
            simple sorts, else up to numpy's build and the processor); or the first in an array from which the C++ of
            mmcv and ActionFormer deletes by moving the last element into the hole (`"swap"`).
        overlap: how two segments are compared.
        max_per_class: at most this many selections for each class. None: no limit.
        max_total: at most this many after all classes are sorted by score together. None: no limit.
    """

    decay: Decay = "gaussian"
    threshold: float = 0.5
    inclusive: bool = True
    sigma: float = 0.5
    divisor: float = 1.0
    min_score: float | None = None
    above: float | None = None
    positive: bool = False
    selects_last: bool = True
    order: Order = "first"
    overlap: Overlap = iou.TIOU
    max_per_class: int | None = None
    max_total: int | None = None

    def __post_init__(self) -> None:
        if self.decay not in ("hard", "zero", "linear", "gaussian"):
            raise ValueError(f'decay={self.decay!r} is unknown; use "hard", "zero", "linear" or "gaussian"')
        if self.order not in ("first", "last", "sorted", "argsort", "swap"):
            raise ValueError(f'order={self.order!r} is unknown; use "first", "last", "sorted", "argsort" or "swap"')
        if self.decay == "hard" and self.order == "swap":
            raise ValueError('order="swap" belongs to soft suppression; use "first" with decay="hard"')
        if self.sigma <= 0 or self.threshold <= 0:
            raise ValueError(f"sigma={self.sigma} and threshold={self.threshold} must be positive")

    def reaches(self, overlap: Any) -> Any:
        """Where an overlap reaches the threshold (numpy or JAX)."""
        return overlap >= self.threshold if self.inclusive else overlap > self.threshold

    def weights(self, overlap: Any) -> Any:
        """Factors on the scores of candidates with these overlaps; not for `"hard"` (numpy or JAX)."""
        xp = overlap.__array_namespace__()
        one = xp.ones_like(overlap)
        if self.decay == "zero":
            return xp.where(self.reaches(overlap), 0 * one, one)
        if self.decay == "linear":
            return xp.where(self.reaches(overlap), 1 - overlap, one)
        weights = xp.exp(overlap * overlap / -self.sigma)
        return weights if self.divisor == 1 else xp.where(overlap > 0, weights / self.divisor, one)


ACTIONFORMER_SOFT = Suppression(
    min_score=0.001, order="swap", overlap=iou.EPSILON_TIOU, max_per_class=2000, max_total=2000
)
"""Soft-NMS of ActionFormer, TriDet and the FuSTAL student on THUMOS14 (FuSTAL: 2000 segments, the others 200)."""

ACTIONFORMER_HARD = Suppression("hard", 0.1, above=0.001, overlap=iou.EPSILON_TIOU, max_per_class=2000, max_total=2000)
"""Greedy NMS of the same repositories: scores at or below the minimum are dropped first."""

FUSTAL_GENERATOR = Suppression("hard", 0.5, order="argsort", overlap=iou.INCLUSIVE_TIOU)
"""NMS of CoLA and the FuSTAL generator."""

SPOT_SOFT = Suppression(
    sigma=0.1,
    divisor=0.6,
    positive=True,
    selects_last=False,
    order="sorted",
    overlap=iou.SPOT_OVERLAP,
    max_per_class=100,
)
"""Soft-NMS of SPOT: `nms_thresh` 0.6 is a divisor. Classes are not looked at; results are not sorted by score."""

TALLFORMER_HARD = Suppression("hard", 0.5, inclusive=False)
TALLFORMER_LINEAR = Suppression("linear", 0.5, inclusive=False, min_score=0.001, order="swap")
TALLFORMER_GAUSSIAN = Suppression("gaussian", sigma=0.5, min_score=0.001, order="swap")
"""The alternatives of TALLFormer to `weighted_nms`, run on `shift_classes`."""

AFSD_SOFT = Suppression(
    sigma=0.85, min_score=1e-9, above=1e-9, selects_last=False, overlap=iou.AFSD_TIOU, max_per_class=5000
)
"""Soft-NMS of TALLFormer's ActivityNet detector. Its result is in the order of the rows: sort the indices."""


class Selected(NamedTuple):
    """The candidates that were selected.

    Attributes:
        index: [selected] int64, row of the input.
        scores: [selected] score at the time of selection, of the type of the input.
    """

    index: np.ndarray
    scores: np.ndarray


def suppress(segments: np.ndarray, scores: np.ndarray, rule: Suppression) -> Selected:
    """Suppresses among all candidates, whatever their class.

    Args:
        segments: [candidates, 2] start and end; float32 or float64, which is the type of all the arithmetic.
        scores: [candidates], finite.
        rule: the procedure; its `max_total` is not looked at.

    Returns:
        The selection in order of selection.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    return suppress_groups(segments, scores, [np.arange(len(scores))], rule)[0]


def suppress_classes(segments: np.ndarray, scores: np.ndarray, labels: np.ndarray, rule: Suppression) -> Selected:
    """Suppresses within every class, then sorts all selections by score.

    Args:
        segments, scores, rule: as for `suppress`.
        labels: [candidates] class of each.

    Returns:
        At most `rule.max_total` selections by descending score; equal scores in ascending order of their class, then in
        order of selection.

    Raises:
        ValueError: as for `suppress`.
    """
    segments, scores, members = class_members(segments, scores, labels)
    if len(scores) == 0:
        return Selected(np.zeros(0, np.int64), scores)
    selected = suppress_groups(segments, scores, members, rule)
    index, values = (np.concatenate(parts) for parts in zip(*selected, strict=True))
    return sorted_by_score(index, values, rule.max_total)


def class_members(
    segments: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Candidates as arrays of one floating type, and the rows of each class.

    Args:
        segments: [candidates, 2] start and end.
        scores: [candidates].
        labels: [candidates] class of each.

    Returns:
        Segments, scores, and for every class that occurs, in ascending order, its rows [members] int64.

    Raises:
        ValueError: as for `suppress`.
    """
    segments, scores = _checked(segments, scores)
    labels = np.asarray(labels)
    if labels.shape != scores.shape:
        raise ValueError(f"{len(scores)} candidates need as many labels, found shape {labels.shape}")
    by_class = np.argsort(labels, kind="stable")
    return segments, scores, np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)


def sorted_by_score(index: np.ndarray, scores: np.ndarray, most: int | None) -> Selected:
    """The `most` best of [selected] by descending score (None: all); equal scores keep their order."""
    best = np.argsort(-scores, kind="stable")[:most]
    return Selected(index[best], scores[best])


def suppress_groups(
    segments: np.ndarray, scores: np.ndarray, members: Sequence[np.ndarray], rule: Suppression
) -> list[Selected]:
    """Suppresses within every group of candidates; all groups at once.

    Args:
        segments, scores, rule: as for `suppress`.
        members: rows [members] of the input that belong to each group, in the order that decides between equal scores.

    Returns:
        For each group its selection, in order of selection.

    Raises:
        ValueError: as for `suppress`.
    """
    segments, scores = _checked(segments, scores)
    members = [rows if rule.above is None else rows[scores[rows] > rule.above] for rows in members]
    if rule.order == "last":
        members = [rows[::-1] for rows in members]
    elif rule.order == "sorted":
        members = [rows[np.argsort(-scores[rows], kind="stable")] for rows in members]
    elif rule.order == "argsort":
        members = [rows[np.argsort(scores[rows])[::-1]] for rows in members]
    field = _Field(segments, scores, members, rule)
    limit = max((len(rows) for rows in members), default=0)
    limit = limit if rule.max_per_class is None else min(limit, rule.max_per_class)
    index = np.full((len(members), limit), -1)
    values = np.zeros((len(members), limit), scores.dtype)
    for pick in range(limit):
        if not field.left.any():
            break
        groups, chosen, best = field.select()
        index[groups, pick], values[groups, pick] = chosen, best
    counts = np.count_nonzero(index >= 0, axis=1)
    return [Selected(index[group, :count], values[group, :count]) for group, count in enumerate(counts)]


class _Field:
    """The candidates that remain, one row for each group that is not finished.

    Taken candidates and the padding of short rows have score -inf and lie at infinity, where they overlap nothing.
    """

    def __init__(self, segments: np.ndarray, scores: np.ndarray, members: Sequence[np.ndarray], rule: Suppression):
        self.rule = rule
        self.group = np.flatnonzero([len(rows) > 0 for rows in members])
        self.left = np.array([len(members[group]) for group in self.group], np.int64)
        self.index = np.full((len(self.group), int(self.left.max(initial=0))), -1)
        for row, group in enumerate(self.group):
            self.index[row, : self.left[row]] = members[group]
        # [start, end, length, score; group, candidate]
        self.values = np.stack([*rule.overlap.bounds(segments), scores])[:, np.maximum(self.index, 0)]
        self._bury(*np.nonzero(self.index < 0))

    def select(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Takes the best candidate of every group and lowers the scores of the others.

        Returns:
            The groups that still select, the rows of the input that they take, and the scores of those, [groups] each.
        """
        rows = np.arange(len(self.group))
        best = self.values[3].argmax(axis=1)
        top = self.values[3, rows, best]
        goes_on = self.left > (0 if self.rule.selects_last else 1)
        if self.rule.positive:
            goes_on &= top > 0
        if not goes_on.all():
            self._keep_rows(goes_on)
            rows, best, top = np.arange(len(self.group)), best[goes_on], top[goes_on]
        groups, chosen = self.group, self.index[rows, best]
        selected = Bounds(*self.values[:3, rows, best][..., None])
        self._take(rows, best)
        self._lower(selected)
        self._shrink()
        return groups, chosen, top

    def _keep_rows(self, kept: np.ndarray) -> None:
        """Forgets the groups that are finished."""
        self.group, self.left, self.index = self.group[kept], self.left[kept], self.index[kept]
        self.values = self.values[:, kept]

    def _take(self, rows: np.ndarray, best: np.ndarray) -> None:
        """Removes the selected candidates."""
        self.left = self.left - 1
        if self.rule.order == "swap":
            # the first element takes the place of the selected one, and the array begins one later
            self.values[:, rows, best] = self.values[:, rows, 0]
            self.index[rows, best] = self.index[rows, 0]
            self.values, self.index = self.values[..., 1:], self.index[:, 1:]
        else:
            self._bury(rows, best)

    def _lower(self, selected: Bounds) -> None:
        """Lowers the scores of what overlaps the selected candidates, and removes what falls too low."""
        rule, scores = self.rule, self.values[3]
        overlap = rule.overlap.ratio(selected, Bounds(*self.values[:3]))
        if rule.decay == "hard":
            self._remove(rule.reaches(overlap) | (scores == -np.inf))
            return
        scores *= rule.weights(overlap)
        if rule.min_score is not None:
            self._remove(scores < rule.min_score)

    def _remove(self, low: np.ndarray) -> None:
        """Removes the candidates marked `low`; those that were taken before are among them."""
        width = low.shape[1]
        left = width - np.add.reduce(low, axis=1, dtype=np.int64)
        losers = np.flatnonzero(left < self.left)
        if len(losers) == 0:
            return
        self.left, low = left, low[losers]
        if self.rule.order == "swap":
            # Holes are filled from left to right with the last of the candidates that remain.
            kept = np.arange(width) < left[losers, None]
            rows, holes = np.nonzero(low & kept)
            _, from_the_end = np.nonzero(~(low | kept)[:, ::-1])
            rows, movers = losers[rows], width - 1 - from_the_end
            self.values[:, rows, holes] = self.values[:, rows, movers]
            self.index[rows, holes] = self.index[rows, movers]
            low = ~kept
        rows, columns = np.nonzero(low)
        self._bury(losers[rows], columns)

    def _bury(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Moves candidates to infinity, without score."""
        self.values[:, rows, columns] = np.array([[np.inf], [np.inf], [1.0], [-np.inf]])

    def _shrink(self) -> None:
        """Gives up columns that no group needs any more."""
        widest = int(self.left.max(initial=0))
        if self.rule.order == "swap":
            self.values, self.index = self.values[..., :widest], self.index[:, :widest]
        elif 2 * widest < self.index.shape[1]:
            order = np.argsort(self.values[3] == -np.inf, axis=1, kind="stable")[:, :widest]
            self.index = np.take_along_axis(self.index, order, axis=1)
            self.values = np.take_along_axis(self.values, order[None], axis=2)


def _checked(segments: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates as arrays of one floating type; refuses what cannot be suppressed."""
    segments, scores = np.asarray(segments), np.asarray(scores)
    if segments.ndim != 2 or segments.shape[1] != 2 or scores.shape != segments.shape[:1]:
        raise ValueError(
            f"expected segments [candidates, 2] and scores [candidates], found {segments.shape} and {scores.shape}"
        )
    dtype = np.result_type(segments, scores, np.float32)
    if not (np.isfinite(segments).all() and np.isfinite(scores).all()):
        row = np.flatnonzero(~(np.isfinite(segments).all(axis=1) & np.isfinite(scores)))[0]
        raise ValueError(
            f"candidate {row} is not finite: segment {segments[row].tolist()}, score {scores[row]}; "
            "look for overflow in the network or the decoder"
        )
    return segments.astype(dtype), scores.astype(dtype)


def shift_classes(segments: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Moves every class to a range of its own, so that one suppression treats all classes apart.

    This is how TALLFormer (and torchvision) make `suppress` class-aware; at float32 the shift costs some digits, which
    `suppress_classes` does not.

    Args:
        segments: [candidates, 2]; labels: [candidates].

    Returns:
        [candidates, 2] segments plus label times (largest coordinate + 1).
    """
    segments = np.asarray(segments)
    if len(segments) == 0:
        return segments
    return segments + (np.asarray(labels).astype(segments.dtype) * (segments.max() + 1))[:, None]
