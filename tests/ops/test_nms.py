"""Non-maximum suppression: against loops that follow the originals, on the host and on the device."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actloc_jax.ops import device_nms, iou, nms, segment_merging
from actloc_jax.ops.nms import Suppression

SEGMENTS = np.array([[0, 10], [1, 11], [20, 30], [0, 10], [50, 60]], np.float32)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)

SOFT = {
    "zero": Suppression("zero", 0.5, min_score=0.01, overlap=iou.EPSILON_TIOU),
    "linear": Suppression("linear", 0.3, min_score=0.05, overlap=iou.EPSILON_TIOU),
    "linear exclusive": Suppression("linear", 0.3, inclusive=False),
    "gaussian": Suppression("gaussian", sigma=0.5, min_score=0.1, overlap=iou.EPSILON_TIOU),
    "afsd": nms.AFSD_SOFT,
    "spot": nms.SPOT_SOFT,
    "capped": Suppression("gaussian", max_per_class=3),
    "sorted": Suppression("gaussian", min_score=0.2, order="sorted"),
    "last": Suppression("linear", 0.2, order="last"),
}
HARD = {
    "hard": Suppression("hard", 0.4),
    "hard exclusive": Suppression("hard", 0.4, inclusive=False),
    "hard last": Suppression("hard", 0.2, order="last"),
    "hard above": nms.ACTIONFORMER_HARD,
    "generator": dataclasses.replace(nms.FUSTAL_GENERATOR, order="last"),
}


def candidates(seed: int, count: int, *, ties: bool = False, extent: float = 30) -> tuple[np.ndarray, np.ndarray]:
    """Random segments and scores; with `ties` on a coarse grid, where overlaps and scores coincide."""
    rng = np.random.default_rng(seed)
    segments = np.sort(rng.uniform(0, extent, (count, 2)), axis=1)
    scores = rng.uniform(0.02, 1, count)
    if ties:
        segments, scores = np.round(segments), np.round(scores * 8) / 8
    return segments.astype(np.float32), scores.astype(np.float32)


def as_the_compiled_code(segments, scores, rule) -> tuple[list[int], list[float]]:
    """Soft-NMS of ActionFormer and mmcv, element by element: swap in the best, overwrite the removed by the last."""
    rows, scores, length = list(range(len(scores))), list(scores), len(scores)
    first = 0
    while first < length:
        best = max(range(first, length), key=lambda row: (scores[row], -row))
        for values in (rows, scores):
            values[first], values[best] = values[best], values[first]
        row = first + 1
        while row < length:
            overlap = rule.overlap(segments[rows[first]], segments[rows[row]][None])
            scores[row] = scores[row] * rule.weights(overlap)[0]
            if scores[row] < rule.min_score:
                rows[row], scores[row] = rows[length - 1], scores[length - 1]
                length -= 1
            else:
                row += 1
        first += 1
    return rows[:length], scores[:length]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.booleans(), st.sampled_from(["zero", "linear", "gaussian"]))
def test_soft_nms_selects_what_the_compiled_code_selects_ties_included(seed, count, ties, decay):
    segments, scores = candidates(seed, count, ties=ties)
    rule = dataclasses.replace(SOFT[decay], order="swap", min_score=0.125)
    index, values = nms.suppress(segments, scores, rule)
    expected_index, expected_values = as_the_compiled_code(segments, scores, rule)
    assert index.tolist() == expected_index
    np.testing.assert_allclose(values, expected_values, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.booleans(), st.sampled_from(sorted(HARD)))
def test_hard_nms_keeps_what_no_better_kept_one_overlaps(seed, count, ties, name):
    segments, scores = candidates(seed, count, ties=ties)
    rule = HARD[name]
    visited = range(count) if rule.order == "first" else range(count)[::-1]
    kept = []
    for row in sorted(visited, key=lambda row: -scores[row]):
        overlaps = rule.overlap(segments[kept].reshape(-1, 2), segments[row])
        if (rule.above is None or scores[row] > rule.above) and not rule.reaches(overlaps).any():
            kept.append(row)
    index, values = nms.suppress(segments, scores, rule)
    assert index.tolist() == kept
    np.testing.assert_array_equal(values, scores[kept])
    again = nms.suppress(segments[index], scores[index], dataclasses.replace(rule, order="first"))
    assert len(again.index) == len(index)  # what is suppressed once stays as it is


@pytest.mark.parametrize("name", sorted(SOFT | HARD))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(1, 16), min_size=3, max_size=3))
def test_device_and_host_agree(name, seed, counts):
    rule = (SOFT | HARD)[name]
    rng = np.random.default_rng(seed)
    ties = rule.decay == "hard" and bool(seed % 2)
    segments, scores = candidates(seed, 3 * 16, ties=ties)
    valid = np.arange(16) < np.array(counts)[:, None]
    valid = rng.permuted(valid, axis=1)
    found = device_nms.suppress(
        jnp.asarray(segments.reshape(3, 16, 2)), jnp.asarray(scores.reshape(3, 16)), jnp.asarray(valid), rule, 20
    )
    assert found.index.shape == found.scores.shape == found.valid.shape == (3, 20)
    members = [np.flatnonzero(row) + 16 * group for group, row in enumerate(valid)]
    for group, expected in enumerate(nms.suppress_groups(segments, scores, members, rule)):
        held, values = np.asarray(found.valid[group]), np.asarray(found.scores[group])
        assert (np.diff(held.astype(int)) <= 0).all()
        assert not values[~held].any()
        # below 1e-30 the selections of SPOT depend on what becomes of denormal numbers
        compared, counted = expected.scores > 1e-30, values[held] > 1e-30
        assert rule.positive or len(compared) == len(counted)
        assert (np.asarray(found.index[group])[held][counted] + 16 * group).tolist() == expected.index[
            compared
        ].tolist()
        np.testing.assert_allclose(values[held][counted], expected.scores[compared], rtol=1e-5)


def test_the_fast_path_of_the_host_equals_numpy():
    segments, scores = candidates(0, 700, extent=300)
    labels = np.random.default_rng(1).integers(0, 3, 700)
    assert np.bincount(labels).max() > device_nms.HALVED_FROM / 2
    rule = dataclasses.replace(nms.ACTIONFORMER_SOFT, max_total=150)
    fast, slow = (module.suppress_classes(segments, scores, labels, rule) for module in (device_nms, nms))
    assert len(fast.index) == 150
    assert fast.index.tolist() == slow.index.tolist()
    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-5)
    long = dataclasses.replace(rule, sigma=50, max_total=None)  # most remain until more than half of them are selected
    fast, slow = (module.suppress_classes(segments, scores, labels, long) for module in (device_nms, nms))
    assert len(slow.index) > 600
    assert set(fast.index.tolist()) == set(slow.index.tolist())
    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-4)


def test_the_device_takes_any_leading_axes_and_fewer_picks_than_candidates():
    segments, scores = candidates(3, 24)
    whole = device_nms.suppress(
        segments.reshape(2, 3, 4, 2), scores.reshape(2, 3, 4), np.ones((2, 3, 4), bool), SOFT["linear"], 2
    )
    assert whole.index.shape == (2, 3, 2)
    one = jax.jit(lambda *given: device_nms.suppress(*given, SOFT["linear"], 2))(
        segments[:4], scores[:4], np.ones(4, bool)
    )
    np.testing.assert_array_equal(one.index, whole.index[0, 0])
    with pytest.raises(ValueError, match="at least one pick"):
        device_nms.suppress(segments, scores, np.ones(24, bool), SOFT["linear"], 0)


def test_decays_by_hand():
    hard = nms.suppress(SEGMENTS, SCORES, Suppression("hard", 0.5))
    assert hard.index.tolist() == [0, 2, 4]
    linear = nms.suppress(SEGMENTS, SCORES, Suppression("linear", 0.5))
    assert linear.index.tolist() == [0, 2, 4, 1, 3]
    np.testing.assert_allclose(linear.scores, [0.9, 0.7, 0.5, 0.8 * (1 - 9 / 11), 0], rtol=1e-5)
    gaussian = nms.suppress(SEGMENTS[:2], SCORES[:2], Suppression("gaussian", sigma=0.5))
    np.testing.assert_allclose(gaussian.scores, [0.9, 0.8 * np.exp(-2 * (9 / 11) ** 2)], rtol=1e-5)
    zero = nms.suppress(SEGMENTS, SCORES, Suppression("zero", 0.5, min_score=None))
    assert sorted(zero.scores.tolist())[:2] == [0, 0]  # kept, without score


def test_spot_raises_what_overlaps_a_little_and_leaves_what_does_not():
    segments, scores = np.array([[0, 10], [9.9, 20], [40, 50], [60, 70]]), np.array([0.9, 0.5, 0.5, 0.1])
    overlap = iou.SPOT_OVERLAP(segments[0], segments[1])
    index, values = nms.suppress(segments, scores, dataclasses.replace(nms.SPOT_SOFT, overlap=iou.TIOU))
    assert index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(values, [0.9, 0.5 * np.exp(-10 * (0.1 / 20) ** 2) / 0.6, 0.5])
    assert overlap > 0.4  # by its own measure, which is why the published rule lowers it
    np.testing.assert_allclose(nms.suppress(segments, scores, nms.SPOT_SOFT).scores[:2], [0.9, 0.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_classes_together_equal_each_class_alone(seed, count):
    segments, scores = candidates(seed, count)
    labels = np.random.default_rng(seed).integers(-3, 4, count)
    rule = dataclasses.replace(nms.ACTIONFORMER_SOFT, max_per_class=7, max_total=None)
    found = nms.suppress_classes(segments, scores, labels, rule)
    expected = {}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        alone = nms.suppress(segments[rows], scores[rows], rule)
        expected |= dict(zip(rows[alone.index].tolist(), alone.scores.tolist(), strict=True))
    assert dict(zip(found.index.tolist(), found.scores.tolist(), strict=True)) == expected
    assert (np.diff(found.scores) <= 0).all()


def test_a_threshold_reached_exactly_suppresses_unless_exclusive():
    segments, scores = np.array([[0.0, 10.0], [0.0, 5.0]]), np.array([0.9, 0.8])
    assert nms.suppress(segments, scores, Suppression("hard", 0.5)).index.tolist() == [0]
    assert nms.suppress(segments, scores, nms.TALLFORMER_HARD).index.tolist() == [0, 1]


def test_the_first_selection_is_kept_whatever_its_score_and_the_rest_not():
    rule = nms.ACTIONFORMER_SOFT
    far = np.array([[0, 1], [10, 11], [20, 21]], np.float32)
    assert nms.suppress(far, np.array([1e-4, 5e-4, 2e-4], np.float32), rule).index.tolist() == [1]
    assert nms.suppress(far, np.full(3, 5e-4, np.float32), nms.ACTIONFORMER_HARD).index.tolist() == []


def test_spot_and_afsd_lose_the_last_candidate_and_spot_stops_at_zero():
    far = np.array([[0, 1], [10, 11]], np.float64)
    for rule in (nms.SPOT_SOFT, nms.AFSD_SOFT):
        assert nms.suppress(far, np.array([0.5, 0.9]), rule).index.tolist() == [1]
        assert nms.suppress(far[:1], np.array([0.5]), rule).index.tolist() == []
    assert nms.suppress(far, np.zeros(2), nms.SPOT_SOFT).index.tolist() == []


def test_equal_scores_follow_the_order():
    far, scores = np.array([[0, 1], [10, 11], [20, 21]], np.float64), np.full(3, 0.5)
    for order, expected in (
        ("first", [0, 1, 2]),
        ("last", [2, 1, 0]),
        ("sorted", [0, 1, 2]),
        ("argsort", np.argsort(scores)[::-1].tolist()),
    ):
        assert nms.suppress(far, scores, Suppression("hard", order=order)).index.tolist() == expected


def test_classes_are_apart_sorted_together_and_capped():
    labels = np.array([1, 0, 0, 1, 0])
    rule = Suppression("hard", 0.5)
    assert nms.suppress_classes(SEGMENTS, SCORES, labels, rule).index.tolist() == [0, 1, 2, 4]
    capped = dataclasses.replace(rule, max_per_class=2, max_total=2)
    assert nms.suppress_classes(SEGMENTS, SCORES, labels, capped).index.tolist() == [0, 1]
    assert nms.suppress_classes(
        SEGMENTS, SCORES, labels, dataclasses.replace(rule, max_per_class=1)
    ).index.tolist() == [0, 1]
    shifted = nms.shift_classes(SEGMENTS, labels)
    assert nms.suppress(shifted, SCORES, rule).index.tolist() == [0, 1, 2, 4]
    equal = nms.suppress_classes(SEGMENTS[[2, 4]], np.full(2, 0.5), np.array([7, 3]), rule)
    assert equal.index.tolist() == [1, 0]  # classes ascending


@pytest.mark.parametrize("module", [nms, device_nms])
def test_no_candidates_give_no_selection(module):
    empty = np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    found = module.suppress_classes(*empty, np.zeros(0, int), nms.ACTIONFORMER_SOFT)
    assert found.index.shape == found.scores.shape == (0,)
    assert len(nms.suppress(*empty, nms.ACTIONFORMER_SOFT).index) == 0
    assert nms.suppress_groups(*empty, [], nms.SPOT_SOFT) == []
    assert len(nms.shift_classes(empty[0], np.zeros(0))) == 0


def test_what_cannot_be_suppressed_is_refused():
    with pytest.raises(ValueError, match=r"candidate 1 is not finite.*overflow"):
        nms.suppress(SEGMENTS, np.array([0.1, np.nan, 0.2, np.inf, 0.3]), SOFT["linear"])
    with pytest.raises(ValueError, match="expected segments"):
        nms.suppress(SEGMENTS, SCORES[:3], SOFT["linear"])
    with pytest.raises(ValueError, match="as many labels"):
        nms.suppress_classes(SEGMENTS, SCORES, np.zeros(3, int), SOFT["linear"])
    for wrong in (
        {"decay": "cubic"},
        {"order": "random"},
        {"sigma": 0},
        {"threshold": 0},
        {"decay": "hard", "order": "swap"},
    ):
        with pytest.raises(ValueError, match=r"unknown|positive|belongs"):
            Suppression(**wrong)


def test_votes_move_segments_to_the_mean_of_their_neighbours():
    selected = SEGMENTS[[0, 2]]
    moved = segment_merging.vote(selected, SEGMENTS, SCORES, 0.7)
    weights = SCORES[[0, 1, 3]]
    np.testing.assert_allclose(moved[0], weights @ SEGMENTS[[0, 1, 3]] / weights.sum(), rtol=1e-6)
    np.testing.assert_array_equal(moved[1], SEGMENTS[2])
    weights = weights * np.array([1, 9 / 11, 1], np.float32)
    moved = segment_merging.vote(selected, SEGMENTS, SCORES, 0.7, weight_by_overlap=True)
    np.testing.assert_allclose(moved[0], weights @ SEGMENTS[[0, 1, 3]] / weights.sum(), rtol=1e-6)


def test_a_segment_of_length_zero_has_no_vote():
    instant = np.array([[3, 3]], np.float32)
    np.testing.assert_array_equal(segment_merging.vote(instant, instant, np.ones(1), 0.5), instant)
    assert np.isnan(segment_merging.vote(instant, instant, np.ones(1), 0.5, alone="nan")).all()


def test_weighting_merges_within_a_class_by_score_and_overlap():
    labels = np.array([0, 0, 0, 1, 1])
    merged, found = segment_merging.weighted_nms(SEGMENTS, SCORES, labels)
    assert found.index.tolist() == [0, 2, 3, 4]
    weights = np.array([0.9, 0.8 * 9 / 11])
    np.testing.assert_allclose(merged[0], weights @ SEGMENTS[:2] / weights.sum(), rtol=1e-6)
    np.testing.assert_array_equal(merged[1:], SEGMENTS[2:])
    assert len(segment_merging.weighted_nms(SEGMENTS, SCORES, labels, most=2)[0]) == 2
    instants = np.array([[7, 7], [7, 7], [0, 10]], np.float32)
    merged, _ = segment_merging.weighted_nms(instants, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))
    np.testing.assert_array_equal(merged, instants)
    assert segment_merging.weighted_nms(SEGMENTS, SCORES, labels, above=0.95)[0].shape == (0, 2)
