"""Which classes are taken for which others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
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
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)

    cell_inch = 0.48 if size <= _EVERY_CELL_UP_TO else 0.3
    name_inch = 0.075 * max(len(name) for name in class_names)
    side = cell_inch * size + name_inch
    figure = Figure(figsize=(max(4.5, side + 1.6), max(3.8, side + 0.8)), layout="compressed")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for row in np.flatnonzero(totals[:, 0] == 0):
        axes.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="0.75", hatch="////", linewidth=0)
    _write_numbers(axes, shares)
    font = 9 if size <= _EVERY_CELL_UP_TO else 7.5
    axes.set_xticks(range(size), class_names, rotation=90 if size > 6 else 0, fontsize=font)
    axes.set_yticks(range(size), class_names, fontsize=font)
    axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("ground truth")
    axes.set_title(title, fontsize=11)
    figure.colorbar(
        image, ax=axes, fraction=0.04, pad=0.02, shrink=0.6, format=PercentFormatter(1.0), label="of the true class"
    )
    return figure


def _write_numbers(axes, shares: np.ndarray) -> None:
    """Percent in the cells: all that round to 1 or more in a small matrix, from 5 on in a large one."""
    small = len(shares) <= _EVERY_CELL_UP_TO
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
