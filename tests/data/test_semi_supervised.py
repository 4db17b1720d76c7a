"""Who is labelled, which videos are trained on and evaluated, as published and fixed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.data.annotations import video_annotation
from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.grid import thumos14_i3d
from actloc_jax.data.rescaled import AS_PUBLISHED, FIXED
from actloc_jax.data.semi_supervised import PARTS, SemiSupervised, draw_split
from actloc_jax.data.spot_files import SpotFolder
from actloc_jax.data.tfds_detection import PreparedDetection, prepare
from tests.data.spot_folder import ENTRIES, ORDER, entry, write_spot_folder


def make(count: int, classes: int = 5):
    return [video_annotation(f"v{n}", "train", 10.0, 25.0, [(1, 2, n % classes)]) for n in range(count)]


def names(videos) -> list[str]:
    return [getattr(video, "annotation", video).video for video in videos]


@given(st.integers(1, 60), st.floats(0.5, 100), st.integers(0, 9))
def test_a_drawn_split_divides_the_videos(count, labels, seed):
    videos = make(count)
    split = draw_split(videos, labels=labels, seed=seed)
    assert len(split.labelled) == max(round(count * labels / 100), 1)
    labelled, unlabelled = names(split.labelled), names(split.unlabelled)
    assert sorted(labelled + unlabelled) == sorted(names(videos))
    order = {name: number for number, name in enumerate(names(videos))}
    assert [order[name] for name in labelled] == sorted(order[name] for name in labelled)
    assert names(draw_split(videos, labels=labels, seed=seed).labelled) == labelled
    assert set(labelled) <= set(names(draw_split(videos, labels=min(2 * labels, 100), seed=seed).labelled))
    shown = {label for video in split.labelled for label in video.labels.tolist()}
    assert len(shown) == min(len(labelled), min(count, 5))


def test_another_seed_draws_others():
    drawn = {tuple(names(draw_split(make(50), labels=20, seed=seed).labelled)) for seed in range(5)}
    assert len(drawn) == 5
    for labels in (0, 101):
        with pytest.raises(ValueError, match="in per cent"):
            draw_split(make(5), labels=labels, seed=0)


@pytest.fixture
def root(tmp_path):
    """As `ENTRIES`, and two validation videos that the published rules leave out."""
    more = {
        "v_f": entry(40.0, 1000, 1008, (0, 20, "Archery"), (30, 33, "Archery")),
        "v_g": entry(40.0, 1000, 1008, (5, 9, "Beer pong")),
    }
    order = ORDER | dict.fromkeys(more, "validation")
    return write_spot_folder(tmp_path / "spot", entries=ENTRIES | more, order=order)


def test_as_published(root):
    data = SemiSupervised(SpotFolder(root, labels=50), steps=100, labels=50)
    assert names(data.videos("labelled")) == ["v_d", "v_b"]
    assert names(data.videos("unlabelled")) == ["v_a"]  # the last segment of v_c is short
    assert names(data.videos("pretraining")) == ["v_d", "v_b"]
    assert names(data.videos("evaluation")) == ["v_e", "v_f", "v_g"]
    assert data.evaluated() == data.evaluated(filtered=True) == ["v_e"]
    assert data.evaluated(filtered=False) == ["v_e", "v_f", "v_g"]
    assert data.without_targets("unlabelled") == ["v_c"]
    lines = data.describe().split("\n")
    assert lines[0].startswith("50 % of 4 training videos are labelled (stated by")
    assert lines[2] == "unlabelled: 2 videos, 1 of them without a segment that counts (left out)"
    assert lines[3] == "evaluation: 3 videos, 2 of them without a segment that counts (kept)"
    record = data.source("labelled")[0]
    assert record["spans"].tolist() == [[1, 99]]


def test_fixed(root):
    data = SemiSupervised(SpotFolder(root, labels=50), steps=100, labels=50, quirks=FIXED)
    assert names(data.videos("unlabelled")) == ["v_a", "v_c"]
    assert names(data.videos("pretraining")) == ["v_d", "v_a", "v_b", "v_c"]
    assert data.evaluated() == ["v_e", "v_f", "v_g"]
    assert data.evaluated(filtered=True) == ["v_e"]  # the published protocol stays at hand, to print both
    assert data.without_targets("evaluation") == []
    assert data.source("labelled")[0]["spans"].tolist() == [[0, 100]]


def test_videos_without_features(root):
    (root / "csv" / "v_e.csv").unlink()
    (root / "csv" / "v_b.csv").unlink()
    data = SemiSupervised(SpotFolder(root, labels=50), steps=100, labels=50)
    with pytest.raises(FileNotFoundError, match=r"1 of 4 videos of split 'train' have no features: v_b .*v_b\.csv"):
        data.videos("labelled")
    data = SemiSupervised(SpotFolder(root, labels=50, missing_features="skip"), steps=100, labels=50)
    with pytest.warns(UserWarning, match="left out"):
        assert names(data.videos("labelled")) == ["v_d"]
    with pytest.warns(UserWarning, match="v_e"):
        assert data.evaluated(filtered=True) == []
    assert data.evaluated(filtered=False) == ["v_e", "v_f", "v_g"]
    assert data.evaluated(filtered=True, need_features=False) == ["v_e"]


def test_a_ratio_that_no_file_states_is_drawn(root):
    folder = SpotFolder(root)
    data = SemiSupervised(folder, steps=100, labels=25, seed=3)
    assert len(data.split.labelled) == 1
    assert data.split.rule == "drawn with seed 3"
    assert len(SemiSupervised(folder, steps=100, labels=100).split.labelled) == 4
    with pytest.raises(ValueError, match="no unlabelled video is left of 0"):
        SemiSupervised(folder, steps=100, labels=100).source("unlabelled")
    with pytest.raises(ValueError, match="part 'train' is unknown; known: labelled, unlabelled, pretraining"):
        data.videos("train")


@pytest.fixture
def thumos(tmp_path):
    """A data set in the shared detection format with THUMOS14's grid, whose rows say what features cover."""
    (tmp_path / "features").mkdir()
    database = {}
    for number in range(8):
        rows = 60 + number
        np.save(tmp_path / "features" / f"v{number}.npy", np.ones([rows, 4], np.float32))
        seconds = ((rows - 1) * 4 + 16) / 30
        database[f"v{number}"] = {
            "subset": "Validation" if number < 6 else "Test",
            "duration": seconds + 1,
            "fps": 30.0,
            "annotations": [{"segment": [0.0, seconds / 2], "label": f"class{number % 2}"}],
        }
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    return tmp_path


