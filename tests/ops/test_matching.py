"""Assignment on the device against SciPy, ties included; overlap scores; matching of runs."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from actloc_jax.ops import matching, segments

ROWS, COLUMNS = 12, 9  # of every array, so that one compilation serves all examples
assign = jax.jit(matching.assign)
find = jax.jit(segments.runs, static_argnums=2)
match = jax.jit(matching.match_runs)

# Few distinct values make ties; in plain float32, sums of tenths or thirds round apart and the tests of those fail.
COSTS = {
    "real": lambda rng, shape: rng.normal(size=shape),
    "wide": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.integers(-6, 6, shape),
    "integer": lambda rng, shape: rng.integers(0, 3, shape),
    "tenths": lambda rng, shape: rng.integers(-4, 5, shape) * 0.1,
    "fractions": lambda rng, shape: -rng.integers(0, 8, shape) / rng.integers(1, 8, shape),
    "sparse": lambda rng, shape: -(rng.random(shape) < 0.2).astype(float) * rng.integers(1, 4, shape) / 3,
    "constant": lambda rng, shape: np.full(shape, -0.5),
}


def _scipy(cost: np.ndarray, rows: int) -> np.ndarray:
    columns = np.full(rows, matching.UNMATCHED)
    by_row, by_column = linear_sum_assignment(cost)
    columns[by_row] = by_column
    return columns


@pytest.mark.parametrize("kind", COSTS)
@given(seed=st.integers(0, 2**32 - 1))
def test_assignment_equals_scipys(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    videos = 16
    cost = COSTS[kind](rng, (videos, ROWS, COLUMNS)).astype(np.float32)
    rows, columns = rng.integers(0, ROWS + 1, videos), rng.integers(0, COLUMNS + 1, videos)
    found = np.asarray(assign(cost, jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32)))
    expected = [_scipy(cost[i, : rows[i], : columns[i]], ROWS) for i in range(videos)]
    np.testing.assert_array_equal(found, expected)


def test_costs_have_no_gradient() -> None:
    def total(cost: jax.Array) -> jax.Array:
        columns = matching.assign(cost, jnp.array([2]), jnp.array([2]))
        return jnp.sum(columns * 1.0) + jnp.sum(cost)

    np.testing.assert_array_equal(jax.grad(total)(jnp.eye(2)[None]), np.ones((1, 2, 2)))


def _score(p: tuple[int, int], g: tuple[int, int]) -> float:
    """The definition, with inclusive ends."""
    common = len(set(range(p[0], p[1] + 1)) & set(range(g[0], g[1] + 1)))
    return common / max(max(p[1], g[1]) - min(p[0], g[0]), 1) if common else 0.0


def _intervals(labels: list[int]) -> list[tuple[int, int]]:
    cuts = [0, *(t for t in range(1, len(labels)) if labels[t] != labels[t - 1]), len(labels)]
    return [(start, end - 1) for start, end in itertools.pairwise(cuts)]


FRAMES, SLOTS, FEWER = 14, 14, 8
labels = st.lists(st.integers(0, 2), min_size=FRAMES, max_size=FRAMES)


@given(labels, labels, st.integers(1, FRAMES))
def test_runs_are_matched_as_the_definition_says(predicted: list[int], truth: list[int], frames: int) -> None:
    mask = jnp.arange(FRAMES)[None] < frames
    found = [find(jnp.array([one]), mask, SLOTS) for one in (predicted, truth)]
    p, g = _intervals(predicted[:frames]), _intervals(truth[:frames])
    scores = np.array([[_score(one, other) for other in g] for one in p], np.float32)
    np.testing.assert_allclose(matching.overlap_scores(*found)[0, : len(p), : len(g)], scores, rtol=1e-6)

    expected = np.full(SLOTS, matching.UNMATCHED)
    for row, column in zip(*linear_sum_assignment(-scores), strict=True):
        if scores[row, column] > 0:
            expected[row] = column
    np.testing.assert_array_equal(match(*found)[0], expected)
    if len(g) <= FEWER:
        np.testing.assert_array_equal(match(found[0], found[1].first(FEWER))[0], expected)  # unequal capacities


def test_a_score_can_exceed_one() -> None:
    """The denominator counts steps, so the union of a run of two frames with itself counts 1."""
    found = find(jnp.array([[0, 0]]), jnp.ones((1, 2), bool), 1)
    assert matching.overlap_scores(found, found).tolist() == [[[2.0]]]
