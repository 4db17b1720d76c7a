"""Untrimmed videos with features and annotated segments: a data set is a folder and a JSON file (numpy only).

```
<root>/annotations.json          ActivityNet's format or a variant of it, see activitynet_json.py
<root>/features/<video>.npy      [time, channels]; other places and formats by a pattern, see detection_features.py
<root>/classes.txt               optional: one class name per line, in the order of their index
```
A `Grid` says which second a row of features stands for. Features are read when they are asked for.
`detection_problems.py` finds everything that is wrong with a split at once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from etils import epath

from actloc_jax.data.activitynet_json import MissingDuration, parse_activitynet_json
from actloc_jax.data.annotations import Annotations, VideoAnnotation, read_class_names
from actloc_jax.data.detection_features import FeatureFiles
from actloc_jax.data.grid import Grid, whole_video
from actloc_jax.data.problems import Problem, require_no_errors
from actloc_jax.data.samples import Record

SUBSETS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}
"""Split -> how annotation files usually call it. THUMOS14 trains on its validation subset: name that explicitly."""

CLASS_FILE = "classes.txt"

MissingFeatures = Literal["error", "skip"]
Units = Literal["grid", "seconds"]


class DetectionFolder:
    """Reads a data set of untrimmed videos.

    Args:
        root: folder of the data set.
        annotations: the annotation file, under `root` or absolute.
        features: pattern of the feature files under `root`, see `FeatureFiles`.
        streams: streams that are concatenated, e.g. ("rgb", "flow").
        feature_layout: axes of the feature files, "time_first" or "channels_first".
        feature_dim: expected number of channels, if known.
        downsample: every how many rows of the features are kept.
        grid: which second a row stands for, before downsampling; None: the rows cover each video evenly.
        subsets: split -> names of its subsets in the annotation file, of any case.
        lists: split -> file under `root` with one video per line, for splits that leave some out.
        classes: file of the class names under `root`; "" takes classes.txt if there is one, else the annotation file.
        default_fps: frame rate of all videos, whatever the annotation file says.
        missing_duration: see `parse_activitynet_json`.
        missing_features: `"error"`, or `"skip"`: videos without features are left out with a warning (published codes
            leave them out silently).
        outside: `"error"`, or `"warning"`: how bad a segment is that lies wholly outside its video, as some of THUMOS14
            do. Such segments stay as they are; they can never be found.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an unknown option.
    """

    def __init__(
        self,
        root: epath.PathLike,
        *,
        annotations: str = "annotations.json",
        features: str = "features/{video}.npy",
        streams: Sequence[str] = (),
        feature_layout: str = "time_first",
        feature_dim: int | None = None,
        downsample: int = 1,
        grid: Grid | None = None,
        subsets: Mapping[str, Sequence[str]] = SUBSETS,
        lists: Mapping[str, str] | None = None,
        classes: str = "",
        default_fps: float | None = None,
        missing_duration: MissingDuration = "error",
        missing_features: MissingFeatures = "error",
        outside: Literal["error", "warning"] = "error",
    ) -> None:
        if missing_features not in ("error", "skip"):
            raise ValueError(f'missing_features={missing_features!r} is unknown; use "error" or "skip"')
        if outside not in ("error", "warning"):
            raise ValueError(f'outside={outside!r} is unknown; use "error" or "warning"')
        self.root = epath.Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(missing_folder_message(self.root))
        self.features = FeatureFiles(self.root, features, tuple(streams), feature_layout, feature_dim, downsample)
        self.annotation_path = self.root / annotations
        self.subsets = dict(subsets)
        self.lists = dict(lists or {})
        self.missing_features: MissingFeatures = missing_features
        self.outside: Literal["error", "warning"] = outside
        self._grid = grid
        self._classes = classes
        self._default_fps = default_fps
        self._missing_duration: MissingDuration = missing_duration

    @functools.cached_property
    def parsed(self) -> tuple[Annotations, list[Problem]]:
        """The annotations as far as they can be read, and what is wrong with the rest.

        Raises:
            FileNotFoundError, ValueError: no annotation file, or one of something else.
        """
        listed = self.root / (self._classes or CLASS_FILE)
        names = read_class_names(listed) if self._classes or listed.exists() else None
        if not self.annotation_path.exists():
            raise FileNotFoundError(f"{self.annotation_path} does not exist. {expected_tree(self.root)}")
        return parse_activitynet_json(
            self.annotation_path,
            class_names=names,
            default_fps=self._default_fps,
            missing_duration=self._missing_duration,
        )

    @property
    def annotations(self) -> Annotations:
        """The annotations of all videos. Raises ValueError with all that is wrong with the file."""
        annotations, problems = self.parsed
        require_no_errors(problems)
        return annotations

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order of their index."""
        return self.parsed[0].class_names

    def annotated(self, split: str) -> list[VideoAnnotation]:
        """The videos of a split, with or without features: in the order of its list, else of the annotation file.

        Raises:
            FileNotFoundError: no such list.
            ValueError: no videos, an unknown split, or a list that names unknown videos.
        """
        if split not in self.subsets and split not in self.lists:
            known = ", ".join({**self.subsets, **self.lists})
            raise ValueError(f"split {split!r} is unknown; known: {known}")
        annotations = self.parsed[0]
        if split not in self.lists:
            return annotations.of_subset(*self.subsets[split])
        path = self.root / self.lists[split]
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected one video per line")
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        unknown = [name for name in names if name not in annotations.videos]
        if unknown or not names:
            raise ValueError(
                f"{path} lists {len(names)} videos, {len(unknown)} of them without an entry in {self.annotation_path}"
                f"{': ' * bool(unknown)}{', '.join(unknown[:3])}; expected one annotated video per line"
            )
        return [annotations.videos[name] for name in dict.fromkeys(names)]

    def has_split(self, split: str) -> bool:
        """Whether the data set has videos of a split."""
        names = {name.lower() for name in self.subsets.get(split, ())}
        return split in self.lists or any(name.lower() in names for name in self.parsed[0].subsets())

    def subset_folder(self, video: VideoAnnotation) -> str:
        """What `{subset}` in the pattern of the features stands for: the subset as annotated, in small letters."""
        return video.subset.lower()

    def without_features(self, split: str) -> list[VideoAnnotation]:
        """The videos of a split that lack a feature file."""
        return [
            video for video in self.annotated(split) if self.features.missing(video.video, self.subset_folder(video))
        ]

    def videos(self, split: str) -> list[VideoAnnotation]:
        """The videos of a split that have features.

        Raises:
            FileNotFoundError: some have none (`missing_features="error"`), or none has.
            ValueError: as `annotated`.
        """
        missing = {video.video for video in self.without_features(split)}
        annotated = self.annotated(split)
        if missing:
            message = self.missing_features_message(split, [video for video in annotated if video.video in missing])
            if self.missing_features == "error" or len(missing) == len(annotated):
                raise FileNotFoundError(message)
            warnings.warn(f"{message}; left out", stacklevel=2)
        return [video for video in annotated if video.video not in missing]

    def missing_features_message(self, split: str, missing: Sequence[VideoAnnotation]) -> str:
        """Says how many videos have no features, and where those of the first were expected."""
        first = missing[0]
        where = ", ".join(self.features.missing(first.video, self.subset_folder(first)))
        names = ", ".join(video.video for video in missing[:10]) + ", ..." * (len(missing) > 10)
        return (
            f"{len(missing)} of {len(self.annotated(split))} videos of split {split!r} have no features: {names} "
            f"(expected for the first: {where})"
        )

    def grid(self, video: VideoAnnotation, rows: int) -> Grid:
        """Which second a row of a video stands for, after downsampling.

        Args:
            video: its annotation.
            rows: rows of its features after downsampling.

        Raises:
            ValueError: the frame rate, or without a grid the duration, is unknown.
        """
        if self._grid is None:
            if not math.isfinite(video.duration):
                raise ValueError(
                    f"the duration of {video.video} is unknown and no feature grid is given; give one of the two"
                )
            return whole_video(video.duration, rows)
        grid = self._grid.at(video.fps).downsampled(self.features.downsample)
        if grid.fps is None:
            raise ValueError(
                f"the frame rate of {video.video} is unknown; add fps to its annotation or set default_fps"
            )
        return grid

    def rows(self, video: VideoAnnotation) -> int:
        """Rows of the features of a video after downsampling, from the header of its file."""
        return self.features.shape(video.video, self.subset_folder(video))[0]

    def covered_seconds(self, video: VideoAnnotation) -> float:
        """Seconds from the start of a video that its features cover: its duration, or by the grid of its rows."""
        if self._grid is None and math.isfinite(video.duration):
            return video.duration
        rows = self.rows(video)
        return self.grid(video, rows).covered_seconds(rows)

    def read_features(self, video: VideoAnnotation) -> np.ndarray:
        """Features of a video, [time, channels] float32. Raises as `FeatureFiles.read`."""
        return self.features.read(video.video, self.subset_folder(video))

    def source(self, split: str, *, units: Units = "grid") -> DetectionSource:
        """Random access to the records of a split, with segments on the feature grid or in seconds."""
        return DetectionSource(self, self.videos(split), units=units)


