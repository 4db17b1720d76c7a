"""Segments of a video as text: CSV, JSON, and subtitles in SRT and WebVTT. Pure functions; nothing is written here."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from actloc_jax.results.types import Segment

CSV_COLUMNS = ("video", "start", "end", "label", "score")
_MOST_LINES = 3  # of a subtitle; more would hide the picture


class Cue(NamedTuple):
    """What a subtitle shows for a while: `start` and `end` in milliseconds, and its lines."""

    start: int
    end: int
    lines: tuple[str, ...]


def csv_text(videos: Mapping[str, Iterable[Segment]]) -> str:
    """A header, then a line per segment: video, start and end in seconds, label, score (empty where there is none)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for video, segments in videos.items():
        for segment in segments:
            score = "" if segment.score is None else f"{segment.score:.6g}"
            writer.writerow([video, f"{segment.start:.3f}", f"{segment.end:.3f}", segment.label, score])
    return text.getvalue()


def json_text(video: str, segments: Iterable[Segment], extra: Mapping[str, Any] | None = None) -> str:
    """The segments in ActivityNet's results format, which `--mode=evaluate --predictions=` reads.

    Args:
        video: its name.
        segments: those without score get no field "score".
        extra: further fields beside "results".
    """
    rows = [
        {"label": segment.label, "segment": [segment.start, segment.end]}
        | ({} if segment.score is None else {"score": segment.score})
        for segment in segments
    ]
    fields = {"version": "1.3", "external_data": {}, **(extra or {}), "results": {video: rows}}
    return json.dumps(fields, indent=1, allow_nan=False, ensure_ascii=False)


def srt_text(segments: Sequence[Segment], *, without: Collection[str] = ()) -> str:
    """Subtitles in the SubRip format; see `cues`.

    Players read `<` and `{` as markup and have no way to escape them: they become characters that look alike.
    """
    table = str.maketrans({"<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
                           ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
                           "{": "(", "}": ")"})  # fmt: skip
    blocks = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n"
        + "".join(f"{line.translate(table)}\n" for line in cue.lines)
        for number, cue in enumerate(cues(segments, without=without), start=1)
    ]
    return "\n".join(blocks)


def vtt_text(segments: Sequence[Segment], *, without: Collection[str] = ()) -> str:
    """Subtitles in the WebVTT format, which browsers show; see `cues`."""
    table = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        + "".join(f"{line.translate(table)}\n" for line in cue.lines)
        for cue in cues(segments, without=without)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def cues(segments: Sequence[Segment], *, without: Collection[str] = ()) -> list[Cue]:
    """What to show when, one cue after another.

    Players place cues that overlap as they like, or drop some. So time is cut wherever a segment starts or ends, and a
    cue names the classes of all segments there, best scores first, three at most. A class is named once.

    Args:
        segments: in seconds, in any order; those shorter than half a millisecond are left out.
        without: names of classes that are not shown, such as the background's.
    """
    spans = [
        (max(0, round(1000 * segment.start)), round(1000 * segment.end), segment)
        for segment in segments
        if segment.label not in without
    ]
    spans = sorted((span for span in spans if span[0] < span[1]), key=lambda span: span[0])
    borders = sorted({border for start, end, _ in spans for border in (start, end)})
    active: list[tuple[int, int, Segment]] = []
    waiting = iter([*spans, (float("inf"), 0, None)])
    upcoming = next(waiting)
    found: list[Cue] = []
    for start, end in itertools.pairwise(borders):
        active = [span for span in active if span[1] > start]
        while upcoming[0] <= start:
            active.append(upcoming)
            upcoming = next(waiting)
        lines = _lines([segment for _, _, segment in active])
        if found and lines == found[-1].lines and start == found[-1].end:
            found[-1] = found[-1]._replace(end=end)
        elif lines:
            found.append(Cue(start, end, lines))
    return found


def _lines(segments: Sequence[Segment]) -> tuple[str, ...]:
    """Names of the best segments' classes, without what would end a cue or a line."""
    best = sorted(segments, key=lambda segment: -(segment.score or 0.0))
    names = dict.fromkeys(" ".join(segment.label.split()) or "-" for segment in best)
    return tuple(names)[:_MOST_LINES]


def _clock(milliseconds: int, mark: str) -> str:
    """`01:02:03,004`, with `mark` before the milliseconds."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{rest:03d}"
