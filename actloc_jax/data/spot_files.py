"""The files of SPOT's release, as they are, seen as a detection data set (numpy only).

```
<root>/video_info_new.csv           one line per video: video, numFrame, seconds, fps, rfps, subset, featureFrame
<root>/video_info_new_<u>.csv       the same, a share u of the training videos has the subset training_unlabel
<root>/anet_anno_action.json        {video: {duration_second, duration_frame, feature_frame, annotations}}
<root>/class_index.json             class name -> index; or the original's config/dataset_class.py
<root>/spot_best_score.json         optional: {video: {class, score}} of a classifier of whole videos
<root>/csv/<video>.csv              features, one line per snippet; .npy and others by a pattern
```
Every text file may be gzipped (`.gz`). The number in the name of a ratio file is the UNLABELLED share: `labels=10`, ten
per cent labelled, reads `video_info_new_0.9.csv`.

Source: `sauradip/SPOT:spot_lib/spot_dataloader.py`, `data/activitynet_annotations`.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import functools
import gzip
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from actloc_jax.data.activitynet_json import parse_activitynet_json
from actloc_jax.data.annotations import Annotations, VideoAnnotation, read_class_names
from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.grid import Grid, whole_video
from actloc_jax.data.json_files import read_json
from actloc_jax.data.problems import Problem

UNLABELLED = "training_unlabel"
SUBSETS = {
    "train": ("training", UNLABELLED),
    "labelled": ("training",),
    "unlabelled": (UNLABELLED,),
    "val": ("validation",),
}
"""Split -> subsets in the csv files; videos of the subset `testing` have no annotations."""

LENGTH_FIELDS = ("feature_frame", "duration_frame", "duration_second")
"""What the annotation file must say of a video, so that the seconds that its features cover are known."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """A line of a video info file: the subset of a video, and its seconds (NaN if they are not given)."""

    subset: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class VideoScore:
    """What a classifier of whole videos found: its best class, as an index, and the probability of that class."""

    label: int
    score: float


def ratio_name(labels: float) -> str:
    """The number in the name of a ratio file: `labels` per cent labelled -> the unlabelled share, 10 -> "0.9".

    Raises:
        ValueError: not more than 0 and at most 100.
    """
    if not 0 < labels <= 100:
        raise ValueError(f"labels={labels} is the share of labelled videos in per cent; expected 0 < labels <= 100")
    return str(float(round(1 - labels / 100, 6)))


def read_video_info(path: epath.PathLike) -> tuple[dict[str, VideoInfo], list[Problem]]:
    """Reads a `video_info_new*.csv`.

    Returns:
        Video -> its line, in the order of the file, and the videos that are listed twice as problems.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no lines, or no columns `video` and `subset`.
    """
    path = _plain_or_packed(epath.Path(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a csv file with the columns video and subset")
    table = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    if not {"video", "subset"} <= set(table.fieldnames or ()):
        raise ValueError(
            f"{path} has the columns {', '.join(table.fieldnames or ()) or '(none)'}; "
            "expected a header line with video and subset, e.g. video,numFrame,seconds,fps,rfps,subset,featureFrame"
        )
    found: dict[str, VideoInfo] = {}
    twice = []
    for row in table:
        if row["video"] in found:
            twice.append(row["video"])
        found[row["video"]] = VideoInfo(row["subset"] or "", _number(row.get("seconds")))
    if not found:
        raise ValueError(f"{path} lists no videos; expected one line per video")
    problems = [Problem("error", f"{path} lists {video} twice; keep one line") for video in dict.fromkeys(twice)]
    return found, problems


def read_class_table(path: epath.PathLike) -> tuple[str, ...]:
    """Class names by index, from the formats of `read_class_names`, or from the dict in the original's Python file.

    The Python file is parsed, never run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no names, or numbers that are not 0, 1, 2, ...
    """
    path = _plain_or_packed(epath.Path(path))
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected the classes: JSON of name -> index, one name per line in a .txt file, or "
            "config/dataset_class.py of the original"
        )
    if path.suffix != ".py":
        return read_class_names(path)
    try:
        values = [node.value for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
        table = next(ast.literal_eval(value) for value in values if isinstance(value, ast.Dict))
    except (SyntaxError, ValueError, StopIteration) as error:
        raise ValueError(f"{path} assigns no dict of class name -> index; expected activity_dict = {{...}}") from error
    names = {index: name for name, index in table.items()}
    if set(names) != set(range(len(table))):
        raise ValueError(f"{path} numbers {len(table)} classes, but not by 0 to {len(table) - 1}, each number once")
    return tuple(names[index] for index in range(len(table)))


def read_video_scores(path: epath.PathLike, class_names: Sequence[str]) -> dict[str, VideoScore]:
    """Reads `spot_best_score.json`: the best class of every video and its score.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other JSON, or classes that are not among `class_names`.
    """
    path = _plain_or_packed(epath.Path(path))
    what = 'scores of whole videos: {video: {"class", "score"}}'
    content = read_json(path, what=what)
    index = {name: number for number, name in enumerate(class_names)}
    found, unknown, unreadable = {}, {}, []
    for video, entry in content.items() if isinstance(content, dict) else ():
        name, score = (entry.get("class"), _number(entry.get("score"))) if isinstance(entry, dict) else (None, math.nan)
        if name is None or not math.isfinite(score):
            unreadable.append(video)
        elif name not in index:
            unknown.setdefault(name, video)
        else:
            found[video] = VideoScore(index[name], score)
    if unreadable or unknown or not found:
        examples = [f"{video} has no class with a score" for video in unreadable[:1]]
        examples += [f"class {name!r} of {video} is not among the {len(index)}" for name, video in unknown.items()][:3]
        raise ValueError(f"{path} cannot be used: {'; '.join(examples) or 'it holds no videos'}; expected {what}")
    return found


class SpotFolder(DetectionFolder):
    """A data set in the files of SPOT's release.

    Its splits are `train` (all training videos), `labelled`, `unlabelled` and `val`. Features cover the corrected
    length of a video, feature_frame / duration_frame * duration_second.

    Args:
        root: folder of the annotations; other paths are under it or absolute.
        labels: per cent of the training videos that are labelled; reads the ratio file of that number. 100: all. None:
            whatever `video_info` says, which has no unlabelled videos in the release.
        annotations, video_info: the annotation file, and the csv file of all subsets.
        ratio_files: pattern of the csv files with unlabelled videos.
        classes: the class table, see `read_class_table`.
        features: pattern of the feature files, see `FeatureFiles`.
        **options: `streams`, `feature_layout`, `feature_dim`, `missing_features`, `outside` of `DetectionFolder`.

    Raises:
        FileNotFoundError: no such folder, or no ratio file of this number; the message lists those that exist.
    """

    def __init__(
        self,
        root: epath.PathLike,
        *,
        labels: float | None = None,
        annotations: str = "anet_anno_action.json",
        video_info: str = "video_info_new.csv",
        ratio_files: str = "video_info_new_{unlabelled}.csv",
        classes: str = "class_index.json",
        features: str = "csv/{video}.csv",
        **options: Any,
    ) -> None:
        super().__init__(root, annotations=annotations, features=features, subsets=SUBSETS, classes=classes, **options)
        self.annotation_path = _plain_or_packed(self.annotation_path)
        self.class_path = self.root / classes
        self.info_path = _plain_or_packed(self.root / video_info)
        self.labels = labels
        if labels not in (None, 100):
            name = ratio_name(labels)
            self.info_path = _plain_or_packed(self.root / ratio_files.format(unlabelled=name))
            if not self.info_path.exists():
                raise FileNotFoundError(self._no_ratio_file(ratio_files))

    def _no_ratio_file(self, pattern: str) -> str:
        known = sorted(path.name for path in self.root.glob(pattern.format(unlabelled="*")))
        return (
            f"{self.info_path} does not exist; labels={self.labels} per cent labelled is the file of the unlabelled "
            f"share {ratio_name(self.labels)}. There are: {', '.join(known) or 'none'}. Choose one of them, or leave "
            "labels of the folder out and let the split be drawn"
        )

    @functools.cached_property
    def info(self) -> tuple[Mapping[str, VideoInfo], list[Problem]]:
        """The lines of the csv file, and what is wrong with them."""
        return read_video_info(self.info_path)

    @functools.cached_property
    def parsed(self) -> tuple[Annotations, list[Problem]]:
        """The annotations of the videos in the csv file, in its order, and what is wrong with both files."""
        info, problems = self.info
        subset_of = {video: line.subset for video, line in info.items()}
        read, found = parse_activitynet_json(
            self.annotation_path, class_names=read_class_table(self.class_path), subset_of=subset_of
        )
        problems = [*problems, *found, *self._mismatch(read)]
        videos = {video: read.videos[video] for video in info if video in read.videos}
        return Annotations(read.class_names, videos), problems

    def _mismatch(self, read: Annotations) -> list[Problem]:
        """Where the csv file and the annotation file speak of different videos."""
        info, _ = self.info
        found = []
        absent = [video for video in info if video not in read.videos]
        if absent:
            found.append(
                f"{len(absent)} of the {len(info)} videos in {self.info_path} have no entry in {self.annotation_path}, "
                f"the first is {absent[0]}; use csv and annotation files of the same data set"
            )
        both = [video for video in info if video in read.videos]
        differ = [video for video in both if abs(info[video].seconds - read.videos[video].duration) > 1]
        if differ:
            found.append(
                f"{len(differ)} of {len(both)} videos last differently in {self.info_path} and {self.annotation_path}, "
                f"e.g. {differ[0]}: {info[differ[0]].seconds:.2f} s and {read.videos[differ[0]].duration:.2f} s; use "
                "files of the same data set"
            )
        known = {"testing", *(name for names in SUBSETS.values() for name in names)}
        others = sorted({line.subset for line in info.values()} - known)
        if others:
            found.append(
                f"{self.info_path} has the subsets {', '.join(map(repr, others))}; expected {', '.join(sorted(known))}"
            )
        lengths = self._covered
        unknown = [video for video in both if video not in lengths]
        if unknown:
            found.append(
                f"{self.annotation_path}: {len(unknown)} videos lack {', '.join(LENGTH_FIELDS)} as positive numbers, "
                f"the first is {unknown[0]}; without them nobody knows which seconds the features cover"
            )
        return [Problem("error", message) for message in found]

    @functools.cached_property
    def _covered(self) -> dict[str, float]:
        """Video -> seconds that its features cover, for the videos whose entry says so."""
        covered = {}
        for video, entry in read_json(self.annotation_path, what="annotations of SPOT").items():
            if isinstance(entry, dict):
                features, frames, seconds = (_number(entry.get(field)) for field in LENGTH_FIELDS)
                if features > 0 and frames > 0 and seconds > 0:
                    # In this order of operations, so that positions on the grid round as in the original.
                    covered[video] = features / frames * seconds
        return covered

    def covered_seconds(self, video: VideoAnnotation) -> float:
        """The corrected length of a video in seconds.

        Raises:
            ValueError: the annotation file does not say it.
        """
        if video.video not in self._covered:
            raise ValueError(f"{self.annotation_path}: {video.video} lacks {', '.join(LENGTH_FIELDS)}; add them")
        return self._covered[video.video]

    def grid(self, video: VideoAnnotation, rows: int) -> Grid:
        """Rows cover the corrected length evenly; integer positions are where rows begin."""
        return whole_video(self.covered_seconds(video), rows, align="start")


def _number(value: Any) -> float:
    """A number, also one written as text; NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _plain_or_packed(path: epath.Path) -> epath.Path:
    """The file, or its gzipped form if only that exists."""
    packed = path.parent / f"{path.name}.gz"
    return packed if not path.exists() and packed.exists() else path


def _read_text(path: epath.Path) -> str:
    """The text of a file, unpacked if it begins like a gzip file."""
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a readable text file ({error})") from error
