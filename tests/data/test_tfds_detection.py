"""Prepared detection records equal those of the folder."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.synthetic_detection import GRID, Settings, write_folder
from actloc_jax.data.tfds_detection import PreparedDetection, prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("data") / "demo", Settings(train_videos=3, test_videos=2, channels=8, max_steps=220)
    )


def assert_equal_records(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert np.asarray(first[name]).dtype == np.asarray(second[name]).dtype


@pytest.mark.parametrize("grid", [GRID, None])
def test_folder_and_tfds_give_identical_records(root, tmp_path, grid):
    folder = DetectionFolder(root, grid=grid, downsample=2)
    directory = prepare(folder, tmp_path)
    assert prepare(folder, tmp_path) == directory
    prepared = PreparedDetection(directory, feature_dim=8)
    for split in ("train", "test"):
        for units in ("grid", "seconds"):
            first, second = folder.source(split, units=units), prepared.source(split, units=units)
            assert first.videos == second.videos
            assert first.lengths == second.lengths
            assert first.class_names == second.class_names
            for one, other in zip(first, second, strict=True):
                assert_equal_records(one, other)
        for one, other in zip(folder.videos(split), prepared.videos(split), strict=True):
            for field in dataclasses.fields(one):
                np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_missing_prepared_data_say_how_to_make_them(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m actloc_jax\.data\.tfds_detection"):
        PreparedDetection(tmp_path)
    directory = prepare(DetectionFolder(root, grid=GRID), tmp_path)
    with pytest.raises(ValueError, match="was prepared with the splits train, test; it has no val"):
        PreparedDetection(directory).source("val")
    with pytest.raises(ValueError, match="holds features of 8 channels, expected 16"):
        PreparedDetection(directory, feature_dim=16)


def test_errors_are_listed_before_anything_is_written(root, tmp_path):
    with pytest.raises(ValueError, match="5 problems with the data"):
        prepare(DetectionFolder(root, grid=GRID, feature_dim=9), tmp_path / "prepared")
    with pytest.raises(ValueError, match="has the subsets test, train, none of which is a split"):
        prepare(DetectionFolder(root, grid=GRID, subsets={"train": ("validation",)}), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_command_line_prepares_without_tensorflow(root, tmp_path):
    script = (
        "import sys; from actloc_jax.data import tfds_detection; "
        f"sys.argv = ['x', {str(root)!r}, {str(tmp_path)!r}, '--stride=16', '--fps=25']; tfds_detection.main(); "
        "assert not {'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    prepared = PreparedDetection(result.stdout.strip().splitlines()[-1])
    assert_equal_records(prepared.source("train")[1], DetectionFolder(root, grid=GRID).source("train")[1])
