"""A data set of a folder and a JSON file: records, splits, and every problem found at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.detection_problems import find_problems
from actloc_jax.data.grid import Grid, thumos14_i3d, wtal_i3d
from actloc_jax.data.problems import require_no_errors

GRID = Grid(stride=4, window=16)
ROWS = {"a": 75, "b": 60, "c": 90}
SEGMENTS = {"a": [[1.0, 3.0, "jump"], [4.5, 6.0, "clap"]], "b": [[0.5, 2.0, "clap"]], "c": [[2.0, 9.0, "jump"]]}
SUBSETS = {"a": "Validation", "b": "Validation", "c": "Test"}


def entry(video, fps=30.0):
    seconds = ((ROWS[video] - 1) * 4 + 16) / fps
    rows = [{"segment": [start, end], "label": label} for start, end, label in SEGMENTS[video]]
    return {"subset": SUBSETS[video], "duration": seconds, "fps": fps, "annotations": rows}


@pytest.fixture
def content():
    """The annotation file, to spoil."""
    return {"database": {video: entry(video) for video in ROWS}}


@pytest.fixture
def make(tmp_path, content):
    """Writes the data set and opens it; `(**options) -> DetectionFolder`."""

    def open_folder(**options):
        folder = tmp_path / "features"
        if not folder.exists():
            folder.mkdir()
            for video, rows in ROWS.items():
                rng = np.random.default_rng(rows)
                np.save(folder / f"{video}.npy", rng.standard_normal([rows, 4]).astype(np.float32))
        (tmp_path / "annotations.json").write_text(json.dumps(content))
        chosen = {"grid": GRID, "subsets": {"train": ("validation",), "test": ("test",)}} | options
        return DetectionFolder(tmp_path, **chosen)

    return open_folder


def errors(folder, split="train", **options):
    return [str(problem) for problem in find_problems(folder, split, **options)]


def test_records(make, tmp_path):
    folder = make(feature_dim=4)
    source = folder.source("train")
    assert source.videos == ("a", "b")
    assert len(source) == 2
    assert source.class_names == ("clap", "jump")
    assert source.lengths == (75, 60)
    assert source.segment_counts == (2, 1)
    record = source[0]
    np.testing.assert_array_equal(record["features"], np.load(tmp_path / "features" / "a.npy"))
    np.testing.assert_allclose(record["segments"], (np.array([[1, 3], [4.5, 6]]) * 30 - 8) / 4)
    assert record["segments"].dtype == np.float32
    assert record["labels"].tolist() == [1, 0]
    assert (record["video"], record["index"], record["fps"]) == ("a", 0, 30)
    assert record["grid"] == source.grid(0) == thumos14_i3d(30.0)
    seconds = folder.source("train", units="seconds").record(1)
    np.testing.assert_allclose(seconds["segments"], [[0.5, 2.0]])
    assert seconds["index"] == 1
    assert folder.source("test").videos == ("c",)
    assert not errors(folder)
    assert not errors(folder, "test")


def test_downsampling_moves_segments_with_the_rows(make):
    record = make(downsample=2).source("train")[0]
    assert len(record["features"]) == 38
    np.testing.assert_allclose(record["segments"], (np.array([[1, 3], [4.5, 6]]) * 30 - 8) / 8)


def test_features_of_fixed_length_need_no_grid(make, content):
    record = make(grid=None).source("train")[0]
    duration = content["database"]["a"]["duration"]
    np.testing.assert_allclose(record["segments"], np.array([[1, 3], [4.5, 6]]) * 75 / duration - 0.5, rtol=1e-6)
    del content["database"]["a"]["duration"]
    content["database"]["a"].pop("fps")
    with pytest.raises(ValueError, match="the duration of a is unknown and no feature grid"):
        make(grid=None, missing_duration="unknown").source("train")[0]


def test_frame_rate_of_recipe_file_or_default(make, content):
    assert make(grid=wtal_i3d()).source("train").grid(0).fps == 25
    assert make(default_fps=24.0).source("train").grid(0).fps == 24
    del content["database"]["a"]["fps"]
    folder = make()
    with pytest.raises(ValueError, match="the frame rate of a is unknown"):
        folder.source("train")[0]
    assert "the frame rate of a is unknown" in "\n".join(errors(folder))


def test_class_list_orders_the_classes(make, tmp_path):
    (tmp_path / "classes.txt").write_text("sing\njump\nclap\n")
    source = make().source("train")
    assert source.class_names == ("sing", "jump", "clap")
    assert source[0]["labels"].tolist() == [1, 2]


def test_lists_choose_videos_and_their_order(make, tmp_path):
    (tmp_path / "split_train.txt").write_text("b\na\n")
    folder = make(lists={"train": "split_train.txt"})
    assert folder.source("train").videos == ("b", "a")
    (tmp_path / "split_train.txt").write_text("b\nb\n")
    assert "lists b 2 times" in "\n".join(errors(folder))
    (tmp_path / "split_train.txt").write_text("b\nx\n")
    with pytest.raises(ValueError, match=r"1 of them without an entry in .*annotations\.json: x"):
        folder.source("train")
    (tmp_path / "split_train.txt").unlink()
    assert "split_train.txt does not exist" in errors(folder)[0]


def test_other_segments_for_the_same_videos(make):
    source = make().source("train").relabelled({"a": (np.array([[1.0, 2.0]]), np.array([0])), "zzz": ([[0, 1]], [0])})
    assert source.segment_counts == (1, 0)
    np.testing.assert_allclose(source[0]["segments"], [[(30 - 8) / 4, (60 - 8) / 4]])
    assert source[0]["labels"].tolist() == [0]
    assert source[1]["segments"].shape == (0, 2)


def test_videos_without_features(make, tmp_path):
    folder = make()
    (tmp_path / "features" / "b.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 videos of split 'train' have no features: b .*b\.npy"):
        folder.source("train")
    assert [problem.severity for problem in find_problems(folder, "train")] == ["error"]
    assert not errors(folder, need_features=False)
    skipping = make(missing_features="skip")
    with pytest.warns(UserWarning, match=r"have no features: b .*left out"):
        assert skipping.source("train").videos == ("a",)
    assert [problem.severity for problem in find_problems(skipping, "train")] == ["warning"]
    (tmp_path / "features" / "a.npy").unlink()
    with pytest.raises(FileNotFoundError, match="2 of 2 videos"):
        skipping.source("train")
    assert [problem.severity for problem in find_problems(skipping, "train")] == ["error"]


def test_every_problem_is_found_at_once(make, content, tmp_path):
    database = content["database"]
    database["a"]["annotations"] += [
        {"segment": [3, 2], "label": "clap"},
        {"segment": [55, 55], "label": "clap"},
        {"segment": [50, 60], "label": "clap"},
        {"segment": [9, 11], "label": "clap"},
        {"segment": [1.0, 3.0], "label": "jump"},
        {"segment": [1.0, 3.0], "label": "sing"},
        {"segment": "x", "label": "clap"},
    ]
    database["d"] = {"subset": "validation", "duration": 10, "fps": 30, "annotations": []}
    database["e"] = {
        "subset": "validation",
        "duration": 30,
        "fps": 30,
        "annotations": [{"segment": [25, 28], "label": "clap"}],
    }
    database["f"] = {
        "subset": "validation",
        "duration": 10,
        "fps": 30,
        "annotations": [{"segment": [2, 3], "label": "clap"}],
    }
    (tmp_path / "classes.txt").write_text("clap\njump\n")
    folder = make()
    spoilt = np.load(tmp_path / "features" / "b.npy")
    spoilt[7, 2] = np.inf
    np.save(tmp_path / "features" / "b.npy", spoilt)
    np.save(tmp_path / "features" / "d.npy", np.zeros([72, 6], np.float32))
    np.save(tmp_path / "features" / "e.npy", np.zeros([100, 4], np.float32))
    found = errors(folder)
    expected = [
        ("error", "video a: segment is 'x'"),
        ("error", "label 'sing' of 1 annotations (first in a) is not among the 2 classes"),
        ("warning", "1 of 5 videos of split 'train' have no annotation, e.g. d"),
        ("error", "video a: 1 of 7 segments end before their start; swap or remove them; e.g. [3.00, 2.00]"),
        ("warning", "video a: 1 of 7 segments have no length"),
        ("error", "video a: 1 of 7 segments lie outside the video (duration 10.40 s)"),
        ("warning", "video a: 1 of 7 segments reach over the ends of the video"),
        ("warning", "video a: 1 segments are annotated twice"),
        ("error", "1 of 5 videos of split 'train' have no features: f"),
        ("error", "b.npy: 1 NaN or infinite values in 1 of 60 frames, first in frame 7"),
        (
            "warning",
            "e.npy: 100 rows cover 13.73 s, but e lasts 30.00 s, more than a window (0.53 s) longer; 1 segments",
        ),
        ("error", "the features have different widths: 4 channels in most videos, but 6 (d)"),
    ]
    for severity, text in expected:
        matching = [message for message in found if text in message]
        assert len(matching) == 1, text
        assert matching[0].startswith(f"{severity}: "), matching[0]
    assert len(found) == len(expected)
    assert len(errors(folder, read_values=False)) == len(expected) - 1  # without the NaN
    with pytest.raises(ValueError, match="7 problems with the data"):
        require_no_errors(find_problems(folder, "train"))


def test_segments_outside_can_be_tolerated(make, content):
    content["database"]["a"]["annotations"].append({"segment": [50, 60], "label": "clap"})
    (problem,) = find_problems(make(outside="warning"), "train")
    assert problem.severity == "warning"
    (problem,) = find_problems(make(), "train")
    assert problem.severity == "error"


def test_a_grid_that_fits_no_video_is_an_error(make):
    found = find_problems(make(grid=Grid(stride=2, window=16)), "train")
    assert [problem.severity for problem in found] == ["error"] * 2
    assert "check stride, window and fps" in found[0].message
    found = find_problems(make(grid=Grid(stride=8, window=16)), "train")
    assert ["shorter; check" in problem.message for problem in found] == [True] * 2


def test_a_video_in_both_splits_is_noted(make):
    folder = make(subsets={"train": ("validation",), "test": ("test", "validation")})
    (problem,) = find_problems(folder, "train")
    assert "2 videos are in both the train and the test split, e.g. a" in problem.message


def test_missing_data_say_what_is_expected(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)nowhere does not exist\. Expected this layout.*:demo"):
        DetectionFolder(tmp_path / "nowhere")
    folder = make()
    (tmp_path / "annotations.json").unlink()
    assert "Expected this layout" in errors(folder)[0]
    folder = make(subsets={"train": ("training",)})
    assert "no video is of subset 'training'; the annotations have 'Validation' (2 videos)" in errors(folder)[0]
    assert "split 'val' is unknown; known: train" in errors(folder, "val")[0]
    for options in ({"missing_features": "x"}, {"outside": "x"}, {"feature_layout": "x"}):
        with pytest.raises(ValueError, match="'x' is unknown; use"):
            make(**options)
