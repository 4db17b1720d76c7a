"""Buckets, padding, filler rows, exact resume, and the same rows however many processes load them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.data import batching
from actloc_jax.data.batching import Shard
from actloc_jax.data.samples import DiffActSample, FixedOffsetSample
from actloc_jax.data.segmentation import SegmentationFolder

DIFFACT = DiffActSample(sample_rate=2, boundary_sigma=2.0, soft_label_sigma=1.4, num_classes=3)


@pytest.fixture
def source(make_folder):
    return SegmentationFolder(make_folder()).source("train", 1)


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def padding(lengths: list[int], buckets: tuple[int, ...]) -> int:
    return sum(batching.bucket_for(length, buckets) - length for length in lengths)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 4))
def test_buckets_pad_least(lengths, max_buckets):
    found = batching.length_buckets(lengths, max_buckets=max_buckets, multiple=8)
    assert len(found) <= max_buckets
    assert list(found) == sorted(set(found))
    candidates = sorted({-(-length // 8) * 8 for length in lengths})
    choices = (
        (*chosen, candidates[-1])
        for size in range(max_buckets)
        for chosen in itertools.combinations(candidates[:-1], size)
    )
    assert padding(lengths, found) == min(padding(lengths, choice) for choice in choices)


def test_buckets_hold_the_samples_of_every_source(source):
    buckets = batching.buckets_of([source], FixedOffsetSample(sample_rate=2), max_buckets=2, multiple=4)
    assert buckets == (20, 32)  # 40, 57 and 33 frames become 20, 29 and 17
    with pytest.raises(ValueError, match="57 frames does not fit"):
        batching.bucket_for(57, buckets)
    with pytest.raises(ValueError, match="no lengths"):
        batching.length_buckets([])


def test_padding_values_and_mask():
    samples = [
        {"features": np.ones([2, 3], np.float32), "labels": np.array([1, 2], np.int32), "index": np.int32(4)},
        {"features": np.ones([4, 3], np.float32), "labels": np.zeros(4, np.int32), "index": np.int32(0)},
    ]
    batch = batching.pad_and_stack(samples, 5)
    assert batch["mask"].tolist() == [[True, True, False, False, False], [True] * 4 + [False]]
    assert batch["labels"].tolist() == [[1, 2, -1, -1, -1], [0, 0, 0, 0, -1]]
    assert batch["features"].sum(axis=(1, 2)).tolist() == [6, 12]
    assert batch["features"].dtype == np.float32
    assert batch["index"].tolist() == [4, 0]
    with pytest.raises(ValueError, match="sample 4 have different lengths"):
        batching.pad_and_stack([{**samples[0], "labels": np.zeros(3, np.int32)}], 5)


def test_an_epoch_holds_every_video_once_and_fillers_last(source):
    batches = list(
        batching.training_batches(source, FixedOffsetSample(), batch_size=2, buckets=(64,), seed=1, epochs=2)
    )
    assert len(batches) == 4
    for epoch in (batches[:2], batches[2:]):
        assert sorted(np.concatenate([batch["index"] for batch in epoch]).tolist()) == [-1, 0, 1, 2]
        assert epoch[1]["index"][1] == -1
        assert not epoch[1]["mask"][1].any()
        assert (epoch[1]["labels"][1] == -1).all()
        assert not epoch[1]["features"][1].any()


def test_shuffle_depends_on_seed_and_epoch(source):
    def order(**options) -> list[int]:
        batches = batching.training_batches(
            source, FixedOffsetSample(), batch_size=1, buckets=(64,), num_threads=0, **options
        )
        return [int(batch["index"][0]) for batch in batches]

    assert order(seed=0, epochs=1, shuffle=False) == [0, 1, 2]
    orders = {tuple(order(seed=0, epochs=8)[3 * epoch : 3 * epoch + 3]) for epoch in range(8)}
    assert len(orders) > 1
    assert order(seed=0, epochs=8) == order(seed=0, epochs=8) != order(seed=1, epochs=8)


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 3, 5])
def test_resume_is_exact_random_draws_included(source, num_threads, taken):
    def pipeline():
        return iter(
            batching.training_batches(
                source, DIFFACT, batch_size=2, buckets=(32,), seed=5, epochs=4, num_threads=num_threads
            )
        )

    iterator = pipeline()
    for _ in range(taken):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = list(iterator)
    resumed = pipeline()
    resumed.set_state(state)
    rest = list(resumed)
    assert len(rest) == len(expected) == 8 - taken
    for first, second in zip(expected, rest, strict=True):
        assert_same(first, second)


def test_offsets_and_epochs_draw_differently(source):
    batches = batching.training_batches(
        source, DIFFACT, batch_size=1, buckets=(32,), seed=5, epochs=12, shuffle=False, num_threads=0
    )
    firsts = {float(batch["features"][0, 0, 0]) for batch in batches if batch["index"][0] == 0}
    record = source[0]
    assert firsts == {float(record["features"][0, 0]), float(record["features"][1, 0])}


@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_load_the_rows_of_one(source, count):
    def load(shard: Shard) -> list[dict]:
        return list(
            batching.training_batches(
                source, DIFFACT, batch_size=4, buckets=(20, 24, 32), seed=2, epochs=2, num_threads=0, shard=shard
            )
        )

    whole = load(Shard())
    parts = [load(Shard(index, count)) for index in range(count)]
    for step, batch in enumerate(whole):
        for name, array in batch.items():
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, array, err_msg=name)
    with pytest.raises(ValueError, match="batch size 4 cannot be divided over 3 processes"):
        load(Shard(0, 3))


def test_evaluation_takes_every_video_once_by_length(source):
    batches = list(batching.evaluation_batches(source, FixedOffsetSample(), batch_size=2, buckets=(40, 64)))
    assert [batch["index"].tolist() for batch in batches] == [[2, 0], [1, -1]]
    assert [batch["mask"].shape[1] for batch in batches] == [40, 64]
    np.testing.assert_array_equal(batches[1]["features"][0, :57], source[1]["features"])


def test_bad_data_stop_the_pipeline_with_their_message(source, tmp_path):
    np.save(tmp_path / "dataset" / "features" / "b.npy", np.full([8, 57], np.nan, np.float32))
    with pytest.raises(ValueError, match=r"b\.npy: 456 NaN"):
        list(batching.evaluation_batches(source, FixedOffsetSample(), batch_size=1, buckets=(64,)))
