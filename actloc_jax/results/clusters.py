"""Frame labels that are cluster ids: prediction files, metrics after the matching to true classes, figures, report.

Clusters get a class only here, for the evaluation: one matching over all videos names and colours them in every figure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from actloc_jax.metrics import clustering
from actloc_jax.plotting import clusters as plots
from actloc_jax.plotting.confusion import contingency
from actloc_jax.plotting.report import VideoReport
from actloc_jax.plotting.timeline import Row, label_runs, timeline
from actloc_jax.results.files import (
    read_frame_labels,
    save_figure,
    training_figures,
    write_frame_labels,
    write_report,
    write_text,
)
from actloc_jax.results.timeline import Timeline, label_timeline
from actloc_jax.results.types import FrameLabels, embedded_frames

Results = Mapping[str, Sequence[FrameLabels]]
Truth = Mapping[str, np.ndarray]

_EMBEDDING_VIDEOS = 3  # videos with a figure of their embeddings


def score(
    results: Sequence[FrameLabels], truth: Truth, class_names: Sequence[str], options: ConfigDict
) -> dict[str, float]:
    """MoF, F1 and mIoU of one source's results, matched over all videos and within each; the mean loss where known.

    Args:
        results: cluster ids int32 [time] per video.
        truth: int32 [time] per video; only the videos of `results` are scored.
        class_names: not needed; every task's `score` takes them.
        options: `seed`, for the frames that ASOT's F1 samples.
    """
    predictions = {result.video: result.labels for result in results}
    scores = clustering.evaluate(predictions, {video: truth[video] for video in predictions}, seed=options.seed)
    losses = [result.loss for result in results if result.loss is not None]
    return {**scores, "loss": float(np.mean(losses))} if losses else scores


def write(results: Sequence[FrameLabels], class_names: Sequence[str], folder: epath.Path) -> None:
    """One file per video as MS-TCN writes them, with names such as `cluster_03`; `class_names` are not used."""
    write_frame_labels(results, cluster_names(_count(results)), folder)


def read(path: epath.Path, class_names: Sequence[str]) -> list[FrameLabels]:
    """Reads a folder that `write` wrote; clusters are numbered in the order of their names."""
    del class_names
    return read_frame_labels(path)


def cluster_names(count: int) -> list[str]:
    """Names of `count` clusters in files and figures."""
    return [f"cluster_{cluster:02d}" for cluster in range(count)]


def timelines(
    results: Results,
    class_names: Sequence[str],
    folder: epath.Path,
    *,
    frame_rate: float,
    options: ConfigDict,
    truth: Truth | None = None,
) -> list[epath.Path]:
    """Writes a timeline figure per video; their paths.

    With ground truth: bars of the first `options.timelines` videos, clusters renamed by the matching of the first
    source over all its videos. Without: all videos, clusters under their own names, and the assignments where known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = next(iter(results.values()))
    if truth is None:
        return [path for result in own for path in _unmatched_figures(results, result, folder, frame_rate)]
    matching = _matching(own, truth)
    classes = np.unique(_pairs(own, truth)[1])
    paths = []
    for result in own[: options.timelines]:
        figure = plots.segmentation_bars(
            truth[result.video], _rows(results, result.video), matching, class_names, title=result.video,
            frame_rate=frame_rate, classes=classes,
        )  # fmt: skip
        paths.append(folder / f"timeline_{result.video}.png")
        save_figure(figure, paths[-1])
    return paths


def video_timelines(
    results: Results,
    class_names: Sequence[str],
    *,
    frame_rate: float,
    options: ConfigDict,
    truth: Truth | None = None,
) -> Iterator[Timeline]:
    """What readers get of every video: clusters under their own names, or renamed where there is ground truth."""
    own = next(iter(results.values()))
    names = cluster_names(max(_count(source) for source in results.values()))
    if truth is None:
        for result in own:
            found = VideoReport(result.video, _rows(results, result.video), confidence=result.confidence)
            yield label_timeline(found, names, frame_rate=frame_rate)
        return
    matching = _matching(own, truth)
    for result in own:
        found = _video_report(results, result, truth, matching, class_names, options)
        yield label_timeline(found, [*class_names, *names], frame_rate=frame_rate, truth=True)


