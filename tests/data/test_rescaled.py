"""Videos at T steps: which segments are targets, where they lie on the steps, and what the samples hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.data.annotations import video_annotation
from actloc_jax.data.rescaled import (
    AS_PUBLISHED,
    FIXED,
    RescaledSample,
    RescaledSource,
    RescaledVideo,
    rescale,
    resize_linear,
    span_labels,
    span_masks,
    surviving,
)
from actloc_jax.data.spot_files import SpotFolder
from tests.data.spot_folder import write_spot_folder


def video(name: str, *rows: tuple[float, float, int], seconds: float = 100.0):
    return video_annotation(name, "training", seconds, 25.0, rows)


def targets(videos, quirks=AS_PUBLISHED, seconds: float = 100.0, steps: int = 100):
    """Video -> (start, end, class) of each target."""
    return {
        found.annotation.video: [
            (start, end, label)
            for (start, end), label in zip(found.positions.tolist(), found.labels.tolist(), strict=True)
        ]
        for found in rescale(videos, lambda _: seconds, steps, quirks)
    }


def test_as_published_only_the_last_segment_counts_and_only_if_it_is_long():
    videos = [
        video("two", (0, 50, 0), (60, 80, 1)),
        video("last_is_short", (0, 50, 0), (60, 70, 1)),
        video("at_17", (10, 27, 2)),
        video("above_17", (10, 27.5, 2)),
    ]
    found = targets(videos)
    assert found == {"two": [(0.6, 0.8, 1)], "last_is_short": [], "at_17": [], "above_17": [(0.1, 0.275, 2)]}
    kept = surviving(rescale(videos, lambda _: 100.0, 100))
    assert [rescaled.annotation.video for rescaled in kept] == ["two", "above_17"]


def test_the_rule_is_in_steps_and_looks_at_unclipped_times():
    assert targets([video("v", (0, 16, 0))], steps=200)["v"]  # 17 of 200 steps are 8.5 %
    assert targets([video("v", (95, 130, 0))]) == {"v": [(0.95, 1.0, 0)]}
    assert targets([video("v", (20, 40, 0))], seconds=200.0) == {"v": []}


def test_fixed_takes_every_segment_that_lies_in_the_video():
    videos = [video("v", (0, 50, 0), (60, 62, 1), (120, 130, 2), (90, 110, 0)), video("nothing")]
    assert targets(videos, FIXED) == {"v": [(0, 0.5, 0), (0.6, 0.62, 1), (0.9, 1, 0)], "nothing": []}
    each = dataclasses.replace(FIXED, long_segments_only=True)
    assert targets(videos, each)["v"] == [(0, 0.5, 0), (0.9, 1, 0)]


def test_a_video_without_annotation_takes_over_the_segment_before_it():
    videos = [video("a", (10, 40, 1)), video("b"), video("c")]
    assert targets(videos) == {name: [(0.1, 0.4, 1)] for name in "abc"}
    sane = dataclasses.replace(AS_PUBLISHED, inherit_empty=False)
    assert targets(videos, sane) == {"a": [(0.1, 0.4, 1)], "b": [], "c": []}
    with pytest.raises(ValueError, match=r"b has no annotation and there is no video before it"):
        targets(videos[1:])


def rescaled(*positions: tuple[float, float]) -> RescaledVideo:
    table = np.array(positions, np.float64).reshape(-1, 2)
    return RescaledVideo(video("v"), 100.0, table, np.zeros(len(table), np.int32))


def test_spans_are_shaved_as_published_or_touch_every_step():
    found = rescaled((0.105, 0.428), (0.5, 0.515), (0.0, 1.0))
    assert found.spans(100, shave=True).tolist() == [[11, 41], [51, 50], [1, 99]]
    assert found.spans(100, shave=False).tolist() == [[10, 43], [50, 52], [0, 100]]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 200))
def test_no_segment_is_lost_without_shaving(first, second, steps):
    start, end = sorted((first, second))
    if start == end:
        return
    [(low, high)] = rescaled((start, end)).spans(steps, shave=False).tolist()
    assert 0 <= low < high <= steps
    assert low <= start * steps
    assert high >= end * steps


def test_targets_of_several_spans():
    spans = np.array([[1, 3], [4, 6], [5, 5], [3, 1]])
    labels = span_labels(spans, np.array([2, 0, 1, 1]), 7, background=9)
    assert labels.tolist() == [9, 2, 2, 9, 0, 0, 9]
    masks = span_masks(spans, 7)
    assert masks[1].tolist() == masks[2].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert masks[5].tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert not masks[[0, 3, 6]].any()
    assert span_labels(np.array([[1, 5], [3, 4]]), np.array([0, 1]), 6, background=9).tolist() == [9, 0, 0, 1, 0, 9]
    assert span_labels(np.array([[1, -1]]), np.array([0]), 4, background=9).tolist() == [9] * 4


def interpolated(features: np.ndarray, steps: int) -> np.ndarray:
    """Linear interpolation between the centres of rows, which are at 0.5, 1.5, ... of the rows."""
    at = (np.arange(steps) + 0.5) * len(features) / steps
    columns = [np.interp(at, np.arange(len(features)) + 0.5, column) for column in features.T]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("rows", [1, 2, 57, 100, 130])
@pytest.mark.parametrize("steps", [24, 100])
def test_resizing(rows, steps):
    features = np.random.default_rng(rows).standard_normal([rows, 3]).astype(np.float32)
    found = resize_linear(features, steps)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, interpolated(features, steps), atol=5e-5)
    if rows == steps:
        np.testing.assert_array_equal(found, features)


def test_records_and_samples(tmp_path):
    folder = SpotFolder(write_spot_folder(tmp_path / "spot"))
    videos = rescale(folder.annotated("train"), folder.covered_seconds, 20, FIXED)
    source = RescaledSource(folder, videos, steps=20, shave=False)
    assert source.videos == ("v_d", "v_a", "v_b", "v_c")
    assert source.lengths == (20,) * 4
    record = source[1]
    np.testing.assert_allclose(record["features"], interpolated(np.load(tmp_path / "spot/npy/v_a.npy"), 20), atol=1e-5)
    assert record["spans"].tolist() == [[2, 9], [10, 20]]  # 2 to 8 and 10 to 19 of 19.2 s
    assert record["span_labels"].tolist() == [1, 0]
    np.testing.assert_allclose(record["grid"].to_seconds(20), 19.2)
    sample = RescaledSample(20, 3)(record, np.random.default_rng(0))
    assert sample["labels"].tolist() == [3] * 2 + [1] * 7 + [3] + [0] * 10
    assert sample["masks"].shape == (20, 20)
    assert sample["masks"].sum() == 7**2 + 10**2
    assert set(RescaledSample(20, 3, targets=False)(record, np.random.default_rng(0))) == {"features", "index"}
    with pytest.raises(ValueError, match="no videos"):
        RescaledSource(folder, [], steps=20)


def test_kept_features_are_read_once(tmp_path):
    root = write_spot_folder(tmp_path / "spot")
    folder = SpotFolder(root)
    videos = rescale(folder.annotated("train"), folder.covered_seconds, 20)
    kept = RescaledSource(folder, videos, steps=20, keep_in_memory=True)
    read_again = RescaledSource(folder, videos, steps=20)
    first = kept[0]["features"]
    (root / "csv" / "v_d.csv").unlink()
    np.testing.assert_array_equal(kept[0]["features"], first)
    with pytest.raises(FileNotFoundError):
        read_again[0]