class VideoStore(Protocol):
    """What a `DetectionSource` needs of the place where the videos are: a `DetectionFolder`, or prepared records."""

    root: epath.Path
    class_names: tuple[str, ...]

    def rows(self, video: VideoAnnotation) -> int: ...

    def read_features(self, video: VideoAnnotation) -> np.ndarray: ...

    def grid(self, video: VideoAnnotation, rows: int) -> Grid: ...


class DetectionSource:
    """Random access to videos with features and segments, read when asked for.

    Attributes:
        folder: where they are.
        annotations: what is known about each; a record's `index` is the position here.
        videos: their names.
        units: "grid" or "seconds", of the segments in records.
    """

    def __init__(self, folder: VideoStore, annotations: Sequence[VideoAnnotation], *, units: Units = "grid") -> None:
        if not annotations:
            raise ValueError(f"no videos of {folder.root} were chosen; expected at least one")
        if units not in ("grid", "seconds"):
            raise ValueError(f'units={units!r} is unknown; use "grid" or "seconds"')
        self.folder = folder
        self.annotations = tuple(annotations)
        self.videos = tuple(video.video for video in annotations)
        self.units: Units = units

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order of their index."""
        return self.folder.class_names

    @functools.cached_property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each record, without reading its features."""
        return tuple(self.folder.rows(video) for video in self.annotations)

    @property
    def segment_counts(self) -> tuple[int, ...]:
        """Number of segments of each record."""
        return tuple(len(video.labels) for video in self.annotations)

    def grid(self, position: int) -> Grid:
        """Which second a row of a record stands for."""
        return self.folder.grid(self.annotations[position], self.lengths[position])

    def relabelled(self, labels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> DetectionSource:
        """The same videos with other segments, e.g. pseudo labels; a video that is not named has none.

        Args:
            labels: video -> segments [n, 2] in seconds and classes [n].
        """
        nothing = (np.zeros([0, 2]), np.zeros([0], np.int32))
        changed = []
        for video in self.annotations:
            segments, classes = labels.get(video.video, nothing)
            changed.append(
                dataclasses.replace(
                    video,
                    segments=np.asarray(segments, np.float64).reshape(-1, 2),
                    labels=np.asarray(classes, np.int32),
                )
            )
        return DetectionSource(self.folder, changed, units=self.units)

    def __getitem__(self, position: int) -> Record:
        return self.record(position)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video.

        Args:
            position: number of the video.
            epoch: not used; sources whose records change from epoch to epoch need it.

        Returns:
            `video` (name), `index` (position), `features` [time, channels] float32, `segments` [n, 2] float32 in
            `units`, `labels` [n] int32, `duration` (seconds, `inf` if unknown), `fps` (None if unknown) and `grid`.
        """
        del epoch
        video = self.annotations[position]
        features = self.folder.read_features(video)
        grid = self.folder.grid(video, len(features))
        segments = grid.to_grid(video.segments) if self.units == "grid" else video.segments
        return {
            "video": video.video,
            "index": position,
            "features": features,
            "segments": segments.astype(np.float32),
            "labels": video.labels,
            "duration": video.duration,
            "fps": video.fps,
            "grid": grid,
        }


def expected_tree(root: epath.PathLike) -> str:
    """The layout that a data folder must have, as text for messages."""
    return (
        "Expected this layout:\n"
        f"  {root}/\n"
        '    annotations.json         {"database": {video: {"subset", "duration", "fps", "annotations": '
        '[{"segment", "label"}]}}}\n'
        "    features/<video>.npy     float32 [time, channels]\n"
        "    classes.txt              optional: one class name per line"
    )


def missing_folder_message(root: epath.PathLike) -> str:
    """Says that the data folder is missing, what it must hold, and what to do without data."""
    return (
        f"the data folder {root} does not exist. {expected_tree(root)}\n"
        "Annotations and features of THUMOS14 and ActivityNet are linked from "
        "https://github.com/happyharrycn/actionformer_release.\n"
        "Without data, append :demo to the config (--config=configs/<name>.py:demo) to run on generated data."
    )
