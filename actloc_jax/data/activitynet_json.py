"""ActivityNet's JSON annotations in the variants that published code writes and reads (numpy only).

| variant | what is special |
|---|---|
| ActivityNet | `segment` [start, end], `label`; `duration`; other fields are ignored |
| ActionFormer | also `label_id` and `fps`; subsets "Validation" and "Test" |
| OpenTAD | `frame` (number of frames) instead of `fps`; class names in a text file |
| AFSD / CoLA `gt.json` | segment bounds as strings; no `duration`, no `fps` |
| AFSD / TALLFormer `video_info` | no `database` around the videos; `start_frame`, `end_frame`, `label_id` from 1 |
| BSN / BMN / SPOT `anet_anno_action` | no `database`, no `subset`; `duration_second`, `duration_frame` |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from actloc_jax.data.annotations import AMBIGUOUS, Annotations, VideoAnnotation, video_annotation
from actloc_jax.data.json_files import read_json, write_json
from actloc_jax.data.problems import Problem, require_no_errors

WHAT = 'ActivityNet annotations: {"database": {video: {"subset", "duration", "annotations": [{"segment", "label"}]}}}'
DURATION_FIELDS = ("duration", "duration_second", "seconds")
FRAMES_FIELDS = ("frame", "frame_num", "duration_frame", "numFrame")
FPS_FIELDS = ("fps", "rfps")

MissingDuration = Literal["error", "unknown"]


def read_activitynet_json(path: epath.PathLike, **options: Any) -> Annotations:
    """Reads annotations; options as for `parse_activitynet_json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: all that is wrong with it.
    """
    annotations, problems = parse_activitynet_json(path, **options)
    require_no_errors(problems)
    return annotations


def parse_activitynet_json(
    path: epath.PathLike,
    *,
    class_names: Sequence[str] | None = None,
    first_label_id: int = 0,
    default_fps: float | None = None,
    subset_of: Mapping[str, str] | None = None,
    missing_duration: MissingDuration = "error",
    ambiguous_labels: Sequence[str] = (AMBIGUOUS,),
) -> tuple[Annotations, list[Problem]]:
    """Reads annotations as far as possible, and says what is wrong with the rest.

    Args:
        path: `.json` or `.json.gz`.
        class_names: the classes by index. Without them they are numbered by `label_id` if every annotation has one,
            else in alphabetical order of the labels.
        first_label_id: the `label_id` of class 0.
        default_fps: frame rate of all videos, whatever the file says. Otherwise it is the file's `fps`, else its number
            of frames over the duration, else unknown.
        subset_of: video -> subset, for files without.
        missing_duration: what to do if neither a duration, nor frames and a frame rate, are given: `"error"`, or
            `"unknown"`: the duration is `inf`, so that nothing is clipped at the end (published codes use 1e8).
        ambiguous_labels: labels of regions that are no class.

    Returns:
        The annotations without the entries that cannot be read, and their problems.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or JSON of something else.
    """
    if missing_duration not in ("error", "unknown"):
        raise ValueError(f'missing_duration={missing_duration!r} is unknown; use "error" or "unknown"')
    path = epath.Path(path)
    repeated: list[str] = []
    database = _database(path, repeated)
    problems = [
        Problem("error", f"{path} has video {name!r} more than once; all but the last are lost: keep one")
        for name in repeated
        if name in database
    ]
    reader = _Reader(path, default_fps, missing_duration, frozenset(ambiguous_labels), problems)
    read = {
        video: reader.video(video, entry, (subset_of or {}).get(video, ""))
        for video, entry in database.items()
        if reader.is_object(video, entry)
    }
    rows = [row for video in read.values() for row in video.rows]
    by_id = class_names is None and bool(rows) and all(isinstance(row.label_id, int) for row in rows)
    if class_names is None:
        class_names = _infer_classes(path, rows, by_id, first_label_id, problems)
    names = tuple(class_names)
    numbered = _number_labels(path, read, names, first_label_id, problems)
    if by_id:
        problems += _contradictions(path, rows, names, first_label_id)
    videos = {
        name: video_annotation(name, video.subset, video.duration, video.fps, numbered[name], video.ambiguous)
        for name, video in read.items()
    }
    return Annotations(names, videos), problems


def write_activitynet_json(annotations: Annotations, path: epath.PathLike, *, version: str = "") -> None:
    """Writes annotations with all that ActionFormer's reader needs: `label_id`, `fps`, `duration` where they are known.

    Args:
        annotations: what to write.
        path: `.json` or `.json.gz`.
        version: text of the file's `version` field.
    """
    database = {name: _entry(video, annotations.class_names) for name, video in annotations.videos.items()}
    write_json(path, {"version": version, "database": database})


def _entry(video: VideoAnnotation, class_names: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"subset": video.subset}
    if math.isfinite(video.duration):
        entry["duration"] = video.duration
    if video.fps is not None:
        entry["fps"] = video.fps
    entry["annotations"] = [
        {"segment": segment, "label": class_names[label], "label_id": label}
        for segment, label in zip(video.segments.tolist(), video.labels.tolist(), strict=True)
    ] + [{"segment": segment, "label": AMBIGUOUS} for segment in video.ambiguous.tolist()]
    return entry


@dataclasses.dataclass(frozen=True)
class _Row:
    """One annotation before its label is numbered."""

    video: str
    start: float
    end: float
    label: str | None
    label_id: int | None


@dataclasses.dataclass(frozen=True)
class _Video:
    subset: str
    duration: float
    fps: float | None
    rows: list[_Row]
    ambiguous: list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads entries, adding to `problems` what cannot be read."""

    path: epath.Path
    default_fps: float | None
    missing_duration: MissingDuration
    ambiguous_labels: frozenset[str]
    problems: list[Problem]

    def error(self, video: str, text: str) -> None:
        """Adds a problem of `video`."""
        self.problems.append(Problem("error", f"{self.path}: video {video}: {text}"))

    def is_object(self, video: str, entry: Any) -> bool:
        """Whether an entry is a JSON object; another one is a problem of `video`."""
        if not isinstance(entry, dict):
            self.error(video, f"its entry is {_short(entry)}, expected an object with annotations")
        return isinstance(entry, dict)

    def video(self, name: str, entry: dict[str, Any], subset: str) -> _Video:
        """What the entry of the video `name` says; what is missing or cannot be read becomes a problem."""
        frames = self._number(name, entry, FRAMES_FIELDS)
        duration = self._number(name, entry, DURATION_FIELDS)
        fps = self.default_fps or self._number(name, entry, FPS_FIELDS)
        if fps is None and frames and duration:
            fps = frames / duration
        if duration is None and frames and fps:
            duration = frames / fps
        if duration is None:
            duration = math.inf
            if self.missing_duration == "error":
                self.error(
                    name, 'it has no duration, and no frames with fps; add "duration" or set missing_duration="unknown"'
                )
        listed = entry.get("annotations")
        if not isinstance(listed, list | None):
            self.error(name, f"its annotations are {_short(listed)}, expected a list")
            listed = None
        rows = [row for item in listed or [] if (row := self._row(name, item, fps)) is not None]
        return _Video(
            subset=str(entry.get("subset", subset)),
            duration=duration,
            fps=fps,
            rows=[row for row in rows if row.label not in self.ambiguous_labels],
            ambiguous=[(row.start, row.end) for row in rows if row.label in self.ambiguous_labels],
        )

    def _number(self, video: str, entry: dict[str, Any], fields: Sequence[str]) -> float | None:
        """The first of these fields that the entry has."""
        for field in fields:
            if entry.get(field) is None:
                continue
            value = _to_float(entry[field])
            if math.isfinite(value) and value > 0:
                return value
            self.error(video, f"{field} is {_short(entry[field])}, expected a positive number")
            return None
        return None

    def _row(self, video: str, item: Any, fps: float | None) -> _Row | None:
        """One annotation; None if it cannot be read."""
        if not isinstance(item, dict):
            self.error(video, f"an annotation is {_short(item)}, expected an object with segment and label")
            return None
        bounds = item.get("segment")
        if bounds is None and "start_frame" in item and "end_frame" in item:
            if fps is None:
                self.error(video, "it has start_frame and end_frame but no fps; set default_fps")
                return None
            bounds = [_to_float(item[key]) / fps for key in ("start_frame", "end_frame")]
        values = [_to_float(value) for value in bounds] if isinstance(bounds, list) else []
        if len(values) != 2 or not all(map(math.isfinite, values)):
            self.error(video, f"segment is {_short(bounds)}, expected [start, end] in seconds")
            return None
        label, label_id = item.get("label"), item.get("label_id")
        if label is None and not isinstance(label_id, int):
            self.error(video, f"the annotation of segment {values} has no label")
            return None
        return _Row(video, *values, None if label is None else str(label), label_id)


def _database(path: epath.Path, repeated: list[str]) -> dict[str, Any]:
    """Video -> entry."""
    content = read_json(path, what=WHAT, repeated=repeated.append)
    if isinstance(content, dict) and "results" in content and "database" not in content:
        raise ValueError(f"{path} holds detections or proposals ('results'), not annotations; expected {WHAT}")
    database = content.get("database", content) if isinstance(content, dict) else None
    if not isinstance(database, dict) or not database:
        raise ValueError(f"{path} holds no videos; expected {WHAT}")
    return database


def _infer_classes(
    path: epath.Path, rows: list[_Row], by_id: bool, first: int, problems: list[Problem]
) -> tuple[str, ...]:
    """Class names by `label_id`, else in alphabetical order."""
    if any(row.label is None for row in rows):
        problems.append(Problem("error", f"{path} numbers its classes without naming them; give a class list"))
        return ()
    if not by_id:
        return tuple(sorted({row.label for row in rows}))
    name_of: dict[int, str] = {}
    for row in rows:
        name_of.setdefault(row.label_id, row.label)
    expected = range(first, first + len(name_of))
    if sorted(name_of) != list(expected) or len(set(name_of.values())) < len(name_of):
        problems.append(
            Problem(
                "error",
                f"{path}: the label ids {min(name_of)} to {max(name_of)}, {len(name_of)} of them, do not number "
                f"{len(set(name_of.values()))} names from {first} without gaps; give a class list, or first_label_id",
            )
        )
        return ()
    return tuple(name_of[number] for number in expected)


def _number_labels(
    path: epath.Path,
    read: dict[str, _Video],
    names: tuple[str, ...],
    first: int,
    problems: list[Problem],
) -> dict[str, list[tuple[float, float, int]]]:
    """(start, end, class) rows of every video; rows of unknown classes are left out and reported, once per label."""
    index = {name: number for number, name in enumerate(names)}
    unknown: dict[str, list[str]] = {}
    numbered: dict[str, list[tuple[float, float, int]]] = {}
    for video, entry in read.items():
        numbered[video] = []
        for row in entry.rows:
            # A name decides; ids may number another list (a class list given by the user).
            label = index.get(row.label) if row.label is not None else row.label_id - first
            if label is None or not 0 <= label < len(names):
                unknown.setdefault(row.label if row.label is not None else f"label_id {row.label_id}", []).append(video)
                continue
            numbered[video].append((row.start, row.end, label))
    for label, videos in unknown.items() if names else ():  # without names there is an error already
        problems.append(
            Problem(
                "error",
                f"{path}: label {label!r} of {len(videos)} annotations (first in {videos[0]}) is not among the "
                f"{len(names)} classes ({', '.join(names[:5])}{', ...' * (len(names) > 5)}); add it to the class list, "
                "or correct the annotations",
            )
        )
    return numbered


def _contradictions(path: epath.Path, rows: list[_Row], names: tuple[str, ...], first: int) -> list[Problem]:
    """Annotations whose name and number are of two classes."""
    index = {name: number for number, name in enumerate(names)}
    wrong = [row for row in rows if index.get(row.label, row.label_id - first) != row.label_id - first]
    if not wrong:
        return []
    return [
        Problem(
            "error",
            f"{path}: {len(wrong)} annotations contradict the others, e.g. {wrong[0].video} has label "
            f"{wrong[0].label!r} with label_id {wrong[0].label_id}; correct them, or give a class list",
        )
    ]


def _to_float(value: Any) -> float:
    """A number, also one written as text; NaN for anything else."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
