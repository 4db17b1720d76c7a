"""Training curves from the rows of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

_COLUMNS_OF_A_ROW = ("time", "stage", "step", "epoch")
_SMOOTH_FROM = 150  # points; longer curves are drawn faintly, with their running mean on top
_LINE_STYLES = ("-", "--", ":", "-.")


def _is_rate(name: str) -> bool:
    return name.startswith("learning_rate")


def _is_gradient(name: str) -> bool:
    return name.endswith("grad_norm")


def _is_count(name: str) -> bool:
    return name.startswith("train/count/")


def _is_loss(name: str) -> bool:
    return name.startswith("train/") and not (_is_gradient(name) or _is_count(name))


def _is_evaluation(name: str) -> bool:
    return not (_is_rate(name) or name.startswith("train/"))


_PANELS: dict[str, Callable[[str], bool]] = {
    "training loss": _is_loss,
    "evaluation": _is_evaluation,
    "count": _is_count,
    "learning rate": _is_rate,
    "gradient norm": _is_gradient,
}


def training_curves(rows: Rows, *, title: str = "") -> Figure:
    """Draws losses, evaluations, counts, learning rates and the gradient's norm over steps, a column per stage.

    Args:
        rows: as `training.logging.read_metrics` gives them. `train/count/...` are counts, other `train/...`
            losses, `learning_rate/...` rates, `.../grad_norm` norms; everything else is an evaluation. A value of None
            leaves a gap.
        title: above the figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS_OF_A_ROW))
    if not names:
        raise ValueError("There are no logged scalars to draw: no row of metrics.jsonl holds any.")
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    panels = [panel for panel, belongs in _PANELS.items() if any(belongs(name) for name in names)]
    figure = Figure(figsize=(max(7.5, 6.2 * len(stages)), 0.5 + 2.5 * len(panels)), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(panels), len(stages), squeeze=False, sharex="col")
    for column, stage in enumerate(stages):
        stage_rows = [row for row in rows if row["stage"] == stage]
        for axes, panel in zip(grid[:, column], panels, strict=True):
            _draw_panel(axes, panel, stage_rows, [name for name in names if _PANELS[panel](name)])
        grid[0, column].set_title(stage, fontsize=10)
        grid[-1, column].set_xlabel("step")
        _epoch_axis(grid[0, column], stage_rows)
    return figure


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [points] and values [points] of one scalar, in the order logged; None becomes NaN."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    values = np.array([np.nan if value is None else value for _, value in points], np.float64)
    return np.array([step for step, _ in points], np.float64), values


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the `window` values around each one (fewer at the ends), NaN left out; [points]."""
    kernel = np.ones(window)
    known = np.isfinite(values)
    sums = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    counts = np.convolve(known.astype(np.float64), kernel, mode="same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _draw_panel(axes: Axes, panel: str, rows: Rows, names: Sequence[str]) -> None:
    """One panel of one stage; evaluations share a colour per metric and a line style per source."""
    shown = [(name, *series(rows, name)) for name in names]
    shown = [(name, steps, values) for name, steps, values in shown if len(steps)]
    metrics = _order(_metric(name) for name, *_ in shown)
    sources = _order(_source(name) for name, *_ in shown)
    for name, steps, values in shown:
        style = {
            "color": f"C{metrics[_metric(name)] % 10}",
            "linestyle": _LINE_STYLES[sources[_source(name)] % len(_LINE_STYLES)],
            "label": name.removeprefix("train/")
            .removeprefix("count/")
            .removeprefix("learning_rate/")
            .removeprefix("test/"),
        }
        if panel in ("training loss", "gradient norm") and len(steps) > _SMOOTH_FROM:
            axes.plot(steps, values, color=style["color"], alpha=0.2, linewidth=0.7)
            axes.plot(steps, running_mean(values, len(steps) // 40), linewidth=1.4, **style)
        else:
            axes.plot(steps, values, marker="o" if len(steps) <= 30 else None, markersize=3, linewidth=1.2, **style)
    if panel != "evaluation" and _spans_decades([values for *_, values in shown]):
        axes.set_yscale("log")
    axes.set_ylabel(panel)
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5, frameon=False)


def _metric(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _source(name: str) -> str:
    return name.rpartition("/")[0]


def _order(names: Iterable[str]) -> dict[str, int]:
    return {name: position for position, name in enumerate(dict.fromkeys(names))}


def _spans_decades(curves: Sequence[np.ndarray]) -> bool:
    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves]) if curves else np.zeros(0)
    return bool(len(values) and values.min() > 0 and values.max() / values.min() > 20)


def _epoch_axis(axes: Axes, rows: Rows) -> None:
    """Epochs along the top, where the rows tell how long one is."""
    lengths = [row["step"] / row["epoch"] for row in rows if row.get("epoch") and row["step"]]
    if lengths:
        length = max(lengths)  # `epoch` counts the running one too, so only a row at its end gives the exact length
        top = axes.secondary_xaxis("top", functions=(lambda step: step / length, lambda epoch: epoch * length))
        top.set_xlabel("epoch", fontsize=8)
        top.tick_params(labelsize=8)


def sweep_curves(field: str, scores: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """Draws metrics over the values of a config field.

    Args:
        field: name of the field, for the axis.
        scores: metrics by value as written, in the order to draw them.
        title: above the figure.
    """
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for row in scores.values() for name in row))
    for index, name in enumerate(names):
        axes.plot(
            range(len(scores)),
            [row.get(name, np.nan) for row in scores.values()],
            marker="o",
            color=f"C{index % 10}",
            linestyle=_LINE_STYLES[index // 10 % len(_LINE_STYLES)],
            label=name,
        )
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set_xlabel(field)
    axes.set_title(title, fontsize=11)
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return figure
