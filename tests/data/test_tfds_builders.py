"""Prepared records equal those of the folder, and so do the batches made from them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from actloc_jax.data import batching
from actloc_jax.data.samples import DiffActSample
from actloc_jax.data.segmentation import SegmentationFolder
from actloc_jax.data.tfds_builders import TfdsSource, prepare, prepared_bundles, prepared_classes, prepared_videos


def open_prepared(directory, subset: str) -> TfdsSource:
    return TfdsSource(directory, prepared_classes(directory), prepared_videos(directory, f"{subset}.split1"))


def test_folder_and_tfds_give_identical_records_and_batches(make_folder, tmp_path):
    folder = SegmentationFolder(make_folder())
    directory = prepare(folder, tmp_path / "prepared")
    assert prepare(folder, tmp_path / "prepared") == directory
    for subset in ("train", "test"):
        read, prepared = folder.source(subset, 1), open_prepared(directory, subset)
        assert prepared.videos == read.videos
        assert prepared.lengths == read.lengths
        assert prepared.class_names == read.class_names
        assert prepared.truths() == read.truths()
        for first, second in zip(read, prepared, strict=True):
            assert first.keys() == second.keys()
            for name in first:
                np.testing.assert_array_equal(first[name], second[name])
                assert np.asarray(first[name]).dtype == np.asarray(second[name]).dtype
    transform = DiffActSample(sample_rate=2, boundary_sigma=1.0, soft_label_sigma=1.0, num_classes=3)
    options = {"batch_size": 2, "buckets": (32,), "seed": 4, "epochs": 2}
    pipelines = (
        batching.training_batches(source, transform, **options)
        for source in (folder.source("train", 1), open_prepared(directory, "train"))
    )
    for first, second in zip(*pipelines, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_spatial_crops_are_kept(make_folder, tmp_path):
    root = make_folder()
    for path in (root / "features").iterdir():
        frames = np.load(path).shape[1]
        np.save(path, np.random.default_rng(frames).standard_normal([3, frames, 8]).astype(np.float32))
    folder = SegmentationFolder(root)
    prepared = open_prepared(prepare(folder, tmp_path / "prepared"), "train")
    np.testing.assert_array_equal(prepared[1]["features"], folder.source("train", 1)[1]["features"])
    assert prepared[1]["features"].shape == (3, 57, 8)


def test_missing_prepared_data_say_how_to_make_them(make_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m actloc_jax\.data\.tfds_builders"):
        prepared_classes(tmp_path)
    directory = prepare(SegmentationFolder(make_folder()), tmp_path / "prepared")
    with pytest.raises(ValueError, match=r"with the splits train\.split1, test\.split1; it has no train\.split2"):
        prepared_videos(directory, "train.split2")
    classes = prepared_classes(directory)
    with pytest.raises(ValueError, match="lacks 1 of 2 videos, e\\.g\\. x"):
        TfdsSource(directory, classes, ["a", "x"])
    with pytest.raises(ValueError, match="prepared with the classes background, cut, pour, expected cut, pour"):
        TfdsSource(directory, classes[1:], ["a"])
    with pytest.raises(ValueError, match="holds features of 8 channels, expected 16"):
        TfdsSource(directory, classes, ["a"], feature_dim=16)


def test_chosen_videos_are_numbered_by_their_place_in_the_choice(make_folder, tmp_path):
    folder = SegmentationFolder(make_folder())
    directory = prepare(folder, tmp_path / "prepared")
    prepared = TfdsSource(directory, folder.class_names, ["d", "b"])
    assert [record["index"] for record in prepared] == [0, 1]
    np.testing.assert_array_equal(prepared[0]["features"], folder.source("test", 1)[0]["features"])
    np.testing.assert_array_equal(prepared[1]["labels"], folder.labels("b"))


def test_a_video_of_several_splits_is_stored_once(make_folder, tmp_path):
    root = make_folder()
    for subset, videos in (("train", "db"), ("val", "c"), ("test", "a")):
        (root / "splits" / f"{subset}.split2.bundle").write_text("".join(f"{video}.txt\n" for video in videos))
    folder = SegmentationFolder(root)
    directory = prepare(folder, tmp_path / "prepared")
    assert prepared_bundles(directory) == {
        "train.split1": ("a", "b", "c"),
        "test.split1": ("d",),
        "train.split2": ("d", "b"),
        "val.split2": ("c",),
        "test.split2": ("a",),
    }
    assert tfds.builder_from_directory(directory).info.splits["videos"].num_examples == 4
    prepared = TfdsSource(directory, folder.class_names, prepared_videos(directory, "train.split2"))
    for record, expected in zip(prepared, folder.source("train", 2), strict=True):
        assert record["video"] == expected["video"]
        np.testing.assert_array_equal(record["features"], expected["features"])


def test_all_problems_are_reported_before_anything_is_written(make_folder, tmp_path):
    root = make_folder()
    (root / "features" / "b.npy").unlink()
    spoilt = np.load(root / "features" / "d.npy")
    spoilt[0, 0] = np.nan
    np.save(root / "features" / "d.npy", spoilt)
    with pytest.raises(ValueError, match=r"(?s)2 problems with the data.*b\.npy.*d\.npy"):
        prepare(SegmentationFolder(root), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_command_line_prepares_without_tensorflow(make_folder, tmp_path):
    script = (
        "import sys; from actloc_jax.data import tfds_builders; "
        f"sys.argv = ['x', {str(make_folder())!r}, {str(tmp_path / 'prepared')!r}]; tfds_builders.main(); "
        "assert not {'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    directory = result.stdout.strip().splitlines()[-1]
    assert open_prepared(directory, "train").videos == ("a", "b", "c")
