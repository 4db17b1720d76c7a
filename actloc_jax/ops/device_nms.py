"""Non-maximum suppression with fixed shapes: inside jitted functions, and as the fast path on the host.

The same procedures as in `ops/nms.py`, from the same `Suppression`: any number of sets of candidates (classes, videos)
is suppressed at once, each in a fixed number of slots. The two agree except for the last bits of an exponential, and
except for equal scores: `order="swap"` selects the first and `"argsort"` the last of them here. Scores below 1e-38 may
be zero here, which ends a selection of positive scores earlier.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.ops import nms
from actloc_jax.ops.iou import Bounds
from actloc_jax.ops.nms import Suppression

HALVINGS = 2  # how often the candidates that remain are moved together once half of the slots are free,
HALVED_FROM = 256  # if there are at least so many slots: each halving compiles the loop once more
LEAST_SLOTS = 64  # fewer slots for each class are not worth a compilation of their own


class Selected(NamedTuple):
    """Selections of a number of sets, in order of selection; empty slots come last.

    Attributes:
        index: [..., picks] int32, position of the candidate; 0 in empty slots.
        scores: [..., picks] float, score at the time of selection; 0 in empty slots.
        valid: [..., picks] bool, True where the slot holds a selection.
    """

    index: jax.Array
    scores: jax.Array
    valid: jax.Array


class _State(NamedTuple):
    """What changes from pick to pick.

    Attributes:
        pick: int32, number of picks so far.
        left: int32, largest number of candidates that remain in a set.
        remaining: [sets, slots] scores, -inf where a candidate is taken or removed.
        index: [picks, sets] int32, selected candidates so far, -1 where none.
        scores: [picks, sets] their scores.
    """

    pick: jax.Array
    left: jax.Array
    remaining: jax.Array
    index: jax.Array
    scores: jax.Array


@functools.partial(jax.jit, static_argnames=("rule", "picks"))
def suppress(segments: jax.Array, scores: jax.Array, valid: jax.Array, rule: Suppression, picks: int) -> Selected:
    """Suppresses in each of the sets on its own.

    Args:
        segments: [..., candidates, 2] float start and end.
        scores: [..., candidates] float, finite where valid.
        valid: [..., candidates] bool, False where a slot holds no candidate.
        rule: the procedure, static. Its `max_per_class` applies; its `max_total` does not.
        picks: number of slots of the result, static.

    Returns:
        The selections.

    Raises:
        ValueError: no pick, or no slot for a candidate.
    """
    candidates = scores.shape[-1]
    if picks < 1 or candidates < 1:
        raise ValueError(f"expected at least one pick and one candidate slot, found {picks} and {candidates}")
    sets = scores.shape[:-1]
    segments, scores = segments.reshape(-1, candidates, 2), scores.reshape(-1, candidates)
    valid = valid.reshape(scores.shape)
    if rule.above is not None:
        valid &= scores > rule.above
    remaining = jnp.where(valid, scores, -jnp.inf)
    position = _order(remaining, rule)
    remaining = _take(remaining, position)
    bounds = Bounds(*(_take(bound, position) for bound in rule.overlap.bounds(segments)))
    state = _State(
        pick=jnp.int32(0),
        left=_count(remaining).max(initial=0),
        remaining=remaining,
        index=jnp.full((picks, len(scores)), -1, jnp.int32),
        scores=jnp.zeros((picks, len(scores)), scores.dtype),
    )
    limit = min(picks, rule.max_per_class or picks)
    halvings = HALVINGS if candidates >= HALVED_FROM else 0
    for halving in range(halvings + 1):
        enough = 0 if halving == halvings else state.remaining.shape[1] // 2
        state = jax.lax.while_loop(
            lambda state, enough=enough: (state.pick < limit) & (state.left > enough),
            functools.partial(_select, rule=rule, bounds=bounds, position=position),
            state,
        )
        # What remains moves to the front in its order, so that the next picks look at half as many slots.
        front = jnp.argsort(state.remaining == -jnp.inf, axis=-1, stable=True)[:, :enough]
        bounds, position = Bounds(*(_take(bound, front) for bound in bounds)), _take(position, front)
        state = state._replace(remaining=_take(state.remaining, front))
    index, values = (array.T.reshape(*sets, picks) for array in (state.index, state.scores))
    return Selected(jnp.maximum(index, 0), values, index >= 0)


def _order(remaining: jax.Array, rule: Suppression) -> jax.Array:
    """[sets, candidates] int32: the candidates in the order in which the first of equal scores is selected."""
    positions = jnp.broadcast_to(jnp.arange(remaining.shape[-1], dtype=jnp.int32), remaining.shape)
    if rule.order in ("last", "argsort"):
        return positions[:, ::-1]
    if rule.order == "sorted":
        return jnp.argsort(-remaining, axis=-1, stable=True).astype(jnp.int32)
    return positions


def _take(values: jax.Array, columns: jax.Array) -> jax.Array:
    """Columns of every row."""
    return jnp.take_along_axis(values, columns, axis=-1)


def _count(remaining: jax.Array) -> jax.Array:
    """[sets] int32, number of candidates that remain."""
    return (remaining > -jnp.inf).sum(axis=-1, dtype=jnp.int32)


def _select(state: _State, *, rule: Suppression, bounds: Bounds, position: jax.Array) -> _State:
    """One selection in every set that still has candidates."""
    remaining = state.remaining
    slots = jnp.arange(remaining.shape[1], dtype=jnp.int32)
    top = remaining.max(axis=-1, keepdims=True)
    # the first maximum; two plain reductions are twice as fast on CPU as argmax
    best = jnp.where(remaining == top, slots, remaining.shape[1]).min(axis=-1, keepdims=True)
    stops = top == -jnp.inf
    if rule.positive:
        stops |= top <= 0
    if not rule.selects_last:
        stops |= _count(remaining)[:, None] < 2
    overlap = rule.overlap.ratio(Bounds(*(_take(bound, best) for bound in bounds)), bounds)
    removed = stops | (slots == best) | (remaining == -jnp.inf)
    if rule.decay == "hard":
        removed |= rule.reaches(overlap)
    else:
        remaining = remaining * rule.weights(overlap)
        if rule.min_score is not None:
            removed |= remaining < rule.min_score
    return _State(
        pick=state.pick + 1,
        left=(~removed).sum(axis=-1, dtype=jnp.int32).max(),
        remaining=jnp.where(removed, -jnp.inf, remaining),
        index=state.index.at[state.pick].set(jnp.where(stops, -1, _take(position, best))[:, 0]),
        scores=state.scores.at[state.pick].set(jnp.where(stops, 0, top)[:, 0]),
    )


def suppress_classes(segments: np.ndarray, scores: np.ndarray, labels: np.ndarray, rule: Suppression) -> nms.Selected:
    """`nms.suppress_classes` on the device, several times as fast for some thousand candidates; float32.

    The number of classes and the candidates of each are padded to powers of two, so that few shapes are compiled.

    Args:
        segments, scores, labels, rule: as there.

    Returns:
        As there.

    Raises:
        ValueError: as there.
    """
    segments, scores, members = nms.class_members(segments, scores, labels)
    if len(scores) == 0:
        return nms.Selected(np.zeros(0, np.int64), scores)
    widest = max(len(rows) for rows in members)
    slots = max(LEAST_SLOTS, 1 << (widest - 1).bit_length())
    index = np.full((1 << (len(members) - 1).bit_length(), slots), -1)
    for row, rows in enumerate(members):
        index[row, : len(rows)] = rows
    picks = min(slots, rule.max_per_class or slots)
    found = suppress(segments[index], scores[index], index >= 0, rule, picks)
    valid, values = np.asarray(found.valid), np.asarray(found.scores)
    chosen = np.take_along_axis(index, np.asarray(found.index), axis=1)
    return nms.sorted_by_score(chosen[valid], values[valid], rule.max_total)
