"""Which classes are taken for which others, and which clusters hold which classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

_EVERY_CELL_UP_TO = 20  # classes; beyond, only cells that stand out carry their number


def confusion(counts: np.ndarray, class_names: Sequence[str], *, title: str = "") -> Figure:
    """Draws a confusion matrix with each row divided by its sum; cells are percent of the true class's frames.

    Args:
        counts: [classes, classes] frames; rows are the ground truth, columns the prediction.
        class_names: by class index. Rows of classes without ground truth are hatched.
        title: above the matrix.

    Raises:
        ValueError: the matrix and the names do not fit each other.
    """
    counts = np.asarray(counts, np.float64)
    size = len(class_names)
    if counts.shape != (size, size):
        raise ValueError(f"{size} class names need counts of shape {(size, size)}, found {counts.shape}.")
    figure, _ = _share_matrix(counts, class_names, class_names, title)
    return figure


def contingency(
    counts: np.ndarray,
    class_names: Sequence[str],
    cluster_names: Sequence[str],
    *,
    matching: Mapping[int, int],
    title: str = "",
) -> Figure:
    """Draws how the frames of each true class spread over predicted clusters; cells are percent of the class's frames.

    Args:
        counts: [classes, clusters] frames.
        class_names: by row. Rows without ground truth are hatched.
        cluster_names: by column.
        matching: column -> row of the pairs that the evaluation matched. They are framed, and their columns stand
            first in the order of their rows, so that a good clustering shows as a diagonal.
        title: above the matrix.

    Raises:
        ValueError: the matrix and the names do not fit each other.
    """
    counts = np.asarray(counts, np.float64)
    if counts.shape != (len(class_names), len(cluster_names)):
        raise ValueError(
            f"{len(class_names)} class names and {len(cluster_names)} cluster names need counts of shape "
            f"{(len(class_names), len(cluster_names))}, found {counts.shape}."
        )
    order = sorted(range(len(cluster_names)), key=lambda column: (matching.get(column, len(class_names)), column))
    figure, axes = _share_matrix(counts[:, order], class_names, [cluster_names[column] for column in order], title)
    for position, column in enumerate(order):
        if column in matching:
            corner = (position - 0.5, matching[column] - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor="#c4473d", linewidth=1.6, zorder=3))
    axes.set_xlabel("predicted (framed: matched to the class)")
    return figure


def _share_matrix(
    counts: np.ndarray, row_names: Sequence[str], column_names: Sequence[str], title: str
) -> tuple[Figure, Axes]:
    """The matrix with each row divided by its sum."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    height, width = shares.shape
    size = max(height, width)
    cell_inch = 0.48 if size <= _EVERY_CELL_UP_TO else 0.3
    name_inch = 0.075 * max(len(name) for name in (*row_names, *column_names))
    figure = Figure(
        figsize=(max(4.5, cell_inch * width + name_inch + 1.6), max(3.8, cell_inch * height + name_inch + 0.8)),
        layout="compressed",
    )
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for row in np.flatnonzero(totals[:, 0] == 0):
        axes.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="0.75", hatch="////", linewidth=0)
    _write_numbers(axes, shares)
    font = 9 if size <= _EVERY_CELL_UP_TO else 7.5
    upright = width > 6 or column_names is not row_names
    axes.set_xticks(range(width), column_names, rotation=90 if upright else 0, fontsize=font)
    axes.set_yticks(range(height), row_names, fontsize=font)
    axes.set_xticks(np.arange(width - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(height - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("ground truth")
    axes.set_title(title, fontsize=11)
    figure.colorbar(
        image, ax=axes, fraction=0.04, pad=0.02, shrink=0.6, format=PercentFormatter(1.0), label="of the true class"
    )
    return figure, axes


def _write_numbers(axes, shares: np.ndarray) -> None:
    """Percent in the cells: all that round to 1 or more in a small matrix, from 5 on in a large one."""
    small = max(shares.shape) <= _EVERY_CELL_UP_TO
    least = 0.005 if small else 0.05
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= least), strict=True):
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{100 * share:.0f}",
            ha="center",
            va="center",
            fontsize=8.5 if small else 6.5,
            color="white" if share > 0.55 else "black",
        )
