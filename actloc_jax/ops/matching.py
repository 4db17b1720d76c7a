"""Matching predicted runs with true runs on the device: overlap scores and exact minimum-cost assignment.

The assignment repeats SciPy's `linear_sum_assignment` (shortest augmenting paths: D. F. Crouse, "On implementing 2D
rectangular assignment algorithms", IEEE Transactions on Aerospace and Electronic Systems 52(4), 2016), down to the
order in which it visits columns, so that ties between equally good assignments fall the same way. SciPy works in
float64; here each number is an unevaluated sum of two float32, which holds the sums of overlap scores exactly and
needs no 64-bit mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from actloc_jax.ops.segments import Runs

UNMATCHED = -1


def overlap_scores(predicted: Runs, truth: Runs) -> jax.Array:
    """Overlap of every predicted run with every true run, labels ignored (TST, `tst/matcher.py`).

    The score is the number of common frames over (last - first) frame of the union, at least 1. The denominator counts
    steps between frames, one less than the union's length, so that a score may exceed 1.

    Args:
        predicted: runs of the predicted labels, `[batch, predicted]` slots.
        truth: runs of the true labels, `[batch, truth]` slots.

    Returns:
        [batch, predicted, truth] float32; 0 where nothing overlaps and for empty slots.
    """
    return _overlap(
        predicted.start[:, :, None], predicted.end[:, :, None], truth.start[:, None, :], truth.end[:, None, :]
    )


def match_runs(predicted: Runs, truth: Runs) -> jax.Array:
    """One-to-one matching of predicted and true runs with the largest total overlap score.

    Scores are computed when the solver asks for them, so that large capacities cost little.

    Args:
        predicted: runs of the predicted labels, `[batch, predicted]` slots.
        truth: runs of the true labels, `[batch, truth]` slots.

    Returns:
        [batch, predicted] int32: index of the matched true run; -1 for runs without one, which includes pairs that the
        assignment made although they share no frame, and empty slots.
    """
    side = max(predicted.capacity, truth.capacity)

    def match_one(predicted: Runs, truth: Runs) -> jax.Array:
        rows = jnp.minimum(predicted.count, predicted.valid.shape[0])
        columns = jnp.minimum(truth.count, truth.valid.shape[0])
        flipped = columns < rows
        p_start, p_end, t_start, t_end = (
            jnp.pad(edge, (0, side - edge.shape[0]))
            for edge in (predicted.start, predicted.end, truth.start, truth.end)
        )
        row_start, row_end = jnp.where(flipped, t_start, p_start), jnp.where(flipped, t_end, p_end)
        column_start, column_end = jnp.where(flipped, p_start, t_start), jnp.where(flipped, p_end, t_end)

        def row_cost(row: jax.Array) -> jax.Array:
            return -_overlap(row_start[row], row_end[row], column_start, column_end)

        chosen = _assign_rows(row_cost, side, rows, columns)
        partner = jnp.maximum(chosen, 0)
        shared = _overlap(p_start, p_end, t_start[partner], t_end[partner]) > 0
        return jnp.where((chosen >= 0) & shared, chosen, UNMATCHED)

    return jax.vmap(match_one)(predicted, truth)[:, : predicted.capacity]


def assign(cost: jax.Array, num_rows: jax.Array, num_columns: jax.Array) -> jax.Array:
    """Exact minimum-cost assignment of the top left block of every matrix; ties as SciPy's `linear_sum_assignment`.

    Not differentiable: the result is an index, and gradients of `cost` are cut.

    Args:
        cost: [batch, rows, columns] float32, finite.
        num_rows: [batch] int32, rows that count in every matrix, at most `rows`.
        num_columns: [batch] int32, columns that count in every matrix, at most `columns`.

    Returns:
        [batch, rows] int32: column assigned to every row, -1 where none is.
    """
    rows, columns = cost.shape[1:]
    side = max(rows, columns)
    square = jnp.pad(lax.stop_gradient(cost), ((0, 0), (0, side - rows), (0, side - columns)))

    def assign_one(cost: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
        upright = jnp.where(columns < rows, cost.T, cost)
        return _assign_rows(lambda row: upright[row], side, rows, columns)

    return jax.vmap(assign_one)(square, num_rows, num_columns)[:, :rows]


def _overlap(start: jax.Array, end: jax.Array, other_start: jax.Array, other_end: jax.Array) -> jax.Array:
    """Overlap score of intervals [start, end), broadcast against each other; float32."""
    common = jnp.minimum(end, other_end) - jnp.maximum(start, other_start)
    steps = jnp.maximum(end, other_end) - jnp.minimum(start, other_start) - 1
    return jnp.maximum(common, 0).astype(jnp.float32) / jnp.maximum(steps, 1).astype(jnp.float32)


class _Exact(NamedTuple):
    """Numbers as the unevaluated sum of two float32, `high` being the sum rounded to float32."""

    high: jax.Array
    low: jax.Array


class _Search(NamedTuple):
    """State of the search for one shortest augmenting path. All vectors have one entry per row or column."""

    row: jax.Array  # [] int32, row whose edges are relaxed next
    reached: _Exact  # [], length of the shortest path to that row
    distance: _Exact  # [columns], shortest path found so far to every column
    previous: jax.Array  # [columns] int32, row before the column on that path
    order: jax.Array  # [columns] int32, place in the list of columns to visit; _VISITED or _ABSENT when not in it
    waiting: jax.Array  # [] int32, length of that list
    seen_rows: jax.Array  # [rows] bool
    sink: jax.Array  # [] int32, the free column that ends the path, -1 while there is none


class _Duals(NamedTuple):
    """Partial assignment with its dual variables."""

    row_price: _Exact  # [rows]
    column_price: _Exact  # [columns]
    column_of_row: jax.Array  # [rows] int32, -1 while unassigned
    row_of_column: jax.Array  # [columns] int32, -1 while unassigned


RowCost = Callable[[jax.Array], jax.Array]  # row index to the costs of its columns, [side] float32
_VISITED = 2**30
_ABSENT = _VISITED + 1


def _assign_rows(row_cost: RowCost, side: int, num_rows: jax.Array, num_columns: jax.Array) -> jax.Array:
    """`assign` for one matrix given by its rows, or by its columns if they are fewer.

    Returns:
        [side] int32: column assigned to every row, -1 where none is.
    """
    # The algorithm inserts rows one after the other and wants no more rows than columns.
    short, long = jnp.minimum(num_rows, num_columns), jnp.maximum(num_rows, num_columns)

    def insert_row(row: jax.Array, duals: _Duals) -> _Duals:
        search = _shortest_path(row_cost, row, long, duals)
        return _augment(search, _raise_prices(row, search, duals))

    zeros = _Exact(jnp.zeros(side), jnp.zeros(side))
    nobody = jnp.full(side, UNMATCHED, jnp.int32)
    duals = lax.fori_loop(0, short, insert_row, _Duals(zeros, zeros, nobody, nobody))
    return jnp.where(num_columns < num_rows, duals.row_of_column, duals.column_of_row)


def _shortest_path(row_cost: RowCost, row: jax.Array, num_columns: jax.Array, duals: _Duals) -> _Search:
    """Dijkstra's search from a new row to the nearest free column, over reduced costs."""
    side = duals.row_of_column.shape[0]
    columns = jnp.arange(side, dtype=jnp.int32)

    def relax(search: _Search) -> _Search:
        waiting = search.order < search.waiting
        base = _subtract(search.reached, _at(duals.row_price, search.row))
        reduced = _subtract(_add(base, _Exact(row_cost(search.row), jnp.zeros(side))), duals.column_price)
        nearer = waiting & _less(reduced, search.distance)
        distance = _where(nearer, reduced, search.distance)
        previous = jnp.where(nearer, search.row, search.previous)

        nearest_high = jnp.min(jnp.where(waiting, distance.high, jnp.inf))
        nearest = waiting & (distance.high == nearest_high)
        nearest_low = jnp.min(jnp.where(nearest, distance.low, jnp.inf))
        nearest &= distance.low == nearest_low
        # SciPy walks its list of columns in order and keeps the first of the nearest, except that every free one that
        # is as near replaces what was kept: so the last free one wins, else the first.
        free = nearest & (duals.row_of_column < 0)
        last_free = jnp.argmax(jnp.where(free, search.order, -1))
        first = jnp.argmin(jnp.where(nearest, search.order, _ABSENT))
        column = jnp.where(jnp.any(free), last_free, first).astype(jnp.int32)
        owner = duals.row_of_column[column]

        # The column leaves the list; SciPy fills its place with the list's last entry.
        order = jnp.where(search.order == search.waiting - 1, search.order[column], search.order)
        return _Search(
            row=jnp.where(owner < 0, search.row, owner),
            reached=_Exact(nearest_high, nearest_low),
            distance=distance,
            previous=previous,
            order=jnp.where(columns == column, _VISITED, order),
            waiting=search.waiting - 1,
            seen_rows=search.seen_rows | (columns == search.row),
            sink=jnp.where(owner < 0, column, UNMATCHED),
        )

    start = _Search(
        row=row,
        reached=_Exact(jnp.float32(0), jnp.float32(0)),
        distance=_Exact(jnp.full(side, jnp.inf), jnp.zeros(side)),
        previous=jnp.full(side, UNMATCHED, jnp.int32),
        order=jnp.where(columns < num_columns, num_columns - 1 - columns, _ABSENT),
        waiting=num_columns,
        seen_rows=jnp.zeros(side, bool),
        sink=jnp.int32(UNMATCHED),
    )
    return lax.while_loop(lambda search: (search.sink < 0) & (search.waiting > 0), relax, start)


