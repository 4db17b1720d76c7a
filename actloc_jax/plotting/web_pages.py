"""Pages for a browser: the timeline of one video under its player, and an index of many videos.

A page is one file without any reference to the network. Markup, style and script lie in `web/`; the data go into a
script element as JSON. What the page does is described in docs/report.md.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from actloc_jax.plotting.colours import class_colours, hex_code, ink_on
from actloc_jax.plotting.detections import SegmentRow

MOST_SEGMENTS = 12_000  # of a page, all rows together: about 400 kB
_BINS = 120  # of a strip in the index


class VideoRow(NamedTuple):
    """A row of an index.

    Attributes:
        name: the video.
        link: of its page, relative; None where it has none.
        duration: in seconds; None where it is not known.
        strips: rows to draw, without thresholds.
        scores: metric -> value.
    """

    name: str
    link: str | None
    duration: float | None
    strips: Sequence[SegmentRow]
    scores: Mapping[str, float]


def video_page(
    title: str,
    rows: Sequence[SegmentRow],
    class_names: Sequence[str],
    *,
    duration: float,
    minima: Mapping[str, float] | None = None,
    exclusive: Collection[str] = (),
    unit: str = "seconds",
    background: Collection[str] = (),
    video: str | None = None,
    stills: Sequence[tuple[float, bytes]] = (),
    scores: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    home: str | None = None,
) -> str:
    """The page of one video.

    Args:
        title: usually the video's name.
        rows: top to bottom, with different names. Of more than 12,000 segments in all, each row keeps its share: the
            best ones of rows in `minima`, the longest ones of others; its name then says so.
        class_names: by class index.
        duration: of the video, in `unit`.
        minima: row -> score from which its segments are shown at first; these rows get a slider.
        exclusive: names of rows whose segments never overlap.
        unit: "seconds", or "frames" where the frame rate is not known.
        background: names of classes that are drawn in grey.
        video: address of the video, relative to the page.
        stills: (time in seconds, JPEG), shown where there is no video or the browser cannot play it.
        scores: metric -> value of this video.
        facts: name -> value, under the title.
        files: name -> address of files beside the page.
        home: address of the index.

    Returns:
        the whole HTML document.

    Raises:
        ValueError: no rows, or two of one name.
    """
    if not rows:
        raise ValueError("A page needs at least one row.")
    if len({row.name for row in rows}) < len(rows):
        raise ValueError(f"Rows need different names, found {', '.join(row.name for row in rows)}.")
    minima = minima or {}
    rows = [_limited(row, MOST_SEGMENTS // len(rows), by_score=row.name in minima) for row in rows]
    present, index = _present(rows)
    content = {
        "title": title,
        "unit": unit,
        "duration": _rounded(max(duration, 1e-3)),
        "video": video,
        "stills": [[_rounded(time), _embedded(jpeg)] for time, jpeg in stills],
        "classes": _classes(present, class_names, background),
        "rows": [
            {
                "name": row.name + cut,
                "minimum": _rounded(minima[row.name]) if row.name in minima else None,
                "exclusive": row.name in exclusive,
                "segments": _listed(row, index),
            }
            for row, cut in rows
        ],
        "scores": {name: _finite(value) for name, value in (scores or {}).items()},
        "facts": {name: str(value) for name, value in (facts or {}).items()},
        "files": dict(files or {}),
        "home": home,
    }
    return _filled(
        "timeline.html",
        title=html.escape(title),
        style=_part("page.css") + _part("timeline.css"),
        data=json_for_script(content),
        script="".join(map(_part, ("tables.js", "player.js", "timeline.js"))),
    )


def index_page(
    title: str,
    videos: Sequence[VideoRow],
    class_names: Sequence[str],
    *,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    background: Collection[str] = (),
    facts: Mapping[str, Any] | None = None,
    links: Mapping[str, str] | None = None,
    count: str = "",
) -> str:
    """The page of many videos: a table that sorts, with a small timeline and the metrics of each.

    Args:
        title: heading.
        videos: in the order to show.
        class_names: by class index.
        scores: source -> metric -> value over all videos, the first source in bold.
        background: names of classes that are drawn in grey.
        facts: name -> value, under the title.
        links: name -> address, under the title.
        count: a sentence above the table, such as how many videos there are.
    """
    rows = [(row, "") for video in videos for row in video.strips]
    present, index = _present(rows)
    metrics = list(dict.fromkeys(name for video in videos for name in video.scores))
    heads = [("video", "text"), ("timeline", None), ("length", ""), *((name, "") for name in metrics)]
    body = "".join(
        "<tr>"
        + _video_cell(video)
        + f'<td class="strips" data-video="{number}"></td>'
        + _length_cell(video.duration)
        + "".join(f"<td>{_number(video.scores.get(name))}</td>" for name in metrics)
        + "</tr>"
        for number, video in enumerate(videos)
    )
    content = {
        "bins": _BINS,
        "classes": _classes(present, class_names, background),
        "strips": [[[row.name, _strip(row, video, index)] for row in video.strips] for video in videos],
    }
    known = [f"{html.escape(name)}: {html.escape(str(value))}" for name, value in (facts or {}).items()]
    known += [f'<a href="{html.escape(target)}">{html.escape(name)}</a>' for name, target in (links or {}).items()]
    return _filled(
        "index.html",
        title=html.escape(title),
        style=_part("page.css") + _part("index.css"),
        facts=" \N{MIDDLE DOT} ".join(known),
        scores=_score_section(scores or {}),
        count=html.escape(count),
        videos=_table(heads, body),
        data=json_for_script(content),
        script=_part("tables.js") + _part("index.js"),
    )


def json_for_script(content: Any) -> str:
    """JSON that can stand inside a `<script>` element: no text of it can end the element or begin a comment.

    Raises:
        ValueError: NaN or infinite numbers, which JSON does not have.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")  # file names may hold bytes that are no text