def test_any_detection_data_set(thumos):
    subsets = {"train": ("Validation",), "test": ("Test",)}
    folder = DetectionFolder(thumos, grid=thumos14_i3d(), subsets=subsets)
    data = SemiSupervised(folder, steps=20, labels=50, evaluation="test", quirks=FIXED)
    assert (len(data.split.labelled), len(data.split.unlabelled)) == (3, 3)
    record = data.source("labelled")[0]
    assert record["spans"].tolist() == [[0, 10]]  # half of what the features cover, not of the duration
    assert data.evaluated() == ["v6", "v7"]
    (thumos / "labelled.txt").write_text("v1\nv4\n")
    folder = DetectionFolder(thumos, grid=thumos14_i3d(), subsets=subsets, lists={"labelled": "labelled.txt"})
    data = SemiSupervised(folder, steps=20, labels=33, evaluation="test", quirks=FIXED)
    assert names(data.split.labelled) == ["v1", "v4"]
    assert names(data.split.unlabelled) == ["v0", "v2", "v3", "v5"]
    assert data.split.rule == f"stated by {thumos}"
    without_grid = DetectionFolder(thumos, subsets=subsets)
    video = without_grid.annotations.videos["v0"]
    assert without_grid.covered_seconds(video) == video.duration


def test_prepared_data_give_the_same_records(root, tmp_path):
    folder = SpotFolder(root, labels=50)
    prepared = PreparedDetection(prepare(folder, tmp_path / "prepared"))
    for quirks in (AS_PUBLISHED, FIXED):
        read, again = (SemiSupervised(store, steps=100, labels=50, quirks=quirks) for store in (folder, prepared))
        assert read.evaluated(filtered=True) == again.evaluated(filtered=True)
        for part in PARTS:
            sources = read.source(part), again.source(part)
            assert sources[0].videos == sources[1].videos
            for one, two in zip(*sources, strict=True):
                assert one.keys() == two.keys()
                assert one["grid"] == two["grid"]
                for name in ("features", "spans", "span_labels", "segments", "labels"):
                    np.testing.assert_array_equal(one[name], two[name], err_msg=name)
