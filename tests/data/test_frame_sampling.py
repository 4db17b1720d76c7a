"""Frame sampling and standardisation, and what becomes of their masks in a batch."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.data import batching
from actloc_jax.data.frame_sampling import SampledFrames, WholeVideo, sample_frames, standardise


def make_record(frames: int, index: int = 0) -> dict:
    """A video whose only channels tell frame number and its negative."""
    numbers = np.arange(frames, dtype=np.float64)
    return {
        "video": f"v_{index}",
        "index": index,
        "features": np.stack([numbers, 100 - numbers], axis=1),
        "labels": (numbers // 4).astype(np.int32),
    }


class Records:
    """A source of videos with the given numbers of frames."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def record(self, position: int, epoch: int = 0) -> dict:
        return make_record(self.lengths[position], position)


def test_even_frames_include_the_first_and_the_last():
    indices, mask = sample_frames(10, 4)
    assert indices.tolist() == [0, 3, 6, 9]
    assert mask.all()


def test_jitter_draws_each_frame_from_its_interval_and_never_the_last():
    rng = np.random.default_rng(0)
    draws = np.array([sample_frames(21, 4, rng)[0] for _ in range(300)])
    for column, (low, high) in enumerate([(0, 5), (5, 10), (10, 15), (15, 20)]):
        assert set(draws[:, column]) == set(range(low, high))
    tight, _ = sample_frames(8, 7, rng)
    assert tight.tolist() == list(range(7))


def test_a_legacy_generator_draws_what_the_original_draws():
    edges = np.linspace(0, 99, 9).astype(int)
    expected = np.random.RandomState(5).randint(edges[:-1], edges[1:])
    assert sample_frames(100, 8, np.random.RandomState(5))[0].tolist() == expected.tolist()


def test_the_last_frame_is_drawn_where_asked_for():
    rng = np.random.default_rng(0)
    draws = np.array([sample_frames(21, 4, rng, draw_last=True)[0] for _ in range(300)])
    assert set(draws[:, -1]) == set(range(15, 21))
    assert draws[:, 2].max() == 14
    sampled = SampledFrames(4, jitter=True, standardise=False, draw_last=True)
    assert 20 in {sampled(make_record(21), rng)["features"][-1, 0] for _ in range(300)}


@pytest.mark.parametrize("jitter", [False, True])
def test_a_short_video_is_filled_up_with_its_last_frame(jitter):
    sample = SampledFrames(6, jitter=jitter, standardise=False)(make_record(5), np.random.default_rng(0))
    assert sample["features"][:, 0].tolist() == [0, 1, 2, 3, 4, 4]
    assert sample["mask"].tolist() == [True] * 5 + [False]
    assert sample["labels"].tolist() == [0, 0, 0, 0, 1, -1]
    assert {name: value.dtype.name for name, value in sample.items()} == {
        "features": "float32",
        "mask": "bool",
        "labels": "int32",
        "index": "int32",
    }


def test_jitter_is_only_drawn_where_asked_for():
    record = make_record(50)
    fixed, drawn = SampledFrames(9, jitter=False, standardise=False), SampledFrames(9, jitter=True, standardise=False)
    one, other = (fixed(record, np.random.default_rng(seed))["features"] for seed in (0, 1))
    np.testing.assert_array_equal(one, other)
    one, other = (drawn(record, np.random.default_rng(seed))["features"] for seed in (0, 1))
    assert (one != other).any()


def test_nothing_to_sample_is_an_error():
    with pytest.raises(ValueError, match="both must be at least 1"):
        sample_frames(0, 4)


def test_standardise_by_hand():
    features = np.array([[1.0, 5.0, 2.0], [3.0, 5.0, -2.0], [0.0, 0.0, 0.0], [5.0, 5.0, 0.0]])
    found = standardise(features)
    spread = np.sqrt(8 / 3)  # of 1, 3, 5 and of 2, -2, 0: the frame of zeros is not in the statistics
    expected = np.array([[-2 / spread, 0, 2 / spread], [0, 0, -2 / spread], [0, 0, 0], [2 / spread, 0, 0]]) / np.sqrt(3)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found.dtype == np.float32
    assert not standardise(np.zeros([3, 2], np.float32)).any()


def test_standardise_keeps_small_differences_of_float32_features():
    rng = np.random.default_rng(0)
    features = (1000 + 0.1 * rng.standard_normal([5000, 2])).astype(np.float32)
    found = standardise(features) * np.sqrt(2)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)


def test_statistics_are_those_of_the_sample_with_its_repeats():
    sample = SampledFrames(8, jitter=False, standardise=True)(make_record(5), np.random.default_rng(0))
    repeated = np.array([0, 1, 2, 3, 4, 4, 4, 4.0])
    expected = (repeated - repeated.mean()) / repeated.std() / np.sqrt(2)
    np.testing.assert_allclose(sample["features"][:, 0], expected, atol=1e-6)


def test_statistics_of_the_whole_video_do_not_depend_on_the_sample():
    whole = WholeVideo(standardise=True)(make_record(50), np.random.default_rng(0))["features"]
    sampled = SampledFrames(9, jitter=True, standardise=True, of_whole_video=True)
    plain = SampledFrames(9, jitter=True, standardise=False)
    frames = plain(make_record(50), np.random.default_rng(3))["features"][:, 0].astype(int)
    np.testing.assert_array_equal(sampled(make_record(50), np.random.default_rng(3))["features"], whole[frames])
    raw = SampledFrames(9, jitter=False, standardise=False, of_whole_video=True)
    assert raw(make_record(50), np.random.default_rng(0))["features"][-1, 0] == 49


def test_the_whole_video_and_its_length():
    transform = WholeVideo(standardise=False)
    sample = transform(make_record(5, index=3), np.random.default_rng(0))
    assert sample["features"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert sample["features"].dtype == np.float32
    assert sample["index"] == 3
    assert "mask" not in sample
    assert transform.length(5) == 5
    assert SampledFrames(8, jitter=True, standardise=False).length(500) == 8
    assert WholeVideo(standardise=True)(make_record(5), np.random.default_rng(0))["features"][2, 0] == 0


def test_a_batch_keeps_the_masks_of_samples_and_empties_filler_rows():
    batches = batching.training_batches(
        Records(5, 40, 12),
        SampledFrames(8, jitter=True, standardise=True),
        batch_size=2,
        buckets=(8,),
        seed=0,
        epochs=1,
        num_threads=0,
    )
    valid = {}
    for batch in batches:
        assert batch["mask"].shape == (2, 8)
        assert batch["mask"].dtype == bool
        assert (batch["labels"][~batch["mask"]] == -1).all()
        assert (batch["labels"][batch["mask"]] >= 0).all()
        for index, mask in zip(batch["index"].tolist(), batch["mask"], strict=True):
            valid[index] = mask.sum()
    assert valid == {0: 5, 1: 8, 2: 8, -1: 0}


def test_padding_behind_a_sample_is_masked_too():
    sample = SampledFrames(6, jitter=False, standardise=False)(make_record(5), np.random.default_rng(0))
    batch = batching.pad_and_stack([sample], 9)
    assert batch["mask"].tolist() == [[True] * 5 + [False] * 4]
    whole = WholeVideo(standardise=False)(make_record(5), np.random.default_rng(0))
    assert batching.pad_and_stack([whole], 7)["mask"].tolist() == [[True] * 5 + [False] * 2]
