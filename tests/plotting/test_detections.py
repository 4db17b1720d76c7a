"""Figures of detections: what is drawn where, in which colour and how opaque."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from actloc_jax.plotting.colours import class_colours
from actloc_jax.plotting.detections import (
    Curve,
    SegmentRow,
    detection_timeline,
    error_profile,
    precision_recall,
    tiou_sweep,
)

NAMES = ["Diving", "HighJump", "Shotput", *(f"other {index}" for index in range(9))]
TRUTH = SegmentRow("ground truth", np.array([[2.0, 5.0], [20.0, 31.5]]), np.array([1, 1]))
ROW = SegmentRow(
    "student", np.array([[2.5, 5.0], [3.0, 4.0], [21.0, 40.0]]), np.array([1, 1, 0]), np.array([0.2, 0.4, 0.1])
)


def bars(axes):
    """(row name, left, right, bottom, colour) of every bar drawn."""
    for collection in axes.collections:
        for path, colour in zip(collection.get_paths(), collection.get_facecolors(), strict=True):
            (left, bottom), (right, _) = path.vertices.min(axis=0), path.vertices.max(axis=0)
            yield collection.get_label(), left, right, bottom, colour


def test_bars_lie_where_the_segments_are_and_are_as_opaque_as_their_scores():
    axes = detection_timeline(TRUTH, [ROW], NAMES, title="video").axes[0]
    drawn = list(bars(axes))
    assert [(name, left, right) for name, left, right, *_ in drawn] == [
        ("ground truth", 2.0, 5.0), ("ground truth", 20.0, 31.5),
        ("student", 2.5, 5.0), ("student", 3.0, 4.0), ("student", 21.0, 40.0),
    ]  # fmt: skip
    np.testing.assert_allclose([colour[3] for *_, colour in drawn], [1, 1, 0.5, 1, 0.25])
    labels = [1, 1, 1, 1, 0]
    np.testing.assert_allclose([colour[:3] for *_, colour in drawn], class_colours(NAMES)[labels])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ground truth", "student"]
    assert [text.get_text() for text in axes.texts] == ["3 segments\nbest 0.40"]
    assert axes.get_title(loc="left") == "video"
    assert axes.get_xlabel() == "time (s)"


def test_classes_have_the_same_lane_in_every_row_true_ones_first():
    axes = detection_timeline(TRUTH, [ROW], NAMES).axes[0]
    offsets = {(name, round(float(bottom), 3)) for name, *_, bottom, _ in bars(axes)}
    assert offsets == {("ground truth", -0.42), ("student", 0.58), ("student", 1.0)}
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["HighJump", "Diving"]


def test_only_the_best_classes_get_a_lane():
    count = len(NAMES)
    many = SegmentRow("student", np.tile([0.0, 9.0], (count, 1)), np.arange(count), np.linspace(0.1, 1.0, count))
    figure = detection_timeline(TRUTH, [many], NAMES)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["HighJump", *reversed(NAMES[-5:])]


def test_classes_too_faint_to_be_seen_get_no_lane():
    faint = SegmentRow("student", ROW.segments, np.array([1, 2, 0]), np.array([1.0, 0.5, 0.04]))
    figure = detection_timeline(TRUTH, [faint], NAMES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["HighJump", "Shotput"]


def test_the_axis_ends_with_the_video_or_the_last_segment():
    assert detection_timeline(TRUTH, [ROW], NAMES).axes[0].get_xlim() == (0, 40)
    assert detection_timeline(TRUTH, [ROW], NAMES, duration=300.0).axes[0].get_xlim() == (0, 300)


def test_rows_without_segments_are_drawn():
    nothing = SegmentRow("student", np.zeros((0, 2)), np.zeros(0, int), np.zeros(0))
    axes = detection_timeline(None, [nothing], NAMES).axes[0]
    axes.figure.draw_without_rendering()
    assert list(bars(axes)) == []
    assert [text.get_text() for text in axes.texts] == ["none"]


def test_a_timeline_needs_rows_and_names():
    with pytest.raises(ValueError, match="at least one row"):
        detection_timeline(None, [], NAMES)
    with pytest.raises(ValueError, match="Row 'ground truth' holds class 1, but there are 1 class names"):
        detection_timeline(TRUTH, [], NAMES[:1])


def test_precision_and_recall_of_classes_and_their_mean():
    steps = np.array([0.0, 0.5])
    curves = {2: Curve(steps, np.array([1.0, 0.5]), 0.25), 0: Curve(steps, np.array([1.0, 1.0]), 0.5)}
    mean = Curve(steps, np.array([1.0, 0.75]), 0.375)
    axes = precision_recall(curves, NAMES, threshold=0.3, mean=mean, title="student").axes[0]
    assert [line.get_label() for line in axes.lines] == ["Diving (50.0)", "Shotput (25.0)", "mean (37.5)"]
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0, 1], [0.5, 0.5]])
    np.testing.assert_allclose(to_rgba(axes.lines[1].get_color())[:3], class_colours(NAMES)[2])
    assert axes.get_xlabel() == "recall at tIoU 0.3"
    many = precision_recall(
        dict.fromkeys(range(40), mean), [str(index) for index in range(40)], threshold=0.5, mean=mean
    )
    assert [text.get_text() for text in many.axes[0].get_legend().get_texts()] == ["mean (37.5)"]


def test_sweep_has_a_line_per_source_over_the_thresholds():
    thresholds = np.linspace(0.1, 0.7, 7)
    axes = tiou_sweep(
        thresholds, {"student": 70 - 10 * np.arange(7), "paper": [np.nan] * 4 + [30.0] + [np.nan] * 2}
    ).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), np.stack([thresholds, 70 - 10 * np.arange(7)], axis=1))
    assert [line.get_label() for line in axes.lines] == ["student", "paper"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]
    with pytest.raises(ValueError, match="'student' has 2 values for 7 tIoU thresholds"):
        tiou_sweep(thresholds, {"student": [1.0, 2.0]})


def test_errors_are_stacked_by_group_and_gains_have_the_colour_of_their_kind():
    kinds = ["true positive", "duplicate", "background"]
    profile = np.array([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    left, right = error_profile(kinds, profile, {"background": 4.0, "missed": 9.5}, threshold=0.5).axes
    heights = np.array([[bar.get_height() for bar in container] for container in left.containers]).T
    bottoms = np.array([[bar.get_y() for bar in container] for container in left.containers]).T
    np.testing.assert_allclose(heights, profile)
    np.testing.assert_allclose(bottoms, np.cumsum(profile, axis=1) - profile)
    assert [text.get_text() for text in left.get_xticklabels()] == ["1G", "2G"]
    assert [bar.get_width() for bar in right.patches] == [4.0, 9.5]
    assert right.patches[0].get_facecolor() == left.containers[2][0].get_facecolor()
    assert len({bar.get_facecolor() for bar in (*right.patches, left.containers[0][0])}) == 3
    with pytest.raises(ValueError, match=r"3 kinds need a profile of shape \(groups, 3\), found \(2, 2\)"):
        error_profile(kinds, profile[:, :2], {}, threshold=0.5)
