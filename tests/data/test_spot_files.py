"""SPOT's csv and json files as they are: ratio files by name, subsets, classes, scores, and files that do not match."""

from __future__ import annotations

import gzip
import json
import pathlib

import numpy as np
import pytest

from actloc_jax.data.problems import require_no_errors
from actloc_jax.data.spot_files import (
    SpotFolder,
    VideoScore,
    ratio_name,
    read_class_table,
    read_video_info,
    read_video_scores,
)
from tests.data.spot_folder import CLASSES, write_spot_folder


@pytest.fixture
def root(tmp_path):
    return write_spot_folder(tmp_path / "spot")


def test_the_number_in_a_file_name_is_the_unlabelled_share():
    named = {10: "0.9", 60: "0.4", 2: "0.98", 98: "0.02", 90: "0.1", 100: "0.0", 9: "0.91", 30: "0.7"}
    assert {labels: ratio_name(labels) for labels in named} == named
    for wrong in (0, -1, 101):
        with pytest.raises(ValueError, match="per cent"):
            ratio_name(wrong)


def test_videos_keep_the_order_of_the_csv_file_and_its_subsets(root):
    folder = SpotFolder(root, labels=50)
    assert list(folder.annotations.videos) == ["v_d", "v_a", "v_b", "v_c", "v_e"]
    assert [video.video for video in folder.annotated("train")] == ["v_d", "v_a", "v_b", "v_c"]
    assert [video.video for video in folder.annotated("labelled")] == ["v_d", "v_b"]
    assert [video.video for video in folder.annotated("unlabelled")] == ["v_a", "v_c"]
    assert [video.video for video in folder.annotated("val")] == ["v_e"]
    assert [video.video for video in SpotFolder(root).annotated("labelled")] == ["v_d", "v_a", "v_b", "v_c"]
    assert folder.class_names == CLASSES
    video = folder.annotations.videos["v_a"]
    assert video.duration == 20.0
    assert video.labels.tolist() == [1, 0]
    np.testing.assert_allclose(video.segments, [[2, 8], [10, 19]])


def test_positions_are_shares_of_the_seconds_that_features_cover(root):
    folder = SpotFolder(root)
    video = folder.annotations.videos["v_a"]
    assert folder.covered_seconds(video) == 480 / 500 * 20.0
    grid = folder.grid(video, 30)
    np.testing.assert_allclose(grid.to_grid(19.2), 30)
    np.testing.assert_allclose(grid.to_grid(0.0), 0)


def test_features_of_either_kind(root):
    for pattern in ("csv/{video}.csv", "npy/{video}.npy"):
        folder = SpotFolder(root, features=pattern, feature_dim=4)
        video = folder.annotations.videos["v_a"]
        assert folder.rows(video) == 30
        np.testing.assert_allclose(
            folder.read_features(video), np.load(root / "npy" / "v_a.npy"), rtol=1e-6, err_msg=pattern
        )


def test_gzipped_files_are_found_by_their_plain_names(root):
    for name in ("video_info_new.csv", "video_info_new_0.5.csv", "anet_anno_action.json", "class_index.json"):
        packed = root / f"{name}.gz"
        packed.write_bytes(gzip.compress((root / name).read_bytes()))
        (root / name).unlink()
    folder = SpotFolder(root, labels=50)
    require_no_errors(folder.parsed[1])
    assert [video.video for video in folder.annotated("unlabelled")] == ["v_a", "v_c"]


def test_a_ratio_file_that_is_not_there_lists_those_that_are(root):
    with pytest.raises(FileNotFoundError, match=r"(?s)unlabelled share 0\.9\. There are: video_info_new_0\.5\.csv"):
        SpotFolder(root, labels=10)


def test_the_class_table_of_the_original_is_parsed_and_not_run(root):
    table = {name: index for index, name in enumerate(CLASSES)}
    (root / "dataset_class.py").write_text(f"import torch\nactivity_dict= {table!r}\nraise SystemExit\n")
    assert read_class_table(root / "dataset_class.py") == CLASSES
    assert SpotFolder(root, classes="dataset_class.py").class_names == CLASSES
    for content, message in (("x = 3", "no dict"), ("x = {'a': 0, 'b': 2}", "numbers 2 classes")):
        (root / "wrong.py").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_class_table(root / "wrong.py")
    with pytest.raises(FileNotFoundError, match=r"dataset_class\.py of the original"):
        read_class_table(root / "none.json")


def test_scores_of_whole_videos(root):
    path = root / "spot_best_score.json"
    assert read_video_scores(path, CLASSES) == {"v_e": VideoScore(2, 0.75)}
    for content, message in (
        ({"v_e": {"class": "Chess", "score": 0.5}}, "class 'Chess' of v_e is not among the 3"),
        ({"v_e": {"class": "Kneeling"}}, "v_e has no class with a score"),
        ([], "holds no videos"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            read_video_scores(path, CLASSES)


def change(root: pathlib.Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("video_info_new.csv", "v_b,", "v_x,", r"1 of the 5 videos in .*no entry in .*the first is v_x"),
        ("video_info_new.csv", "v_b,", "v_a,", r"lists v_a twice"),
        ("video_info_new.csv", "500,20.0,", "500,90.0,", r"last differently in .*v_a: 90\.00 s and 20\.00 s"),
        ("video_info_new.csv", "training", "Train", r"has the subsets 'Train'; expected testing, training"),
        ("anet_anno_action.json", '"feature_frame": 480', '"feature_frame": 0', r"1 videos lack .*the first is v_a"),
        ("anet_anno_action.json", "Kneeling", "Flying", r"label 'Flying' of 2 annotations"),
    ],
)
def test_files_that_do_not_match(root, name, old, new, message):
    change(root, name, old, new)
    with pytest.raises(ValueError, match=message):
        require_no_errors(SpotFolder(root).parsed[1])


def test_video_info_that_cannot_be_read(tmp_path):
    path = tmp_path / "info.csv"
    with pytest.raises(FileNotFoundError, match="columns video and subset"):
        read_video_info(path)
    for text, message in (("name,part\na,b\n", "has the columns name, part"), ("video,subset\n", "lists no videos")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_video_info(path)
