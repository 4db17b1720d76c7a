"""Boundary peaks, refinement and its tie rules, relabelling, smoothing and scores on hand-made sequences."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.ops import boundary_refinement as refinement


def _scores(labels: list[int], high: float = 1.0, classes: int = 3) -> np.ndarray:
    """Class scores `[time, classes]` whose maximum is at `labels`; the others are `high - 2`."""
    return np.where(np.arange(classes) == np.array(labels)[:, None], high, high - 2).astype(np.float32)


def test_peaks_are_strict_maxima_over_the_threshold() -> None:
    probability = np.array([0.1, 0.2, 0.9, 0.2, 0.6, 0.6, 0.1, 0.4, 0.1, 0.95])
    assert refinement.boundary_peaks(probability, 0.5).tolist() == [0, 2]  # a plateau and the last frame do not count
    assert refinement.boundary_peaks(probability, 0.3).tolist() == [0, 2, 7]
    assert probability[0] == 0.1, "the input must not change"


def test_each_span_takes_its_most_frequent_label() -> None:
    boundary = np.array([-9, -9, -9, -9, 9, -9, -9, -9], np.float32)
    refined = refinement.refine_with_boundaries(_scores([0, 0, 1, 0, 2, 1, 2, 2]), boundary)
    assert refined.tolist() == [0, 0, 0, 0, 2, 2, 2, 2]


def test_logits_and_probabilities_of_boundaries_agree() -> None:
    logits = np.array([-3, 2, -3, -1, 4, -2], np.float32)
    probability = 1 / (1 + np.exp(-logits))
    scores = _scores([0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(
        refinement.refine_with_boundaries(scores, logits), refinement.refine_with_boundaries(scores, probability)
    )


def test_tie_goes_to_the_larger_score_sum() -> None:
    scores = _scores([0, 0, 1, 1])
    scores[2, 1] = 5
    none = np.full(4, -9, np.float32)
    for fallback in ("published", "fixed"):
        assert refinement.refine_with_boundaries(scores, none, tie_fallback=fallback).tolist() == [1] * 4


def test_negative_tie_repeats_the_span_before_only_as_published() -> None:
    scores = _scores([2, 2, 2, 0, 0, 1, 1], high=-1)
    scores[3, 0] = -0.5
    boundary = np.array([-9, -9, -9, 9, -9, -9, -9], np.float32)
    published = refinement.refine_with_boundaries(scores, boundary)
    fixed = refinement.refine_with_boundaries(scores, boundary, tie_fallback="fixed")
    assert published.tolist() == [2] * 7
    assert fixed.tolist() == [2, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("fallback", ["published", "fixed"])
def test_negative_tie_in_the_first_span_goes_to_the_larger_sum(fallback: str) -> None:
    scores, none = _scores([0, 0, 1, 1], high=-1), np.full(4, -9, np.float32)
    scores[3, 1] = -0.5
    assert refinement.refine_with_boundaries(scores, none, tie_fallback=fallback).tolist() == [1] * 4


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="4 frames of class scores but 3"):
        refinement.refine_with_boundaries(_scores([0, 0, 1, 1]), np.zeros(3))
    with pytest.raises(ValueError, match="expected one of published, fixed"):
        refinement.refine_with_boundaries(_scores([0]), np.zeros(1), tie_fallback="first")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 0, 1, 2, 2, 2], [0, 0, 0, 0, 2, 2, 2]),
        ([1, 0, 0, 0, 2, 2, 2], [2, 0, 0, 0, 2, 2, 2]),  # a short first segment looks at the last frame
        ([0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 1, 2]),  # a short last segment: one frame too early, so it stays
        ([0, 0, 1, 2, 2, 2], [2, 2, 2, 2, 2, 2]),  # relabelled frames are what the next short segment looks at
        ([5], [5]),
    ],
)
def test_short_segments_take_the_label_before(labels: list[int], expected: list[int]) -> None:
    assert refinement.relabel_short_segments(np.array(labels), max_length=2).tolist() == expected


def test_smoothing_keeps_a_constant_and_spreads_an_impulse() -> None:
    np.testing.assert_allclose(refinement.gaussian_smooth(np.ones((30, 2))), 1, atol=1e-5)
    impulse = np.zeros(31)
    impulse[15] = 1
    smooth = refinement.gaussian_smooth(impulse)
    np.testing.assert_allclose(smooth[15], 1 / np.sqrt(2 * np.pi), rtol=1e-6)
    np.testing.assert_allclose(smooth[14:17], smooth[16:13:-1])


def test_smoothed_probabilities_accept_logits_and_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        refinement.smoothed_probabilities(logits), refinement.smoothed_probabilities(probability), atol=1e-6
    )


def test_boundary_counts_allow_the_tolerance_and_one_hit_each() -> None:
    truth, predicted = np.zeros(40), np.zeros(40)
    truth[[10, 30]] = 1
    predicted[[8, 12, 36]] = 1  # a hit, a second hit on the same boundary, one too far away
    counts = refinement.count_boundaries(predicted, truth, threshold=0.5, tolerance=5)
    assert counts == refinement.BoundaryCounts(hits=2, false_alarms=2, misses=1, frames=40)  # frame 0 is always hit
    scores = refinement.score_boundaries([counts])
    assert scores["precision"] == 50
    np.testing.assert_allclose(scores["recall"], 200 / 3)
    np.testing.assert_allclose(scores["accuracy"], 100 * 37 / 40)
    np.testing.assert_allclose(scores["f1"], 400 / 7, rtol=1e-6)
