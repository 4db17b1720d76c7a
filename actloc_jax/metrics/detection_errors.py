"""What the wrong detections are, in the manner of DETAD (Alwassel et al., ECCV 2018; numpy only).

The best predictions of every class, ten for each true instance, are matched as for average precision. One without an
instance is compared with all instances of its video, whatever their class; by the tIoU with the nearest of them it is

* a duplicate: at least the threshold, right class;
* a wrong label: at least the threshold, another class;
* a localisation error: at least 0.1, right class;
* a confusion: at least 0.1, another class;
* background: less than 0.1.

Instances that no prediction takes are missed. Source: `HumamAlwassel/DETAD:src/action_detector_diagnosis.py`, without
its normalisation of precision by class frequency.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from actloc_jax.metrics.detection import ACTIVITYNET_TIOU, area
from actloc_jax.metrics.detection_matching import SANE, Detections, Instances, Matching, Protocol, match, pairs_within

KINDS = ("true positive", "duplicate", "wrong label", "localisation", "confusion", "background")
"""Kinds of predictions; the first is no error."""

MISSED = "missed"
"""Kind of the instances that no prediction takes."""


@dataclasses.dataclass(frozen=True)
class ErrorAnalysis:
    """Errors of a set of predictions.

    Attributes:
        thresholds: tIoU thresholds.
        kinds: [thresholds, predictions] int64, position in `KINDS` of every prediction looked at.
        profile: [thresholds, groups, kinds] share of each kind among the predictions of a group, in 0..1. Of a class
            with G instances, group 0 holds the best G predictions, group 1 the next G, and so on.
        average_precision: [thresholds] mAP of the predictions looked at, in 0..1.
        without: kind -> [thresholds] mAP if predictions of that kind were deleted, or, for `"missed"`, if instances
            that were missed did not count.
        missed: [thresholds] share of the instances that no prediction takes.
    """

    thresholds: tuple[float, ...]
    kinds: np.ndarray
    profile: np.ndarray
    average_precision: np.ndarray
    without: dict[str, np.ndarray]
    missed: np.ndarray

    def shares(self) -> dict[str, np.ndarray]:
        """Kind -> [thresholds] share of the predictions, in 0..1."""
        return {kind: (self.kinds == position).mean(axis=1) for position, kind in enumerate(KINDS)}

    def gains(self) -> dict[str, float]:
        """Kind of error -> mAP that it costs: percentage points, mean over thresholds."""
        return {
            kind: float(100.0 * (without - self.average_precision).mean()) for kind, without in self.without.items()
        }


def analyse(
    predictions: Mapping[str, Detections],
    truths: Mapping[str, Instances],
    thresholds: Sequence[float] = ACTIVITYNET_TIOU,
    *,
    groups: int = 10,
    least_overlap: float = 0.1,
    protocol: Protocol = SANE,
) -> ErrorAnalysis:
    """Sorts the errors of the best predictions into kinds.

    Args:
        predictions, truths, thresholds, protocol: as for `detection.evaluate`. Predictions of classes without instances
            are not looked at; true instances of length zero or less do not count.
        groups: of every class, this many times as many predictions are looked at as it has instances.
        least_overlap: tIoU below which a prediction is background.

    Raises:
        ValueError: as for `detection.evaluate`, or `groups` below 1, or no prediction of a class with instances.
    """
    if groups < 1:
        raise ValueError(f"groups={groups}: at least one group of predictions must be looked at")
    real = {video: truth.segments[:, 1] > truth.segments[:, 0] for video, truth in truths.items()}
    truths = {
        video: Instances(truth.segments[real[video]], truth.labels[real[video]]) for video, truth in truths.items()
    }
    matching = match(predictions, truths, thresholds, protocol)
    rank = np.arange(len(matching.label)) - np.searchsorted(matching.label, matching.label)
    group = rank // matching.instances[matching.label]
    looked_at = group < groups
    if not looked_at.any():
        raise ValueError("no prediction belongs to a class that has instances: there is no error to analyse")
    # What comes later in the order of scores changes nothing for what comes before it: the matching stays as it is.
    taken, label = matching.taken[:, looked_at], matching.label[looked_at]
    kinds = _kinds(matching, looked_at, least_overlap, protocol)
    counts = np.zeros((len(thresholds), groups, len(KINDS)))
    for row, of_prediction in zip(counts, kinds, strict=True):
        np.add.at(row, (group[looked_at], of_prediction), 1)
    with_all = np.array([_mean_precision(row >= 0, label, matching.instances) for row in taken])
    without = {
        kind: np.array(
            [
                _mean_precision(row[kept] >= 0, label[kept], matching.instances)
                for row, kept in zip(taken, kinds != position, strict=True)
            ]
        )
        for position, kind in enumerate(KINDS)
        if position > 0
    }
    hits = [np.bincount(label[row >= 0], minlength=len(matching.classes)) for row in taken]
    without[MISSED] = np.array(
        [_mean_precision(row >= 0, label, found) for row, found in zip(taken, hits, strict=True)]
    )
    return ErrorAnalysis(
        thresholds=matching.thresholds,
        kinds=kinds,
        profile=counts / np.maximum(counts.sum(axis=2, keepdims=True), 1),
        average_precision=with_all,
        without=without,
        missed=1 - np.array([found.sum() for found in hits]) / matching.instances.sum(),
    )


def _kinds(matching: Matching, looked_at: np.ndarray, least_overlap: float, protocol: Protocol) -> np.ndarray:
    """[thresholds, predictions looked at] int64: the kind of every prediction."""
    label = matching.label[looked_at]
    pairs = pairs_within(
        *(matching.video[looked_at], matching.segments[looked_at]),
        *(matching.true_video, matching.true_segments),
        dataclasses.replace(protocol, ties="stable"),  # the first of equal ones, as argmax
        min(least_overlap, *matching.thresholds),
    )
    nearest = np.zeros(len(label))
    same = np.zeros(len(label), bool)
    prediction, first = np.unique(pairs.prediction, return_index=True)
    nearest[prediction] = pairs.overlap[first]
    same[prediction] = matching.true_label[pairs.instance[first]] == label[prediction]
    kinds = np.empty((len(matching.thresholds), len(label)), np.int64)
    for row, threshold, taken in zip(kinds, matching.thresholds, matching.taken[:, looked_at], strict=True):
        row[:] = KINDS.index("background")
        row[nearest >= least_overlap] = KINDS.index("confusion")
        row[(nearest >= least_overlap) & same] = KINDS.index("localisation")
        row[nearest >= threshold] = KINDS.index("wrong label")
        row[(nearest >= threshold) & same] = KINDS.index("duplicate")
        row[taken >= 0] = KINDS.index("true positive")
    return kinds


def _mean_precision(hits: np.ndarray, label: np.ndarray, instances: np.ndarray) -> float:
    """mAP in 0..1 of predictions sorted by class and score; classes without instances count 0."""
    bounds = np.searchsorted(label, np.arange(len(instances) + 1))
    classes = zip(bounds[:-1], bounds[1:], instances.tolist(), strict=True)
    return float(np.mean([area(hits[first:last], count) for first, last, count in classes]))
