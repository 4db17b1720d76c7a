"""The folder layout of ASOT, in which unlabelled videos of one activity are segmented together.

```
<root>/features/<activity>/<video>.npy   [time, channels]; or <video>.txt, a matrix of numbers; or without <activity>/
<root>/groundTruth/<video>               no extension, one class name per line and frame
<root>/mapping/mapping.txt               "<id> <class name>" per line; several names may share an id; an id may be -1
```

Ground truth is only used to score. There are no splits: training and evaluation see the same videos.
Source: `mingu6/action_seg_ot:src/video_dataset.py`; layout of `Annusha/unsup_temp_embed`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
from etils import epath

from actloc_jax.data import feature_files
from actloc_jax.data.activity_files import PUBLISHED_AT, expected_tree, read_mapping, read_text_matrix
from actloc_jax.data.batching import IGNORE
from actloc_jax.data.problems import LISTED_LINES, Problem
from actloc_jax.data.samples import Record

ActivityOf = Literal["suffix", "prefix", "none"]
Found = TypeVar("Found")

TOGETHER = "together"
"""In place of an activity: the videos of all activities at once."""


class ActivityFolder:
    """Reads a data set in the ASOT layout; nothing is read before it is asked for.

    Args:
        root: folder of the data set.
        mapping: the mapping file under `root`; 50 Salads has a second one, "mapping/mappingeval.txt".
        activity_of: where the name of a video holds its activity: `"suffix"` behind the last "_" (Breakfast),
            `"prefix"` before the last "_" (YouTube Instructions), `"none"`: all videos are of one activity (50 Salads,
            Desktop Assembly).
        feature_dim: expected number of channels, if known.
        exclude_id: id in the mapping whose frames are not scored: their label is `IGNORE`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an unknown `activity_of`.
    """

    def __init__(
        self,
        root: epath.PathLike,
        *,
        mapping: str = "mapping/mapping.txt",
        activity_of: ActivityOf = "suffix",
        feature_dim: int | None = None,
        exclude_id: int | None = None,
    ) -> None:
        if activity_of not in ("suffix", "prefix", "none"):
            raise ValueError(f'activity_of={activity_of!r} is unknown; use "suffix", "prefix" or "none"')
        self.root = epath.Path(root)
        self.mapping_path = self.root / mapping
        self.activity_of = activity_of
        self.feature_dim = feature_dim
        self.exclude_id = exclude_id
        self._labels: dict[str, np.ndarray] = {}
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"the data folder {self.root} does not exist. {expected_tree(self.root)}\n{PUBLISHED_AT}\n"
                "Without data, append :demo to the config (--config=configs/<name>.py:demo) to run on generated data."
            )

    @functools.cached_property
    def _mapping(self) -> dict[str, int]:
        """Class name -> id, as written."""
        return read_mapping(self.mapping_path)

    @functools.cached_property
    def class_ids(self) -> tuple[int, ...]:
        """Ids of the mapping in ascending order, the excluded one left out; a class index is a position here.

        Raises:
            FileNotFoundError: no mapping.
            ValueError: all that is wrong with the mapping, or it does not have the excluded id.
        """
        ids = sorted(set(self._mapping.values()))
        if self.exclude_id is not None and self.exclude_id not in ids:
            raise ValueError(
                f"the excluded id {self.exclude_id} is not in {self.mapping_path} (ids {ids[0]} to {ids[-1]}); "
                "exclude one of these, or none"
            )
        return tuple(number for number in ids if number != self.exclude_id)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order of their index; names that share an id are joined by "/". Raises as `class_ids`."""
        return tuple(
            "/".join(name for name, number in self._mapping.items() if number == wanted) for wanted in self.class_ids
        )

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        """Class name as written -> class index, `IGNORE` for the excluded ones."""
        position = {number: index for index, number in enumerate(self.class_ids)}
        return {name: position.get(number, IGNORE) for name, number in self._mapping.items()}

    def activity(self, video: str) -> str:
        """The activity that the name of a video holds; "" under `activity_of="none"`."""
        if self.activity_of == "suffix":
            return video.rpartition("_")[2]
        return video.rpartition("_")[0] if self.activity_of == "prefix" else ""

    def _all_videos(self) -> list[str]:
        """Sorted names of the ground-truth files that contain "_" or "-"; hidden files are no videos."""
        folder = self.root / "groundTruth"
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist. {expected_tree(self.root)}\n{PUBLISHED_AT}")
        names = (path.name for path in folder.iterdir())
        return sorted(name for name in names if ("_" in name or "-" in name) and not name.startswith("."))

    def videos(self, activity: str | Sequence[str] = TOGETHER, *, num_videos: int | None = None) -> list[str]:
        """Names of the videos of an activity, sorted as strings.

        Args:
            activity: one activity, several, or `TOGETHER` for all. Under `activity_of="none"` it is not looked at.
            num_videos: thins the list out to at least so many videos: every floor(found / num_videos)-th is kept, as
                published.

        Raises:
            FileNotFoundError: no folder of ground truth.
            ValueError: no video of that activity, or fewer than `num_videos`.
        """
        found = self._all_videos()
        chosen = found
        if activity != TOGETHER and self.activity_of != "none":
            wanted = {activity} if isinstance(activity, str) else set(activity)
            chosen = [video for video in found if self.activity(video) in wanted]
        if not chosen:
            raise ValueError(self._no_video_message(activity, found))
        if num_videos is None:
            return chosen
        if not 1 <= num_videos <= len(chosen):
            raise ValueError(f"num_videos={num_videos}, but {self.root} has {len(chosen)} videos of {activity!r}")
        return chosen[:: len(chosen) // num_videos]

    def _no_video_message(self, activity: str | Sequence[str], found: list[str]) -> str:
        """Says which activities there are instead of the one asked for."""
        folder = self.root / "groundTruth"
        if not found:
            return f'{folder} has no file whose name contains "_" or "-". {expected_tree(self.root)}'
        activities = sorted({self.activity(video) for video in found})
        listed = ", ".join(map(repr, activities[:12])) + (", ..." if len(activities) > 12 else "")
        return (
            f"{folder} has no video of activity {activity!r}: the names of its {len(found)} files, read by "
            f"activity_of={self.activity_of!r}, give {listed}. Choose one of these, {TOGETHER!r} for all, "
            "or another activity_of"
        )

    def label_path(self, video: str) -> epath.Path:
        """Ground-truth file of a video."""
        return self.root / "groundTruth" / video

    def feature_path(self, video: str) -> epath.Path:
        """Feature file of a video: .npy before .txt, in the folder of its activity or directly under features/.

        Returns:
            The first of these that exists, else the first of all.
        """
        folders = [self.root / "features"]
        if self.activity(video):
            folders.insert(0, self.root / "features" / self.activity(video))
        paths = [folder / f"{video}{ending}" for ending in (".npy", ".txt") for folder in folders]
        return next((path for path in paths if path.exists()), paths[0])

    def label_names(self, video: str) -> list[str]:
        """Class names of all frames.

        Raises:
            FileNotFoundError: no ground truth for this video.
            ValueError: the file has no labels.
        """
        path = self.label_path(video)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected one class name per line and frame of {video}")
        names = [line.strip() for line in path.read_text().rstrip().splitlines()]
        if not names:
            raise ValueError(f"{path} is empty; expected one class name per line and frame of {video}")
        return names

    def labels(self, video: str) -> np.ndarray:
        """Class indices of all frames, [time] int32, `IGNORE` on frames of the excluded id; kept in memory once read.

        Raises:
            FileNotFoundError, ValueError: no ground truth or mapping, or a class that the mapping does not list.
        """
        if video not in self._labels:
            names = self.label_names(video)
            for message in self._unknown_class_messages(video, names):
                raise ValueError(message)
            self._labels[video] = np.array([self._index[name] for name in names], np.int32)
        return self._labels[video]

    def _unknown_class_messages(self, video: str, names: list[str]) -> list[str]:
        """One message for every name that the mapping does not list."""
        lines: dict[str, list[int]] = {}
        for number, name in enumerate(names, start=1):
            if name not in self._index:
                lines.setdefault(name, []).append(number)
        return [
            f"{self.label_path(video)}: class {name!r} in {len(at)} lines "
            f"({', '.join(map(str, at[:LISTED_LINES]))}{', ...' if len(at) > LISTED_LINES else ''}) is not in "
            f"{self.mapping_path} (known: {', '.join(self._index)}); add it there or correct the lines"
            for name, at in lines.items()
        ]

    def features(self, video: str) -> np.ndarray:
        """Features of a video, one row per label: [time, channels], float32 from .npy and float64 from .txt.

        Rows beyond the labels are cut, as published.

        Raises:
            FileNotFoundError: no feature file, no ground truth.
            ValueError: fewer rows than labels, the wrong width, NaN or infinite values, an unreadable file.
        """
        features = self._read_features(video)
        num_labels = len(self.label_names(video))
        for message in self._shape_messages(video, features.shape, num_labels):
            raise ValueError(message)
        features = features[:num_labels]
        feature_files.require_finite(features, self.feature_path(video))
        return features

    def _read_features(self, video: str) -> np.ndarray:
        """The feature file as it is: [rows, channels]."""
        path = self.feature_path(video)
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist, neither as .npy nor as .txt, nor directly under {self.root / 'features'}; "
                f"expected the features of {video}, one row per frame"
            )
        if path.suffix == ".txt":
            return read_text_matrix(path)
        shape = feature_files.read_shape(path)
        if len(shape) != 2:
            raise ValueError(f"{path} has axes {shape}; expected [time, channels]")
        return feature_files.read_features(path, "time_first")

    def _shape_messages(self, video: str, shape: tuple[int, ...], num_labels: int | None) -> list[str]:
        """What is wrong with the rows and channels of a feature file."""
        path, (rows, channels) = self.feature_path(video), shape
        messages = []
        if self.feature_dim is not None and channels != self.feature_dim:
            transposed = "; it seems to be saved as [channels, time]" if rows == self.feature_dim else ""
            messages.append(
                f"{path} has {channels} channels, expected {self.feature_dim}{transposed}; "
                "set feature_dim, or use features of the published extractor"
            )
        if num_labels is not None and rows < num_labels:
            messages.append(
                f"{path} has {rows} rows, but {self.label_path(video)} has {num_labels} labels; "
                "every labelled frame needs a row: extract features of all frames, or shorten the ground truth"
            )
        return messages

    def source(self, activity: str | Sequence[str] = TOGETHER) -> ActivitySource:
        """Random access to the records of an activity."""
        return ActivitySource(self, self.videos(activity))

    def problems(
        self, activity: str | Sequence[str] = TOGETHER, *, read_values: bool = True, need_features: bool = True
    ) -> list[Problem]:
        """Everything that is wrong with the videos of an activity.

        Args:
            activity: as for `videos`.
            read_values: read all features to look for NaN and infinite values; without it only the headers of .npy
                files are read.
            need_features: False for ground truth without features.

        Returns:
            All problems, the mapping's first, then in the order of the videos; empty if there are none.
        """
        problems: list[Problem] = []
        has_mapping = _collect(problems, lambda: self.class_ids) is not None
        features_folder = self.root / "features"
        if need_features and not features_folder.is_dir():
            message = f"{features_folder} does not exist. {expected_tree(self.root)}\n{PUBLISHED_AT}"
            problems.append(Problem("error", message))
            need_features = False
        widths: dict[int, list[str]] = {}
        for video in _collect(problems, lambda: self.videos(activity)) or []:
            names = _collect(problems, functools.partial(self.label_names, video))
            if names and has_mapping:
                problems += [Problem("error", message) for message in self._unknown_class_messages(video, names)]
            if need_features:
                self._check_features(video, len(names) if names else None, read_values, widths, problems)
        if self.feature_dim is None and len(widths) > 1:
            listed = ", ".join(f"{width} ({videos[0]})" for width, videos in sorted(widths.items()))
            problems.append(Problem("error", f"the features of {features_folder} have different widths: {listed}"))
        return problems

    def _check_features(
        self,
        video: str,
        num_labels: int | None,
        read_values: bool,
        widths: dict[int, list[str]],
        problems: list[Problem],
    ) -> None:
        """Adds what is wrong with the features of a video, and notes their width."""
        path = self.feature_path(video)
        features, shape = None, None
        if read_values or path.suffix == ".txt" or not path.exists():
            features = _collect(problems, lambda: self._read_features(video))
            shape = None if features is None else features.shape
        else:
            shape = _collect(problems, lambda: feature_files.read_shape(path))
            if shape is not None and len(shape) != 2:
                problems.append(Problem("error", f"{path} has axes {shape}; expected [time, channels]"))
                shape = None
        if shape is None:
            return
        widths.setdefault(shape[1], []).append(video)
        problems += [Problem("error", message) for message in self._shape_messages(video, shape, num_labels)]
        if num_labels is not None and shape[0] > num_labels:
            problems.append(
                Problem("warning", f"{path} has {shape[0]} rows, {video} has {num_labels} labels: the rest is cut")
            )
        not_finite = "" if features is None else feature_files.describe_not_finite(features[:num_labels])
        if not_finite:
            problems.append(Problem("error", f"{path}: {not_finite}; extract the features of this video again"))


