"""The generated data set: the same for the same seed, readable, and neither trivial nor hopeless."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.data import synthetic
from actloc_jax.data.problems import find_problems
from actloc_jax.data.segmentation import SegmentationFolder
from actloc_jax.data.synthetic import CLASSES, Settings
from actloc_jax.metrics.segmentation import chance, evaluate

SMALL = Settings(train_videos=4, test_videos=2, channels=16)


def test_folder_is_read_back_without_problems(tmp_path):
    root = synthetic.write_folder(tmp_path / "demo", SMALL)
    folder = SegmentationFolder(root)
    assert folder.class_names == CLASSES
    assert not find_problems(folder, "train", 1)
    assert not find_problems(folder, "test", 1)
    train, test = synthetic.generate(SMALL)
    for videos, subset in ((train, "train"), (test, "test")):
        source = folder.source(subset, 1)
        for video, record in zip(videos, source, strict=True):
            np.testing.assert_array_equal(record["features"], video.features)
            np.testing.assert_array_equal(record["labels"], video.labels)


def test_same_settings_same_bytes_and_other_settings_are_refused(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    synthetic.write_folder(first, SMALL)
    synthetic.write_folder(second, SMALL)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) == 2 * 6 + 4
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    stamp = (first / "features").stat().st_mtime_ns
    synthetic.write_folder(first, SMALL)
    assert (first / "features").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="generated with other settings"):
        synthetic.write_folder(first, Settings(seed=1))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="holds no generated data"):
        synthetic.write_folder(tmp_path / "mine", SMALL)


def test_actions_follow_the_grammar():
    for video in synthetic.generate(Settings())[0]:
        activity = synthetic.ACTIVITIES[video.name.split("_")[0]]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(video.labels)) + 1])
        actions = [CLASSES[label] for label in video.labels[starts]]
        assert actions[0] == actions[-1] == "background"
        steps = iter([step for step in activity for _ in range(step.repeats)])
        for action in actions:
            if action != "background":
                assert action in (step.action for step in steps), (video.name, actions)


def test_a_frame_classifier_is_right_on_most_frames_and_breaks_actions_into_pieces():
    train, test = synthetic.generate(Settings())

    def inputs(videos):
        features = np.concatenate([video.features for video in videos])
        return np.concatenate([features, np.ones([len(features), 1])], axis=1)

    targets = np.eye(len(CLASSES))[np.concatenate([video.labels for video in train])]
    weights = np.linalg.lstsq(inputs(train), targets, rcond=None)[0]
    truths = {video.name: video.labels for video in test}
    predictions = {video.name: (inputs([video]) @ weights).argmax(axis=1) for video in test}
    scores = evaluate(predictions, truths, background=[CLASSES.index("background")])
    assert 65 < scores["Acc"] < 85
    assert scores["Edit"] < 30
    assert scores["F1@50"] < 30
    guessed = chance([video.labels for video in train], truths, CLASSES)
    assert guessed["Acc"] < scores["Acc"] - 30
    assert guessed["F1@50"] < 30
