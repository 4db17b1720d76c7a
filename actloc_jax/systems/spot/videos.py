"""The videos of a SPOT experiment: few of them labelled, all resized to a fixed number of steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import feature_files, recipe_problems, spot_problems, synthetic_spot
from actloc_jax.data.annotations import VideoAnnotation
from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.feature_inputs import FeatureInputs
from actloc_jax.data.feature_manifests import Manifest
from actloc_jax.data.grid import Grid, whole_video
from actloc_jax.data.problems import Problem, require_no_errors
from actloc_jax.data.rescaled import resize_linear
from actloc_jax.data.semi_supervised import DividedStore, Part, SemiSupervised
from actloc_jax.data.spot_files import SpotFolder, VideoScore, read_video_scores
from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.results import detection as results
from actloc_jax.systems.api import Dataset
from actloc_jax.systems.spot import settings

SOURCES = ("spot", "folder", "prepared", "synthetic")
DEMO = synthetic_spot.Settings(style=0.25, look=0.3, val_videos=100)
PARTS: dict[str, Part] = {"train": "labelled", "val": "evaluation"}


@dataclasses.dataclass(frozen=True)
class SpotDataset(Dataset):
    """A data set with the division that the stages train on.

    Attributes:
        videos: labelled and unlabelled videos, and those of the evaluation.
    """

    videos: SemiSupervised | None = None


def open_dataset(config: ConfigDict, workdir: epath.Path) -> SpotDataset:
    """The data set that `config.data` describes; the demo's is generated into the workdir first.

    The main evaluation follows `quirks.filter_evaluation`; the other protocol is scored beside it.

    Raises:
        FileNotFoundError, ValueError: it is not there or cannot be read.
    """
    store = _open_store(config, workdir)
    tested = config.data.source == "folder" or (config.data.source == "prepared" and store.has_split("test"))
    videos = SemiSupervised(
        store,
        steps=config.data.steps,
        labels=config.data.labels,
        seed=config.data.labels_seed,
        evaluation="test" if tested else "val",
        quirks=settings.data_quirks(config),
        keep_in_memory=config.data.keep_in_memory,
    )
    annotated = {video.video: video for video in videos.folder.annotated(videos.evaluation)}

    @functools.cache
    def truth_of(filtered: bool) -> dict[str, Instances]:
        if isinstance(videos.folder, DetectionFolder):
            require_no_errors(videos.folder.parsed[1])
        counted = videos.evaluated(filtered=filtered, need_features=False)
        return {name: Instances(annotated[name].segments, annotated[name].labels) for name in counted}

    def also_scored(split: str) -> dict[str, dict[str, Instances]]:
        del split
        filtered = videos.quirks.filter_evaluation
        others = truth_of(not filtered)
        name = "all videos" if filtered else "as published, videos with long actions"
        return {name: others} if any(len(instances) for instances in others.values()) else {}

    def problems(split: str) -> list[Problem]:
        return find_problems(config, videos) if split == "train" else []  # they look at all videos at once

    return SpotDataset(
        class_names=tuple(videos.folder.class_names),
        source=functools.cache(lambda split: videos.source(PARTS[split])),
        truth=lambda split: truth_of(videos.quirks.filter_evaluation),
        problems=functools.cache(problems),
        frame_rate=0.0,
        chance=lambda split: _chance(config, list(annotated.values()), truth_of(videos.quirks.filter_evaluation)),
        also_scored=also_scored,
        videos=videos,
    )


def _open_store(config: ConfigDict, workdir: epath.Path) -> DividedStore:
    data = config.data
    if data.source not in SOURCES:
        raise ValueError(f"config.data.source={data.source!r} is unknown; use {', '.join(SOURCES)}.")
    if data.source == "prepared":
        from actloc_jax.data.tfds_detection import PreparedDetection  # tensorflow-datasets takes a second to import

        return PreparedDetection(data.root, feature_dim=data.feature_dim)
    features = {
        "features": data.features, "streams": tuple(data.streams), "feature_dim": data.feature_dim,
        "missing_features": data.missing_features,
    }  # fmt: skip
    if data.source == "folder":
        return DetectionFolder(
            data.root,
            annotations=data.annotations,
            grid=_grid_of(data),
            subsets={"train": data.train_subsets.split(","), "test": data.test_subsets.split(",")},
            classes=data.classes,
            outside="warning",
            **features,
        )
    root = data.root
    if data.source == "synthetic":
        generated = dataclasses.replace(DEMO, labels=data.labels, channels=data.feature_dim)
        root = synthetic_spot.write_folder(workdir / "demo_data", generated)
    names = {"annotations": data.annotations, "video_info": data.video_info, "ratio_files": data.ratio_files}
    return SpotFolder(root, labels=data.labels, classes=data.classes, **names, **features)


def _grid_of(data: ConfigDict) -> Grid | None:
    grid = data.grid
    return Grid(grid.stride, grid.window, grid.fps or None, grid.align) if grid.stride else None


def find_problems(config: ConfigDict, videos: SemiSupervised) -> list[Problem]:
    """What is wrong with the videos, and with another model's scores of them, where those are used."""
    found, scores = [], None
    try:
        scores = read_scores(config, videos.folder.class_names)
    except (FileNotFoundError, ValueError) as error:
        found.append(Problem("error", str(error)))
    if isinstance(videos.folder, DetectionFolder):  # prepared data were checked then
        found += spot_problems.find_problems(videos, scores=scores)
        features = epath.Path(videos.folder.features.locations("")[0]).parent
        found += recipe_problems.find_problems(features, config.data.recipe)
    return found


def read_scores(config: ConfigDict, class_names: Sequence[str]) -> Mapping[str, VideoScore] | None:
    """Another model's class and score of every video; None where the network's own class is used.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds something else.
    """
    path = config.decode.video_scores
    if not path:
        return None
    try:
        return read_video_scores(path, class_names)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. Classes of videos come from this file of another model; without it, set "
            "--config.decode.video_scores= (empty), and the network names them itself."
        ) from error


def _chance(config: ConfigDict, videos: Sequence[VideoAnnotation], truth: Mapping[str, Instances]) -> dict[str, float]:
    return results.chance(truth, {video.video: video.duration for video in videos}, config.eval)


class ResizedInputs:
    """A user's own features at T steps.

    Attributes:
        lengths: T for every video.
    """

    def __init__(self, inputs: FeatureInputs, steps: int) -> None:
        self._inputs, self._steps = inputs, steps
        self.lengths = (steps,) * len(inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """A record with features [T, channels]."""
        record = self._inputs.record(position, epoch)
        return record | {"features": resize_linear(np.asarray(record["features"]), self._steps)}

    __getitem__ = record


def open_inputs(config: ConfigDict, meta: dict[str, Any], paths: Sequence[str]) -> ResizedInputs:
    """The feature files (`.npy`; of a folder whichever the config names) that `paths` name, to predict.

    Raises:
        FileNotFoundError: a path does not exist or a folder holds no such files.
        ValueError: files do not fit the checkpoint; all are named.
    """
    del meta
    suffix = epath.Path(config.data.features).suffix
    folders = [path for path in paths if epath.Path(path).is_dir() and not list(epath.Path(path).glob(f"*{suffix}"))]
    files = feature_files.input_files(paths, ".npy" if folders else suffix)

    def grid(rows: int, made: Manifest | None) -> Grid:
        seconds = made.covered_seconds if made else rows * config.decode.row_seconds
        return whole_video(seconds, rows, align="start")

    inputs = FeatureInputs(files, feature_dim=config.data.feature_dim, grid=grid)
    return ResizedInputs(inputs, config.data.steps)
