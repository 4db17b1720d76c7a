"""Crops, sampled snippets, and batches of detection samples."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actloc_jax.data import batching
from actloc_jax.data.detection_samples import (
    CroppedVideo,
    SampledSnippets,
    UncroppedVideo,
    most_segments,
    pad_features,
    pad_segments,
    padded_length,
    random_snippets,
    truncate,
    uniform_snippets,
    video_labels,
)

SEGMENTS = np.array([[10, 30], [100, 150], [170, 195]], np.float32)


def record(rows=200, index=0):
    return {
        "video": "v",
        "index": index,
        "features": np.arange(rows, dtype=np.float32)[:, None].repeat(3, axis=1),
        "segments": SEGMENTS,
        "labels": np.array([2, 0, 2], np.int32),
    }


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 300),
    max_length=st.integers(1, 200),
    margin=st.sampled_from([0.0, 2.0]),
)
def test_a_crop_lies_in_the_video_and_holds_what_survives(seed, rows, max_length, margin):
    crop = truncate(
        rows, SEGMENTS, random.Random(seed).randint, max_length=max_length, crop_ratio=(0.9, 1.0), margin=margin
    )
    assert 0 <= crop.start <= crop.start + crop.length <= rows
    assert crop.length <= max_length
    if crop.length == rows:
        assert crop.kept.all()
        np.testing.assert_array_equal(crop.segments, SEGMENTS)
        return
    inside = np.clip(SEGMENTS, crop.start - margin, crop.start + crop.length + margin)
    share = (inside[:, 1] - inside[:, 0]) / (SEGMENTS[:, 1] - SEGMENTS[:, 0])
    np.testing.assert_array_equal(crop.kept, share >= 0.5)
    np.testing.assert_allclose(crop.segments, inside[crop.kept] - crop.start, atol=1e-4)


def test_windows_are_drawn_until_one_holds_a_segment():
    drawn = []

    def draw(low, high):
        drawn.append((low, high))
        return {0: 40, 1: 60}.get(len(drawn) - 1, 5)

    crop = truncate(300, SEGMENTS, draw, max_length=30)
    assert drawn == [(0, 270)] * 3
    assert (crop.start, crop.kept.tolist()) == (5, [True, False, False])
    nothing = truncate(300, np.zeros([0, 2]), draw, max_length=30)
    assert len(drawn) == 203  # all trials
    assert (nothing.start, nothing.segments.shape) == (5, (0, 2))


def test_lengths_of_short_videos_are_rounded_to_even():
    asked = []
    truncate(25, SEGMENTS, lambda low, high: asked.append((low, high)) or low, max_length=99, crop_ratio=(0.9, 1.0))
    assert asked[0] == (22, 25)  # 22.5 rounds to 22


def test_cropped_video_moves_features_and_segments_together():
    transform = CroppedVideo(max_length=64, max_segments=4)
    starts = set()
    for seed in range(20):
        sample = transform(record(), np.random.default_rng(seed))
        start = int(sample["features"][0, 0])
        starts.add(start)
        assert sample["features"].shape == (64, 3)
        kept = sample["segment_labels"] >= 0
        assert kept.sum() >= 1
        for segment, label in zip(sample["segments"][kept], sample["segment_labels"][kept], strict=True):
            assert 0 <= segment[0] < segment[1] <= 64
            # at least one end is not cut, and is where an annotation of that class has it
            same = SEGMENTS[record()["labels"] == label]
            assert (np.abs(same - (segment + start)) < 1e-4).any()
        assert not sample["segments"][~kept].any()
    assert len(starts) > 5
    assert transform.length(200) == 64
    assert transform.length(40) == 40


def test_uncropped_video_keeps_everything():
    sample = UncroppedVideo(max_segments=8)(record(index=5), np.random.default_rng(0))
    np.testing.assert_array_equal(sample["segments"][:3], SEGMENTS)
    assert sample["segment_labels"].tolist() == [2, 0, 2, -1, -1, -1, -1, -1]
    assert len(sample["features"]) == UncroppedVideo().length(200) == 200
    assert set(UncroppedVideo()(record(), np.random.default_rng(0))) == {"features", "index"}


def test_snippets_and_video_labels():
    rng = np.random.default_rng(0)
    training = SampledSnippets(50, num_classes=4, jitter=True)
    sample = training(record(), rng)
    assert sample["features"].shape == (50, 3)
    assert sample["video_labels"].tolist() == [1, 0, 1, 0]
    assert sample["num_rows"] == 200
    assert training.length(20) == 50
    assert training(record(20), rng)["features"].shape == (50, 3)
    whole = SampledSnippets(50, num_classes=4, jitter=False)
    np.testing.assert_array_equal(whole(record(), rng)["features"][:, 0], np.arange(50) * 4)
    assert len(whole(record(20), rng)["features"]) == whole.length(20) == 20
    assert video_labels(np.zeros(0, np.int32), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("rows", [7, 49, 51, 130])
def test_random_snippets_reach_both_ends_of_their_intervals(rows):
    rng = np.random.default_rng(1)
    drawn = np.stack([random_snippets(rows, 50, rng) for _ in range(400)])
    edges = np.arange(51) * rows // 50
    np.testing.assert_array_equal(drawn.min(axis=0), edges[:-1])
    np.testing.assert_array_equal(drawn.max(axis=0), np.minimum(edges[1:], rows - 1))
    assert uniform_snippets(rows, 50).tolist() == (list(range(rows)) if rows <= 50 else edges[:-1].tolist())


def test_batches_are_padded_with_masks_and_fillers():
    class Source:
        lengths = (200, 40, 90)

        def __len__(self):
            return 3

        def record(self, position, epoch=0):
            return record(self.lengths[position], index=position)

    batches = list(
        batching.training_batches(
            Source(), CroppedVideo(64, 4, crop_ratio=None), batch_size=2, buckets=(64,), seed=0, epochs=1, num_threads=0
        )
    )
    assert [batch["features"].shape for batch in batches] == [(2, 64, 3)] * 2
    assert sorted(np.concatenate([batch["index"] for batch in batches])) == [-1, 0, 1, 2]
    for batch in batches:
        assert batch["segments"].shape == (2, 4, 2)
        for row, index in enumerate(batch["index"]):
            rows = 0 if index < 0 else min(Source.lengths[index], 64)
            assert batch["mask"][row].tolist() == [step < rows for step in range(64)]
            assert not batch["features"][row, rows:].any()
            if index < 0:
                assert (batch["segment_labels"][row] == -1).all()
                assert not batch["segments"][row].any()
    (filler,) = [batching.empty_sample(SampledSnippets(5, 3, True)(record(), np.random.default_rng(0)))]
    assert filler["video_labels"].tolist() == [0, 0, 0]


def test_padding():
    with pytest.raises(ValueError, match="a video has 3 segments, room is for 2; raise max_segments"):
        pad_segments(SEGMENTS, np.zeros(3), 2)
    assert [most_segments(counts) for counts in ([], [0], [8, 3], [9])] == [8, 8, 8, 16]
    assert [padded_length(rows, minimum=64, multiple=32) for rows in (1, 64, 65, 96, 97)] == [64, 64, 96, 96, 128]
    padded, mask = pad_features(np.ones([3, 2], np.float32), 5)
    assert padded.sum(axis=1).tolist() == [2, 2, 2, 0, 0]
    assert mask.tolist() == [True, True, True, False, False]
    with pytest.raises(ValueError, match="3 rows do not fit into 2"):
        pad_features(np.ones([3, 2]), 2)
