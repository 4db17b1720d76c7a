"""The generated activity: the same for the same seed, readable, and neither trivial nor hopeless."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from actloc_jax.data import synthetic_activities as synthetic
from actloc_jax.data.activities import ActivityFolder
from actloc_jax.data.synthetic_activities import ACTIVITY, Settings
from actloc_jax.metrics import clustering

SMALL = Settings(videos=4, channels=16)


@pytest.mark.parametrize("activity_of", ["suffix", "prefix", "none"])
@pytest.mark.parametrize("pauses", [False, True])
def test_folder_is_read_back_without_problems(tmp_path, activity_of, pauses):
    settings = dataclasses.replace(SMALL, activity_of=activity_of, pauses=pauses)
    root = synthetic.write_folder(tmp_path / "demo", settings)
    folder = ActivityFolder(
        root, activity_of=activity_of, feature_dim=16, exclude_id=synthetic.PAUSE_ID if pauses else None
    )
    assert folder.class_names == synthetic.ACTIONS
    assert folder.problems(ACTIVITY) == []
    for video, record in zip(synthetic.generate(settings), folder.source(ACTIVITY), strict=True):
        assert record["video"] == video.name
        np.testing.assert_array_equal(record["features"], video.features)
        expected = np.where(video.labels == len(synthetic.ACTIONS), -1, video.labels)
        np.testing.assert_array_equal(record["labels"], expected)
        assert (expected == -1).any() == pauses


def test_same_settings_same_bytes_and_other_settings_are_refused(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    synthetic.write_folder(first, SMALL)
    synthetic.write_folder(second, SMALL)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) == 2 * 4 + 2
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert synthetic.write_folder(first, SMALL) == first
    with pytest.raises(ValueError, match="generated with other settings"):
        synthetic.write_folder(first, dataclasses.replace(SMALL, seed=1))


def test_actions_keep_their_order_and_some_are_left_out():
    videos = synthetic.generate(Settings())
    assert all((np.diff(video.labels) >= 0).all() for video in videos)
    assert all(200 <= len(video.labels) <= 500 for video in videos)
    counts = {len(np.unique(video.labels)) for video in videos}
    assert len(counts) > 1
    assert max(counts) == len(synthetic.ACTIONS)
    assert min(np.bincount(video.labels)[np.unique(video.labels)].min() for video in videos) >= synthetic.LEAST_FRAMES


def test_pauses_lie_between_the_actions():
    for plain, paused in zip(synthetic.generate(Settings()), synthetic.generate(Settings(pauses=True)), strict=True):
        labels = paused.labels
        np.testing.assert_array_equal(labels[labels < len(synthetic.ACTIONS)], plain.labels)
        segments = labels[np.flatnonzero(np.diff(labels, prepend=-1))]
        assert (segments[::2] == len(synthetic.ACTIONS)).all()
        assert (segments[1::2] < len(synthetic.ACTIONS)).all()


def test_equal_parts_are_a_poor_guess_and_single_frames_flicker():
    videos = synthetic.generate(Settings())
    truths = {video.name: video.labels for video in videos}
    assert clustering.chance(truths, len(synthetic.ACTIONS))["MoF"] < 55
    frames, labels = (np.concatenate([getattr(video, name) for video in videos]) for name in ("features", "labels"))
    means = np.stack([frames[labels == label].mean(axis=0) for label in range(len(synthetic.ACTIONS))])
    nearest = {video.name: (video.features @ means.T).argmax(axis=1) for video in videos}
    scores = clustering.evaluate(nearest, truths)
    assert scores["MoF"] > 70  # the classes are there to be found
    assert scores["F1 exact"] < 38  # but not by looking at single frames
