"""The generated detection data: the same for the same seed, consistent, and neither trivial nor hopeless."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.detection_problems import find_problems
from actloc_jax.data.synthetic_detection import BACKGROUND, CLASSES, GRID, MEAN_STEPS, Settings, generate, write_folder

SMALL = Settings(train_videos=4, test_videos=2, channels=16)


@pytest.fixture(scope="module")
def videos():
    return generate(Settings())


def test_folder_is_read_back_without_problems(tmp_path):
    root = write_folder(tmp_path / "demo", SMALL)
    folder = DetectionFolder(root, grid=GRID, feature_dim=16)
    assert folder.class_names == CLASSES
    for split, generated in zip(("train", "test"), generate(SMALL), strict=True):
        assert not find_problems(folder, split)
        for video, record in zip(generated, folder.source(split), strict=True):
            assert record["video"] == video.annotation.video
            np.testing.assert_array_equal(record["features"], video.features)
            np.testing.assert_array_equal(record["labels"], video.annotation.labels)


def test_same_settings_same_bytes(tmp_path):
    first, second = (pathlib.Path(write_folder(tmp_path / name, SMALL)) for name in ("first", "second"))
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) == 6 + 3
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    with pytest.raises(ValueError, match="other settings"):
        write_folder(first, Settings(seed=1))


def test_segments_are_runs_of_their_class(videos):
    for video in (*videos[0], *videos[1]):
        edges = np.rint(GRID.to_grid(video.annotation.segments) + GRID.margin).astype(int)
        np.testing.assert_allclose(GRID.to_grid(video.annotation.segments) + GRID.margin, edges, atol=1e-6)
        steps = np.full(len(video.labels), BACKGROUND)
        for (start, end), label in zip(edges, video.annotation.labels, strict=True):
            assert (steps[start:end] == BACKGROUND).all()
            assert start > 0
            assert steps[start - 1] == BACKGROUND
            steps[start:end] = label
        np.testing.assert_array_equal(steps, video.labels)
        assert video.annotation.duration == pytest.approx(len(video.labels) * 0.64)
        assert len(video.features) == len(video.labels)


def test_videos_tell_classes_apart_and_durations_tell_them_too(videos):
    train, test = videos
    assert (len(train), len(test)) == (30, 15)
    present = np.array([[label in video.annotation.labels for label in range(len(CLASSES))] for video in train])
    assert (present.sum(axis=0) >= 5).all()
    assert {1, 2} == set(present.sum(axis=1).tolist())
    for first in range(len(CLASSES)):
        for second in range(first):
            assert (present[:, first] != present[:, second]).sum() >= 5
    labels = np.concatenate([video.labels for video in train])
    assert 0.6 < (labels == BACKGROUND).mean() < 0.85
    lengths = [
        np.mean([np.diff(video.annotation.segments[video.annotation.labels == label]).sum() for video in train])
        / np.mean([(video.annotation.labels == label).sum() for video in train])
        for label in range(len(CLASSES))
    ]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 3 * lengths[0]
    assert list(MEAN_STEPS.values()) == sorted(MEAN_STEPS.values())


def test_rows_alone_are_neither_enough_nor_useless(videos):
    train, test = videos
    prototypes = np.stack(
        [
            np.concatenate([video.features[video.labels == label] for video in train]).mean(axis=0)
            for label in range(BACKGROUND + 1)
        ]
    )
    correct, truth = [], []
    for video in test:
        distances = ((video.features[:, None] - prototypes) ** 2).sum(axis=2)
        correct.append(distances.argmin(axis=1) == video.labels)
        truth.append(video.labels)
    actions = np.concatenate(truth) != BACKGROUND
    assert 0.7 < np.concatenate(correct)[actions].mean() < 0.905  # without noise the smear alone leaves 0.92
