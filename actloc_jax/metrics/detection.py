"""Mean average precision of temporal action detection, as the ActivityNet evaluation codes it (numpy only).

For each class, predictions of all videos are visited by descending score. A prediction looks at the true instances of
its class in its video from the highest temporal IoU down and takes the first that reaches the threshold and is free:
so it may take its second best. Average precision is the area under the precision curve made monotone from the right
(VOC 2011). `Protocol` names the points in which published evaluations differ from that and from each other.

Segments are in seconds, labels are integers, scores of this module's functions are fractions; `DetectionScores.summary`
returns percentages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from actloc_jax.metrics.detection_matching import SANE, Detections, Instances, Matching, Protocol, match

THUMOS14_TIOU = tuple(np.linspace(0.1, 0.7, 7).tolist())
"""0.1, 0.2, ..., 0.7: weakly supervised methods on THUMOS14."""

THUMOS14_STRICT_TIOU = tuple(np.linspace(0.3, 0.7, 5).tolist())
"""0.3, 0.4, ..., 0.7: fully supervised methods on THUMOS14."""

ACTIVITYNET_TIOU = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""0.5, 0.55, ..., 0.95: ActivityNet and HACS."""


@dataclasses.dataclass(frozen=True)
class DetectionScores:
    """Average precisions.

    Attributes:
        thresholds: tIoU thresholds.
        classes: [classes] int64, the classes that have true instances, ascending.
        average_precision: [thresholds, classes] in 0..1.
        instances, predictions: [classes] int64, how many there are.
    """

    thresholds: tuple[float, ...]
    classes: np.ndarray
    average_precision: np.ndarray
    instances: np.ndarray
    predictions: np.ndarray

    def mean(self, low: float = 0.0, high: float = 1.0) -> float:
        """Mean over classes, and over the thresholds from `low` to `high` (both included), in 0..1.

        Raises:
            ValueError: no threshold in that range.
        """
        inside = [low - 1e-9 <= threshold <= high + 1e-9 for threshold in self.thresholds]
        if not any(inside):
            raise ValueError(f"no tIoU threshold in {low}..{high}; evaluated are {self.thresholds}")
        return float(self.average_precision[inside].mean(axis=1).mean())

    def summary(self) -> dict[str, float]:
        """`{"mAP@0.3": ..., ..., "mAP": ...}` in percent; the last is the mean over thresholds."""
        means = 100.0 * self.average_precision.mean(axis=1)
        scores = {name(threshold): float(mean) for threshold, mean in zip(self.thresholds, means, strict=True)}
        return scores | {"mAP": float(means.mean())}

    def per_class(self) -> list[dict[str, float]]:
        """One row for each class: "class", "instances", "predictions", and the columns of `summary` in percent."""
        table = []
        for position, label in enumerate(self.classes.tolist()):
            values = 100.0 * self.average_precision[:, position]
            row = {"class": label, "instances": int(self.instances[position])}
            row |= {"predictions": int(self.predictions[position])}
            row |= {name(threshold): float(ap) for threshold, ap in zip(self.thresholds, values, strict=True)}
            table.append(row | {"mAP": float(values.mean())})
        return table


def name(threshold: float, metric: str = "mAP") -> str:
    """`"mAP@0.5"`."""
    return f"{metric}@{round(threshold, 4):g}"


def evaluate(
    predictions: Mapping[str, Detections],
    truths: Mapping[str, Instances],
    thresholds: Sequence[float] = THUMOS14_TIOU,
    protocol: Protocol = SANE,
) -> DetectionScores:
    """Average precision of every class at every threshold.

    Args:
        predictions: video -> detections. Their order decides between equal scores, see `Protocol.ties`. A video
            without ground truth counts as one without instances.
        truths: video -> true instances, of the videos that are evaluated; a video may have none.
        thresholds: of the tIoU; reaching a threshold exactly is enough.
        protocol: the points in which published evaluations differ.

    Returns:
        The scores. A class without predictions has average precision 0.

    Raises:
        ValueError: no true instance, no threshold or one outside 0..1, or classes without instances under
            `unknown="error"`.
    """
    return average_precisions(match(predictions, truths, thresholds, protocol), protocol)


def average_precisions(matching: Matching, protocol: Protocol = SANE) -> DetectionScores:
    """The areas under the precision curves of a matching."""
    table = np.zeros((len(matching.thresholds), len(matching.classes)))
    counts = np.bincount(matching.label, minlength=len(matching.classes))
    for position, instances in enumerate(matching.instances.tolist()):
        rows = matching.rows(position)
        for row, taken in zip(table, matching.taken[:, rows], strict=True):
            row[position] = area(taken >= 0, instances, protocol.area)
    return DetectionScores(matching.thresholds, matching.classes, table, matching.instances, counts)


def area(hits: np.ndarray, instances: int, kind: Literal["interpolated", "eleven_points"] = "interpolated") -> float:
    """Average precision of one class.

    Args:
        hits: [predictions] bool, by descending score, whether each is a true positive.
        instances: number of true instances, at least 1.
        kind: see `Protocol.area`.

    Returns:
        The area in 0..1; 0 without hits.
    """
    found = np.flatnonzero(hits)
    if len(found) == 0:
        return 0.0
    # Recall changes at hits only, and there the precision is highest: the curve is known from them alone.
    rank = np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate((rank / (found + 1))[::-1])[::-1]
    if kind == "interpolated":
        return float(envelope.sum() / instances)
    points = np.searchsorted(rank / instances, np.arange(0, 1 + 1e-3, 0.1))
    return float(np.append(envelope, 0.0)[points].sum() / 11)


def without_duplicates(truth: Instances, tolerance: float = 1e-3) -> Instances:
    """The instances that ActionFormer's evaluation counts (`libs/utils/metrics.py`).

    Args:
        truth: true instances of a video.
        tolerance: seconds. Instances shorter than this are dropped, and those that start and end within this of an
            earlier one of the same class.

    Returns:
        The others, in their order.
    """
    kept: list[int] = []
    for row, (segment, label) in enumerate(zip(truth.segments, truth.labels, strict=True)):
        near = (np.abs(truth.segments[kept] - segment) <= tolerance).all(axis=1)
        if segment[1] - segment[0] >= tolerance and not (near & (truth.labels[kept] == label)).any():
            kept.append(row)
    return Instances(truth.segments[kept], truth.labels[kept])


def without_classes(truths: Mapping[str, Instances], labels: Sequence[int]) -> dict[str, Instances]:
    """The instances without those of some classes, such as the ambiguous regions of THUMOS14."""
    kept = {video: ~np.isin(truth.labels, labels) for video, truth in truths.items()}
    return {video: Instances(truth.segments[kept[video]], truth.labels[kept[video]]) for video, truth in truths.items()}


def guesses(
    truths: Mapping[str, Instances], durations: Mapping[str, float], *, per_video: int = 100, seed: int = 0
) -> dict[str, Detections]:
    """Random segments, to say what a score means: uniform places and scores, classes and lengths as often as in truth.

    Args:
        truths: video -> true instances.
        durations: video -> seconds.
        per_video: segments of each.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([truth.segments[:, 1] - truth.segments[:, 0] for truth in truths.values()])
    labels = np.concatenate([truth.labels for truth in truths.values()])
    found = {}
    for video in truths:
        drawn = np.minimum(rng.choice(lengths, per_video), durations[video])
        starts = rng.random(per_video) * (durations[video] - drawn)
        segments = np.stack([starts, starts + drawn], axis=1)
        found[video] = Detections(segments, rng.choice(labels, per_video), rng.random(per_video))
    return found
