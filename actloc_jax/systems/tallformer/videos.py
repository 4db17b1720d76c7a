"""The videos of a TALLFormer experiment, as frames; and a user's own videos.

```
<root>/<videos>/<video>.mp4     or a folder of images, or .npy, see data/video_frames.py
<root>/<annotations>            ActivityNet's JSON, or THUMOS14's folder of text files
```
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import synthetic_video_detection as synthetic
from actloc_jax.data.activitynet_json import parse_activitynet_json
from actloc_jax.data.annotations import Annotations, VideoAnnotation, merge, read_class_names
from actloc_jax.data.problems import Problem
from actloc_jax.data.samples import Record
from actloc_jax.data.thumos14_text import read_thumos14_text
from actloc_jax.data.video_files import VIDEO_SUFFIXES
from actloc_jax.data.video_frames import IMAGE_SUFFIXES, Frames, open_frames
from actloc_jax.data.video_source import AnnotatedVideos
from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.results import detection as results
from actloc_jax.systems.api import Dataset

SOURCES = ("folder", "synthetic")
ANCHORS, AFSD = "anchors", "afsd"
DETECTORS = (ANCHORS, AFSD)
ROUNDING = 1.01  # videos that are sampled to a number of frames have about that many; what is beyond is not read
DEMO = {
    ANCHORS: synthetic.Settings(),
    AFSD: synthetic.Settings(min_frames=100, max_frames=128, second_class=0.0),
}
"""Windows of long videos for the one, short videos of one class, which are read whole, for the other."""


def open_dataset(config: ConfigDict, workdir: epath.Path) -> Dataset:
    """The data set that `config.data` describes; the demo's is rendered into the workdir first.

    Videos without a segment are left out, as published: THUMOS14 is tested on 212 videos of 213.

    Raises:
        FileNotFoundError, ValueError: it is not there or cannot be read.
    """
    data = config.data
    if data.source not in SOURCES:
        raise ValueError(f"config.data.source={data.source!r} is unknown; use {' or '.join(SOURCES)}.")
    if config.network.kind not in DETECTORS:
        raise ValueError(f"config.network.kind={config.network.kind!r} is unknown; use {' or '.join(DETECTORS)}.")
    root = epath.Path(data.root)
    if data.source == "synthetic":
        root = synthetic.write_folder(workdir / "demo_data", DEMO[config.network.kind])
    subsets = {"train": data.train_subsets.split(","), "test": data.test_subsets.split(",")}
    annotations, wrong = read_annotations(root, data, [name for names in subsets.values() for name in names])

    @functools.cache
    def source(split: str) -> AnnotatedVideos:
        videos = [video for video in annotations.of_subset(*subsets[split]) if len(video.labels)]
        return AnnotatedVideos(root / data.videos, videos, open_ended=data.open_ended, **frame_options(config))

    @functools.cache
    def problems(split: str) -> list[Problem]:
        return [*wrong, *source(split).problems(), *_too_long(config, source(split))]

    def truth(split: str) -> dict[str, Instances]:
        return {video.video: Instances(video.segments, video.labels) for video in source(split).videos}

    def chance(split: str) -> dict[str, float]:
        durations = {video.video: _seconds(video) for video in source(split).videos}
        return results.chance(truth(split), durations, config.eval)

    return Dataset(
        class_names=annotations.class_names,
        source=source,
        truth=truth,
        problems=problems,
        frame_rate=0.0,
        chance=chance,
    )


def read_annotations(
    root: epath.Path, data: ConfigDict, subsets: Sequence[str]
) -> tuple[Annotations, Sequence[Problem]]:
    """The annotations of all subsets, and what is wrong with those that cannot be read.

    THUMOS14's text files lie in one folder, or in one folder per subset.

    Raises:
        FileNotFoundError, ValueError: there are none, or they are something else.
    """
    path = root / data.annotations
    names = read_class_names(root / data.classes) if data.classes else None
    if path.is_dir():
        folders = {subset: path / subset if (path / subset).is_dir() else path for subset in subsets}
        parts = [read_thumos14_text(folder, subset, class_names=names) for subset, folder in folders.items()]
        return functools.reduce(merge, parts), []
    return parse_activitynet_json(path, class_names=names, missing_duration="unknown")


def frame_options(config: ConfigDict) -> dict[str, Any]:
    """Rate and size of the frames, for `open_frames`; a rate or a limit of 0 stands for none."""
    data = config.data
    return {"fps": data.fps or None, "size": tuple(data.frame_size), "max_frames": data.max_frames or None}


def _too_long(config: ConfigDict, source: AnnotatedVideos) -> list[Problem]:
    """Videos that do not fit into a clip that must hold them whole."""
    if config.network.kind != AFSD:
        return []
    most = config.clip.frames
    return [
        Problem(
            "error",
            f"video {video.video} has {len(frames)} frames at {frames.fps:g} fps, but this detector reads whole videos "
            f"of at most {most}; extract its frames at a lower rate, or lower --config.data.fps",
        )
        for video, frames in zip(source.videos, source.opened[0], strict=True)
        if frames is not None and len(frames) > ROUNDING * most
    ]


def _seconds(video: VideoAnnotation) -> float:
    """Its duration; the last annotated end stands for one that is not known."""
    return video.duration if math.isfinite(video.duration) else video.segments[:, 1].max(initial=1.0)


class FrameInputs:
    """A user's own videos.

    Attributes:
        lengths: frames of each.
    """

    def __init__(self, names: Sequence[str], frames: Sequence[Frames]) -> None:
        self._names, self._frames = names, frames
        self.lengths = tuple(map(len, frames))

    def __len__(self) -> int:
        return len(self._names)

    def record(self, position: int, epoch: int = 0) -> Record:
        """`video`, `index` and `frames`."""
        del epoch
        return {"video": self._names[position], "index": position, "frames": self._frames[position]}

    __getitem__ = record


def open_inputs(config: ConfigDict, meta: dict[str, Any], paths: Sequence[str]) -> FrameInputs:
    """The videos that `paths` name: files, folders of images, or folders of such, to predict with a checkpoint.

    Raises:
        FileNotFoundError: a path does not exist or a folder holds no videos.
        ValueError: videos cannot be read; all are named.
    """
    del meta
    found = [video for path in paths for video in _videos_at(epath.Path(path))]
    frames, wrong = [], []
    for path in found:
        try:
            frames.append(open_frames(path, **frame_options(config)))
        except (FileNotFoundError, ValueError) as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(found)} videos cannot be read:\n  " + "\n  ".join(wrong))
    return FrameInputs([path.name if path.is_dir() else path.stem for path in found], frames)


def _videos_at(path: epath.Path) -> list[epath.Path]:
    """The videos that a path stands for. Raises FileNotFoundError if there are none."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a video, or a folder of videos or of images")
    if not path.is_dir() or _holds_images(path):
        return [path]
    found = [
        child
        for child in sorted(path.iterdir())
        if (_holds_images(child) if child.is_dir() else child.suffix.lower() in (*VIDEO_SUFFIXES, ".npy"))
    ]
    if not found:
        raise FileNotFoundError(f"{path} holds no videos; expected {', '.join(VIDEO_SUFFIXES[:3])}, .npy or images")
    return found


def _holds_images(folder: epath.Path) -> bool:
    return any(child.suffix.lower() in IMAGE_SUFFIXES for child in folder.iterdir())
