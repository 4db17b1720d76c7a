"""Metrics of unsupervised segmentation, on sequences small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.metrics import clustering

TRUE = np.repeat([5, 2, 7], [4, 3, 3])
PREDICTED = np.array([1, 1, 1, 0, 0, 0, 1, 3, 3, 3])
MATCHING = {0: 2, 1: 5, 3: 7}


def letters(text: str) -> np.ndarray:
    """One label per letter: a is 0."""
    return np.array([ord(letter) - ord("a") for letter in text])


def test_contingency_counts_sorted_labels():
    clusters, classes, counts = clustering.contingency(PREDICTED, TRUE)
    assert clusters.tolist() == [0, 1, 3]
    assert classes.tolist() == [2, 5, 7]
    assert counts.tolist() == [[2, 1, 0], [1, 3, 0], [0, 0, 3]]


def test_matching_is_the_best_of_all_and_not_greedy():
    assert clustering.match_clusters(PREDICTED, TRUE) == MATCHING
    # cluster 0 shares 5 frames with class 0 and 4 with class 1, cluster 1 shares 4 with class 0 and none with class 1
    assert clustering.match_clusters(np.repeat([0, 0, 1], [5, 4, 4]), np.repeat([0, 1, 0], [5, 4, 4])) == {0: 1, 1: 0}


@pytest.mark.parametrize(("clusters", "pairs"), [("abcdef", 2), ("aaaaaa", 1)])
def test_matching_leaves_over_what_has_no_partner(clusters, pairs):
    assert len(clustering.match_clusters(letters(clusters), letters("aaabbb"))) == pairs


def test_mof_and_miou_by_hand():
    assert clustering.mof(PREDICTED, TRUE, MATCHING) == pytest.approx(8 / 10)
    # 2: 2 of 4 frames; 5: 3 of 5; 7: 3 of 3
    assert clustering.miou(PREDICTED, TRUE, MATCHING) == pytest.approx((2 / 4 + 3 / 5 + 1) / 3)
    # an unmatched class counts in the denominator, a pair without frames counts 0
    assert clustering.miou(PREDICTED, TRUE, {3: 7, 8: 9}) == pytest.approx(1 / 3)


def test_sampled_f1_of_a_perfect_prediction_counts_segments_against_classes():
    true = np.repeat([0, 1, 0], [30, 30, 30])  # three segments of two classes: precision 3/2, recall 1
    found = clustering.f1_sampled(true, true, {0: 0, 1: 1}, rng=np.random.RandomState(0))
    assert found == pytest.approx(2 * 1.5 / 2.5, abs=1e-6)
    halved = clustering.f1_sampled(true, true, {0: 0, 1: 1}, rng=np.random.RandomState(0), videos=2)
    assert halved == pytest.approx(2 * 0.75 / 1.75, abs=1e-6)


def test_sampled_f1_draws_what_the_original_draws():
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 2, 1], [9, 14, 5, 11])
    predicted = np.where(rng.random(len(true)) < 0.45, 3, true)
    found, legacy = 0, np.random.RandomState(3)
    for _ in range(50):  # as published: segment by segment, both ends included
        for first, last, label in ((0, 9, 0), (9, 23, 1), (23, 28, 2), (28, 38, 1)):
            found += (predicted[legacy.randint(first, last + 1, 15)] == label).sum() > 7
    precision, recall = found / (3 * 50), found / (4 * 50 + 1e-8)
    expected = 2 * precision * recall / (precision + recall + 1e-8)
    matching = {0: 0, 1: 1, 2: 2}
    assert 0 < found < 200
    assert clustering.f1_sampled(predicted, true, matching, rng=np.random.RandomState(3)) == expected


def exact(predicted: str, true: str, matching: dict[int, int] | None = None) -> float:
    """F1 exact of videos separated by blanks; by default clusters are classes."""
    videos = [[letters(video) for video in text.split()] for text in (predicted, true)]
    return clustering.f1_exact(*videos, matching or {label: label for label in range(26)})


def f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ("aaabbb", "aaabbb", 1.0),
        ("aabbbb", "aaaabb", f1(1 / 2, 1 / 2)),  # exactly half of the first segment is not enough
        ("aaabbb", "aaaabb", 1.0),  # three of four frames are
        ("ababaa", "aaaaaa", f1(1 / 5, 1.0)),  # found, but in five pieces of which one is credited
        ("aaaaaa", "aabbaa", f1(1.0, 2 / 3)),  # one predicted segment spans two found ones and counts once
        ("bbbb", "aaaa", 0.0),
        ("aaa aaa", "aaa aaa", 1.0),
        ("aaa bbb", "aaa aaa", f1(1 / 2, 1 / 2)),  # merged over the border, half of one segment would not be found
        ("abb", "aab", f1(1 / 2, 1 / 2)),  # the next segment's first frame does not help
    ],
)
def test_exact_f1_by_hand(predicted, true, expected):
    assert exact(predicted, true) == pytest.approx(expected)


def test_exact_f1_never_exceeds_one_and_uses_the_matching():
    rng = np.random.default_rng(1)
    for _ in range(50):
        true, predicted = rng.integers(3, size=20), rng.integers(2, size=20)
        score = clustering.f1_exact([predicted], [true], clustering.match_clusters(predicted, true))
        assert 0 <= score <= 1
    assert exact("bbba", "aaab", {1: 0, 0: 1}) == 1.0
    assert exact("bbba", "aaab", {1: 0}) == pytest.approx(f1(1 / 2, 1 / 2))


def test_evaluate_matches_all_videos_together_and_each_on_its_own():
    truths = {"one": letters("aaaabb"), "two": letters("aabbbb")}
    swapped = {"one": letters("aaaabb"), "two": letters("bbaaaa"), "not scored": letters("a")}
    scores = clustering.evaluate(swapped, truths)
    assert scores["MoF video"] == scores["mIoU video"] == scores["F1 exact video"] == 100.0
    assert scores["MoF"] == pytest.approx(50.0)
    assert set(scores) == {f"{name}{video}" for name in ("MoF", "F1", "mIoU", "F1 exact") for video in ("", " video")}
    assert scores == clustering.evaluate(swapped, truths)


def test_evaluate_averages_over_videos_not_frames():
    truths = {"long": np.repeat([0, 1], 50), "short": np.array([0, 1])}
    scores = clustering.evaluate({"long": truths["long"], "short": np.array([0, 0])}, truths)
    assert scores["MoF video"] == pytest.approx(75.0)
    assert scores["MoF"] == pytest.approx(100 * 101 / 102)


def test_evaluate_draws_video_by_video_and_then_for_all():
    rng = np.random.default_rng(2)
    truths = {name: np.repeat([0, 1, 2], 12) for name in "ab"}
    predictions = {name: np.where(rng.random(36) < 0.4, 3, truth) for name, truth in truths.items()}
    scores = clustering.evaluate(predictions, truths, seed=9)
    legacy = np.random.RandomState(9)
    pairs = [(predictions[name], truths[name]) for name in "ab"]
    each = [clustering.f1_sampled(*pair, clustering.match_clusters(*pair), rng=legacy) for pair in pairs]
    together = [np.concatenate(labels) for labels in zip(*pairs, strict=True)]
    matching = clustering.match_clusters(*together)
    assert scores["F1 video"] == pytest.approx(100 * np.mean(each))
    assert scores["F1"] == pytest.approx(100 * clustering.f1_sampled(*together, matching, rng=legacy, videos=2))
    assert scores["F1"] != clustering.evaluate(predictions, truths, seed=10)["F1"]


def test_ignored_frames_are_dropped_before_the_matching():
    truths = {"a": np.repeat([-1, 0, -1, 1, -1], [60, 20, 3, 20, 9]), "empty": np.full(4, -1)}
    predictions = {"a": np.repeat([0, 2, 2, 0, 2], [60, 20, 3, 20, 9]), "empty": np.zeros(4, int)}
    scores = clustering.evaluate(predictions, truths)
    # the frames in front would match cluster 0 to the ignored label; the empty video is in no mean over videos
    assert scores["MoF"] == scores["MoF video"] == scores["mIoU video"] == scores["F1 exact video"] == 100.0
    # but it is one of two videos in the precision of the published F1
    assert scores["F1"] == pytest.approx(100 * f1(0.5, 1.0), abs=1e-4)
    assert scores["F1 video"] == pytest.approx(100.0, abs=1e-4)


def test_evaluate_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"no frame to score.*excluded"):
        clustering.evaluate({"a": np.zeros(3)}, {"a": np.full(3, -1)})
    with pytest.raises(ValueError, match="ground truth is empty"):
        clustering.evaluate({}, {})
    with pytest.raises(ValueError, match=r"1 of 2 videos have no prediction: b; .*a \(2 frames predicted, 3 in"):
        clustering.evaluate({"a": np.zeros(2)}, {"a": np.zeros(3), "b": np.zeros(1)})
    with pytest.raises(ValueError, match="at least one"):
        clustering.mof(np.zeros(2), np.zeros(3), {})
    with pytest.raises(ValueError, match="no video"):
        clustering.f1_exact([], [], {})


def test_a_single_frame_scores():
    scores = clustering.evaluate({"a": np.array([3])}, {"a": np.array([1])})
    assert all(value == pytest.approx(100.0, abs=1e-4) for value in scores.values())


def test_equal_parts_and_their_score():
    assert clustering.equal_parts(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert clustering.equal_parts(2, 5).tolist() == [0, 2]
    assert clustering.equal_parts(0, 5).tolist() == []
    truths = {"a": np.repeat([0, 1], [2, 6]), "b": np.repeat([0, 1], [4, 4])}
    assert clustering.chance(truths, 2)["MoF"] == pytest.approx(100 * 14 / 16)
