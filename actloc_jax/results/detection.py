"""Scored segments of videos: a file in ActivityNet's results format, mAP, timelines, curves, errors and the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from actloc_jax.data import proposals
from actloc_jax.metrics import detection, detection_errors, detection_matching
from actloc_jax.metrics.detection_matching import Detections, Instances, Matching, Protocol
from actloc_jax.plotting import detections as plots
from actloc_jax.results.files import save_figure, training_figures, write_report, write_text
from actloc_jax.results.timeline import Timeline, Track
from actloc_jax.results.types import ScoredSegments, Segment

Results = Mapping[str, Sequence[ScoredSegments]]
Truth = Mapping[str, Instances]

PROTOCOLS: dict[str, Protocol] = {
    "sane": detection_matching.SANE,
    "activitynet": detection_matching.ACTIVITYNET,
    "fustal": detection_matching.FUSTAL,
    "afsd": detection_matching.AFSD,
    "tallformer": detection_matching.TALLFORMER,
    "voc": detection_matching.VOC,
    "voc07": detection_matching.VOC07,
}
"""Published evaluations by the name that a config gives them."""

FILE_NAME = "detections.json"
_USUAL_TIOU = 0.5  # of the figures that show one threshold, where it is evaluated


def score(
    results: Sequence[ScoredSegments], truth: Truth, class_names: Sequence[str], options: ConfigDict
) -> dict[str, float]:
    """mAP at every tIoU of `options.tiou` and their mean, in percent, of one source's results.

    `options.averages` asks for further means, over the thresholds from one to another.

    Args:
        results: segments per video.
        truth: true instances per video. All of its videos are scored: one without result has no detections.
        class_names: not needed; every task's `score` takes them.
        options: `tiou` (thresholds) and `protocol` (a name of `PROTOCOLS`).

    Raises:
        ValueError: no such protocol, or nothing to evaluate.
    """
    return _summary(_evaluate(results, truth, options), options)


def chance(truth: Truth, durations: Mapping[str, float], options: ConfigDict) -> dict[str, float]:
    """The score of random segments in videos of these durations in seconds; `options` as in `score`."""
    found = detection.guesses(truth, durations, seed=options.seed)
    return _summary(detection.evaluate(found, truth, tuple(options.tiou), _protocol(options)), options)


def _summary(scores: detection.DetectionScores, options: ConfigDict) -> dict[str, float]:
    means = {f"mAP {low}:{high}": 100.0 * scores.mean(low, high) for low, high in options.get("averages", ())}
    return scores.summary() | means


def write(results: Sequence[ScoredSegments], class_names: Sequence[str], folder: epath.Path) -> None:
    """One file for all videos, `detections.json`, as ActivityNet's evaluation reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = {row.video: proposals.ScoredSegments(row.segments, row.scores, row.labels) for row in results}
    extra = {"version": "1.3", "external_data": {}}  # fields without which ActivityNet's evaluation refuses a file
    proposals.write_proposals(folder / FILE_NAME, videos, class_names, extra=extra)


def read(path: epath.Path, class_names: Sequence[str]) -> list[ScoredSegments]:
    """Reads a file that `write` wrote, or another in ActivityNet's format (`.json` or `.json.gz`).

    Raises:
        FileNotFoundError, ValueError: as `proposals.read_proposals`.
    """
    found = proposals.read_proposals(path, class_names).videos
    return [ScoredSegments(video, rows.segments, rows.labels, rows.scores) for video, rows in found.items()]


