"""Frame labels of videos: prediction files as the field writes them, metrics, timelines and the report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.metrics import segmentation as metrics
from actloc_jax.plotting.confusion import confusion
from actloc_jax.plotting.report import VideoReport
from actloc_jax.plotting.timeline import Row, timeline
from actloc_jax.results.files import (
    read_frame_labels,
    save_figure,
    training_figures,
    write_frame_labels,
    write_report,
)
from actloc_jax.results.timeline import Timeline, label_timeline
from actloc_jax.results.types import FrameLabels

Results = Mapping[str, Sequence[FrameLabels]]
Truth = Mapping[str, np.ndarray]


def score(
    results: Sequence[FrameLabels], truth: Truth, class_names: Sequence[str], options: ConfigDict
) -> dict[str, float]:
    """Acc, Edit and F1@{10,25,50} of one source's results.

    Args:
        results: labels int32 [time] per video.
        truth: int32 [time] per video; only the videos of `results` are scored.
        class_names: by class index.
        options: `background` (names) and `segment_end`.
    """
    predictions = {result.video: result.labels for result in results}
    return metrics.evaluate(
        predictions,
        {video: truth[video] for video in predictions},
        background=_background(class_names, options),
        segment_end=options.segment_end,
        empty_truth="count",
    )


def write(results: Sequence[FrameLabels], class_names: Sequence[str], folder: epath.Path) -> None:
    """One file per video as MS-TCN and TST write them: a header line, then all class names in one line."""
    write_frame_labels(results, class_names, folder)


def read(path: epath.Path, class_names: Sequence[str]) -> list[FrameLabels]:
    """Reads a folder that `write` wrote. Raises FileNotFoundError, ValueError as `read_frame_labels`."""
    return read_frame_labels(path, class_names)


def timelines(
    results: Results,
    class_names: Sequence[str],
    folder: epath.Path,
    *,
    frame_rate: float,
    options: ConfigDict,
    truth: Truth | None = None,
) -> list[epath.Path]:
    """Writes a timeline figure for the first `options.timelines` videos (all, without ground truth); their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = [result.video for result in next(iter(results.values()))]
    paths = []
    for video in videos if truth is None else videos[: options.timelines]:
        rows = _rows(results, video, truth)
        confidence = _confidence(results, video)
        figure = timeline(
            rows, class_names, frame_rate=frame_rate, title=video,
            confidence=None if confidence is None else {"confidence": confidence},
        )  # fmt: skip
        paths.append(folder / f"timeline_{video}.png")
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
    """What readers get of every video; with its scores where there is ground truth."""
    for result in next(iter(results.values())):
        yield label_timeline(
            _video_report(results, result, truth, class_names, options), class_names, frame_rate=frame_rate,
            background=options.background, truth=truth is not None,
        )  # fmt: skip


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
    """Writes `figures/` (timelines, confusion matrix, training curves) and `report.html` of an evaluation.

    Args:
        results: by source, the system's own first; labels int32 [time].
        truth: int32 [time] per video.
        class_names: by class index.
        scores: metrics by source.
        references: the paper's numbers and chance, shown below them.
        title: heading of the report.
        frame_rate: label frames per second.
        workdir: where files go, and where metrics.jsonl of a training lies.
        options: the `eval` group of the config.

    Returns:
        path of the report.
    """
    folder = workdir / "figures"
    source, own = next(iter(results.items()))
    timelines(results, class_names, folder, frame_rate=frame_rate, options=options, truth=truth)
    counts = metrics.confusion_matrix(
        {result.video: result.labels for result in own},
        {result.video: truth[result.video] for result in own},
        len(class_names),
    )
    figures = {"Confusion": confusion(counts, class_names, title=f"{title}: {source}")}
    figures |= training_figures(workdir, title)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name.lower()}.png")
    videos = [_video_report(results, result, truth, class_names, options) for result in own]
    return write_report(
        workdir, title, videos=videos, class_names=class_names, frame_rate=frame_rate, scores={**scores, **references},
        confusion_counts=counts, figures=figures, worst_by="F1@50",
    )  # fmt: skip


def _video_report(
    results: Results, result: FrameLabels, truth: Truth | None, class_names: Sequence[str], options: ConfigDict
) -> VideoReport:
    scores = {} if truth is None else score([result], truth, class_names, options)
    return VideoReport(result.video, _rows(results, result.video, truth), scores, _confidence(results, result.video))


def _background(class_names: Sequence[str], options: ConfigDict) -> list[int]:
    """Indices of the background classes; names that the data set does not have mean nothing to it."""
    return [class_names.index(name) for name in options.background if name in class_names]


def _rows(results: Results, video: str, truth: Truth | None) -> list[Row]:
    """Rows of a video's timeline; single noise draws are left out."""
    rows = [] if truth is None else [Row("ground truth", truth[video])]
    for source in reversed([name for name in results if not re.fullmatch(r"draw \d+", name)]):
        rows += [Row(source, result.labels) for result in results[source] if result.video == video]
    return rows


def _confidence(results: Results, video: str) -> np.ndarray | None:
    return next((result.confidence for result in next(iter(results.values())) if result.video == video), None)
