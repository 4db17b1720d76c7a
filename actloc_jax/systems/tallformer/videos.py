"""The videos of a TALLFormer experiment, as frames; and a user's own videos.

```
<root>/<videos>/<video>.mp4     or a folder of images, or .npy, see data/video_frames.py; or all in ArrayRecord files;
                                {subset} in `videos` stands for the subset
<root>/<annotations>            ActivityNet's JSON in its variants, or a folder of a file per subset (THUMOS14)
```
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import synthetic_video_detection as synthetic
from actloc_jax.data.activitynet_json import parse_activitynet_json
from actloc_jax.data.annotation_folder import read_annotation_folder
from actloc_jax.data.annotations import Annotations, VideoAnnotation, read_class_names
from actloc_jax.data.problems import Problem
from actloc_jax.data.samples import Record
from actloc_jax.data.video_files import VIDEO_SUFFIXES
from actloc_jax.data.video_folder import holds_images
from actloc_jax.data.video_frames import Frames, open_frames
from actloc_jax.data.video_scores import read_class_scores
from actloc_jax.data.video_source import AnnotatedVideos, open_store
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
    if not root.is_dir():
        raise FileNotFoundError(_missing_folder(root, data))
    subsets = {"train": data.train_subsets.split(","), "test": data.test_subsets.split(",")}
    annotations, wrong = read_annotations(root, data, [name for names in subsets.values() for name in names])

    @functools.cache
    def source(split: str) -> AnnotatedVideos:
        videos = [video for video in annotations.of_subset(*subsets[split]) if len(video.labels)]
        options = {"open_ended": data.open_ended, "missing": data.missing_videos}
        return AnnotatedVideos(root / _videos_of(data, subsets[split]), videos, **options, **frame_options(config))

    @functools.cache
    def problems(split: str) -> list[Problem]:
        found = [*wrong, *source(split).problems(), *_misfits(config, source(split))]
        if split in (config.data.test_split, config.eval.selection_split):
            found += _missing_scores(config, source(split), annotations.class_names)
        return found

    def truth(split: str) -> dict[str, Instances]:
        return _instances(source(split).videos)

    def also_scored(split: str) -> dict[str, dict[str, Instances]]:
        everything = source(split).annotated
        if data.missing_videos == "error" or len(everything) == len(source(split).videos):
            return {}
        return {f"all {len(everything)} annotated videos": _instances(everything)}

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
        also_scored=also_scored,
    )


def read_annotations(
    root: epath.Path, data: ConfigDict, subsets: Sequence[str]
) -> tuple[Annotations, Sequence[Problem]]:
    """The annotations of all subsets, and what is wrong with those that cannot be read.

    Raises:
        FileNotFoundError, ValueError: there are none, or they are something else.
    """
    path = root / data.annotations
    names = read_class_names(root / data.classes) if data.classes else None
    if path.is_dir():
        return read_annotation_folder(path, subsets, class_names=names)
    return parse_activitynet_json(
        path, class_names=names, missing_duration="unknown", first_label_id=data.first_label_id
    )


def _videos_of(data: ConfigDict, subsets: Sequence[str]) -> str:
    """The folder of the videos of a split. Raises ValueError if there is one for each of several subsets."""
    if "{subset}" not in data.videos:
        return data.videos
    if len(subsets) > 1:
        raise ValueError(
            f"config.data.videos={data.videos!r} is one folder per subset, but a split has the subsets "
            f"{', '.join(subsets)}; move their videos into one folder, or take one subset"
        )
    return data.videos.replace("{subset}", subsets[0])


def frame_options(config: ConfigDict) -> dict[str, Any]:
    """Rate and size of the frames, for `open_frames`; a rate or a limit of 0 stands for none."""
    data = config.data
    return {"fps": data.fps or None, "size": tuple(data.frame_size), "max_frames": data.max_frames or None}


def _misfits(config: ConfigDict, source: AnnotatedVideos) -> list[Problem]:
    """Videos that do not fit into a clip that must hold them whole, and frames that are smaller than it."""
    found, (height, width) = [], config.clip.crop
    small = [video for video, frames in source.readable if frames.shape[0] < height or frames.shape[1] < width]
    if small:
        message = (
            f"{len(small)} of {len(source.annotated)} videos have frames smaller than the crop {height}x{width} "
            f"(height x width), e.g. {small[0].video}; extract them larger, or lower --config.clip.crop"
        )
        found.append(Problem("error", message))
    if config.network.kind != AFSD:
        return found
    most = config.clip.frames
    return found + [
        Problem(
            "error",
            f"video {video.video} has {len(frames)} frames at {frames.fps:g} fps, but this detector reads whole videos "
            f"of at most {most}; extract its frames at a lower rate, or lower --config.data.fps",
        )
        for video, frames in source.readable
        if len(frames) > ROUNDING * most
    ]


def _missing_scores(config: ConfigDict, source: AnnotatedVideos, class_names: Sequence[str]) -> list[Problem]:
    """What is wrong with another model's scores of whole videos, where they name the classes."""
    if config.decode.classifier != "external" or not config.decode.video_scores:
        return []
    try:
        scores = read_class_scores(config.decode.video_scores, class_names)
        lacking = scores.missing([video.video for video, _ in source.readable])
    except (FileNotFoundError, ValueError) as error:
        lacking = str(error)
    return [Problem("error", lacking)] if lacking else []


def _missing_folder(root: epath.Path, data: ConfigDict) -> str:
    """Says that the data folder is missing, what it must hold, and what to do without data."""
    return (
        f"the data folder {root} does not exist. Expected this layout:\n"
        f"  {root}/\n"
        f"    {data.annotations:24} ActivityNet's JSON, or a folder of a file per subset (THUMOS14)\n"
        f"    {data.videos}/<video>.mp4     or a folder of images, or .npy; or ArrayRecord files of all videos\n"
        "Videos and annotations are linked from https://github.com/klauscc/TALLFormer.\n"
        "Without data, append :demo to the config (--config=configs/<name>.py:demo) to run on generated data."
    )


def _instances(videos: Sequence[VideoAnnotation]) -> dict[str, Instances]:
    """The annotated segments by video, in seconds."""
    return {video.video: Instances(video.segments, video.labels) for video in videos}


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
    options = frame_options(config)
    found = [pair for path in paths for pair in _videos_at(epath.Path(path), options)]
    frames, wrong = [], []
    for _, opens in found:
        try:
            frames.append(opens())
        except (FileNotFoundError, ValueError) as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(found)} videos cannot be read:\n  " + "\n  ".join(wrong))
    return FrameInputs([name for name, _ in found], frames)


def _videos_at(path: epath.Path, options: dict[str, Any]) -> list[tuple[str, Callable[[], Frames]]]:
    """Names of the videos that a path stands for, and what opens each.

    Raises:
        FileNotFoundError: there are none.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a video, or a folder of videos or of images")
    if not path.is_dir() or holds_images(path):
        name = path.name if path.is_dir() else path.stem
        return [(name, functools.partial(open_frames, path, **options))]
    store = open_store(path)
    if not store.names:
        raise FileNotFoundError(f"{path} holds no videos; expected {', '.join(VIDEO_SUFFIXES[:3])}, .npy or images")
    return [(name, functools.partial(store.open, name, **options)) for name in store.names]