def _raise_prices(row: jax.Array, search: _Search, duals: _Duals) -> _Duals:
    """Moves the dual variables so that the path found has reduced cost zero."""
    slack = _subtract(search.reached, search.distance)  # infinite where not reached, and not used there
    of_row = _at(slack, jnp.maximum(duals.column_of_row, 0))
    is_new = jnp.arange(search.seen_rows.shape[0]) == row
    raised = _add(duals.row_price, _where(is_new, search.reached, of_row))
    lowered = _subtract(duals.column_price, slack)
    return duals._replace(
        row_price=_where(search.seen_rows, raised, duals.row_price),
        column_price=_where(search.order == _VISITED, lowered, duals.column_price),
    )


def _augment(search: _Search, duals: _Duals) -> _Duals:
    """Flips the assignment along the path, from the free column back to the new row."""

    def flip(state):
        column, column_of_row, row_of_column = state
        owner = search.previous[column]
        return column_of_row[owner], column_of_row.at[owner].set(column), row_of_column.at[column].set(owner)

    # The new row is the only one on the path without a column: reaching it yields -1.
    state = (search.sink, duals.column_of_row, duals.row_of_column)
    _, column_of_row, row_of_column = lax.while_loop(lambda state: state[0] >= 0, flip, state)
    return duals._replace(column_of_row=column_of_row, row_of_column=row_of_column)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rounded sum and its exact error (D. E. Knuth, The Art of Computer Programming 2, section 4.2.2)."""
    total = a + b
    seen_b = total - a
    return total, (a - (total - seen_b)) + (b - seen_b)


def _add(a: _Exact, b: _Exact) -> _Exact:
    total, error = _two_sum(a.high, b.high)
    low, low_error = _two_sum(a.low, b.low)
    total, error = _two_sum(total, error + low)
    return _Exact(*_two_sum(total, error + low_error))


def _subtract(a: _Exact, b: _Exact) -> _Exact:
    return _add(a, _Exact(-b.high, -b.low))


def _less(a: _Exact, b: _Exact) -> jax.Array:
    return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low))


def _where(condition: jax.Array, a: _Exact, b: _Exact) -> _Exact:
    return _Exact(jnp.where(condition, a.high, b.high), jnp.where(condition, a.low, b.low))


def _at(value: _Exact, index: jax.Array) -> _Exact:
    return _Exact(value.high[index], value.low[index])
