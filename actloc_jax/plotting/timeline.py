"""A video's segmentation as rows of coloured bars over time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from actloc_jax.plotting.colours import class_colours, ink_on, published_colours

PUBLISHED_DPI = 150
_TICK_STEPS_SEC = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000)
WIDTH_INCH = 14.0
_BAR_FONT = 7.0
LEGEND_FONT = 8.5


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a timeline.

    Attributes:
        name: what it shows ("ground truth", "TST").
        labels: int [time] class indices; negative frames (ignored ones) stay empty.
        note: short text at the right end, such as the video's metrics.
    """

    name: str
    labels: np.ndarray
    note: str = ""


def label_runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximal runs of equal labels.

    Args:
        labels: int [time].

    Returns:
        borders int64 [runs + 1] (run `i` covers frames `borders[i]` to `borders[i + 1]`, exclusive) and the runs'
        labels [runs]. No frame gives no run.
    """
    labels = np.asarray(labels)
    if not len(labels):
        return np.zeros(1, np.int64), labels
    borders = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1, [len(labels)]])
    return borders, labels[borders[:-1]]


def timeline(
    rows: Sequence[Row],
    class_names: Sequence[str],
    *,
    frame_rate: float,
    title: str = "",
    confidence: Mapping[str, np.ndarray] | None = None,
    style: Literal["default", "published"] = "default",
) -> Figure:
    """Draws the rows under each other, top to bottom.

    Args:
        rows: at least one; the ground truth usually first.
        class_names: by class index.
        frame_rate: label frames per second; 0 if unknown (the axis then counts frames).
        title: usually the video's name.
        confidence: curve name -> float [time] in 0..1, drawn below the rows at the same frame rate.
        style: "published" draws TST's qualitative figure (`scripts/visualize.py`: its colour table, time in frames,
            no legend; save it with `PUBLISHED_DPI`). Notes and confidence are left out there.

    Raises:
        ValueError: no rows, or a label without a class name.
    """
    check_rows(rows, class_names)
    if style == "published":
        return _published(rows, title)
    if style != "default":
        raise ValueError(f"Unknown timeline style {style!r}; known: default, published.")
    colours = class_colours(class_names)
    present = present_classes(rows)
    columns = legend_columns([class_names[index] for index in present])
    legend_height = 0.19 * math.ceil(len(present) / max(columns, 1)) + 0.15
    curve_height = 0.9 if confidence else 0.0
    figure = Figure(figsize=(WIDTH_INCH, 0.42 * len(rows) + curve_height + legend_height + 0.9), layout="constrained")
    heights = [0.42 * len(rows), curve_height] if confidence else [1.0]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    longest = max(1, *(len(row.labels) for row in rows))

    _draw_rows(axes[0], rows, class_names, colours, known_rate(frame_rate), duration_sec(rows, frame_rate))
    if confidence:
        _draw_confidence(axes[1], confidence, known_rate(frame_rate))
        axes[0].tick_params(bottom=False)
        axes[0].spines["bottom"].set_visible(False)
    time_axis(axes[-1], longest, frame_rate)
    if title:
        axes[0].set_title(title, loc="left", fontsize=11)
    handles = [Patch(color=colours[index], label=class_names[index]) for index in present]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=LEGEND_FONT, frameon=False,
                      handlelength=1.0, handleheight=0.9, columnspacing=1.2, borderaxespad=0.2)  # fmt: skip
    return figure


def published_file_name(dataset: str, split: int, video: str) -> str:
    """File name of a published-style figure."""
    return f"{dataset}_s{split}_{video}.png"


def check_rows(rows: Sequence[Row], class_names: Sequence[str]) -> None:
    """Raises ValueError unless there are rows and every label has a class name."""
    if not rows:
        raise ValueError("A timeline needs at least one row.")
    for row in rows:
        top = int(np.max(row.labels, initial=-1))
        if top >= len(class_names):
            raise ValueError(f"Row {row.name!r} holds class {top}, but there are {len(class_names)} class names.")


def present_classes(rows: Sequence[Row]) -> list[int]:
    """Sorted class indices that occur in any row."""
    labels = np.unique(np.concatenate([np.asarray(row.labels) for row in rows]))
    return [int(label) for label in labels if label >= 0]


def duration_sec(rows: Sequence[Row], frame_rate: float) -> float:
    """Seconds of the longest row (at least one frame, so that an axis has a width); frames if the rate is unknown."""
    return max(1, *(len(row.labels) for row in rows)) / known_rate(frame_rate)


def known_rate(frame_rate: float) -> float:
    """The frame rate, or 1 where it is unknown (0): an axis then counts frames."""
    return frame_rate if frame_rate > 0 else 1.0


def time_ticks(duration: float, most: int = 14) -> list[float]:
    """At most about `most` evenly spaced round times from 0 to `duration`, in seconds."""
    step = next((step for step in _TICK_STEPS_SEC if duration / step <= most), _TICK_STEPS_SEC[-1])
    return [step * index for index in range(math.floor(duration / step + 1e-9) + 1)]


def clock(seconds: float, duration: float) -> str:
    """A time as text: seconds in videos shorter than two minutes, `m:ss` or `h:mm:ss` in longer ones."""
    if duration < 120:
        return f"{seconds:.1f}" if duration < 10 else f"{seconds:.0f}"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if duration >= 3600 else f"{minutes}:{second:02d}"


def clock_unit(duration: float) -> str:
    """The unit that goes with `clock`."""
    return "s" if duration < 120 else "h:min:s" if duration >= 3600 else "min:s"


def time_axis(axes: Axes, frames: int, frame_rate: float) -> None:
    """Makes the horizontal axis one of seconds with round ticks, or of frames where the rate is unknown (0)."""
    duration = frames / known_rate(frame_rate)
    axes.set_xlim(0, duration)
    if frame_rate > 0:
        axes.xaxis.set_major_locator(ticker.FixedLocator(time_ticks(duration)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda seconds, _: clock(seconds, duration)))
    axes.set_xlabel(f"time ({clock_unit(duration)})" if frame_rate > 0 else "frame", fontsize=9)


def legend_columns(names: Sequence[str]) -> int:
    """As many columns as fit beside each other, so that the legend stays inside the figure."""
    if not names:
        return 1
    longest = max(len(name) for name in names)
    column_inch = (0.6 * LEGEND_FONT * longest + 3.4 * LEGEND_FONT) / 72
    return max(1, min(len(names), int((WIDTH_INCH - 0.5) / column_inch)))


def _draw_rows(
    axes: Axes,
    rows: Sequence[Row],
    class_names: Sequence[str],
    colours: np.ndarray,
    frame_rate: float,
    duration: float,
) -> None:
    points_per_sec = 72 * (WIDTH_INCH - 3.0) / duration
    for position, row in enumerate(rows):
        borders, labels = label_runs(row.labels)
        shown = labels >= 0
        starts, widths = borders[:-1][shown] / frame_rate, np.diff(borders)[shown] / frame_rate
        labels = labels[shown]
        axes.broken_barh(list(zip(starts, widths, strict=True)), (position - 0.4, 0.8), facecolors=colours[labels],
                         label=row.name)  # fmt: skip
        for start, width, label in zip(starts, widths, labels, strict=True):
            name = class_names[label]
            if width * points_per_sec > 0.62 * _BAR_FONT * len(name):  # the name fits into its bar
                axes.text(start + width / 2, position, name, ha="center", va="center_baseline", fontsize=_BAR_FONT,
                          color=ink_on(colours[label]), clip_on=True)  # fmt: skip
        if row.note:
            axes.annotate(row.note, (1.0, position), xycoords=("axes fraction", "data"), xytext=(6, 0),
                          textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_confidence(axes: Axes, confidence: Mapping[str, np.ndarray], frame_rate: float) -> None:
    for index, (name, values) in enumerate(confidence.items()):
        time = (np.arange(len(values)) + 0.5) / frame_rate
        (line,) = axes.plot(time, values, linewidth=1.0, label=name, color=f"C{index}")
        if len(confidence) == 1:
            axes.fill_between(time, values, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("confidence", fontsize=8.5)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(confidence) > 1:
        axes.legend(loc="lower right", fontsize=7.5, ncols=len(confidence))


def _published(rows: Sequence[Row], title: str) -> Figure:
    table = published_colours(256) / 255
    figure = Figure(figsize=(15, 2.5), layout="tight")
    figure.suptitle(title, fontsize=12)
    longest = max(1, *(len(row.labels) for row in rows))
    for axes, row in zip(figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0], rows, strict=True):
        borders, labels = label_runs(row.labels)
        for start, end, label in zip(borders[:-1], borders[1:], labels, strict=True):
            if label >= 0:
                axes.plot([start, end], [0, 0], linewidth=30, color=table[label % 256], solid_capstyle="butt")
        axes.set_ylabel(row.name, fontsize=9, rotation=0, labelpad=100, va="center")
        axes.set_yticks([])
        axes.set_xlim(0, longest)
    return figure
