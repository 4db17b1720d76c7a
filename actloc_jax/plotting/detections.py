"""Figures of detections: segments of a video over time, precision over recall, mAP over tIoU, kinds of errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from actloc_jax.plotting.colours import class_colours
from actloc_jax.plotting.timeline import LEGEND_FONT, WIDTH_INCH, legend_columns, time_axis

_MOST_CLASSES = 6  # lanes of a row; the best detections of further classes are hardly ever to be seen
_VISIBLE = 0.05  # opacity from which a bar can be seen
_MOST_NAMES = 24  # curves that a legend names
_KIND_COLOURS = ("1b9170", "8a5fb0", "c4473d", "e8923a", "e3c93f", "9a9aa2", "3b7cb8", "7a5a41")


@dataclasses.dataclass(frozen=True)
class SegmentRow:
    """One row of a timeline of segments.

    Attributes:
        name: what it shows ("ground truth", a source).
        segments: float [segments, 2] start and end in seconds.
        labels: int [segments] class indices.
        scores: float [segments], or None where every segment counts fully, as true ones do.
    """

    name: str
    segments: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


class Curve(NamedTuple):
    """Precision over recall of one class.

    Attributes:
        recall: float [points] in 0..1, ascending.
        precision: float [points] in 0..1.
        average: average precision in 0..1.
    """

    recall: np.ndarray
    precision: np.ndarray
    average: float


def detection_timeline(
    truth: SegmentRow | None,
    rows: Sequence[SegmentRow],
    class_names: Sequence[str],
    *,
    title: str = "",
    duration: float | None = None,
) -> Figure:
    """Draws a video's segments as bars, a row for the ground truth and one for each source.

    A row has a lane per class, the same in all rows: the true classes first, then by their best score the others that
    can be seen, six in all or as many as are true. A bar is as opaque as its score relative to the best one of its row,
    which is written at the right end.

    Args:
        truth: the true segments, on top; None where there are none to show.
        rows: the detections by source, top to bottom.
        class_names: by class index.
        title: usually the video's name.
        duration: of the video in seconds; the end of the last segment where it is not known.

    Raises:
        ValueError: no row at all, or a label without a class name.
    """
    shown = [*([] if truth is None else [truth]), *rows]
    if not shown:
        raise ValueError("A timeline needs at least one row.")
    for row in shown:
        top = int(np.max(row.labels, initial=-1))
        if top >= len(class_names):
            raise ValueError(f"Row {row.name!r} holds class {top}, but there are {len(class_names)} class names.")
    lanes = _lanes(truth, rows)
    ends = [float(np.max(row.segments[:, 1])) for row in shown if len(row.segments)]
    duration = max([1.0, *ends]) if duration is None else duration
    columns = legend_columns([class_names[label] for label in lanes])
    row_inch = max(0.42, 0.2 * len(lanes) + 0.1)
    legend_inch = 0.19 * math.ceil(len(lanes) / columns) + 0.15
    figure = Figure(figsize=(WIDTH_INCH, row_inch * len(shown) + legend_inch + 0.9), layout="constrained")
    axes = figure.subplots()
    colours = class_colours(class_names)
    for position, row in enumerate(shown):
        axes.axhline(position - 0.5, color="0.85", linewidth=0.6, zorder=0)
        _draw_segments(axes, row, position, lanes, colours)
    axes.set_yticks(range(len(shown)), [row.name for row in shown])
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    time_axis(axes, math.ceil(duration), frame_rate=1.0)
    axes.set_title(title, loc="left", fontsize=11)
    if lanes:
        handles = [Patch(color=colours[label], label=class_names[label]) for label in lanes]
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=LEGEND_FONT, frameon=False,
                      handlelength=1.0, handleheight=0.9, columnspacing=1.2, borderaxespad=0.2)  # fmt: skip
    return figure


def precision_recall(
    curves: Mapping[int, Curve],
    class_names: Sequence[str],
    *,
    threshold: float,
    mean: Curve | None = None,
    title: str = "",
) -> Figure:
    """Draws precision over recall.

    Args:
        curves: by class index; up to 24 are named in the legend, best first, with their average precision in percent.
        class_names: by class index.
        threshold: the tIoU at which a detection is right, written on the axis.
        mean: the mean over classes, drawn thick on top.
        title: above the figure.
    """
    figure = Figure(figsize=(8.6, 5.0), layout="constrained")
    axes = figure.subplots()
    colours = class_colours(class_names)
    named = len(curves) <= _MOST_NAMES
    for label, curve in sorted(curves.items(), key=lambda item: -item[1].average):
        axes.plot(curve.recall, curve.precision, color=colours[label], linewidth=1.1 if named else 0.5,
                  alpha=1.0 if named else 0.4,
                  label=f"{class_names[label]} ({100 * curve.average:.1f})" if named else None)  # fmt: skip
    if mean is not None:
        axes.plot(mean.recall, mean.precision, color="black", linewidth=2.6, label=f"mean ({100 * mean.average:.1f})")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"recall at tIoU {threshold:g}")
    axes.set_ylabel("precision")
    axes.set_title(title, fontsize=11)
    _plain(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5, frameon=False,
                    title="AP in percent", title_fontsize=7.5)  # fmt: skip
    return figure


def tiou_sweep(thresholds: Sequence[float], scores: Mapping[str, Sequence[float]], *, title: str = "") -> Figure:
    """Draws mAP over tIoU thresholds.

    Args:
        thresholds: [thresholds].
        scores: by source, mAP in percent [thresholds]; NaN leaves a gap.
        title: above the figure.

    Raises:
        ValueError: a source has another number of values than there are thresholds.
    """
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.subplots()
    for index, (source, values) in enumerate(scores.items()):
        if len(values) != len(thresholds):
            raise ValueError(f"{source!r} has {len(values)} values for {len(thresholds)} tIoU thresholds.")
        axes.plot(thresholds, values, marker="o", markersize=4, color=f"C{index % 10}", label=source)
    axes.set_xticks(list(thresholds), [f"{threshold:g}" for threshold in np.round(thresholds, 4)])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tIoU threshold")
    axes.set_ylabel("mAP (%)")
    axes.set_title(title, fontsize=11)
    _plain(axes)
    if scores:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return figure


def error_profile(
    kinds: Sequence[str], profile: np.ndarray, gains: Mapping[str, float], *, threshold: float, title: str = ""
) -> Figure:
    """Draws which errors the best detections make, and what each kind of error costs.

    After the false-positive profile and removal impact of DETAD (Alwassel et al., ECCV 2018, figures 5 and 6).

    Args:
        kinds: names of the kinds of detections.
        profile: float [groups, kinds] shares in 0..1: of a class with G instances, group 0 holds the best G detections,
            group 1 the next G. A group that no class fills is all zeros.
        gains: kind of error -> percentage points of mAP that it costs; may name "missed", too.
        threshold: the tIoU of the profile, written above it.
        title: above the figure.

    Raises:
        ValueError: `profile` does not have a column per kind.
    """
    profile = np.asarray(profile, np.float64)
    if profile.ndim != 2 or profile.shape[1] != len(kinds):
        raise ValueError(f"{len(kinds)} kinds need a profile of shape (groups, {len(kinds)}), found {profile.shape}.")
    names = list(dict.fromkeys([*kinds, *gains]))
    colour = {name: f"#{_KIND_COLOURS[index % len(_KIND_COLOURS)]}" for index, name in enumerate(names)}
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1.0])
    figure.suptitle(title, fontsize=11)
    bottom = np.zeros(len(profile))
    for kind, shares in zip(kinds, profile.T, strict=True):
        left.bar(range(len(profile)), shares, bottom=bottom, width=0.8, color=colour[kind], label=kind)
        bottom = bottom + shares
    left.set_xticks(range(len(profile)), [f"{group + 1}G" for group in range(len(profile))])
    left.set_ylim(0, 1)
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_xlabel("best detections of each class, in multiples of its G instances")
    left.set_title(f"kinds of detections at tIoU {threshold:g}", fontsize=10)
    left.spines[["top", "right"]].set_visible(False)
    left.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False, reverse=True)
    bars = right.barh(range(len(gains)), list(gains.values()), color=[colour[name] for name in gains], height=0.7)
    right.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    right.set_yticks(range(len(gains)), list(gains))
    right.invert_yaxis()
    right.margins(x=0.12)
    right.set_xlabel("points of mAP, mean over tIoU")
    right.set_title("cost of errors", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def _lanes(truth: SegmentRow | None, rows: Sequence[SegmentRow]) -> list[int]:
    """Classes that get a lane: the true ones, then those of the best detections."""
    true = [] if truth is None else np.unique(truth.labels).tolist()
    best: dict[int, float] = {}
    for row in rows:
        opacity = _opacity(row)
        for label in np.unique(row.labels).tolist():
            best[label] = max(best.get(label, 0.0), float(np.max(opacity[row.labels == label])))
    visible = [label for label, opacity in best.items() if opacity >= _VISIBLE]
    others = sorted((label for label in visible if label not in true), key=lambda label: -best[label])
    return [*true, *others[: max(0, _MOST_CLASSES - len(true))]]


def _opacity(row: SegmentRow) -> np.ndarray:
    """[segments] in 0..1: the scores relative to the row's best one."""
    if row.scores is None:
        return np.ones(len(row.labels))
    best = float(np.max(row.scores, initial=0.0))
    return np.clip(np.asarray(row.scores, np.float64) / best, 0.0, 1.0) if best > 0 else np.zeros(len(row.scores))


def _draw_segments(axes: Axes, row: SegmentRow, position: int, lanes: Sequence[int], colours: np.ndarray) -> None:
    opacity = _opacity(row)
    height = 0.84 / max(len(lanes), 1)
    for lane, label in enumerate(lanes):
        chosen = np.flatnonzero(row.labels == label)
        if not len(chosen):
            continue
        chosen = chosen[np.argsort(opacity[chosen], kind="stable")]  # the best ones on top
        starts, ends = np.asarray(row.segments)[chosen].T
        faces = np.column_stack([np.tile(colours[label], (len(chosen), 1)), opacity[chosen]])
        bars = list(zip(starts, ends - starts, strict=True))
        axes.broken_barh(bars, (position - 0.42 + lane * height, 0.92 * height), facecolors=faces, label=row.name)
    if row.scores is not None:
        note = f"{len(row.labels)} segments\nbest {np.max(row.scores):.2f}" if len(row.labels) else "none"
        axes.annotate(note, (1.0, position), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip


def _plain(axes: Axes) -> None:
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
