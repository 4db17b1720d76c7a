"""Everything wrong with a data set for few labels is found at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actloc_jax.data.rescaled import AS_PUBLISHED, FIXED
from actloc_jax.data.semi_supervised import SemiSupervised
from actloc_jax.data.spot_files import SpotFolder, VideoScore
from actloc_jax.data.spot_problems import find_problems
from tests.data.spot_folder import write_spot_folder


@pytest.fixture
def root(tmp_path):
    return write_spot_folder(tmp_path / "spot")


def found(root, *, labels=50, asked=None, quirks=AS_PUBLISHED, scores=None, **options) -> list[str]:
    folder = SpotFolder(root, labels=labels, **options)
    data = SemiSupervised(folder, steps=100, labels=asked or labels, quirks=quirks)
    return [str(problem) for problem in find_problems(data, scores=scores)]


def test_what_is_left_out_is_counted_and_said(root):
    counted = [line for line in found(root) if "that counts" in line]
    assert counted == [
        "warning: 1 of 2 unlabelled videos have no segment that counts at 100 steps, e.g. v_c; they are left out"
    ]
    assert not any("that counts" in line for line in found(root, quirks=FIXED))


def test_no_labelled_video(root):
    path = root / "video_info_new_0.5.csv"
    path.write_text(path.read_text().replace("training,", "training_unlabel,"))
    assert any(line.startswith("error: none of 4 training videos is labelled (stated by") for line in found(root))


def test_no_labelled_video_with_a_segment_that_counts(root):
    content = json.loads((root / "anet_anno_action.json").read_text())
    for video in ("v_b", "v_d"):
        content[video]["annotations"][-1]["segment"] = [1.0, 2.0]
    (root / "anet_anno_action.json").write_text(json.dumps(content))
    expected = "2 of 2 labelled videos have no segment that counts at 100 steps, e.g. v_d, v_b; they are left out"
    assert f"error: {expected}" in found(root)


def test_the_file_of_another_share(root):
    (root / "video_info_new_0.9.csv").write_text((root / "video_info_new_0.5.csv").read_text())
    [message] = [line for line in found(root, labels=50, asked=100 - 1e-9) if "were asked for" in line]
    assert message.startswith("error: 2 of 4 training videos are labelled, 50 %")


def test_a_ratio_file_of_another_data_set(root):
    path = root / "video_info_new_0.5.csv"
    text = path.read_text()
    for old, new, expected in (("v_", "w_", "5 of the 5 videos"), ("v_b", "w_b", "1 of the 5 videos")):
        path.write_text(text.replace(old, new))
        first = found(root)[0]
        assert first.startswith(f"error: {expected} in {path} have no entry in {root / 'anet_anno_action.json'}")


def test_missing_features_are_counted_and_the_first_is_named(root):
    for video in ("v_a", "v_b"):
        (root / "csv" / f"{video}.csv").unlink()
    [message] = [line for line in found(root) if "no features" in line]
    assert message.startswith(
        "error: 2 of 4 videos of split 'train' have no features: v_a, v_b (expected for the first"
    )
    assert message.endswith("v_a.csv)")


def test_constant_channels(root):
    rows = np.loadtxt(root / "csv" / "v_a.csv", delimiter=",", skiprows=1)
    rows[:, 2] = 3.0
    np.savetxt(root / "csv" / "v_a.csv", rows, delimiter=",", header="0,1,2,3", comments="")
    [message] = [line for line in found(root) if "never change" in line]
    assert message.startswith(
        "warning: 1 of 3 training videos have channels that never change, the first is v_a with 1"
    )


def test_classes_that_no_labelled_video_shows(root):
    path = root / "video_info_new_0.5.csv"
    path.write_text(path.read_text().replace("25.0,25.0,training,1008", "25.0,25.0,training_unlabel,1008"))
    assert "warning: no labelled video shows 1 of the 1 evaluated classes: Archery" in found(root, asked=25)


def test_scores_that_lack_videos(root):
    [message] = [line for line in found(root, scores={"v_x": VideoScore(0, 1.0)}) if "whole video" in line]
    assert message.startswith("error: 1 of 1 evaluation videos have no score of the whole video, the first is v_e")
    assert not any("whole video" in line for line in found(root, scores={"v_e": VideoScore(0, 1.0)}))
