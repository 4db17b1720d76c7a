"""The videos of an ASOT experiment: its data set, a user's own features, and stored affinities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import feature_files, recipe_problems, synthetic_activities
from actloc_jax.data.activities import ActivityFolder
from actloc_jax.metrics import clustering
from actloc_jax.systems.api import Dataset

SOURCES = ("folder", "synthetic")
AFFINITY, COST = "affinity", "cost"


def open_dataset(config: ConfigDict, workdir: epath.Path) -> Dataset:
    """The data set that `config.data` describes; the demo's is generated into the workdir first.

    Raises:
        FileNotFoundError, ValueError: it is not there or cannot be read.
    """
    data = config.data
    if decodes_matrices(config):
        raise ValueError(
            f"config.data.source={data.source!r} has neither features nor labels; use it with --mode=predict."
        )
    if data.source not in SOURCES:
        raise ValueError(f"config.data.source={data.source!r} is unknown; use {', '.join(SOURCES)}.")
    root = data.root
    if data.source == "synthetic":
        root = synthetic_activities.write_folder(workdir / "demo_data", synthetic_activities.Settings())
    folder = ActivityFolder(
        root, mapping=data.mapping, activity_of=data.activity_of, feature_dim=data.feature_dim,
        exclude_id=data.exclude_id,
    )  # fmt: skip

    def truth(split: str) -> dict[str, np.ndarray]:
        return {video: folder.labels(video) for video in folder.videos(split)}

    return Dataset(
        class_names=folder.class_names,
        source=folder.source,
        truth=truth,
        problems=lambda split: [
            *folder.problems(split),
            *recipe_problems.find_problems(folder.root / "features", data.recipe),
        ],
        frame_rate=data.frame_rate,
        chance=lambda split: clustering.chance(truth(split), config.clusters[data.split], config.eval.seed),
    )


class Matrices:
    """A user's own `.npy` files as records without labels.

    Attributes:
        paths: the files, one per video, [time, channels].
        lengths: frames of each.
    """

    def __init__(self, paths: Sequence[epath.Path], what: str, channels: int | None = None) -> None:
        self.paths, self._what = tuple(paths), what
        self.lengths: list[int] = []
        found = []
        for path in self.paths:
            try:
                shape = feature_files.read_shape(path)
                if len(shape) != 2 or 0 in shape:
                    raise ValueError(f"{path} has axes {list(shape)}; expected [time, channels] of a video.")
                if channels is not None and shape[1] != channels:
                    raise ValueError(f"{path} has axes {list(shape)}; the checkpoint needs [time, {channels}].")
                if channels is None and shape[1] > shape[0]:
                    raise ValueError(
                        f"{path} has axes {list(shape)}: more clusters than frames; expected [time, clusters]."
                    )
                feature_files.require_finite(feature_files.read_features(path, "time_first"), path)
                self.lengths.append(shape[0])
            except ValueError as error:
                found.append(str(error))
        if found:
            raise ValueError("The inputs cannot be used:\n  " + "\n  ".join(found))

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """`video`, `index`, `features` [time, channels] and `labels`, all -1, of one file."""
        del epoch
        path = self.paths[position]
        features = feature_files.read_features(path, "time_first")
        if self._what == COST:
            features = 1 - features
        labels = np.full(len(features), -1, np.int32)
        return {"video": path.stem, "index": position, "features": features, "labels": labels}

    __getitem__ = record


def open_inputs(config: ConfigDict, meta: dict[str, Any], paths: Sequence[str]) -> Matrices:
    """The `.npy` files that `paths` name: features for a checkpoint, or affinities where the config says so.

    Raises:
        FileNotFoundError: a path does not exist or a folder holds no such files.
        ValueError: files cannot be used; all are named.
    """
    del meta
    files = feature_files.input_files(paths, ".npy")
    if decodes_matrices(config):
        return Matrices(files, config.data.source)
    return Matrices(files, "features", config.data.feature_dim)


def decodes_matrices(config: ConfigDict) -> bool:
    """Whether the config describes stored affinities or costs, which need no model."""
    return config.data.source in (AFFINITY, COST)