def report(
    results: Results,
    truth: Truth,
    class_names: Sequence[str],
    scores: Mapping[str, Mapping[str, float]],
    references: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    frame_rate: float,
    workdir: epath.Path,
    options: ConfigDict,
) -> epath.Path:
    """Writes `figures/`, `clusters.json` (cluster -> class) and `report.html` of an evaluation.

    Args:
        results: by source, the system's own first; labels are cluster ids int32 [time], and an id means the same
            cluster in all sources. Where the first two carry scores, figures show the second's above the first's.
        truth: int32 [time] per video.
        class_names: by class index.
        scores: metrics by source.
        references: the paper's numbers and chance, shown below them.
        title: heading of the report.
        frame_rate: label frames per second; 0 if unknown (times are then counted in frames).
        workdir: where files go, and where metrics.jsonl of a training lies.
        options: the `eval` group of the config.

    Returns:
        path of the report.
    """
    folder = workdir / "figures"
    own = next(iter(results.values()))
    matching = _matching(own, truth)
    timelines(results, class_names, folder, frame_rate=frame_rate, options=options, truth=truth)
    figures = {"Classes and clusters": _contingency(own, truth, class_names, matching, title)}
    figures |= _assignment_figures(results, truth, class_names, matching, frame_rate, options, folder)
    figures |= _embedding_figures(own, truth, class_names, matching, folder)
    figures |= training_figures(workdir, title)
    for name, file in {"Training": "training.png", "Classes and clusters": "contingency.png"}.items():
        if name in figures:
            save_figure(figures[name], folder / file)

    names = cluster_names(_count(own))
    predicted = {int(cluster) for result in own for cluster in np.unique(result.labels)}
    named = {names[k]: class_names[matching[k]] if k in matching else None for k in sorted(predicted)}
    write_text(workdir / "clusters.json", json.dumps(named, indent=1))
    return write_report(
        workdir,
        title,
        videos=[_video_report(results, result, truth, matching, class_names, options) for result in own],
        class_names=[*class_names, *cluster_names(max(_count(rows) for rows in results.values()))],
        frame_rate=frame_rate,
        scores={**scores, **references},
        confusion_counts=_renamed_counts(own, truth, matching, len(class_names)),
        figures=figures,
        worst_by="MoF",
    )


def _unmatched_figures(
    results: Results, result: FrameLabels, folder: epath.Path, frame_rate: float
) -> list[epath.Path]:
    """Figures of a video without ground truth."""
    rows = _rows(results, result.video)
    names = cluster_names(max(_count(source) for source in results.values()))
    confidence = None if result.confidence is None else {"confidence": result.confidence}
    figures = {
        "timeline": timeline(
            rows, names, frame_rate=frame_rate, title=result.video, confidence=confidence
        )
    }  # fmt: skip
    if result.scores is not None:
        figures["assignment"] = plots.assignment_map(
            result.scores, title=result.video, frame_rate=frame_rate, cluster_names=names[: result.scores.shape[1]]
        )
    paths = [folder / f"{name}_{result.video}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def _assignment_figures(
    results: Results,
    truth: Truth,
    class_names: Sequence[str],
    matching: Mapping[int, int],
    frame_rate: float,
    options: ConfigDict,
    folder: epath.Path,
) -> dict[str, Figure]:
    """Writes the assignments of the first `options.timelines` videos; gives the first one for the report."""
    own, *others = results.items()
    earlier = {result.video: result.scores for _, rows in others[:1] for result in rows if result.scores is not None}
    shown = {}
    for result in [result for result in own[1][: options.timelines] if result.scores is not None]:
        style = {
            "boundaries": label_runs(truth[result.video])[0][1:-1],
            "frame_rate": frame_rate,
            "cluster_names": _matched_names(result.scores.shape[1], matching, class_names),
        }
        if result.video in earlier:
            names = (others[0][0], own[0])
            figure = plots.assignment_before_after(
                earlier[result.video], result.scores, title=result.video, names=names, **style
            )
        else:
            figure = plots.assignment_map(result.scores, title=result.video, **style)
        save_figure(figure, folder / f"assignment_{result.video}.png")
        shown.setdefault("Assignment", figure)
    return shown


