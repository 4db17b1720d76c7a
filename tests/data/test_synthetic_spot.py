"""The generated data for few labels: SPOT's files, the same for the same seed, and unlabelled videos that can help."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from actloc_jax.data.rescaled import AS_PUBLISHED, FIXED
from actloc_jax.data.semi_supervised import SemiSupervised, draw_split
from actloc_jax.data.spot_files import SpotFolder, read_video_scores
from actloc_jax.data.spot_problems import find_problems
from actloc_jax.data.synthetic_spot import CLASSES, FEATURES, Settings, generate, write_folder

SMALL = Settings(train_videos=20, val_videos=10, channels=16, labels=25.0)
BACKGROUND = len(CLASSES)


def test_folder_is_read_back(tmp_path):
    root = write_folder(tmp_path / "demo", SMALL)
    folder = SpotFolder(root, labels=25, features=FEATURES, feature_dim=16)
    data = SemiSupervised(folder, steps=40, labels=25, quirks=FIXED)
    assert find_problems(data) == []
    assert folder.class_names == CLASSES
    assert (len(data.split.labelled), len(data.split.unlabelled)) == (5, 15)
    train, val = generate(SMALL)
    assert [video.annotation.video for video in val] == data.evaluated()
    for video, read in zip(train, folder.annotated("train"), strict=True):
        np.testing.assert_allclose(read.segments, video.annotation.segments)
        np.testing.assert_array_equal(folder.read_features(read), video.features)
        edges = read.segments / folder.covered_seconds(read) * len(video.labels)
        labels = np.full(len(video.labels), BACKGROUND)
        for start, end in np.rint(edges).astype(int):
            labels[start:end] = read.labels[0]
        np.testing.assert_array_equal(labels, video.labels)
    scores = read_video_scores(root / "spot_best_score.json", CLASSES)
    assert set(scores) == set(data.evaluated())


def test_same_settings_same_bytes(tmp_path):
    first, second = (pathlib.Path(write_folder(tmp_path / name, SMALL)) for name in ("first", "second"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 30 + 6
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    with pytest.raises(ValueError, match="other settings"):
        write_folder(first, Settings(seed=1))


def test_actions_cover_a_good_part_and_some_are_too_short_for_the_published_rules(tmp_path):
    root = write_folder(tmp_path / "demo", Settings(channels=4))
    data = SemiSupervised(SpotFolder(root, features=FEATURES), steps=100, labels=100, quirks=AS_PUBLISHED)
    left_out = len(data.without_targets("labelled"))
    assert 5 <= left_out <= 40
    covered = [np.mean(video.labels != BACKGROUND) for video in generate(Settings(channels=4))[0]]
    assert 0.3 < np.mean(covered) < 0.6


class GaussianClasses:
    """A Gaussian with a common covariance for every class and the background; [snippets, classes] log scores."""

    def __init__(self, features: np.ndarray, shares: np.ndarray) -> None:
        counts = shares.sum(axis=0)
        self.means = shares.T @ features / counts[:, None]
        spread = (features.T @ features - (self.means.T * counts) @ self.means) / len(features)
        self.precision = np.linalg.inv(spread + 0.02 * np.eye(features.shape[1]))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        weights = self.precision @ self.means.T
        return features @ weights - 0.5 * np.sum(self.means.T * weights, axis=0)

    def pseudo_labels(self, features: np.ndarray) -> np.ndarray:
        """Shares of the classes in every snippet of a video, which shows one class; scores are tempered."""
        scores = self(features) / 4
        action, background = scores[:, :BACKGROUND], scores[:, BACKGROUND:]
        whole = np.logaddexp(action, background).sum(axis=0) / 8
        weights = np.exp(whole - whole.max())
        shown = weights / weights.sum() / (1 + np.exp(background - action))
        return np.concatenate([shown, 1 - shown.sum(axis=1, keepdims=True)], axis=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unlabelled_videos_can_help(seed):
    settings = Settings(seed=seed)
    train, val = generate(settings)
    split = draw_split([video.annotation for video in train], labels=settings.labels, seed=seed)
    names = {video.video for video in split.labelled}
    labelled = [video for video in train if video.annotation.video in names]
    unlabelled = [video.features for video in train if video.annotation.video not in names]
    known = np.concatenate([video.features for video in labelled])
    shares = np.eye(BACKGROUND + 1)[np.concatenate([video.labels for video in labelled])]

    def accuracy(model: GaussianClasses) -> float:
        return np.mean(np.concatenate([model(video.features).argmax(axis=1) == video.labels for video in val]))

    model = without = GaussianClasses(known, shares)
    for _ in range(2):
        guessed = np.concatenate([model.pseudo_labels(features) for features in unlabelled])
        model = GaussianClasses(np.concatenate([known, *unlabelled]), np.concatenate([shares, guessed]))
    assert 0.8 < accuracy(without) < 0.92  # above background alone, and room for more
    assert accuracy(model) > accuracy(without) + 0.015
