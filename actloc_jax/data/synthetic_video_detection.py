"""Rendered videos for temporal action detection from pixels (numpy only).

In front of a noisy wall a grey disc drifts about. Now and then something happens: a square bounces, a disc slides, or a
bar spins. Each of them has its own typical duration. Which of them a video shows, and when, is what is to be found.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from etils import epath

from actloc_jax.data.activitynet_json import write_activitynet_json
from actloc_jax.data.annotations import Annotations, VideoAnnotation, video_annotation
from actloc_jax.data.synthetic import write_once

MEAN_FRAMES = {"bounce": 18, "slide": 28, "spin": 44}
"""Class -> mean length of an action in frames."""

CLASSES = tuple(MEAN_FRAMES)
COLOURS = np.array([[200, 70, 60], [60, 190, 80], [70, 90, 210]], np.float32)
"""Of the things that act, by class; each action changes its own a little."""

FPS = 10.0
FOLDER = "videos"
LEAST_FRAMES = 10  # of an action


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is rendered. The same settings give the same data, byte for byte.

    Attributes:
        train_videos, test_videos: number of videos.
        min_frames, max_frames: length of a video.
        side: height and width of a frame.
        second_class: probability that a video shows a second class.
        every: mean frames from one action to the next.
        noise: standard deviation of the noise on every pixel, of 255 grey levels.
        seed: of everything.
    """

    train_videos: int = 40
    test_videos: int = 12
    min_frames: int = 160
    max_frames: int = 320
    side: int = 36
    second_class: float = 0.5
    every: float = 64.0
    noise: float = 10.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """One rendered video.

    Attributes:
        annotation: its segments in seconds.
        frames: [time, height, width, 3] uint8.
    """

    annotation: VideoAnnotation
    frames: np.ndarray


def generate(settings: Settings) -> tuple[list[SyntheticVideo], list[SyntheticVideo]]:
    """Renders the training and the test videos."""
    videos = []
    for number in range(settings.train_videos + settings.test_videos):
        rng = np.random.default_rng([settings.seed, number])
        subset = "train" if number < settings.train_videos else "test"
        time = int(rng.integers(settings.min_frames, settings.max_frames + 1))
        actions = _draw_actions(number % len(CLASSES), time, settings, rng)
        rows = [(start / FPS, end / FPS, label) for start, end, label in actions]
        annotation = video_annotation(f"video_{subset}_{number:03d}", subset, time / FPS, FPS, rows)
        videos.append(SyntheticVideo(annotation, _render(actions, time, settings, rng)))
    return videos[: settings.train_videos], videos[settings.train_videos :]


def write_folder(root: epath.PathLike, settings: Settings) -> epath.Path:
    """Writes `annotations.json`, `classes.txt` and `videos/<video>.npy`; does nothing if they are there already.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else.
    """
    return write_once(root, settings, lambda folder: _write(folder, settings))


def _write(root: epath.Path, settings: Settings) -> None:
    (root / FOLDER).mkdir(parents=True)
    train, test = generate(settings)
    for video in (*train, *test):
        with (root / FOLDER / f"{video.annotation.video}.npy").open("wb") as file:
            np.save(file, video.frames)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    annotations = Annotations(CLASSES, {video.annotation.video: video.annotation for video in (*train, *test)})
    write_activitynet_json(annotations, root / "annotations.json", version="synthetic")


def _draw_actions(main: int, time: int, settings: Settings, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(first frame, frame behind the last, class) of every action of a video that shows class `main`."""
    second = int(rng.integers(len(CLASSES))) if rng.random() < settings.second_class else main
    edges = np.linspace(0, time, max(2, round(time / settings.every)) + 1).astype(int)
    actions = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        label = main if number == 0 or rng.random() < 0.5 else second
        drawn = round(MEAN_FRAMES[CLASSES[label]] * rng.gamma(20.0, 1 / 20.0))
        length = int(np.clip(drawn, LEAST_FRAMES, high - low - 8))
        start = int(rng.integers(low + 2, high - length - 2))
        actions.append((start, start + length, label))
    return actions


def _render(actions: list[tuple[int, int, int]], time: int, settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """[time, side, side, 3] uint8; places are parts of the side, y downwards."""
    y, x = np.meshgrid(*[(np.arange(settings.side) + 0.5) / settings.side] * 2, indexing="ij")
    wall = rng.uniform(90, 120, 3) + 40 * (y - 0.5)[:, :, None]
    frames = np.broadcast_to(wall, [time, *wall.shape]).astype(np.float32)
    turn = np.arange(time) / rng.uniform(60, 120) * 2 * np.pi + rng.uniform(0, 2 * np.pi)
    drifting = _disc(y, x, 0.5 + 0.3 * np.sin(turn), 0.5 + 0.3 * np.cos(1.3 * turn), 0.1)
    frames[drifting] = rng.uniform(90, 170)
    for start, end, label in actions:
        inside = _acting(label, np.arange(end - start), y, x, rng)
        frames[start:end][inside] = COLOURS[label] + rng.normal(0, 15, 3)
    frames += rng.normal(0, settings.noise, frames.shape).astype(np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _acting(label: int, step: np.ndarray, y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the thing that acts is: [time, side, side] bool, `step` frames after its action began."""
    place, phase = rng.uniform(0.3, 0.7), rng.uniform(0, 2 * np.pi)
    if CLASSES[label] == "bounce":
        height = 0.7 - 0.4 * np.abs(np.sin(step * np.pi / 8 + phase))
        return _near(y, height, 0.25) & _near(x, np.full(len(step), place), 0.25)
    if CLASSES[label] == "slide":
        return _disc(y, x, np.full(len(step), place), 0.5 + 0.3 * np.sin(step * np.pi / 10 + phase), 0.28)
    angle = (step * np.pi / 8 + phase)[:, None, None]
    along = (y - place) * np.sin(angle) + (x - 0.5) * np.cos(angle)
    across = (x - 0.5) * np.sin(angle) - (y - place) * np.cos(angle)
    return (np.abs(along) < 0.5) & (np.abs(across) < 0.2)


def _near(axis: np.ndarray, centre: np.ndarray, half: float) -> np.ndarray:
    return np.abs(axis - centre[:, None, None]) < half


def _disc(y: np.ndarray, x: np.ndarray, cy: np.ndarray, cx: np.ndarray, radius: float) -> np.ndarray:
    return (y - cy[:, None, None]) ** 2 + (x - cx[:, None, None]) ** 2 < radius**2
