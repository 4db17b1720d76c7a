"""The folder layout of MS-TCN, in which the data sets of action segmentation are published.

```
<root>/features/<video>.npy                    [channels, time] or [time, channels]; see feature_files.py
<root>/groundTruth/<video>.txt                 one class name per line and frame
<root>/mapping.txt                             "<id> <class name>" per line
<root>/splits/{train,test}.split<k>.bundle     one "<video>.txt" per line; val.split<k>.bundle is optional
```
"""

from __future__ import annotations

import functools
import re
from typing import Any, Literal

import numpy as np
from etils import epath

from actloc_jax.data import feature_files

ClassIndex = Literal["written_id", "line_number"]
Record = dict[str, Any]

PUBLISHED_AT = "https://zenodo.org/records/3625992"
"""I3D features, labels and splits of gtea, 50salads and breakfast, as released with MS-TCN."""

PROBED_VIDEOS = 16  # files whose headers decide the layout of all


class SegmentationFolder:
    """Reads a data set in the MS-TCN layout; nothing but the mapping is read before it is asked for.

    Args:
        root: folder of the data set.
        features_dir: folder of the features under `root`.
        layout: axes of the feature files, one of `feature_files.LAYOUTS`; `"auto"` detects them.
        feature_dim: expected number of channels, if known.
        sample_rate: every how many frames are used; only decides which differences of length are an error.
        class_index: what numbers the classes: the id written in mapping.txt (TST, MS-TCN) or the line (DiffAct).

    Attributes:
        class_names: the classes in order of their index.

    Raises:
        FileNotFoundError: no such folder, or no mapping.txt.
        ValueError: a mapping that does not number its classes 0, 1, 2, ...
    """

    def __init__(
        self,
        root: epath.PathLike,
        *,
        features_dir: str = "features",
        layout: str = "auto",
        feature_dim: int | None = None,
        sample_rate: int = 1,
        class_index: ClassIndex = "written_id",
    ) -> None:
        if layout not in feature_files.LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; use one of {', '.join(feature_files.LAYOUTS)}")
        self.root = epath.Path(root)
        self.features_dir = self.root / features_dir
        self.feature_dim = feature_dim
        self.sample_rate = sample_rate
        self._layout = layout
        if not self.root.is_dir():
            raise FileNotFoundError(missing_folder_message(self.root))
        self.class_names = read_mapping(
            _first_existing(self.root / "mapping.txt", self.root / "mapping" / "mapping.txt"), class_index=class_index
        )
        self._index = {name: index for index, name in enumerate(self.class_names)}
        self._labels: dict[str, np.ndarray] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes in mapping.txt."""
        return len(self.class_names)

    def splits(self) -> list[int]:
        """Numbers of the splits that have a test bundle."""
        found = (re.fullmatch(r"test\.split(\d+)\.bundle", path.name) for path in (self.root / "splits").glob("*"))
        return sorted(int(match[1]) for match in found if match)

    def bundle_path(self, subset: str, split: int) -> epath.Path:
        """The file that lists the videos of `subset` ("train", "val", "test") in split number `split`."""
        return self.root / "splits" / f"{subset}.split{split}.bundle"

    def videos(self, subset: str, split: int) -> list[str]:
        """Names of the videos of a subset, in the order of the bundle.

        Raises:
            FileNotFoundError: no such bundle; the message lists those that exist.
        """
        path = self.bundle_path(subset, split)
        if not path.exists():
            found = sorted(file.name for file in path.parent.glob("*.bundle")) if path.parent.is_dir() else []
            raise FileNotFoundError(
                f"{path} does not exist; the folder has {', '.join(found) or 'no bundles'}. Expected one video per line"
            )
        names = (line.strip().split("/")[-1] for line in path.read_text().splitlines())
        return [name.removesuffix(".txt").removesuffix(".npy") for name in names if name]

    def label_path(self, video: str) -> epath.Path:
        """Ground-truth file of a video; some releases leave out the `.txt`."""
        return _first_existing(self.root / "groundTruth" / f"{video}.txt", self.root / "groundTruth" / video)

    def feature_path(self, video: str) -> epath.Path:
        """Feature file of a video."""
        return self.features_dir / f"{video}.npy"

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

    def unknown_classes(self, names: list[str]) -> dict[str, list[int]]:
        """Names that mapping.txt does not list, with the numbers (from 1) of their lines."""
        lines: dict[str, list[int]] = {}
        for number, name in enumerate(names, start=1):
            if name not in self._index:
                lines.setdefault(name, []).append(number)
        return lines

    def labels(self, video: str) -> np.ndarray:
        """Class indices of all frames, [time] int32, kept in memory once read.

        Raises:
            FileNotFoundError, ValueError: no ground truth, or a class that mapping.txt does not list.
        """
        if video not in self._labels:
            names = self.label_names(video)
            for name, lines in self.unknown_classes(names).items():
                raise ValueError(
                    f"{self.label_path(video)}, line {lines[0]}: class {name!r} is not in {self.root / 'mapping.txt'} "
                    f"(known: {', '.join(self.class_names)}); add it there or correct the line"
                )
            self._labels[video] = np.array([self._index[name] for name in names], np.int32)
        return self._labels[video]

    @functools.cached_property
    def layout(self) -> str:
        """Axes of the feature files, as given or as detected from the first files.

        Raises:
            FileNotFoundError: no feature files.
            ValueError: the axes are ambiguous.
        """
        if self._layout != "auto":
            return self._layout
        paths = sorted(self.features_dir.glob("*.npy"))[:PROBED_VIDEOS] if self.features_dir.is_dir() else []
        if not paths:
            raise FileNotFoundError(f"{self.features_dir} has no .npy files. {expected_tree(self.root)}")
        shapes, counts = {}, {}
        for path in paths:
            try:
                shapes[path.stem] = feature_files.read_shape(path)
                counts[path.stem] = len(self.label_names(path.stem))
            except (FileNotFoundError, ValueError):
                continue  # a bad file does not hinder the others from showing the layout; reading it will report it
        if not shapes:
            raise ValueError(f"none of the first {len(paths)} files of {self.features_dir} holds a feature array")
        return feature_files.detect_layout(shapes, counts, feature_dim=self.feature_dim, sample_rate=self.sample_rate)

    def describe_layout(self) -> str:
        """One line on how the feature files are read."""
        how = "as configured" if self._layout != "auto" else "detected"
        axes = {
            "channels_first": "[channels, time] or [crops, channels, time]",
            "time_first": "[time, channels] or [time, crops, channels]",
            "crops_first": "[crops, time, channels]",
        }
        return f"feature files are read as {axes[self.layout]} ({self.layout}, {how})"

    def feature_shape(self, video: str) -> feature_files.FeatureShape:
        """Frames, channels and crops of a video, from the header of its file.

        Raises:
            FileNotFoundError, ValueError: no feature file, or one that cannot be read in the layout.
        """
        path = self.feature_path(video)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected the features of {video}, saved with numpy.save")
        shape = feature_files.read_shape(path)
        size = feature_files.shape_in_layout(shape, self.layout)
        if size is None:
            raise ValueError(f"{path} has axes {shape}, which cannot be read as {self.layout}")
        return size

    def features(self, video: str) -> np.ndarray:
        """Features of a video at the full frame rate: [time, channels] or [crops, time, channels] float32.

        Raises:
            FileNotFoundError, ValueError: no feature file, the wrong width, NaN or infinite values.
        """
        path = self.feature_path(video)
        size = self.feature_shape(video)
        if self.feature_dim is not None and size.channels != self.feature_dim:
            raise ValueError(
                f"{path} has {size.channels} channels (read as {self.layout}), expected {self.feature_dim}"
            )
        features = feature_files.read_features(path, self.layout)
        feature_files.require_finite(features, path)
        return features

    def truths(self, subset: str, split: int) -> dict[str, list[str]]:
        """Class names of all frames of the videos of a subset; needs no features."""
        return {video: self.label_names(video) for video in self.videos(subset, split)}

    def source(self, subset: str, split: int) -> SegmentationSource:
        """Random access to the records of a subset."""
        return SegmentationSource(self, self.videos(subset, split), name=str(self.bundle_path(subset, split)))


class SegmentationSource:
    """Random access to videos with features and labels, read when asked for.

    Attributes:
        folder: where they are.
        videos: their names; a record's `index` is the position here.
    """

    def __init__(self, folder: SegmentationFolder, videos: list[str], *, name: str = "this subset") -> None:
        if not videos:
            raise ValueError(f"{name} lists no videos; expected one video per line")
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
        """Frames of each record, from the headers of the feature files and the labels."""
        return tuple(self._length(video) for video in self.videos)

    def _length(self, video: str) -> int:
        """Frames that have both features and labels, if the difference is small enough to be cut."""
        frames, num_labels = self.folder.feature_shape(video).frames, len(self.folder.labels(video))
        if abs(frames - num_labels) > feature_files.allowed_difference(num_labels, self.folder.sample_rate):
            raise ValueError(length_message(self.folder, video, frames, num_labels))
        return min(frames, num_labels)

    def labels(self, position: int) -> np.ndarray:
        """Labels of one video at the full frame rate, [time] int32; needs no features on disk."""
        return self.folder.labels(self.videos[position])

    def truths(self) -> dict[str, list[str]]:
        """Class names of all frames of all videos, cut like the records."""
        return {
            video: [self.class_names[label] for label in self.labels(position)[:length]]
            for position, (video, length) in enumerate(zip(self.videos, self.lengths, strict=True))
        }

    def __getitem__(self, position: int) -> Record:
        return self.record(position)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video.

        Args:
            position: number of the video.
            epoch: not used; sources whose records change from epoch to epoch need it.

        Returns:
            `video` (name), `index` (position), `features` [time, channels] or [crops, time, channels] float32 and
            `labels` [time] int32, both at the full frame rate and cut to the shorter of the two.
        """
        del epoch
        video = self.videos[position]
        length = self._length(video)
        return {
            "video": video,
            "index": position,
            "features": self.folder.features(video)[..., :length, :],
            "labels": self.folder.labels(video)[:length],
        }


