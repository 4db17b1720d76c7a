"""One HTML file per evaluation: scores beside the paper's and chance, classes, videos worst first, timelines, figures.

The file needs no network and no other file, and follows the reader's light or dark setting.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from actloc_jax.plotting.colours import class_colours, hex_code
from actloc_jax.plotting.svg import timeline_svg
from actloc_jax.plotting.timeline import Row, duration_sec, present_classes


@dataclasses.dataclass(frozen=True)
class VideoReport:
    """What the report shows of one video.

    Attributes:
        name: the video.
        rows: its timeline, ground truth first where there is one.
        scores: metric -> value of this video; may be empty.
        confidence: float [time] in 0..1, or None.
    """

    name: str
    rows: Sequence[Row]
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    confidence: np.ndarray | None = None


def html_report(
    title: str,
    *,
    videos: Sequence[VideoReport],
    class_names: Sequence[str],
    frame_rate: float,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    confusion_counts: np.ndarray | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    figures: Mapping[str, Figure] | None = None,
    facts: Mapping[str, Any] | None = None,
    worst_by: str | None = None,
) -> str:
    """Composes the report.

    Args:
        title: heading.
        videos: all videos of the evaluation; none where they have no label for every frame.
        class_names: by class index.
        frame_rate: label frames per second; 0 if unknown (times are then counted in frames).
        scores: row name -> metric -> value, such as "TST", "DiffAct", "paper", "chance"; the first row is set in bold.
        confusion_counts: [classes, classes] frames, rows the ground truth; gives the table of classes.
        tables: heading -> rows of a table, each column -> number or text.
        figures: heading -> figure (confusion matrix, training curves), embedded as PNG.
        facts: name -> value, shown under the title (checkpoint, config, date).
        worst_by: the video metric to sort by, lowest first; the first metric by default.

    Returns:
        the whole HTML document.

    Raises:
        ValueError: the videos have no metric `worst_by`.
    """
    videos = _worst_first(videos, worst_by)
    sections = [
        ("Scores", _score_table(scores or {})),
        ("Classes", "" if confusion_counts is None else _class_table(confusion_counts, class_names)),
        *((heading, _mapping_table(rows)) for heading, rows in (tables or {}).items()),
        *((heading, _embedded(figure, heading)) for heading, figure in (figures or {}).items()),
        (f"Videos ({len(videos)})", _video_table(videos, frame_rate) if videos else ""),
        ("Timelines", _timelines(videos, class_names, frame_rate)),
    ]
    body = "".join(f"<section><h2>{html.escape(heading)}</h2>{text}</section>" for heading, text in sections if text)
    known = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(v))}</dd>" for name, v in (facts or {}).items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1><dl>{known}</dl>{body}<script>{_SCRIPT}</script></body></html>\n"
    )


def _worst_first(videos: Sequence[VideoReport], metric: str | None) -> list[VideoReport]:
    metrics = list(dict.fromkeys(name for video in videos for name in video.scores))
    if metric is not None and metric not in metrics:
        raise ValueError(f"worst_by={metric!r} is no metric of the videos; known: {', '.join(metrics) or 'none'}.")
    if not metrics:
        return list(videos)

    def key(video: VideoReport) -> float:
        value = video.scores.get(metric or metrics[0], math.nan)
        return math.inf if math.isnan(value) else value

    return sorted(videos, key=key)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Rows of ready HTML cells; a click on a header sorts."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _number(value: float | None, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else "-"


def _score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    if not scores:
        return ""
    metrics = list(dict.fromkeys(name for row in scores.values() for name in row))
    rows = [[html.escape(name), *(_number(row.get(metric)) for metric in metrics)] for name, row in scores.items()]
    return _table(["", *metrics], rows, "scores")


def _mapping_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the columns of any of them; whole numbers and texts as they are."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [
        [_number(value) if isinstance(value, float) else html.escape(str(value)) for value in map(row.get, columns)]
        for row in rows
    ]
    return _table(columns, cells)


def _class_table(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """Per class: share of the frames, recall, precision and intersection over union, in percent."""
    counts = np.asarray(counts, np.float64)
    true, predicted, hits = counts.sum(1), counts.sum(0), np.diag(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = 100 * np.stack([true / counts.sum(), hits / true, hits / predicted, hits / (true + predicted - hits)])
    colours = class_colours(class_names)
    rows = [
        [
            f"{_swatch(colours[index])}{html.escape(class_names[index])}",
            f"{true[index]:.0f}",
            *(_number(value) for value in columns[:, index]),
        ]
        for index in range(len(class_names))
        if true[index] or predicted[index]
    ]
    return _table(["class", "frames", "share %", "recall %", "precision %", "IoU %"], rows)


def _video_table(videos: Sequence[VideoReport], frame_rate: float) -> str:
    metrics = list(dict.fromkeys(name for video in videos for name in video.scores))
    unit, digits = ("seconds", 1) if frame_rate > 0 else ("frames", 0)
    rows = [
        [
            f'<a href="#video-{position}">{html.escape(video.name)}</a>',
            f"{duration_sec(video.rows, frame_rate):.{digits}f}",
            *(_number(video.scores.get(metric)) for metric in metrics),
        ]
        for position, video in enumerate(videos)
    ]
    return _table(["video", unit, *metrics], rows)


def _timelines(videos: Sequence[VideoReport], class_names: Sequence[str], frame_rate: float) -> str:
    if not videos:
        return ""
    colours = class_colours(class_names)
    present = present_classes([row for video in videos for row in video.rows])
    legend = "".join(
        f"<span>{_swatch(colours[index])}{html.escape(class_names[index])}</span>" for index in present
    )  # fmt: skip
    parts = []
    for position, video in enumerate(videos):
        scores = "  ".join(f"{name} {_number(value)}" for name, value in video.scores.items())
        parts.append(
            f'<article id="video-{position}"><h3>{html.escape(video.name)} <small>{html.escape(scores)}</small></h3>'
            f"{timeline_svg(video.rows, class_names, frame_rate=frame_rate, confidence=video.confidence)}</article>"
        )
    return f'<div class="legend">{legend}</div>{"".join(parts)}'


def _swatch(colour: np.ndarray) -> str:
    return f'<i style="background:{hex_code(colour)}"></i>'


def _embedded(figure: Figure, heading: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor="white")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --line: #d8dade; --soft: #f3f4f6; --link: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --paper: #16181c; --line: #3a3e45; --soft: #22252b; --link: #7db4f0; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px;
       margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin: 2em 0 .6em; } h3 { font-size: 1em; margin: 1.2em 0 .3em; }
small { font-weight: normal; opacity: .75; margin-left: .6em; white-space: pre; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1em 1em; } dt { opacity: .7; } dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { cursor: pointer; background: var(--soft); }
.scores tbody tr:first-child { font-weight: bold; }
a { color: var(--link); }
img { max-width: 100%; background: white; border-radius: 4px; }
i { display: inline-block; width: .85em; height: .85em; border-radius: 2px; margin-right: .45em;
    vertical-align: -.08em; }
.legend { position: sticky; top: 0; background: var(--paper); padding: .5em 0; border-bottom: 1px solid var(--line);
          display: flex; flex-wrap: wrap; gap: .1em 1.1em; font-size: .85em; max-height: 30vh; overflow-y: auto; }
article { content-visibility: auto; contain-intrinsic-size: auto 150px; scroll-margin-top: 8em; }
svg.timeline { width: 100%; height: auto; display: block; }
"""

_SCRIPT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const key = row => { const text = row.cells[column].textContent, value = parseFloat(text);
                       return column === 0 || isNaN(value) ? text : value; };
  const sign = head.dataset.sign = head.dataset.sign === "1" ? "-1" : "1";
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  [...body.rows].sort((a, b) => sign * compare(key(a), key(b))).forEach(row => body.append(row));
};
"""