def _part(name: str) -> str:
    return importlib.resources.files("actloc_jax.plotting").joinpath("web", name).read_text("utf-8")


def _filled(name: str, **parts: str) -> str:
    """The template with its `@@marks@@` replaced in one pass, so that no part is searched for marks."""
    text = re.sub(r"@@(\w+)@@", lambda mark: parts[mark[1]], _part(name))
    return text.encode("utf-8", "replace").decode("utf-8")


def _limited(row: SegmentRow, most: int, *, by_score: bool) -> tuple[SegmentRow, str]:
    """The row and a note: its best or else its longest segments, by their start."""
    segments = np.asarray(row.segments, np.float64).reshape(-1, 2)
    labels = np.asarray(row.labels)
    scores = None if row.scores is None else np.asarray(row.scores, np.float64)
    keep, note = np.arange(len(labels)), ""
    if len(labels) > most:
        rank = scores if by_score else segments[:, 1] - segments[:, 0]
        keep = np.argsort(-rank, kind="stable")[:most]
        note = f" ({'best' if by_score else 'longest'} {most} of {len(labels)})"
    keep = keep[np.argsort(segments[keep, 0], kind="stable")]
    return SegmentRow(row.name, segments[keep], labels[keep], None if scores is None else scores[keep]), note


def _present(rows: Sequence[tuple[SegmentRow, str]]) -> tuple[list[int], dict[int, int]]:
    """Classes that occur, and the place of each among them."""
    present = sorted({int(label) for row, _ in rows for label in np.unique(row.labels)})
    return present, {label: place for place, label in enumerate(present)}


def _classes(present: Sequence[int], class_names: Sequence[str], background: Collection[str]) -> list[dict[str, Any]]:
    colours = class_colours(class_names)
    return [
        {
            "name": class_names[label],
            "colour": hex_code(colours[label]),
            "ink": ink_on(colours[label]),
            "background": class_names[label] in background,
        }
        for label in present
    ]


def _listed(row: SegmentRow, index: Mapping[int, int]) -> list[list[float | int | None]]:
    scores = [None] * len(row.labels) if row.scores is None else [_finite(score) for score in row.scores.tolist()]
    return [
        [_rounded(start), _rounded(end), index[int(label)], score]
        for (start, end), label, score in zip(row.segments.tolist(), row.labels, scores, strict=True)
    ]


def _strip(row: SegmentRow, video: VideoRow, index: Mapping[int, int]) -> list[list[int]]:
    """Runs of bins [first bin, bins, class]: of all segments over the middle of a bin the best one, or the last."""
    ends = [float(np.max(other.segments[:, 1])) for other in video.strips if len(other.labels)]
    end = max(1e-9, video.duration or 0.0, *ends)
    bins = np.full(_BINS, -1)
    order = range(len(row.labels)) if row.scores is None else np.argsort(row.scores, kind="stable")
    for number in order:
        first, last = np.ceil(np.asarray(row.segments[number]) / end * _BINS - 0.5).astype(int)
        bins[max(first, 0) : max(last, 0)] = index[int(row.labels[number])]
    borders = [0, *(np.flatnonzero(np.diff(bins)) + 1).tolist(), _BINS]
    return [[a, b - a, int(bins[a])] for a, b in itertools.pairwise(borders) if bins[a] >= 0]


def _video_cell(video: VideoRow) -> str:
    name = html.escape(video.name)
    return f'<td class="text">{name if video.link is None else f"<a href={_quoted(video.link)}>{name}</a>"}</td>'


def _length_cell(seconds: float | None) -> str:
    """The length as `m:ss`, sorted by seconds."""
    if seconds is None:
        return "<td>-</td>"
    return f'<td data-key="{_rounded(seconds)}">{round(seconds) // 60}:{round(seconds) % 60:02d}</td>'


def _quoted(address: str) -> str:
    return f'"{html.escape(address)}"'


def _score_section(scores: Mapping[str, Mapping[str, float]]) -> str:
    if not scores:
        return ""
    metrics = list(dict.fromkeys(name for row in scores.values() for name in row))
    heads = [("", "text"), *((name, "") for name in metrics)]
    body = "".join(
        f'<tr class="{"" if position else "own"}"><td class="text">{html.escape(name)}</td>'
        + "".join(f"<td>{_number(row.get(metric))}</td>" for metric in metrics)
        + "</tr>"
        for position, (name, row) in enumerate(scores.items())
    )
    return f'<section><h2>Scores</h2><div class="scroll">{_table(heads, body)}</div></section>'


def _table(heads: Sequence[tuple[str, str | None]], body: str) -> str:
    """A table whose heads sort, but for those of kind None."""
    cells = "".join(
        f'<th scope="col">{html.escape(name)}</th>'
        if kind is None or not name
        else f'<th scope="col" class="{kind}"><button type="button">{html.escape(name)}</button></th>'
        for name, kind in heads
    )
    return f'<table class="sorts"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


def _embedded(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _rounded(value: float) -> float:
    """Three digits behind the point: milliseconds."""
    return round(float(value), 3)


def _finite(value: float) -> float | None:
    """Four significant digits; None for what JSON cannot hold."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return f"{value:.1f}" if value is not None and math.isfinite(value) else "-"
