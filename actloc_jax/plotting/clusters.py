"""Figures of unsupervised segmentation: bars after the matching, soft assignments, frame and cluster embeddings.

Predictions are cluster ids here. A matching (cluster -> class, from the evaluation) renames them for the eye.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from actloc_jax.plotting.colours import ink_on
from actloc_jax.plotting.timeline import LEGEND_FONT, WIDTH_INCH, Row, known_rate, label_runs, legend_columns, time_axis

_PUBLISHED_COUNT = 40  # colours of tab20 and tab20b together
_BAR_FONT = 7.0
_HATCHES = ("////", "\\\\\\\\", "xxxx", "....", "||||", "----")
_BOUNDARY = {"color": "#c4473d", "linewidth": 0.7}
_MAP_COLUMNS = 1200  # of a heat-map; more frames than that are averaged
_VALUES_UP_TO = 12  # clusters; beyond, the cells of a similarity matrix are too small for their value


def published_colour(position: int, count: int) -> tuple[float, float, float, float]:
    """Colour of the label at `position` among `count` sorted true labels in ASOT's bars (`src/utils.py`).

    Up to 20 labels are spread over matplotlib's tab20; of more, the first 20 take tab20 and the others tab20b. The
    published code ends at 40 labels; here the colours repeat beyond.

    Args:
        position: 0 .. count - 1, or -1 for frames without a class (black).
        count: number of true labels.

    Returns:
        red, green, blue, alpha in 0..1.
    """
    if position < 0:
        return (0.0, 0.0, 0.0, 1.0)
    if count <= 20:
        return matplotlib.colormaps["tab20"](position / count)
    position %= _PUBLISHED_COUNT
    name = "tab20" if position < 20 else "tab20b"
    return matplotlib.colormaps[name](round((position % 20) / 20, 2))


def rename_clusters(labels: np.ndarray, matching: Mapping[int, int], num_classes: int) -> np.ndarray:
    """Cluster ids -> matched classes; the unmatched cluster `k` becomes `num_classes + k`.

    Args:
        labels: int [time] cluster ids; negative ones (ignored frames) stay.
        matching: cluster -> class.
        num_classes: number of classes.

    Returns:
        int32 [time].
    """
    labels = np.asarray(labels)
    table = num_classes + np.arange(max(0, int(labels.max(initial=-1)) + 1), dtype=np.int32)
    for cluster, matched in matching.items():
        if cluster < len(table):
            table[cluster] = matched
    renamed = np.full(labels.shape, -1, np.int32)
    renamed[labels >= 0] = table[labels[labels >= 0]]
    return renamed


def segmentation_bars(
    truth: np.ndarray,
    rows: Sequence[Row],
    matching: Mapping[int, int],
    class_names: Sequence[str],
    *,
    title: str = "",
    frame_rate: float,
    classes: Sequence[int] = (),
) -> Figure:
    """Draws the ground truth and, below it, predictions whose clusters take the colour of their matched class.

    Args:
        truth: int [time] class indices; frames of -1 are left out of the evaluation and black.
        rows: predictions; labels int [time] are cluster ids, and mean the same cluster in all rows.
        matching: cluster -> class. The other clusters are grey and hatched, "cluster 5" in the legend.
        class_names: by class index.
        title: usually the video's name.
        frame_rate: label frames per second; 0 if unknown (the axis then counts frames).
        classes: classes that other videos hold too: those share out the colours with the ones seen here, so that a
            class keeps its colour from one video to the next.

    Raises:
        ValueError: there is no prediction.
    """
    if not rows:
        raise ValueError("Segmentation bars need at least one row of predictions.")
    count = len(class_names)
    rows = [Row(row.name, rename_clusters(row.labels, matching, count), row.note) for row in rows]
    rows.insert(0, Row("ground truth", np.asarray(truth)))
    shown = sorted({int(label) for row in rows for label in np.unique(row.labels)} - {-1})
    coloured = sorted({*map(int, classes), *(label for label in shown if label < count)})
    unmatched = [label for label in shown if label >= count]
    styles = {label: _class_style(coloured.index(label), len(coloured), class_names[label]) for label in shown
              if label < count}  # fmt: skip
    for position, label in enumerate(unmatched):
        styles[label] = _unmatched_style(position, len(unmatched), f"cluster {label - count}")
    if (rows[0].labels < 0).any():
        styles[-1] = {"facecolor": published_colour(-1, 1), "label": "not evaluated"}

    columns = legend_columns([style["label"] for style in styles.values()])
    legend_height = 0.19 * math.ceil(len(styles) / columns) + 0.15
    figure = Figure(figsize=(WIDTH_INCH, 0.5 * len(rows) + legend_height + 0.9), layout="constrained")
    axes = figure.subplots()
    seconds = 1 / known_rate(frame_rate)
    longest = max(1, *(len(row.labels) for row in rows))
    points_per_frame = 72 * (WIDTH_INCH - 1.5) / longest
    for position, row in enumerate(rows):
        _draw_bar(axes, position, row, styles, seconds, points_per_frame)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    time_axis(axes, longest, frame_rate)
    axes.set_title(title, loc="left", fontsize=11)
    figure.legend(
        handles=[Patch(**style) for style in styles.values()], loc="outside lower center", ncols=columns,
        fontsize=LEGEND_FONT, frameon=False, handlelength=1.6, handleheight=0.9, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    return figure


def assignment_map(
    scores: np.ndarray,
    *,
    title: str = "",
    boundaries: Sequence[int] | None = None,
    frame_rate: float,
    cluster_names: Sequence[str] | None = None,
) -> Figure:
    """Draws how strongly every frame is assigned to every cluster.

    Args:
        scores: float [time, clusters], not negative.
        title: above the map.
        boundaries: frames at which the true class changes, marked by thin lines.
        frame_rate: frames per second; 0 if unknown (the axis then counts frames).
        cluster_names: by cluster; "cluster 5" by default.
    """
    return _assignment_panels({title: scores}, boundaries, frame_rate, cluster_names)


def assignment_before_after(
    before: np.ndarray,
    after: np.ndarray,
    *,
    title: str = "",
    boundaries: Sequence[int] | None = None,
    frame_rate: float,
    cluster_names: Sequence[str] | None = None,
    names: tuple[str, str] = ("before", "after"),
) -> Figure:
    """Draws two assignments of the same frames under each other, on one time axis and one colour scale.

    Args:
        before: float [time, clusters], not negative.
        after: float [time, clusters].
        title: above both.
        boundaries, frame_rate, cluster_names: as for `assignment_map`.
        names: of the two panels.
    """
    figure = _assignment_panels(dict(zip(names, (before, after), strict=True)), boundaries, frame_rate, cluster_names)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def pairwise_similarity(embedding: np.ndarray, *, boundaries: Sequence[int] | None = None, title: str = "") -> Figure:
    """Draws the cosine similarity of every pair of frames.

    Args:
        embedding: float [frames, channels].
        boundaries: rows of `embedding` at which the true class changes, marked by thin lines.
        title: above the matrix.
    """
    figure = Figure(figsize=(6.6, 5.8), layout="constrained")
    axes = figure.subplots()
    count = len(embedding)
    image = axes.imshow(_cosine(embedding), cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, count, count, 0))
    for boundary in () if boundaries is None else boundaries:
        axes.axvline(boundary, color="black", linewidth=0.6)
        axes.axhline(boundary, color="black", linewidth=0.6)
    axes.set_xlabel("embedded frame")
    axes.set_ylabel("embedded frame")
    axes.set_title(title, fontsize=11)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


def cluster_similarity(clusters: np.ndarray, names: Sequence[str], *, title: str = "") -> Figure:
    """Draws the cosine similarity of every pair of clusters, with its value where there are at most 12.

    Args:
        clusters: float [clusters, channels] centres.
        names: by cluster.
        title: above the matrix.
    """
    similarity = _cosine(clusters)
    size = len(similarity)
    side = max(3.0, 0.42 * size) + 0.075 * max(len(name) for name in names)
    figure = Figure(figsize=(side + 1.5, side + 0.5), layout="compressed")
    axes = figure.subplots()
    image = axes.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    if size <= _VALUES_UP_TO:
        for row, column in np.ndindex(size, size):
            value = similarity[row, column]
            axes.text(column, row, f"{value:.2f}".replace("-0.00", "0.00"), ha="center", va="center", fontsize=7,
                      color="white" if abs(value) > 0.65 else "black")  # fmt: skip
    axes.set_xticks(range(size), names, rotation=90, fontsize=8.5)
    axes.set_yticks(range(size), names, fontsize=8.5)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=11)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.7)
    return figure


def principal_plane(embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plane of the two largest variances (PCA); each axis points to where its largest loading is positive.

    Args:
        embedding: float [frames, channels], at least one frame.

    Returns:
        mean float64 [channels], axes float64 [channels, 2] (a zero column where there is no second direction) and the
        shares float64 [2] of the variance that lie on them (0 where all frames are equal).
    """
    embedding = np.asarray(embedding, np.float64)
    mean = embedding.mean(axis=0)
    _, lengths, directions = np.linalg.svd(embedding - mean, full_matrices=False)
    axes, variances = np.zeros([embedding.shape[1], 2]), np.zeros(2)
    for index, direction in enumerate(directions[:2]):
        axes[:, index] = direction * np.sign(direction[np.abs(direction).argmax()])
        variances[index] = lengths[index] ** 2
    total = (lengths**2).sum()
    return mean, axes, variances / total if total > 0 else variances