def _embedding_figures(
    own: Sequence[FrameLabels],
    truth: Truth,
    class_names: Sequence[str],
    matching: Mapping[int, int],
    folder: epath.Path,
) -> dict[str, Figure]:
    """Writes figures of the first videos' embeddings and of the clusters' means; gives one of each for the report."""
    own = [result for result in own if result.embedding is not None and len(result.embedding)]
    if not own:
        return {}
    count = _count(own)
    rows = np.concatenate([result.embedding for result in own])
    labels = np.concatenate([result.labels[embedded_frames(len(result.labels))] for result in own])
    centres = np.full([count, rows.shape[1]], np.nan)
    for cluster in np.unique(labels):
        centres[cluster] = rows[labels == cluster].mean(axis=0)
    used = np.flatnonzero(np.isfinite(centres).all(axis=1))
    names = _matched_names(count, matching, class_names)
    shown = {
        "Clusters": plots.cluster_similarity(
            centres[used], [names[k] for k in used], title="mean embeddings of the clusters' frames"
        )
    }
    save_figure(shown["Clusters"], folder / "clusters.png")
    for result in own[:_EMBEDDING_VIDEOS]:
        true = np.asarray(truth[result.video])[embedded_frames(len(result.labels))]
        pairwise = plots.pairwise_similarity(result.embedding, boundaries=label_runs(true)[0][1:-1], title=result.video)
        mapped = plots.embedding_map(result.embedding, true, centres, class_names, title=result.video)
        save_figure(pairwise, folder / f"pairwise_{result.video}.png")
        save_figure(mapped, folder / f"embedding_{result.video}.png")
        shown.setdefault("Frames", mapped)
    return shown


def _contingency(
    own: Sequence[FrameLabels], truth: Truth, class_names: Sequence[str], matching: Mapping[int, int], title: str
) -> Figure:
    """Classes that occur against clusters."""
    predicted, true = _pairs(own, truth)
    classes, rows = np.unique(true, return_inverse=True)
    counts = np.zeros([len(classes), _count(own)], np.int64)
    np.add.at(counts, (rows, predicted), 1)
    position = {int(index): row for row, index in enumerate(classes)}
    return contingency(
        counts, [class_names[index] for index in classes], cluster_names(_count(own)),
        matching={cluster: position[matched] for cluster, matched in matching.items()}, title=title,
    )  # fmt: skip


def _renamed_counts(
    own: Sequence[FrameLabels], truth: Truth, matching: Mapping[int, int], num_classes: int
) -> np.ndarray:
    """Frames per true class and renamed prediction, [classes + clusters, classes + clusters]."""
    predicted, true = _pairs(own, truth)
    size = num_classes + _count(own)
    counts = np.zeros([size, size], np.int64)
    np.add.at(counts, (true, plots.rename_clusters(predicted, matching, num_classes)), 1)
    return counts


def _video_report(
    results: Results,
    result: FrameLabels,
    truth: Truth,
    matching: Mapping[int, int],
    class_names: Sequence[str],
    options: ConfigDict,
) -> VideoReport:
    """A video with renamed clusters; MoF under the matching over all videos, and the metrics under its own matching."""
    predicted, true = _pairs([result], truth)
    scores = {}
    if len(true):  # else all of the video is left out of the evaluation
        matched = plots.rename_clusters(predicted, matching, len(class_names))
        alone = score([result], truth, class_names, options)
        scores = {"MoF": 100 * float(np.mean(matched == true))}
        scores |= {name: value for name, value in alone.items() if name.endswith(" video") or name == "loss"}
    rows = [Row("ground truth", truth[result.video])] + [
        Row(row.name, plots.rename_clusters(row.labels, matching, len(class_names)))
        for row in _rows(results, result.video)
    ]
    return VideoReport(result.video, rows, scores, result.confidence)


def _matching(own: Sequence[FrameLabels], truth: Truth) -> dict[int, int]:
    """Cluster -> class over all videos of a source."""
    return clustering.match_clusters(*_pairs(own, truth))


def _pairs(own: Sequence[FrameLabels], truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Cluster ids and true classes of all frames that are evaluated, videos behind each other; int [frames] both."""
    predicted = np.concatenate([np.asarray(result.labels) for result in own])
    true = np.concatenate([np.asarray(truth[result.video])[: len(result.labels)] for result in own])
    return predicted[true >= 0], true[true >= 0]


def _rows(results: Results, video: str) -> list[Row]:
    """The sources' cluster ids of a video, the system's own at the bottom."""
    return [
        Row(source, result.labels)
        for source in reversed(list(results))
        for result in results[source]
        if result.video == video
    ]


def _matched_names(count: int, matching: Mapping[int, int], class_names: Sequence[str]) -> list[str]:
    """Number and class of every cluster, or its number alone."""
    return [f"{k:02d} {class_names[matching[k]]}" if k in matching else f"{k:02d}" for k in range(count)]


def _count(results: Sequence[FrameLabels]) -> int:
    """Number of clusters, as far as results tell: as many as have scores, or as many as are seen."""
    seen = max((int(result.labels.max(initial=-1)) + 1 for result in results), default=0)
    return max([seen, *(result.scores.shape[1] for result in results if result.scores is not None)])