def read_mapping(path: epath.PathLike, *, class_index: ClassIndex = "written_id") -> tuple[str, ...]:
    """Class names in order of their index, from lines "<id> <class name>".

    Raises:
        FileNotFoundError: no such file.
        ValueError: all that is wrong with the file, or an unknown `class_index`.
    """
    if class_index not in ("written_id", "line_number"):
        raise ValueError(f'class_index={class_index!r} is unknown; use "written_id" or "line_number"')
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist; expected one "<id> <class name>" per line')
    ids, names, problems = [], [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[0].isdigit():
            problems.append(f'line {number} is {line.strip()!r}, expected "<id> <class name>" without further blanks')
            continue
        ids.append(int(parts[0]))
        names.append(parts[1])
    problems += [
        f"class {name!r} is listed {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1
    ]
    if not problems and class_index == "written_id" and sorted(ids) != list(range(len(ids))):
        problems.append(f"the ids are {sorted(ids)}, expected every number from 0 to {len(ids) - 1} once")
    if not names and not problems:
        problems.append("it lists no classes")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    if class_index == "line_number":
        return tuple(names)
    return tuple(name for _, name in sorted(zip(ids, names, strict=True)))


def length_message(folder: SegmentationFolder, video: str, frames: int, num_labels: int) -> str:
    """Says that features and labels of a video have different lengths, and what may be the reason."""
    ratio = num_labels / max(frames, 1)
    if ratio > 1.5:
        advice = f"labels are {ratio:.2f} times as many: extract features at the frame rate of the labels"
    elif ratio < 0.67:
        advice = f"features are {1 / ratio:.2f} times as many: label every frame, or extract fewer features"
    else:
        advice = (
            f"only differences up to {feature_files.allowed_difference(num_labels, folder.sample_rate)} are cut away"
        )
    return (
        f"{folder.feature_path(video)} has {frames} frames (read as {folder.layout}) "
        f"but {folder.label_path(video)} has {num_labels} labels; {advice}"
    )


def expected_tree(root: epath.PathLike) -> str:
    """The layout that a data folder must have, as text for messages."""
    return (
        "Expected this layout:\n"
        f"  {root}/\n"
        "    features/<video>.npy       float32 [channels, time] or [time, channels]\n"
        "    groundTruth/<video>.txt    one class name per line and frame\n"
        '    mapping.txt                "<id> <class name>" per line\n'
        '    splits/train.split1.bundle, splits/test.split1.bundle    one "<video>.txt" per line'
    )


def missing_folder_message(root: epath.PathLike) -> str:
    """Says that the data folder is missing, what it must hold, and where the data are published."""
    return (
        f"the data folder {root} does not exist. {expected_tree(root)}\n"
        f"gtea, 50salads and breakfast (I3D features, labels, splits) are published at {PUBLISHED_AT}.\n"
        "Without data, append :demo to the config (--config=configs/<name>.py:demo) to run on generated data."
    )


def _first_existing(*paths: epath.Path) -> epath.Path:
    """The first path that exists, else the first of all."""
    return next((path for path in paths if path.exists()), paths[0])