def timelines(
    results: Results,
    class_names: Sequence[str],
    folder: epath.Path,
    *,
    frame_rate: float,
    options: ConfigDict,
    truth: Truth | None = None,
) -> list[epath.Path]:
    """Writes a timeline figure for the first `options.timelines` videos (all, without ground truth); their paths.

    `frame_rate` is not needed, as segments are in seconds; every task's `timelines` takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for video, figure in _timeline_figures(results, class_names, options, truth):
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
    """What readers get of every video; with the mAP of its own where there is ground truth.

    `frame_rate` is not needed, as segments are in seconds; every task's `video_timelines` takes it.
    """
    own = next(iter(results.values()))
    for result in own:
        true = None if truth is None else truth.get(result.video)
        tracks = [] if true is None else [_track("ground truth", true, class_names)]
        tracks += [
            _track(source, row, class_names)
            for source, rows in reversed(results.items())
            for row in rows
            if row.video == result.video
        ]
        scores = {} if true is None else _own_scores(result, true, options)
        ends = [segment.end for track in tracks for segment in track.segments]
        yield Timeline(result.video, tuple(tracks), tuple(class_names), max([1.0, *ends]), scores=scores)


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
    """Writes `figures/`, `per_class.json` and `report.html` of an evaluation.

    The figures: mAP over tIoU of all sources; of the system's own source precision over recall and the profile of
    errors, both at tIoU 0.5 if that is evaluated; training curves; timelines.

    Args:
        results: by source, the system's own first.
        truth: true instances per video.
        class_names: by class index.
        scores: metrics by source.
        references: the paper's numbers and chance, shown below them.
        title: heading of the report.
        frame_rate: not needed, as segments are in seconds.
        workdir: where files go, and where metrics.jsonl of a training lies.
        options: the `eval` group of the config: `tiou`, `protocol`, `timelines`.

    Returns:
        path of the report.
    """
    folder = workdir / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    tables = {source: _per_class(rows, truth, class_names, options) for source, rows in results.items()}
    write_text(workdir / "per_class.json", json.dumps(tables, indent=1))
    source, own = next(iter(results.items()))
    figures = _figures(own, truth, class_names, {**scores, **references}, options, f"{title}: {source}")
    figures |= training_figures(workdir, title)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name.lower().replace(' ', '_')}.png")
    for video, figure in _timeline_figures(results, class_names, options, truth):
        save_figure(figure, folder / f"timeline_{video}.png")
        figures[f"Timeline of {video}"] = figure
    return write_report(
        workdir, title, videos=[], class_names=class_names, frame_rate=frame_rate, scores={**scores, **references},
        tables={f"Classes: {source}": tables[source]}, figures=figures,
    )  # fmt: skip


def _figures(
    own: Sequence[ScoredSegments],
    truth: Truth,
    class_names: Sequence[str],
    scores: Mapping[str, Mapping[str, float]],
    options: ConfigDict,
    title: str,
) -> dict[str, Figure]:
    """Heading -> figure of what concerns all videos."""
    thresholds, protocol = tuple(options.tiou), _protocol(options)
    columns = [detection.name(threshold) for threshold in thresholds]
    sweep = {source: [row.get(name, np.nan) for name in columns] for source, row in scores.items()}
    sweep = {source: values for source, values in sweep.items() if np.isfinite(values).any()}
    figures = {"tIoU": plots.tiou_sweep(thresholds, sweep)}
    found = _detections(own)
    matching = detection_matching.match(found, truth, thresholds, protocol)
    shown = thresholds.index(_shown_tiou(options))
    curves, mean = _curves(matching, shown, protocol)
    figures["Precision and recall"] = plots.precision_recall(
        curves, class_names, threshold=thresholds[shown], mean=mean, title=title
    )
    if len(matching.label):  # else there is no detection whose error could be named
        errors = detection_errors.analyse(found, truth, thresholds, protocol=protocol)
        figures["Errors"] = plots.error_profile(
            detection_errors.KINDS, errors.profile[shown], errors.gains(), threshold=thresholds[shown], title=title
        )
    return figures


def _own_scores(result: ScoredSegments, truth: Instances, options: ConfigDict) -> dict[str, float]:
    """mAP of one video at the usual tIoU and over all; none without instances. Classes that it lacks are left out."""
    if not len(truth.labels):
        return {}
    protocol = dataclasses.replace(_protocol(options), unknown="ignore")
    found = detection.evaluate(_detections([result]), {result.video: truth}, tuple(options.tiou), protocol)
    summary = _summary(found, options)
    return {name: summary[name] for name in (detection.name(_shown_tiou(options)), "mAP") if name in summary}


def _shown_tiou(options: ConfigDict) -> float:
    """Of the evaluated thresholds the one nearest to the usual one."""
    return min(options.tiou, key=lambda threshold: abs(threshold - _USUAL_TIOU))


def _track(name: str, rows: ScoredSegments | Instances, class_names: Sequence[str]) -> Track:
    """Segments by their start; true ones have no scores."""
    detected = isinstance(rows, ScoredSegments)
    scores = rows.scores.tolist() if detected else [None] * len(rows.labels)
    order = np.argsort(rows.segments[:, 0], kind="stable").tolist()
    return Track(
        name,
        "detections" if detected else "truth",
        tuple(Segment(*rows.segments[at].tolist(), class_names[rows.labels[at]], scores[at]) for at in order),
    )


def _curves(matching: Matching, threshold: int, protocol: Protocol) -> tuple[dict[int, plots.Curve], plots.Curve]:
    """Monotone precision over recall of every class, and its mean over classes at recalls 0, 0.01, ..., 1."""
    precisions = detection.average_precisions(matching, protocol).average_precision[threshold]
    recalls = np.linspace(0, 1, 101)
    curves, sampled = {}, []
    for position, label in enumerate(matching.classes.tolist()):
        recall, precision = matching.curve(position, threshold)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        curves[label] = plots.Curve(
            np.concatenate([[0.0], recall, recall[-1:]]),
            np.concatenate([envelope[:1], envelope]) if len(recall) else np.zeros(1),
            float(precisions[position]),
        )
        sampled.append(envelope[np.searchsorted(recall, recalls - 1e-9)])
    return curves, plots.Curve(recalls, np.mean(sampled, axis=0), float(precisions.mean()))


def _timeline_figures(
    results: Results, class_names: Sequence[str], options: ConfigDict, truth: Truth | None
) -> Iterator[tuple[str, Figure]]:
    """Video and figure, of the first videos that are evaluated (all, without ground truth)."""
    found = {source: {row.video: row for row in rows} for source, rows in results.items()}
    videos = list(next(iter(found.values())))
    for video in videos if truth is None else videos[: options.timelines]:
        rows = [
            plots.SegmentRow(source, by_video[video].segments, by_video[video].labels, by_video[video].scores)
            for source, by_video in reversed(found.items())
            if video in by_video
        ]
        true = None
        if truth is not None and video in truth:
            true = plots.SegmentRow("ground truth", truth[video].segments, truth[video].labels)
        yield video, plots.detection_timeline(true, rows, class_names, title=video)


def _per_class(
    results: Sequence[ScoredSegments], truth: Truth, class_names: Sequence[str], options: ConfigDict
) -> list[dict[str, float | str]]:
    """A row per class that has instances: name, counts, AP at every tIoU and their mean in percent."""
    return [{**row, "class": class_names[row["class"]]} for row in _evaluate(results, truth, options).per_class()]


def _evaluate(results: Sequence[ScoredSegments], truth: Truth, options: ConfigDict) -> detection.DetectionScores:
    return detection.evaluate(_detections(results), truth, tuple(options.tiou), _protocol(options))


def _detections(results: Sequence[ScoredSegments]) -> dict[str, Detections]:
    return {row.video: Detections(row.segments, row.labels, row.scores) for row in results}


def _protocol(options: ConfigDict) -> Protocol:
    if options.protocol not in PROTOCOLS:
        raise ValueError(f"eval.protocol={options.protocol!r} is not known; one of {', '.join(PROTOCOLS)} is expected")
    return PROTOCOLS[options.protocol]
