"""A generated data set for detection with few labels, in the files of SPOT's release (numpy only).

As in ActivityNet, a video shows one class, once or twice, and the action covers a good part of it. Classes look
different from video to video, and every video has a style of its own that says nothing about the class. A few labelled
videos do not show which differences matter; many videos without labels do, because all draw from the same few.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from etils import epath

from actloc_jax.data.annotations import VideoAnnotation, video_annotation
from actloc_jax.data.json_files import write_json
from actloc_jax.data.semi_supervised import draw_split
from actloc_jax.data.spot_files import UNLABELLED, ratio_name
from actloc_jax.data.synthetic import draw_features, write_once

CLASSES = ("surfing", "archery", "fencing", "juggling", "rowing")
"""In the order of their index, which is not alphabetical, as in the original."""

FEATURES = "features/{video}.npy"
SNIPPET_FRAMES = 16
FPS = 25.0
LEAST_SHARE = 0.17  # of a video: at 100 steps, shorter actions do not count under the published rules


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is generated. The same settings give the same data, byte for byte.

    Attributes:
        train_videos, val_videos: number of videos.
        labels: share of labelled training videos in per cent; written as a ratio file.
        min_rows, max_rows: snippets of a video.
        channels: width of the features.
        short: share of the videos whose action is too short for the published rules.
        looks: in how many directions every class varies from video to video.
        look: standard deviation along each of them; prototypes have length 1.
        styles: in how many directions videos differ whatever they show.
        style: standard deviation along each of them.
        noise, burst_every, smear: see `synthetic.draw_features`.
        classifier_accuracy: share of the validation videos whose score of the whole video names the right class.
        seed: of everything.
    """

    train_videos: int = 200
    val_videos: int = 60
    labels: float = 10.0
    min_rows: int = 40
    max_rows: int = 90
    channels: int = 64
    short: float = 0.1
    looks: int = 3
    look: float = 0.4
    styles: int = 12
    style: float = 0.35
    noise: float = 0.15
    burst_every: float = 60.0
    smear: float = 1.0
    classifier_accuracy: float = 0.88
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """One generated video.

    Attributes:
        annotation: its segments in seconds.
        duration_frames: frames of the video; its snippets cover `SNIPPET_FRAMES` each, a few more or fewer in all.
        features: [time, channels] float32.
        labels: [time] int32, the class of every snippet, `len(CLASSES)` for background.
    """

    annotation: VideoAnnotation
    duration_frames: int
    features: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class _World:
    """What all videos share: [classes + 1, channels], [classes + 1, looks, channels] and [styles, channels]."""

    prototypes: np.ndarray
    looks: np.ndarray
    styles: np.ndarray


def generate(settings: Settings) -> tuple[list[SyntheticVideo], list[SyntheticVideo]]:
    """Generates the training and the validation videos."""
    rng = np.random.default_rng([settings.seed, 0])
    kinds = len(CLASSES) + 1
    directions = rng.standard_normal([kinds * (1 + settings.looks) + settings.styles, settings.channels])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    prototypes, looks, styles = np.split(directions, [kinds, kinds * (1 + settings.looks)])
    world = _World(prototypes, looks.reshape(kinds, settings.looks, settings.channels), styles)
    videos = [
        _draw_video(number, "training" if number < settings.train_videos else "validation", world, settings)
        for number in range(settings.train_videos + settings.val_videos)
    ]
    return videos[: settings.train_videos], videos[settings.train_videos :]


def write_folder(root: epath.PathLike, settings: Settings) -> epath.Path:
    """Writes the generated data for `SpotFolder(root, labels=settings.labels, features=FEATURES)`.

    Does nothing if they are there already.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else.
    """
    return write_once(root, settings, lambda folder: _write(folder, settings))