class ActivitySource:
    """Random access to videos with features and labels, read when asked for.

    Attributes:
        folder: where they are.
        videos: their names; a record's `index` is the position here.
    """

    def __init__(self, folder: ActivityFolder, videos: Sequence[str]) -> None:
        if not videos:
            raise ValueError(f"no videos of {folder.root} were chosen; expected at least one")
        self.folder = folder
        self.videos = tuple(videos)

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order of their index."""
        return self.folder.class_names

    @functools.cached_property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each record: its labels."""
        return tuple(len(self.folder.label_names(video)) for video in self.videos)

    def labels(self, position: int) -> np.ndarray:
        """Labels of one video, [time] int32; needs no features on disk."""
        return self.folder.labels(self.videos[position])

    def __getitem__(self, position: int) -> Record:
        return self.record(position)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video.

        Args:
            position: number of the video.
            epoch: not used; sources whose records change from epoch to epoch need it.

        Returns:
            `video` (name), `index` (position), `features` [time, channels] float32 (of .npy) or float64 (of .txt),
            `labels` [time] int32.
        """
        del epoch
        video = self.videos[position]
        return {
            "video": video,
            "index": position,
            "features": self.folder.features(video),
            "labels": self.folder.labels(video),
        }


def _collect(problems: list[Problem], read: Callable[[], Found]) -> Found | None:
    """What `read()` returns; None if it cannot, and the reason is added to `problems`."""
    try:
        return read()
    except (FileNotFoundError, ValueError) as error:
        problems.append(Problem("error", str(error)))
        return None
