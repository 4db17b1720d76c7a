"""A generated data set for unsupervised segmentation, in the ASOT layout (numpy only).

All videos show one activity: the same actions in the same order, some left out, none twice. The lengths of the actions
vary so much that a cut into equal parts is a poor guess. White noise and short bursts that look like another action
make the nearest cluster of every single frame flicker; the order and the length of the actions tell what is right.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from etils import epath

from actloc_jax.data.activities import ActivityOf
from actloc_jax.data.synthetic import SyntheticVideo, draw_features, write_once

ACTIVITY = "tea"

ACTIONS = ("take_cup", "boil_water", "add_teabag", "pour_water", "stir_tea", "clean_up")
"""In the order in which they are done."""

MEAN_SHARE = (0.5, 2.0, 0.6, 1.4, 0.8, 1.7)
"""Mean length of the actions, relative to each other."""

PAUSE = "background"
PAUSE_ID = -1  # as in YouTube Instructions

LEAST_FRAMES = 12  # of an action


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is generated. The same settings give the same data, byte for byte.

    Attributes:
        videos: number of videos.
        channels: width of the features.
        skipped: probability that an action is left out.
        length_spread: standard deviation of the logarithm of an action's length.
        pauses: put pauses between the actions, class "background" with id -1; their features are only noise.
        activity_of: how videos are named, see `ActivityFolder`; under "none" there are no activity folders.
        noise: standard deviation of the white noise; prototypes have length 1.
        burst_every: mean frames between bursts that look like another action.
        smear: width of the temporal blur of the prototypes, in frames.
        seed: of everything.
    """

    videos: int = 16
    channels: int = 64
    skipped: float = 0.12
    length_spread: float = 0.8
    pauses: bool = False
    activity_of: ActivityOf = "suffix"
    noise: float = 0.2
    burst_every: float = 40.0
    smear: float = 2.0
    seed: int = 0


def class_names(settings: Settings) -> tuple[str, ...]:
    """The classes that the labels of `generate` number; a pause is the last one."""
    return (*ACTIONS, PAUSE) if settings.pauses else ACTIONS


def generate(settings: Settings) -> list[SyntheticVideo]:
    """Generates the videos; labels are indices into `class_names`."""
    rng = np.random.default_rng([settings.seed, 0])
    prototypes = rng.standard_normal([len(ACTIONS), settings.channels])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    if settings.pauses:
        prototypes = np.concatenate([prototypes, np.zeros([1, settings.channels])])
    videos = []
    for number in range(settings.videos):
        rng = np.random.default_rng([settings.seed, 1, number])
        labels = _draw_labels(settings, rng)
        videos.append(
            SyntheticVideo(_video_name(number, settings), draw_features(labels, prototypes, settings, rng), labels)
        )
    return videos


def write_folder(root: epath.PathLike, settings: Settings) -> epath.Path:
    """Writes the generated data as an ASOT folder; does nothing if it is there already.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else.
    """
    return write_once(root, settings, lambda folder: _write(folder, settings))


def _write(root: epath.Path, settings: Settings) -> None:
    """Writes features, ground truth and mapping."""
    features = root / "features" if settings.activity_of == "none" else root / "features" / ACTIVITY
    for folder in (features, root / "groundTruth", root / "mapping"):
        folder.mkdir(parents=True)
    names = class_names(settings)
    ids = [PAUSE_ID if name == PAUSE else index for index, name in enumerate(names)]
    lines = (f"{number} {name}\n" for number, name in zip(ids, names, strict=True))
    (root / "mapping" / "mapping.txt").write_text("".join(lines))
    for video in generate(settings):
        with (features / f"{video.name}.npy").open("wb") as file:
            np.save(file, video.features)
        (root / "groundTruth" / video.name).write_text("".join(f"{names[label]}\n" for label in video.labels))


def _video_name(number: int, settings: Settings) -> str:
    """A name that holds the activity where `activity_of` looks for it."""
    if settings.activity_of == "suffix":
        return f"P{number:02d}_{ACTIVITY}"
    return f"{ACTIVITY}_{number:02d}" if settings.activity_of == "prefix" else f"video-{number:02d}"


def _draw_labels(settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """[time] int32: one way to do the activity, of 200 to 500 frames without the pauses."""
    done = np.flatnonzero(rng.random(len(ACTIONS)) >= settings.skipped)
    if len(done) < 2:
        done = np.arange(2)
    shares = np.array(MEAN_SHARE)[done] * np.exp(settings.length_spread * rng.standard_normal(len(done)))
    spare = int(rng.integers(200, 501)) - LEAST_FRAMES * len(done)
    edges = np.round(np.concatenate([[0.0], np.cumsum(shares)]) / shares.sum() * spare).astype(int)
    frames = LEAST_FRAMES + np.diff(edges)
    if not settings.pauses:
        return np.repeat(done, frames).astype(np.int32)
    labels = np.full(2 * len(done) + 1, len(ACTIONS))
    labels[1::2] = done
    lengths = rng.integers(5, 31, size=len(labels))
    lengths[1::2] = frames
    return np.repeat(labels, lengths).astype(np.int32)
