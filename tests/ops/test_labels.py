"""Label post-processing against one-frame-at-a-time versions of the published rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.ops import labels as label_ops

sequences = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@given(sequences, st.integers(1, 12))
def test_mode_filter_takes_the_smallest_most_frequent_class_of_a_mirrored_window(labels, size):
    mirrored = np.concatenate([labels, labels[::-1]] * 15)
    middle = 14 * len(labels)
    expected = []
    for frame in range(len(labels)):
        start = middle + frame - size // 2
        expected.append(np.bincount(mirrored[start : start + size]).argmax())
    assert label_ops.mode_filter(labels, size).tolist() == expected


def test_median_over_indices_can_invent_a_class_and_the_mode_cannot():
    labels = np.array([2, 2, 2, 5, 9, 9, 9])
    assert 5 in label_ops.median_filter_labels(labels, 5)
    assert 5 not in label_ops.mode_filter(labels, 5)


def test_median_over_probabilities_is_normalised_and_survives_all_zero_frames():
    probabilities = np.zeros([9, 2])
    probabilities[:4, 0] = 1
    probabilities[4, 1] = 1
    smoothed = label_ops.median_filter_probabilities(probabilities, 3)
    assert smoothed[:4].tolist() == [[1, 0]] * 4
    assert np.isfinite(smoothed).all()


def slow_purge(labels: np.ndarray, longest: int, last: int) -> list[int]:
    """Segment by segment; `last` is taken off the last segment's end."""
    starts = [0] + [t for t in range(1, len(labels)) if labels[t] != labels[t - 1]]
    ends = [*starts[1:], len(labels) - last]
    kept, result = labels.tolist(), labels.tolist()
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if end - start > longest or len(starts) == 1:
            continue
        before = kept[start - 1] if number > 0 else kept[ends[0]]
        after = kept[end] if number < len(starts) - 1 else kept[start - 1]
        middle = start + (end - start) // 2
        result[start:middle] = [before] * (middle - start)
        result[middle:end] = [after] * (end - middle)
    return result


@given(sequences, st.integers(0, 6))
def test_purge_in_both_variants(labels, longest):
    exclusive = label_ops.purge_short_segments(labels, longest, segment_end="exclusive")
    assert exclusive.tolist() == slow_purge(labels, longest, last=0)
    minus_one = label_ops.purge_short_segments(labels, longest, segment_end="minus_one")
    assert minus_one.tolist() == slow_purge(labels, longest, last=1)


def test_purge_differs_at_the_last_frame_only_between_the_variants():
    labels = np.array([1] * 6 + [2] * 3)
    assert label_ops.purge_short_segments(labels, 3, segment_end="exclusive").tolist() == [1] * 9
    assert label_ops.purge_short_segments(labels, 3, segment_end="minus_one").tolist() == [1] * 8 + [2]


@given(st.integers(1, 9), st.integers(1, 60))
def test_restore_takes_the_nearest_tick_and_the_earlier_one_in_a_tie(rate, extra):
    length = rate - 1 + extra
    left, right = rate // 2, (rate - 1) // 2
    ticks = np.arange(left, length - right, rate)
    found = label_ops.restore_full_rate(np.arange(len(ticks)), length, rate=rate, left=left, right=right)
    distance = np.abs(np.arange(length)[:, None] - ticks)
    assert found.tolist() == distance.argmin(axis=1).tolist()


def test_restore_refuses_a_wrong_number_of_values():
    with pytest.raises(ValueError, match="3 values for 2 ticks"):
        label_ops.restore_full_rate(np.zeros(3), 8, rate=4, left=2, right=1)


def test_labels_from_offsets_of_a_sure_prediction_give_back_slow_labels():
    truth = np.repeat([0, 2, 1], 40)
    one_hot = np.eye(3)[truth]
    found = label_ops.labels_from_offsets([one_hot[offset::4] for offset in range(4)], len(truth), rate=4)
    assert np.mean(found == truth) > 0.95
    with pytest.raises(ValueError, match=r"1 or 4 offsets.*got 2"):
        label_ops.labels_from_offsets([one_hot[::4], one_hot[1::4]], len(truth), rate=4)
    with pytest.raises(ValueError, match="'blur' is unknown"):
        label_ops.labels_from_offsets([one_hot], len(truth), rate=1, kind="blur")


def test_labels_from_offsets_purge_the_last_frame_only_if_it_is_counted():
    one_hot = np.eye(3)[np.array([1] * 6 + [2] * 3)]
    purge = {"rate": 1, "kind": "purge", "value": 3}
    assert label_ops.labels_from_offsets([one_hot], 9, **purge).tolist() == [1] * 8 + [2]
    assert label_ops.labels_from_offsets([one_hot], 9, **purge, segment_end="exclusive").tolist() == [1] * 9


def test_tst_postprocessing_by_name():
    labels = np.array([1] * 8 + [2] * 2 + [1] * 8)
    for kind in ("purge", "median", "mode"):
        assert label_ops.postprocess_labels(labels, kind, 5).tolist() == [1] * 18
    assert label_ops.postprocess_labels(labels, None) is labels
    with pytest.raises(ValueError, match="'blur' is unknown"):
        label_ops.postprocess_labels(labels, "blur", 3)


def test_repeat_frames():
    assert label_ops.repeat_frames(np.array([3, 1]), 3).tolist() == [3, 3, 3, 1, 1, 1]
