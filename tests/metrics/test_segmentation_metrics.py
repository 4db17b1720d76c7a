"""Segmentation metrics: hand-computed values, variants of the segment end, invariances, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.metrics import segmentation as metrics

names = st.sampled_from(["background", "cut", "pour", "stir"])
sequences = st.lists(names, min_size=1, max_size=40)


def slow_levenshtein(first: list[str], second: list[str]) -> int:
    """The textbook recursion, one cell at a time."""
    table = [[i + j for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i, a in enumerate(first, start=1):
        for j, b in enumerate(second, start=1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a != b))
    return table[-1][-1]


@given(sequences, sequences)
def test_levenshtein_equals_the_textbook_recursion(first, second):
    assert metrics.levenshtein(first, second) == slow_levenshtein(first, second)


def test_levenshtein_of_empty_sequences():
    assert metrics.levenshtein([], []) == 0
    assert metrics.levenshtein(["cut"], []) == 1
    assert metrics.levenshtein([], ["cut", "pour"]) == 2


@given(sequences)
def test_segments_rebuild_the_labels(labels):
    segments = metrics.segments(labels)
    rebuilt = np.full(len(labels), "background", dtype="<U10")
    for name, start, end in zip(segments.labels, segments.starts, segments.ends, strict=True):
        rebuilt[start:end] = name
    assert rebuilt.tolist() == labels


@given(sequences)
def test_variants_differ_only_in_the_last_end(labels):
    exclusive = metrics.segments(labels, background=())
    minus_one = metrics.segments(labels, background=(), segment_end="minus_one")
    assert minus_one.ends[:-1].tolist() == exclusive.ends[:-1].tolist()
    assert exclusive.ends[-1] == len(labels)
    assert minus_one.ends[-1] == len(labels) - 1


@given(sequences)
def test_a_perfect_prediction_scores_100(labels):
    scores = metrics.evaluate({"v": labels}, {"v": labels}, background=())
    assert scores == pytest.approx({"Acc": 100, "Edit": 100, "F1@10": 100, "F1@25": 100, "F1@50": 100})


@given(sequences, st.permutations(range(4)))
def test_scores_do_not_depend_on_the_numbering_of_classes(labels, order):
    index = {name: order[position] for position, name in enumerate(["background", "cut", "pour", "stir"])}
    truth = ["cut"] * 10 + ["background"] * 10 + ["stir"] * 20
    labels = (labels * 40)[:40]
    by_name = metrics.evaluate({"v": labels}, {"v": truth})
    by_index = metrics.evaluate(
        {"v": [index[name] for name in labels]},
        {"v": [index[name] for name in truth]},
        background=[index["background"]],
    )
    assert by_index == pytest.approx(by_name)


def test_hand_computed_scores():
    truth = ["cut"] * 4 + ["pour"] * 6
    predicted = ["cut"] * 2 + ["pour"] * 2 + ["stir"] * 2 + ["pour"] * 4
    scores = metrics.evaluate({"v": predicted}, {"v": truth})
    # Overlaps: cut 2/4; the first pour 0/8, the second 4/6; stir none. Edit distance 2 of 4 segments.
    assert scores == pytest.approx({"Acc": 60, "Edit": 50, "F1@10": 200 / 3, "F1@25": 200 / 3, "F1@50": 200 / 3})


def test_accuracy_is_over_frames_and_edit_over_videos():
    truths = {"long": ["cut"] * 30, "short": ["pour"] * 10}
    predictions = {"long": ["cut"] * 30, "short": ["stir"] * 10}
    scores = metrics.evaluate(predictions, truths)
    assert scores["Acc"] == 75
    assert scores["Edit"] == 50
    assert scores["F1@50"] == 50


def test_background_counts_for_accuracy_only():
    truth = ["background"] * 5 + ["cut"] * 5
    scores = metrics.evaluate({"v": ["stir"] * 5 + ["cut"] * 5}, {"v": truth})
    assert scores["Acc"] == 50
    assert scores["Edit"] == 50
    kept = metrics.evaluate({"v": truth}, {"v": truth}, background=("SIL",))
    assert kept["Edit"] == 100


def test_prediction_longer_than_truth_keeps_its_extra_frames_for_the_segments():
    scores = metrics.evaluate({"v": ["cut"] * 4 + ["pour"]}, {"v": ["cut"] * 4})
    assert scores["Acc"] == 100
    assert scores["Edit"] == 50


def test_truth_without_actions_is_refused_or_counted():
    predictions, truths = {"v": ["cut"] * 4}, {"v": ["background"] * 4}
    with pytest.raises(ValueError, match=r"video v: the ground truth has no action.*empty_truth"):
        metrics.evaluate(predictions, truths)
    scores = metrics.evaluate(predictions, truths, empty_truth="count")
    assert scores["F1@10"] == 0
    assert scores["Edit"] == 0
    assert np.isnan(metrics.evaluate(truths, truths)["Edit"])
    assert metrics.evaluate(truths, truths, empty_truth="count")["Edit"] == 100


def test_bad_sets_of_videos_are_refused_with_their_names():
    with pytest.raises(ValueError, match=r"1 of 2 videos have no prediction: b.*shorter.*a \(3 frames predicted, 4"):
        metrics.evaluate({"a": ["cut"] * 3}, {"a": ["cut"] * 4, "b": ["cut"]})
    with pytest.raises(ValueError, match="no video to evaluate"):
        metrics.evaluate({}, {})
    with pytest.raises(ValueError, match="at least one label"):
        metrics.evaluate({"a": []}, {"a": []})
    with pytest.raises(ValueError, match=r"segment_end='last' is unknown"):
        metrics.segments(["cut"], segment_end="last")


def test_confusion_matrix_has_truth_in_rows_and_skips_ignored_frames():
    truths = {"v": np.array([0, 0, 1, 2, -1, 255])}
    predictions = {"v": np.array([0, 1, 1, 0, 2, 2, 2])}
    expected = [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert metrics.confusion_matrix(predictions, truths, 3).tolist() == expected


def test_mean_over_splits():
    assert metrics.mean_over_splits([{"Acc": 80.0, "Edit": 60.0}, {"Acc": 90.0, "Edit": 70.0}]) == {
        "Acc": 85,
        "Edit": 65,
    }
    with pytest.raises(ValueError, match="split number 2"):
        metrics.mean_over_splits([{"Acc": 80.0}, {"Edit": 70.0}])
    with pytest.raises(ValueError, match="no split"):
        metrics.mean_over_splits([])


def test_chance_is_the_better_of_the_most_frequent_class_and_a_stretched_training_video():
    names = ("background", "cut", "pour")
    train = [np.repeat([1, 2], [6, 4])]
    truths = {"v": np.repeat([1, 2], [18, 2])}
    levels = metrics.chance(train, truths, names)
    assert levels["Acc"] == 90  # all "cut"; the stretched video is right on 14 of 20 frames
    assert levels["Edit"] == 100  # the stretched video has both actions
    assert levels["F1@50"] == pytest.approx(200 / 3)  # "cut" alone: one of one predicted, one of two found
    background = metrics.chance([np.zeros(5, int)], truths, names)
    assert background == {"Acc": 0, "Edit": 0, "F1@10": 0, "F1@25": 0, "F1@50": 0}


def test_chance_repeats_with_its_seed():
    rng = np.random.default_rng(0)
    train = [np.sort(rng.integers(3, size=20)) for _ in range(9)]
    truths = {str(number): np.sort(rng.integers(3, size=30)) for number in range(5)}
    assert metrics.chance(train, truths, "abc", seed=1) == metrics.chance(train, truths, "abc", seed=1)