def _draw_video(number: int, subset: str, world: _World, settings: Settings) -> SyntheticVideo:
    rng = np.random.default_rng([settings.seed, 1, number])
    rows = int(rng.integers(settings.min_rows, settings.max_rows + 1))
    label = number % len(CLASSES)
    spans = _draw_spans(rows, settings, rng)
    labels = np.full(rows, len(CLASSES), np.int32)
    for start, end in spans:
        labels[start:end] = label
    look = settings.look * rng.standard_normal([len(CLASSES) + 1, settings.looks])
    seen = world.prototypes + np.einsum("kl,klc->kc", look, world.looks)
    style = settings.style * rng.standard_normal(settings.styles) @ world.styles
    features = draw_features(labels, seen, settings, rng) + style.astype(np.float32)
    frames = rows * SNIPPET_FRAMES + int(rng.integers(-SNIPPET_FRAMES // 2, SNIPPET_FRAMES // 2 + 1))
    seconds = frames / FPS
    # The original takes the snippets' share of the frames for their share of the seconds.
    covered = rows * SNIPPET_FRAMES / frames * seconds
    segments = [(start / rows * covered, end / rows * covered, label) for start, end in spans]
    annotation = video_annotation(f"v_{subset}_{number:03d}", subset, seconds, FPS, segments)
    return SyntheticVideo(annotation, frames, features, labels)


def _draw_spans(rows: int, settings: Settings, rng: np.random.Generator) -> list[tuple[int, int]]:
    """First snippet and the one behind the last of each action; several keep at least 2 snippets between them."""
    if rng.random() < settings.short:
        length = max(int(0.8 * LEAST_SHARE * rows), 2)
        start = int(rng.integers(1, rows - length))
        return [(start, start + length)]
    count = 1 if rng.random() < 0.7 else 2
    spans = []
    for number in range(count):
        low, high = number * rows // count + 1, (number + 1) * rows // count - 1
        length = int(rng.uniform(max(0.4, 1.2 * LEAST_SHARE * count), 0.85) * (high - low))
        start = int(rng.integers(low, high - length + 1))
        spans.append((start, start + length))
    return spans


def _write(root: epath.Path, settings: Settings) -> None:
    """Writes features, annotations, both csv files, the class table and the scores of whole videos."""
    (root / "features").mkdir(parents=True)
    train, val = generate(settings)
    for video in (*train, *val):
        with (root / FEATURES.format(video=video.annotation.video)).open("wb") as file:
            np.save(file, video.features)
    write_json(root / "class_index.json", {name: index for index, name in enumerate(CLASSES)})
    write_json(root / "anet_anno_action.json", {video.annotation.video: _entry(video) for video in (*train, *val)})
    write_json(root / "spot_best_score.json", _scores(val, settings))
    split = draw_split([video.annotation for video in train], labels=settings.labels, seed=settings.seed)
    hidden = {video.video for video in split.unlabelled}
    _write_info(root / "video_info_new.csv", (*train, *val), set())
    _write_info(root / f"video_info_new_{ratio_name(settings.labels)}.csv", (*train, *val), hidden)


def _entry(video: SyntheticVideo) -> dict[str, object]:
    """A video in the original's annotation file."""
    known = video.annotation
    return {
        "duration_second": known.duration,
        "duration_frame": video.duration_frames,
        "feature_frame": len(video.features) * SNIPPET_FRAMES,
        "annotations": [
            {"segment": segment, "label": CLASSES[label]}
            for segment, label in zip(known.segments.tolist(), known.labels.tolist(), strict=True)
        ],
    }


def _scores(videos: Sequence[SyntheticVideo], settings: Settings) -> dict[str, dict[str, object]]:
    """What an imagined classifier of whole videos says."""
    rng = np.random.default_rng([settings.seed, 2])
    found = {}
    for video in videos:
        label = int(video.annotation.labels[0])
        if rng.random() > settings.classifier_accuracy:
            label = (label + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
        found[video.annotation.video] = {"class": CLASSES[label], "score": float(rng.uniform(0.5, 1.0))}
    return found


def _write_info(path: epath.Path, videos: Sequence[SyntheticVideo], hidden: set[str]) -> None:
    """A video info file; the videos in `hidden` are unlabelled."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "numFrame", "seconds", "fps", "rfps", "subset", "featureFrame"])
    for video in videos:
        known, frames = video.annotation, video.duration_frames
        subset = UNLABELLED if known.video in hidden else known.subset
        covered = len(video.features) * SNIPPET_FRAMES
        writer.writerow([known.video, frames, known.duration, FPS, FPS, subset, covered])
    path.write_text(text.getvalue())
