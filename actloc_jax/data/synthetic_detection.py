"""A generated data set for temporal action detection, full or weak supervision (numpy only).

Untrimmed "videos" are mostly background; actions of one class, sometimes of a second one, happen several times. Every
class has its own typical duration, so that a detector can learn more than a threshold on the scores of single rows.
Features are class prototypes, smeared so that the ends of actions are ambiguous, plus white noise and short bursts that
look like another class. Which classes a video shows is all that a weakly supervised detector needs: no two classes
occur in the same videos only.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from etils import epath

from actloc_jax.data.activitynet_json import write_activitynet_json
from actloc_jax.data.annotations import Annotations, VideoAnnotation, video_annotation
from actloc_jax.data.grid import Grid
from actloc_jax.data.synthetic import draw_features, write_once

MEAN_STEPS = {"clap": 5, "wave": 9, "jump": 14, "throw": 22, "climb": 34}
"""Class -> mean length of an action in steps of the feature grid."""

CLASSES = tuple(MEAN_STEPS)
BACKGROUND = len(CLASSES)  # what the features of all other steps look like

GRID = Grid(stride=16, window=16, fps=25.0)
"""Windows that touch without overlap: edges of rows and centres of windows agree on where a segment is."""

LEAST_STEPS = 3  # of an action


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is generated. The same settings give the same data, byte for byte.

    Attributes:
        train_videos, test_videos: number of videos.
        min_steps, max_steps: length of a video on the feature grid.
        channels: width of the features.
        second_class: probability that a video shows a second class.
        actions_per_100: mean number of actions in 100 steps.
        noise: standard deviation of the white noise; prototypes have length 1.
        burst_every: mean steps between bursts that look like another class.
        smear: width of the temporal blur of the prototypes, in steps.
        seed: of everything.
    """

    train_videos: int = 30
    test_videos: int = 15
    min_steps: int = 200
    max_steps: int = 600
    channels: int = 64
    second_class: float = 0.4
    actions_per_100: float = 2.4
    noise: float = 0.2
    burst_every: float = 60.0
    smear: float = 1.5
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """One generated video.

    Attributes:
        annotation: its segments in seconds.
        features: [time, channels] float32.
        labels: [time] int32, the class of every step, `BACKGROUND` between the actions.
    """

    annotation: VideoAnnotation
    features: np.ndarray
    labels: np.ndarray


def generate(settings: Settings) -> tuple[list[SyntheticVideo], list[SyntheticVideo]]:
    """Generates the training and the test videos."""
    rng = np.random.default_rng([settings.seed, 0])
    prototypes = rng.standard_normal([len(CLASSES) + 1, settings.channels])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    videos = []
    for number in range(settings.train_videos + settings.test_videos):
        rng = np.random.default_rng([settings.seed, 1, number])
        subset = "train" if number < settings.train_videos else "test"
        labels, segments = _draw_actions(number % len(CLASSES), settings, rng)
        seconds = GRID.to_seconds(np.array([row[:2] for row in segments]) - GRID.margin)
        rows = [(start, end, label) for (start, end), (_, _, label) in zip(seconds.tolist(), segments, strict=True)]
        annotation = video_annotation(
            f"video_{subset}_{number:03d}", subset, GRID.covered_seconds(len(labels)), GRID.fps, rows
        )
        videos.append(SyntheticVideo(annotation, draw_features(labels, prototypes, settings, rng), labels))
    return videos[: settings.train_videos], videos[settings.train_videos :]


def write_folder(root: epath.PathLike, settings: Settings) -> epath.Path:
    """Writes the generated data for `DetectionFolder(root, grid=GRID)`; does nothing if they are there already.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else.
    """
    return write_once(root, settings, lambda folder: _write(folder, settings))


def _write(root: epath.Path, settings: Settings) -> None:
    """Writes features, annotations and class names."""
    (root / "features").mkdir(parents=True)
    train, test = generate(settings)
    for video in (*train, *test):
        with (root / "features" / f"{video.annotation.video}.npy").open("wb") as file:
            np.save(file, video.features)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    annotations = Annotations(CLASSES, {video.annotation.video: video.annotation for video in (*train, *test)})
    write_activitynet_json(annotations, root / "annotations.json", version="synthetic")


def _draw_actions(
    main: int, settings: Settings, rng: np.random.Generator
) -> tuple[np.ndarray, Sequence[tuple[int, int, int]]]:
    """One video that shows class `main`.

    Returns:
        The class of every step, [time] int32, and (first step, step behind the last, class) of every action.
    """
    steps = int(rng.integers(settings.min_steps, settings.max_steps + 1))
    second = (
        (main + int(rng.integers(1, len(CLASSES)))) % len(CLASSES) if rng.random() < settings.second_class else main
    )
    count = max(2, int(rng.poisson(settings.actions_per_100 * steps / 100)))
    labels = np.full(steps, BACKGROUND, np.int32)
    segments = []
    # At least half of every slot is background, so that neighbours never touch.
    edges = np.linspace(0, steps, count + 1).astype(int)
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        label = main if number == 0 or rng.random() < 0.6 else second
        if number == 1:
            label = second
        drawn = round(MEAN_STEPS[CLASSES[label]] * rng.gamma(8.0, 1 / 8.0))
        length = int(np.clip(drawn, LEAST_STEPS, max((high - low) // 2, LEAST_STEPS)))
        start = int(rng.integers(low + 1, max(high - length, low + 2)))
        labels[start : start + length] = label
        segments.append((start, start + length, label))
    return labels, segments
