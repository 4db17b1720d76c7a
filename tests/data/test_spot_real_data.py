"""The real annotations of ActivityNet through the reader: the counts that the released code trains and evaluates on.

Runs where the annotations are at hand: `$ACTLOC_DATA/activitynet`, else `../shared/data/activitynet`.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from actloc_jax.data.rescaled import FIXED
from actloc_jax.data.semi_supervised import SemiSupervised
from actloc_jax.data.spot_files import SpotFolder, read_video_scores
from tests.parity import harness

BESIDE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
ROOT = pathlib.Path(os.environ.get("ACTLOC_DATA", BESIDE)) / "activitynet"

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason=f"{ROOT} is not there; it holds the real annotations")


@pytest.mark.parametrize(
    ("labels", "annotated", "surviving"), [(10, (966, 8683), (784, 7046)), (60, (5782, 3867), (4672, 3158))]
)
def test_label_splits(labels, annotated, surviving):
    data = SemiSupervised(SpotFolder(ROOT, labels=labels), steps=100, labels=labels)
    parts = ("labelled", "unlabelled")
    assert tuple(len(data.annotated(part)) for part in parts) == annotated
    assert tuple(len(data.videos(part, need_features=False)) for part in parts) == surviving


def test_all_videos():
    folder = SpotFolder(ROOT)
    assert folder.parsed[1] == []
    assert folder.annotations.subsets() == {"training": 9649, "validation": 4728, "testing": 4851}
    assert sum(len(video.labels) for video in folder.annotated("train")) == 14859
    assert sum(len(video.labels) for video in folder.annotated("val")) == 7293
    assert (folder.class_names[0], folder.class_names[-1], len(folder.class_names)) == ("Beer pong", "Laying tile", 200)
    data = SemiSupervised(folder, steps=100, labels=100)
    labelled = data.videos("labelled", need_features=False)
    assert len(labelled) == 7830
    assert sum(len(video.annotation.labels) > 1 for video in labelled) == 1024
    assert len(data.evaluated(filtered=True, need_features=False)) == 3814
    assert len(data.evaluated(filtered=False)) == 4728
    fixed = SemiSupervised(folder, steps=100, labels=100, quirks=FIXED)
    assert len(fixed.videos("labelled", need_features=False)) == 9649


def test_scores_of_whole_videos():
    folder = SpotFolder(ROOT)
    scores = read_video_scores(ROOT / "spot_best_score.json", folder.class_names)
    videos = folder.annotated("val")
    assert len(scores) == 4926
    right = sum(scores[video.video].label in video.labels for video in videos)
    assert 100 * right / len(videos) == pytest.approx(88.58, abs=0.005)


@pytest.mark.parametrize("case", harness.cases("spot", "map_real"), ids=lambda case: case.meta["case"])
def test_the_published_protocol_counts_the_videos_of_the_original(case):
    data = SemiSupervised(SpotFolder(ROOT), steps=100, labels=100)
    expected = {video.removeprefix("v_") for video in case.arrays["filtered_videos"].tolist()}
    assert {video.removeprefix("v_") for video in data.evaluated(filtered=True, need_features=False)} == expected
