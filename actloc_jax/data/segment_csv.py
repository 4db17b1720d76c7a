"""Segments of videos in a table, as annotation programs and spreadsheets write them (numpy only).

A header and a row per segment, separated by commas, semicolons or tabs:

```
video,start,end,label,subset
kitchen_01.mp4,0:03.2,0:07.9,pour,train
```

`subset` (train, val or test) and `duration` (seconds of the video) may be missing. Times are seconds (`63.2`), clock
times (`1:03.2`, `0:01:03.2`) or, where asked for, numbers of frames.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Mapping
from typing import NamedTuple

from etils import epath

from actloc_jax.data.problems import Problem
from actloc_jax.data.video_files import VIDEO_SUFFIXES

NEEDED, OPTIONAL = ("video", "start", "end", "label"), ("subset", "duration")
SUBSETS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")


class Segment(NamedTuple):
    """A row: what is done from `start` to `end`, in seconds, or in frames where the table counts these."""

    start: float
    end: float
    label: str
    line: int


@dataclasses.dataclass
class LabelledVideo:
    """The rows of one video.

    Attributes:
        segments: in the order of the table.
        subset: train, val or test; "" where the table does not say.
        duration: seconds; None where the table does not say.
    """

    segments: list[Segment] = dataclasses.field(default_factory=list)
    subset: str = ""
    duration: float | None = None


def read_segments(path: epath.PathLike) -> tuple[dict[str, LabelledVideo], list[Problem]]:
    """Reads a table as far as possible, and says what is wrong with the rest.

    Returns:
        Videos by name (without the ending of a file), in the order of the table; and all problems.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no text, or a header without the needed columns.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a table with the columns {', '.join(NEEDED)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save the table as CSV UTF-8") from error
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(rows, [])]
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; its first line names {', '.join(columns) or 'nothing'}, "
            f"expected {', '.join(NEEDED)} and, if known, {', '.join(OPTIONAL)}"
        )
    reader = _Reader(path)
    unknown = [name for name in columns if name not in (*NEEDED, *OPTIONAL)]
    if unknown:
        reader.note("warning", 1, f"unknown columns {', '.join(map(repr, unknown))} are left out")
    for cells in rows:
        if any(cell.strip() for cell in cells):
            if len(cells) != len(columns):
                reader.note("error", rows.line_num, f"{len(cells)} cells, expected {len(columns)}")
            else:
                reader.row(rows.line_num, dict(zip(columns, map(str.strip, cells), strict=True)))
    if not reader.videos and not reader.problems:
        reader.note("error", 1, "no segments")
    return reader.videos, reader.problems


class _Reader:
    """Videos and problems of the rows read so far."""

    def __init__(self, path: epath.Path) -> None:
        self._path = path
        self.videos: dict[str, LabelledVideo] = {}
        self.problems: list[Problem] = []

    def note(self, severity: str, line: int, message: str) -> None:
        """Adds a problem."""
        self.problems.append(Problem(severity, f"{self._path}, line {line}: {message}"))

    def row(self, line: int, cells: Mapping[str, str]) -> None:
        """Adds a segment, or says what is wrong with it."""
        name = video_name(cells["video"])
        start, end = (self._time(line, cells, column) for column in ("start", "end"))
        for column in ("video", "label"):
            if not cells[column]:
                self.note("error", line, f"no {column}")
        if start is not None and end is not None and end <= start:
            self.note("error", line, f"the segment ends at {cells['end']}, not after its start {cells['start']}")
        video = self.videos.setdefault(name, LabelledVideo())
        if start is not None and end is not None and end > start and cells["label"]:
            video.segments.append(Segment(start, end, cells["label"], line))
        self._subset(line, name, video, cells.get("subset", ""))
        if cells.get("duration"):
            seconds = self._time(line, cells, "duration")
            if video.duration not in (None, seconds):
                self.note("error", line, f"{name} lasts {seconds:g} s here and {video.duration:g} s further up")
            video.duration = seconds

    def _time(self, line: int, cells: Mapping[str, str], column: str) -> float | None:
        try:
            return parse_time(cells[column])
        except ValueError as error:
            self.note("error", line, f"{column} {error}")
            return None

    def _subset(self, line: int, name: str, video: LabelledVideo, text: str) -> None:
        if not text:
            return
        if text.lower() not in SUBSETS:
            self.note("error", line, f"subset {text!r} is unknown; use train, val or test")
            return
        subset = SUBSETS[text.lower()]
        if video.subset not in ("", subset):
            self.note("error", line, f"{name} is of subset {subset} here and of {video.subset} further up")
        video.subset = subset


def parse_time(text: str) -> float:
    """`63.2`, `1:03.2` or `0:01:03.2` to 63.2; a comma may stand for the point.

    Raises:
        ValueError: something else, or a negative time.
    """
    clock = CLOCK.fullmatch(text)
    if clock:
        hours, minutes, seconds = clock.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text!r} is no time; expected seconds (63.2), a clock time (0:01:03.2) or a frame")
    return value


def video_name(text: str) -> str:
    """The name without folders and without the ending of a video or feature file."""
    name = re.split(r"[/\\]", text)[-1]
    stem, dot, ending = name.rpartition(".")
    return stem if f"{dot}{ending}".lower() in (*VIDEO_SUFFIXES, ".npy", ".txt") else name
