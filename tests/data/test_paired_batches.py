"""Labelled and unlabelled videos in one batch: ratio, fillers, endless, the same again, and exact resume."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from actloc_jax.data.batching import Shard
from actloc_jax.data.paired_batches import paired_batches, published_unlabelled_batch
from actloc_jax.data.rescaled import RescaledSample, RescaledSource, rescale
from actloc_jax.data.spot_files import SpotFolder
from tests.data.spot_folder import entry, write_spot_folder

STEPS = 12


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """5 labelled and 7 unlabelled videos."""
    entries = {f"v_{n}": entry(40.0, 1000, 1008, (1, 20 + n, "Archery")) for n in range(12)}
    root = write_spot_folder(
        tmp_path_factory.mktemp("data") / "spot", entries=entries, order=dict.fromkeys(entries, "training")
    )
    folder = SpotFolder(root)
    videos = rescale(folder.annotated("train"), folder.covered_seconds, STEPS)
    return tuple(RescaledSource(folder, part, steps=STEPS) for part in (videos[:5], videos[5:]))


def make(sources, seed=0, sizes=(2, 3), **options):
    transforms = RescaledSample(STEPS, 3), RescaledSample(STEPS, 3, targets=False)
    options = {"num_threads": 0} | options
    return paired_batches(*sources, transforms=transforms, batch_sizes=sizes, steps=STEPS, seed=seed, **options)


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_batch_holds_both_streams(sources):
    batch = next(make(sources))
    labelled = {"features", "labels", "masks", "index", "mask"}
    assert set(batch) == labelled | {"unlabelled/features", "unlabelled/index", "unlabelled/mask"}
    assert batch["features"].shape == (2, STEPS, 4)
    assert batch["masks"].shape == (2, STEPS, STEPS)
    assert batch["unlabelled/features"].shape == (3, STEPS, 4)
    for row, index in enumerate(batch["unlabelled/index"]):
        np.testing.assert_array_equal(batch["unlabelled/features"][row], sources[1][int(index)]["features"])


def test_labelled_epochs_are_filled_up_and_unlabelled_ones_cut(sources):
    batches = list(itertools.islice(make(sources), 6))
    for epoch in (batches[:3], batches[3:]):  # 5 labelled videos: 2 + 2 + 1
        assert sorted(np.concatenate([batch["index"] for batch in epoch])) == [-1, 0, 1, 2, 3, 4]
        assert not epoch[-1]["mask"][1].any()
        assert (epoch[-1]["labels"][1] == -1).all()
    for first in (0, 2, 4):  # 7 unlabelled videos: 3 + 3, and one left out
        seen = np.concatenate([batch["unlabelled/index"] for batch in batches[first : first + 2]])
        assert len(set(seen)) == 6
        assert (seen >= 0).all()
    assert all(batch["unlabelled/mask"].all() for batch in batches)
    orders = [np.concatenate([b["unlabelled/index"] for b in batches[n : n + 2]]).tolist() for n in (0, 2, 4)]
    assert len(set(map(tuple, orders))) > 1


def test_the_seed_decides(sources):
    first, again, other = (list(itertools.islice(make(sources, seed=seed), 4)) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        assert_same(one, two)
    assert any(
        (one["index"] != two["index"]).any() or (one["unlabelled/index"] != two["unlabelled/index"]).any()
        for one, two in zip(first, other, strict=True)
    )


@pytest.mark.parametrize("threads", [0, 2])
def test_goes_on_exactly_where_it_was_saved(sources, threads):
    batches = make(sources, num_threads=threads)
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(3)]
    restored = make(sources, num_threads=threads)
    restored.set_state(state)
    for batch in expected:
        assert_same(next(restored), batch)
    with pytest.raises(ValueError, match="saved by a run with other data settings"):
        restored.set_state({"next_index": 3})


def test_processes_load_their_rows_of_the_same_batches(sources):
    whole = make(sources, sizes=(2, 4))
    parts = [make(sources, sizes=(2, 4), shard=Shard(index, 2)) for index in range(2)]
    for _ in range(3):
        rows = [next(part) for part in parts]
        joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        assert_same(joined, next(whole))


def test_fewer_unlabelled_videos_than_a_batch(sources):
    with pytest.raises(ValueError, match="7 videos do not fill one batch of 8; use a smaller batch size"):
        make(sources, sizes=(2, 8))


def test_published_ratio():
    sizes = {labels: published_unlabelled_batch(100, labels) for labels in (10, 60, 90, 98, 80)}
    assert sizes == {10: 24, 60: 24, 90: 12, 98: 4, 80: 24}
    for labels in (0, 100):
        with pytest.raises(ValueError, match="per cent"):
            published_unlabelled_batch(100, labels)
