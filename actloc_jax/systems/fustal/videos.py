"""The videos of a FuSTAL experiment, as the generator and as the student see them; and a user's own features.

The generator reads one row of features per 16 frames, the student one per 4 of the same videos: two views, each with
its folder, its annotations and its grid. Experiments of the student alone have only its view.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import feature_files, recipe_problems, synthetic_detection
from actloc_jax.data.annotations import VideoAnnotation
from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.detection_problems import find_problems
from actloc_jax.data.feature_inputs import FeatureInputs
from actloc_jax.data.feature_manifests import Manifest
from actloc_jax.data.grid import Grid, whole_video
from actloc_jax.data.problems import Problem
from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.results import detection as results
from actloc_jax.systems.api import Dataset, check_stages

SOURCES = ("folder", "prepared", "synthetic")
GENERATOR, STUDENT = "generator", "student"
VIEW_OF_STAGE = {"generator": GENERATOR, "proposals": GENERATOR, "filter": STUDENT, "student": STUDENT}
DEMO = synthetic_detection.Settings(train_videos=60, min_steps=120, max_steps=300, noise=0.5)
"""So noisy that single snippets mislead the generator, and the student, which sees more of a video, does better."""

UNLABELLED_FPS = 30.0  # of THUMOS14; where nobody says what a video's own rate is


def open_dataset(config: ConfigDict, workdir: epath.Path) -> Dataset:
    """The data set that `config.data` describes; the demo's is generated into the workdir first.

    It is the view of the last stage; other stages see theirs.

    Raises:
        FileNotFoundError, ValueError: it is not there or cannot be read.
    """
    if config.data.source not in SOURCES:
        raise ValueError(f"config.data.source={config.data.source!r} is unknown; use {', '.join(SOURCES)}.")
    check_stages(config, VIEW_OF_STAGE)
    names = dict.fromkeys(VIEW_OF_STAGE[stage] for stage in config.stages)
    missing = [name for name in names if name not in config.data]
    if missing:
        raise ValueError(
            f"config.stages={tuple(config.stages)} read the features config.data.{missing[0]}, which this config does "
            "not have; use configs/fustal_thumos.py, or the stage student alone."
        )
    views = {name: _open_view(config, name, workdir) for name in names}
    *others, own = views
    classes = {name: view.class_names for name, view in views.items()}
    if len(set(classes.values())) > 1:
        raise ValueError(
            f"the views {' and '.join(views)} have other classes ({classes}); name one list with config.data.classes."
        )
    return dataclasses.replace(views[own], views={name: views[name] for name in others})


def _open_view(config: ConfigDict, name: str, workdir: epath.Path) -> Dataset:
    """The videos with the features `config.data.<name>`."""
    if config.data.source == "prepared":
        return _prepared(config, name)
    folder = open_folder(config, name, workdir)

    @functools.cache
    def truth(split: str) -> dict[str, Instances]:
        folder.annotations  # noqa: B018  raises with all that is wrong with the file
        return instances(folder.annotated(split))

    def problems(split: str) -> list[Problem]:
        found = find_problems(folder, split, read_values=True)
        if split == "train":
            features, recipe = epath.Path(folder.features.locations("")[0]).parent, config.data[name].recipe
            found += recipe_problems.find_problems(features, recipe, field=f"data.{name}.recipe")
        return found

    return Dataset(
        class_names=folder.class_names,
        source=functools.cache(folder.source),
        truth=truth,
        problems=functools.cache(problems),
        frame_rate=0.0,
        chance=lambda split: _chance(config, folder.annotated(split), truth(split)),
    )


def _prepared(config: ConfigDict, name: str) -> Dataset:
    """The videos that `python -m actloc_jax.data.tfds_detection` has checked and prepared."""
    from actloc_jax.data.tfds_detection import PreparedDetection  # here: tensorflow-datasets takes a second to import

    view = config.data[name]
    prepared = PreparedDetection(view.root, feature_dim=view.feature_dim)
    return Dataset(
        class_names=prepared.class_names,
        source=functools.cache(prepared.source),
        truth=lambda split: instances(prepared.videos(split)),
        problems=lambda split: [],
        frame_rate=0.0,
        chance=lambda split: _chance(config, prepared.videos(split), instances(prepared.videos(split))),
    )


def open_folder(config: ConfigDict, name: str, workdir: epath.Path) -> DetectionFolder:
    """The folder of a view.

    Raises:
        FileNotFoundError, ValueError: as `DetectionFolder`.
    """
    data, view = config.data, config.data[name]
    root = view.root
    if data.source == "synthetic":
        root = synthetic_detection.write_folder(workdir / "demo_data", DEMO)
    subsets = {"train": view.train_subsets.split(","), "test": view.test_subsets.split(",")}
    lists = {"train": view.train_list, "test": view.test_list}
    return DetectionFolder(
        root,
        annotations=view.annotations,
        features=view.features,
        streams=tuple(view.streams),
        feature_dim=view.feature_dim,
        grid=grid_of(view),
        subsets=subsets,
        lists={split: file for split, file in lists.items() if file},
        classes=data.classes,
        missing_duration="unknown" if view.unknown_durations else "error",
        missing_features=data.missing_features,
        outside=data.segments_outside,
    )


def grid_of(view: ConfigDict) -> Grid | None:
    """The feature grid of a view; None where rows cover each video evenly."""
    grid = view.grid
    if grid.stride == 0:
        return None
    return Grid(grid.stride, grid.window, grid.fps or None, grid.align)


def instances(videos: Sequence[VideoAnnotation]) -> dict[str, Instances]:
    """The annotated segments by video, in seconds."""
    return {video.video: Instances(video.segments, video.labels) for video in videos}


def _chance(config: ConfigDict, videos: Sequence[VideoAnnotation], truth: Mapping[str, Instances]) -> dict[str, float]:
    """The score of random segments; the last annotated end stands for a duration that is not known."""
    durations = {
        video.video: video.duration if math.isfinite(video.duration) else video.segments[:, 1].max(initial=1.0)
        for video in videos
    }
    return results.chance(truth, durations, config.eval)


def open_inputs(config: ConfigDict, meta: dict[str, Any], paths: Sequence[str]) -> FeatureInputs:
    """The `.npy` files that `paths` name, to predict with a checkpoint.

    Raises:
        FileNotFoundError: a path does not exist or a folder holds no such files.
        ValueError: files do not fit the checkpoint; all are named.
    """
    view = config.data[VIEW_OF_STAGE[meta["stage"]]]
    recipe = grid_of(view)

    def grid(rows: int, made: Manifest | None) -> Grid:
        fps = made.fps if made else config.decode.fps or UNLABELLED_FPS
        return whole_video(float(rows), rows) if recipe is None else recipe.at(fps)

    files = feature_files.input_files(paths, ".npy")
    return FeatureInputs(files, feature_dim=view.feature_dim, grid=grid)