def embedding_map(
    embedding: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    names: Mapping[int, str] | Sequence[str],
    *,
    cluster_names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draws frames as points and cluster centres as boxes on the plane of the frames' two largest variances.

    Args:
        embedding: float [frames, channels].
        labels: int [frames], true classes where known, else clusters; -1 is black and named "not evaluated".
        clusters: float [clusters, channels] centres; rows that are not finite are not drawn.
        names: by label.
        cluster_names: in the boxes; the cluster's number by default. Centres whose boxes would overlap share one.
        title: above the map.
    """
    labels, clusters = np.asarray(labels), np.asarray(clusters, np.float64)
    mean, plane, shares = principal_plane(embedding)
    points = (np.asarray(embedding, np.float64) - mean) @ plane
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    axes = figure.subplots()
    present = sorted({int(label) for label in labels})
    known = [label for label in present if label >= 0]
    for label in present:
        chosen = points[labels == label]
        colour = published_colour(known.index(label) if label >= 0 else -1, len(known))
        axes.scatter(*chosen.T, s=16, color=colour, linewidths=0, alpha=0.85,
                     label=names[label] if label >= 0 else "not evaluated")  # fmt: skip
    centres = (clusters - mean) @ plane
    drawn = np.flatnonzero(np.isfinite(centres).all(axis=1))
    labelled = [(str(k) if cluster_names is None else cluster_names[k], centres[k]) for k in drawn]
    for name, centre in _merge_overlapping(labelled, span=float(np.ptp(points, axis=0).max())):
        axes.annotate(name, centre, ha="center", va="center", fontsize=8, zorder=4,
                      bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "black"})  # fmt: skip
    axes.update_datalim(centres[drawn])
    axes.set_xlabel(f"first principal component ({100 * shares[0]:.0f}% of the variance)")
    axes.set_ylabel(f"second principal component ({100 * shares[1]:.0f}%)")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11)
    if len(drawn):
        axes.scatter([], [], s=40, marker="s", facecolor="white", edgecolor="black", label="cluster centre")
    figure.legend(loc="outside right center", fontsize=LEGEND_FONT, frameon=False, markerscale=1.6)
    return figure


def _class_style(position: int, count: int, name: str) -> dict:
    return {"facecolor": published_colour(position, count), "label": name}


def _unmatched_style(position: int, count: int, name: str) -> dict:
    """A grey and a hatch; neighbours in the legend differ in both."""
    grey = 0.9 - 0.3 * position / max(1, count - 1)
    return {"facecolor": (grey, grey, grey), "hatch": _HATCHES[position % len(_HATCHES)], "edgecolor": "0.35",
            "linewidth": 0.0, "label": name}  # fmt: skip


def _draw_bar(
    axes: Axes, position: int, row: Row, styles: Mapping[int, dict], seconds: float, points_per_frame: float
) -> None:
    """One row of bars, a thin line at every border, names where they fit; `seconds` are those of a frame."""
    borders, labels = label_runs(row.labels)
    widths = np.diff(borders)
    for label in np.unique(labels):
        if label in styles:
            spans = [(start * seconds, width * seconds)
                     for start, width, at in zip(borders[:-1], widths, labels, strict=True) if at == label]  # fmt: skip
            style = {"linewidth": 0.0, **styles[label], "label": f"{row.name}: {styles[label]['label']}"}
            axes.broken_barh(spans, (position - 0.4, 0.8), **style)
    points_per_run = points_per_frame * len(row.labels) / max(1, len(labels))
    axes.vlines(borders[1:-1] * seconds, position - 0.4, position + 0.4, color="black",
                linewidth=min(0.8, 0.08 * points_per_run))  # fmt: skip
    for start, width, label in zip(borders[:-1], widths, labels, strict=True):
        style = styles.get(int(label))
        if style is None or width * points_per_frame < 0.62 * _BAR_FONT * len(style["label"]):
            continue
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0} if "hatch" in style else None
        axes.text((start + width / 2) * seconds, position, style["label"], ha="center", va="center_baseline",
                  fontsize=_BAR_FONT, color=ink_on(np.array(style["facecolor"][:3])), bbox=box,
                  clip_on=True)  # fmt: skip
    if row.note:
        axes.annotate(row.note, (1.0, position), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip


def _assignment_panels(
    panels: Mapping[str, np.ndarray],
    boundaries: Sequence[int] | None,
    frame_rate: float,
    cluster_names: Sequence[str] | None,
) -> Figure:
    """Heat-maps [clusters x time] under each other, on one time axis and one colour scale."""
    top = max(float(np.max(scores)) for scores in panels.values())
    time, count = next(iter(panels.values())).shape
    names = [f"cluster {k}" for k in range(count)] if cluster_names is None else cluster_names
    height = max(1.6, 0.165 * count)
    figure = Figure(figsize=(WIDTH_INCH, (height + 0.35) * len(panels) + 0.7), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    end = time / known_rate(frame_rate)
    for axes, (name, scores) in zip(grid, panels.items(), strict=True):
        image: AxesImage = axes.imshow(
            _pooled(scores).T, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest",
            extent=(0, end, count - 0.5, -0.5),
        )  # fmt: skip
        for boundary in () if boundaries is None else boundaries:
            axes.axvline(boundary * end / time, **_BOUNDARY)
        axes.set_yticks(range(count), names, fontsize=8)
        axes.set_title(name, loc="left", fontsize=10)
    time_axis(grid[-1], time, frame_rate)
    figure.colorbar(image, ax=list(grid), label="assignment", fraction=0.03, pad=0.01)
    return figure


def _merge_overlapping(named: Sequence[tuple[str, np.ndarray]], span: float) -> list[tuple[str, np.ndarray]]:
    """Joins names whose boxes would overlap in `embedding_map`, at the mean of their points [2].

    Args:
        named: names and points; `span` is the extent of the points drawn, in the same unit.
    """
    groups: list[tuple[list[str], list[np.ndarray]]] = []
    for name, point in named:
        for names, points in groups:
            across, up = np.abs(point - np.mean(points, axis=0))
            if across < span * (0.015 + 0.006 * len(", ".join([*names, name]))) and up < 0.035 * span:
                names.append(name)
                points.append(point)
                break
        else:
            groups.append(([name], [point]))
    return [(", ".join(names), np.mean(points, axis=0)) for names, points in groups]


def _pooled(scores: np.ndarray) -> np.ndarray:
    """Means over neighbouring frames, at most as many as a figure has columns of pixels; [columns, clusters]."""
    scores = np.asarray(scores, np.float64)
    starts = np.linspace(0, len(scores), min(len(scores), _MAP_COLUMNS), endpoint=False).astype(np.int64)
    return np.add.reduceat(scores, starts, axis=0) / np.diff([*starts, len(scores)])[:, None]


def _cosine(vectors: np.ndarray) -> np.ndarray:
    """Cosine similarities [rows, rows] of vectors [rows, channels]; 0 for a vector of zeros."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit @ unit.T
