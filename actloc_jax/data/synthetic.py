"""A generated data set for action segmentation, so that everything can be run without downloads (numpy only).

Kitchen-like activities follow a small grammar: ordered actions, some optional, some repeated, with background between.
Features are class prototypes, smeared over time so that borders are ambiguous, plus noise of three kinds:

* white noise on every frame: a frame-wise classifier flickers;
* short bursts that look like another class: a temporal filter that ignores their length over-segments;
* look-alike pairs of classes: only the order of actions tells them apart, which is what a segment model can learn.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from etils import epath
from scipy import ndimage

CLASSES = ("background", "take", "open", "pour", "stir", "cut", "spread", "put")

LOOK_ALIKES = (("open", "cut"), ("pour", "spread"))
"""Pairs of classes whose prototypes are close."""

MEAN_FRAMES = {"background": 14, "take": 18, "open": 24, "pour": 34, "stir": 40, "cut": 44, "spread": 38, "put": 16}
"""Mean length of an action in frames (at 15 frames per second)."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of an activity's grammar.

    Attributes:
        action: class name.
        probability: that the step happens.
        repeats: most times it happens, with background between.
    """

    action: str
    probability: float = 1.0
    repeats: int = 1


ACTIVITIES = {
    "cereals": (Step("take"), Step("open", 0.8), Step("pour", repeats=2), Step("stir", 0.7), Step("put", 0.8)),
    "sandwich": (Step("take"), Step("cut", repeats=2), Step("take", 0.5), Step("spread", repeats=2), Step("put")),
    "coffee": (Step("take", 0.8), Step("open"), Step("pour"), Step("take", 0.6), Step("pour", 0.7), Step("stir")),
    "salad": (Step("take"), Step("cut", repeats=3), Step("put"), Step("pour", 0.6), Step("stir"), Step("put", 0.5)),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is generated. The same settings give the same data, byte for byte.

    Attributes:
        train_videos, test_videos: number of videos.
        channels: width of the features.
        noise: standard deviation of the white noise; prototypes have length 1 per look-alike group.
        burst_every: mean frames between bursts that look like another class.
        smear: width of the temporal blur of the class prototypes, in frames.
        seed: of everything.
    """

    train_videos: int = 24
    test_videos: int = 8
    channels: int = 64
    noise: float = 0.22
    burst_every: float = 40.0
    smear: float = 3.0
    seed: int = 0


class FeatureSettings(Protocol):
    """What `draw_features` needs to know; see `Settings`."""

    noise: float
    burst_every: float
    smear: float


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """One generated video.

    Attributes:
        name: activity and number.
        features: [time, channels] float32.
        labels: [time] int32, indices into `CLASSES`.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray


def generate(settings: Settings) -> tuple[list[SyntheticVideo], list[SyntheticVideo]]:
    """Generates the training and the test videos."""
    prototypes = _prototypes(settings)
    activities = list(ACTIVITIES)
    videos = []
    for number in range(settings.train_videos + settings.test_videos):
        rng = np.random.default_rng([settings.seed, 1, number])
        activity = activities[number % len(activities)]
        labels = _draw_labels(activity, rng)
        videos.append(
            SyntheticVideo(f"{activity}_{number:03d}", draw_features(labels, prototypes, settings, rng), labels)
        )
    return videos[: settings.train_videos], videos[settings.train_videos :]


def write_folder(root: epath.PathLike, settings: Settings) -> epath.Path:
    """Writes the generated data as an MS-TCN folder with one split; does nothing if it is there already.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else.
    """
    return write_once(root, settings, lambda folder: _write(folder, settings))


def write_once(root: epath.PathLike, settings: Any, write: Callable[[epath.Path], None]) -> epath.Path:
    """Writes a generated data set and, beside it, the settings it was made with; does nothing if it is there already.

    Args:
        root: folder of the data set.
        settings: dataclass of plain values.
        write: fills a folder that does not exist yet; a failed attempt leaves nothing at `root`.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else.
    """
    root = epath.Path(root)
    stamp = json.dumps(dataclasses.asdict(settings), indent=1)
    if root.exists():
        written = root / "synthetic.json"
        if not written.exists():
            raise ValueError(f"{root} exists and holds no generated data (no synthetic.json); choose another folder")
        if written.read_text() == stamp:
            return root
        raise ValueError(
            f"{root} holds data generated with other settings ({written}); remove it or choose another folder"
        )
    unfinished = root.parent / f".{root.name}.unfinished"
    if unfinished.exists():
        unfinished.rmtree()
    write(unfinished)
    (unfinished / "synthetic.json").write_text(stamp)
    unfinished.rename(root)
    return root


def _write(root: epath.Path, settings: Settings) -> None:
    """Writes features, ground truth, mapping and splits."""
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(CLASSES)))
    for subset, videos in zip(("train", "test"), generate(settings), strict=True):
        (root / "splits" / f"{subset}.split1.bundle").write_text("".join(f"{video.name}.txt\n" for video in videos))
        for video in videos:
            with (root / "features" / f"{video.name}.npy").open("wb") as file:
                np.save(file, np.ascontiguousarray(video.features.T))
            names = "".join(f"{CLASSES[label]}\n" for label in video.labels)
            (root / "groundTruth" / f"{video.name}.txt").write_text(names)


def _prototypes(settings: Settings) -> np.ndarray:
    """[classes, channels] float64: random directions; a look-alike is mostly the other class's direction."""
    rng = np.random.default_rng([settings.seed, 0])
    directions = rng.standard_normal([len(CLASSES), settings.channels])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for first, second in LOOK_ALIKES:
        mixed = 0.85 * directions[CLASSES.index(first)] + 0.5 * directions[CLASSES.index(second)]
        directions[CLASSES.index(second)] = mixed / np.linalg.norm(mixed)
    return directions


def _draw_labels(activity: str, rng: np.random.Generator) -> np.ndarray:
    """[time] int32: one way to do the activity."""
    actions = ["background"]
    for step in ACTIVITIES[activity]:
        if rng.random() >= step.probability:
            continue
        for _ in range(int(rng.integers(1, step.repeats + 1))):
            pause = rng.random() < 0.5 and actions[-1] != "background"
            if pause or actions[-1] == step.action:
                actions.append("background")
            actions.append(step.action)
    actions.append("background")
    frames = [max(6, round(MEAN_FRAMES[action] * rng.gamma(6.0, 1 / 6.0))) for action in actions]
    return np.repeat([CLASSES.index(action) for action in actions], frames).astype(np.int32)


def draw_features(
    labels: np.ndarray, prototypes: np.ndarray, settings: FeatureSettings, rng: np.random.Generator
) -> np.ndarray:
    """[time, channels] float32: smeared prototypes of the seen classes, plus noise.

    Args:
        labels: [time] class indices.
        prototypes: [classes, channels].
        settings: noise, bursts and smear, as described in `Settings`.
        rng: of all draws.
    """
    seen = labels.copy()
    for start in np.flatnonzero(rng.random(len(labels)) < 1 / settings.burst_every):
        seen[start : start + int(rng.integers(3, 11))] = rng.integers(len(prototypes))
    one_hot = np.eye(len(prototypes))[seen]
    smeared = ndimage.gaussian_filter1d(one_hot, settings.smear, axis=0, mode="nearest")
    noise = settings.noise * rng.standard_normal([len(labels), prototypes.shape[1]])
    return (smeared @ prototypes + noise).astype(np.float32)
