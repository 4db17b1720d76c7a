"""The cache of backbone outputs: float16 files, the seed of the epoch, and damaged or unfinished caches."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.data import batching, frame_cache
from actloc_jax.data.segmentation import SegmentationFolder

SEEDS, RATE = 3, 2


@pytest.fixture
def source(make_folder):
    return SegmentationFolder(make_folder()).source("train", 1)


@pytest.fixture
def cache(source, tmp_path):
    for seed in range(SEEDS):
        for position, video in enumerate(source.videos):
            time = -(-source.lengths[position] // RATE)
            features = np.full([time, 4], 10 * seed + position, np.float32)
            frame_cache.write_video(tmp_path / "cache", seed, video, features, np.ones([time, 3], np.float32) / 3)
    frame_cache.write_meta(tmp_path / "cache", {"n_seeds": SEEDS, "sample_rate": RATE})
    return tmp_path / "cache"


def test_epoch_reads_its_seed(source, cache):
    cached = frame_cache.CachedSource(cache, source)
    assert cached.lengths == (20, 29, 17)
    batches = batching.training_batches(
        cached, frame_cache.CachedSample(), batch_size=2, buckets=(32,), seed=0, epochs=5
    )
    for step, batch in enumerate(batches):
        for row, index in enumerate(batch["index"]):
            if index >= 0:
                values = batch["frame_features"][row][batch["mask"][row]]
                assert (values == 10 * (step // 2 % SEEDS) + index).all()
                np.testing.assert_array_equal(batch["labels"][row][batch["mask"][row]], source.labels(index)[::RATE])
        assert batch["frame_predictions"].dtype == np.float32


def test_values_are_stored_as_float16(cache, source):
    path = frame_cache.cached_path(cache, 0, "a")
    with np.load(path) as file:
        assert {name: file[name].dtype for name in file.files} == {
            "frame_features": np.float16,
            "frame_predictions": np.float16,
        }
    _, predictions = frame_cache.read_video(cache, 0, "a")
    assert predictions.dtype == np.float32
    assert predictions[0, 0] == np.float16(1 / 3)
    assert not list(path.parent.glob(".*"))


def test_unfinished_and_damaged_caches_are_refused(cache, source):
    path = frame_cache.cached_path(cache, 1, "a")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"a\.npz cannot be read .* fill the cache again"):
        frame_cache.read_video(cache, 1, "a")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.npz does not exist; run the stage that fills the cache"):
        frame_cache.read_video(cache, 1, "a")
    (cache / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="the cache is not complete"):
        frame_cache.CachedSource(cache, source)
