"""Annotations of detection data sets: which segment of which video shows what (numpy only).

`activitynet_json.py` reads the usual file, ActivityNet's JSON, in its variants; `thumos14_text.py` reads the per-class
text files of THUMOS14. Both give the same `Annotations`. Seconds are float64 as written; nothing is clipped, sorted or
repaired.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from actloc_jax.data.json_files import read_json

AMBIGUOUS = "Ambiguous"
"""Label of THUMOS14's regions that are neither action nor background."""


@dataclasses.dataclass(frozen=True)
class VideoAnnotation:
    """What is known about one video.

    Attributes:
        video: its name.
        subset: "training", "Validation", ... as written in the file; "" if the file has none.
        duration: seconds; `inf` if unknown.
        fps: frames per second; None if unknown.
        segments: [n, 2] float64, start and end in seconds.
        labels: [n] int32, indices into the class names.
        ambiguous: [m, 2] float64 seconds, regions that are neither action nor background.
    """

    video: str
    subset: str
    duration: float
    fps: float | None
    segments: np.ndarray
    labels: np.ndarray
    ambiguous: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros([0, 2]))


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The annotations of a data set.

    Attributes:
        class_names: the classes in order of their index.
        videos: name -> annotation, in the order of the file.
    """

    class_names: tuple[str, ...]
    videos: Mapping[str, VideoAnnotation]

    def subsets(self) -> dict[str, int]:
        """Subset as written -> number of its videos."""
        counts: dict[str, int] = {}
        for video in self.videos.values():
            counts[video.subset] = counts.get(video.subset, 0) + 1
        return counts

    def of_subset(self, *names: str) -> list[VideoAnnotation]:
        """The videos of the subsets with these names, in the order of the file; case does not matter.

        Raises:
            ValueError: no video has such a subset; the message lists those that exist.
        """
        wanted = {name.lower() for name in names}
        found = [video for video in self.videos.values() if video.subset.lower() in wanted]
        if not found:
            listed = ", ".join(f"{name!r} ({count} videos)" for name, count in self.subsets().items()) or "no videos"
            raise ValueError(f"no video is of subset {' or '.join(map(repr, names))}; the annotations have {listed}")
        return found


def merge(first: Annotations, second: Annotations) -> Annotations:
    """The videos of both, e.g. of two subsets that are kept in two files.

    Raises:
        ValueError: other classes, or a video in both.
    """
    if first.class_names != second.class_names:
        raise ValueError(
            f"cannot merge annotations of {len(first.class_names)} and {len(second.class_names)} classes that differ, "
            f"e.g. {_first_difference(first.class_names, second.class_names)}; read both with the same class list"
        )
    shared = [video for video in second.videos if video in first.videos]
    if shared:
        raise ValueError(f"{len(shared)} videos are in both annotation files, e.g. {shared[0]}")
    return Annotations(first.class_names, {**first.videos, **second.videos})


def remove_duplicates(
    segments: np.ndarray, labels: np.ndarray, *, tolerance: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
    """Drops every segment that begins and ends like an earlier one of the same label.

    ActivityNet has many annotated twice. Source: `actionformer_release:libs/datasets/data_utils.py`.

    Args:
        segments: [n, 2] seconds.
        labels: [n].
        tolerance: largest difference of the bounds, in seconds.

    Returns:
        The segments and labels that are left, in their order.
    """
    kept = np.ones(len(segments), bool)
    for number in range(1, len(segments)):
        close = np.abs(segments[:number] - segments[number]).max(axis=1) <= tolerance
        kept[number] = not (close & (labels[:number] == labels[number]) & kept[:number]).any()
    return segments[kept], labels[kept]


def read_class_names(path: epath.PathLike) -> tuple[str, ...]:
    """Class names in order of their index.

    Formats: one name per line (OpenTAD's category files); "<number> <name>" on every line, in the order of the lines
    (THUMOS14's detclasslist.txt); `.csv` with a header line and the names in the first column (ActivityNet's
    action_name.csv); `.json` with a list of names, or with name -> index from 0.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no names, a name twice, indices that are not 0, 1, 2, ...
    """
    path = epath.Path(path)
    if path.name.endswith((".json", ".json.gz")):
        names = _names_from_json(path)
    else:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected the class names, one per line")
        lines = [line.strip() for line in path.read_text().splitlines()]
        if path.suffix == ".csv":
            lines = [line.split(",")[0].strip() for line in lines[1:]]
        names = [line for line in lines if line]
        numbered = [line.split(maxsplit=1) for line in names]
        if all(len(parts) == 2 and parts[0].isdigit() for parts in numbered):
            names = [name for _, name in numbered]
    if not names:
        raise ValueError(f"{path} lists no classes; expected one name per line")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path} lists {', '.join(map(repr, repeated))} more than once")
    return tuple(names)


def _names_from_json(path: epath.Path) -> list[str]:
    content = read_json(path, what="class names: a list, or name -> index")
    if isinstance(content, dict):
        by_index = {index: name for name, index in content.items()}
        if len(by_index) < len(content) or set(by_index) != set(range(len(content))):
            raise ValueError(
                f"{path} numbers {len(content)} classes, but not by 0 to {len(content) - 1}, each number once"
            )
        return [by_index[index] for index in range(len(content))]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path} holds no class names; expected a JSON list of names, or name -> index")
    return content


def video_annotation(
    video: str,
    subset: str,
    duration: float,
    fps: float | None,
    rows: Sequence[tuple[float, float, int]],
    ambiguous: Sequence[tuple[float, float]] = (),
) -> VideoAnnotation:
    """Builds the arrays of a `VideoAnnotation` from (start, end, label) rows in seconds."""
    table = np.array([row[:2] for row in rows], np.float64).reshape(-1, 2)
    labels = np.array([row[2] for row in rows], np.int32)
    regions = np.array(ambiguous, np.float64).reshape(-1, 2)
    return VideoAnnotation(video, subset, float(duration), fps, table, labels, regions)


def describe(annotations: Annotations) -> str:
    """One line per subset: videos, segments, hours, and how many durations are unknown."""
    lines = []
    for subset, count in annotations.subsets().items():
        videos = [video for video in annotations.videos.values() if video.subset == subset]
        known = [video.duration for video in videos if math.isfinite(video.duration)]
        lines.append(
            f"{subset or '(no subset)'}: {count} videos, {sum(len(video.labels) for video in videos)} segments, "
            f"{sum(known) / 3600:.2f} hours"
            + (f" without {count - len(known)} videos of unknown duration" if len(known) < count else "")
        )
    return "\n".join(lines)


def _first_difference(first: Sequence[str], second: Sequence[str]) -> str:
    for index in range(max(len(first), len(second))):
        here, there = ([*names, None][min(index, len(names))] for names in (first, second))
        if here != there:
            return f"{index}: {here!r} and {there!r}"
    return "none"
