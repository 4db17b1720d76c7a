"""Which detection takes which true instance: the matching behind average precision and error analysis (numpy only).

For each class, predictions of all videos are visited by descending score. A prediction looks at the true instances of
its class in its video from the highest temporal IoU down and takes the first that reaches the threshold and is free.

Nothing is done prediction by prediction: the visit in order of score is the stable matching in which every instance
prefers the better score, and that is found by rounds of proposals of all predictions at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from actloc_jax.ops import iou

PAIRS_AT_ONCE = 1 << 20  # pairs of prediction and instance that are compared in one go


@dataclasses.dataclass(frozen=True)
class Detections:
    """Scored segments of one video.

    Attributes:
        segments: [detections, 2] float64, start and end in seconds.
        labels: [detections] int64, class.
        scores: [detections] float64.
    """

    segments: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        _freeze(self, "detection", segments=(np.float64, (2,)), labels=(np.int64, ()), scores=(np.float64, ()))

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Instances:
    """True segments of one video.

    Attributes:
        segments: [instances, 2] float64, start and end in seconds.
        labels: [instances] int64, class.
    """

    segments: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        _freeze(self, "instance", segments=(np.float64, (2,)), labels=(np.int64, ()))

    def __len__(self) -> int:
        return len(self.labels)


def _freeze(owner: Detections | Instances, row: str, **fields: tuple[type, tuple[int, ...]]) -> None:
    """Gives the fields their types, and refuses what cannot be evaluated."""
    for name, (dtype, shape) in fields.items():
        values = np.asarray(getattr(owner, name))
        values = values.reshape(0, *shape) if values.size == 0 else values
        if values.ndim != 1 + len(shape) or values.shape[1:] != shape:
            raise ValueError(f"{name} must have shape {('n', *shape)}, found {values.shape}")
        bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise ValueError(f"{name} of {row} {first} is not finite: {values[first].tolist()}")
        object.__setattr__(owner, name, values.astype(dtype))
    lengths = {name: len(getattr(owner, name)) for name in fields}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"every {row} needs each of {', '.join(fields)}, found numbers {lengths}")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The points in which published evaluations differ.

    Attributes:
        ties: the order of equal scores. `"stable"`: the earlier row first, everywhere and always the same.
            `"argsort"` and `"argsort_reversed"`: what the expressions `argsort(-scores)` (TALLFormer) and
            `argsort(scores)[::-1]` (ActivityNet) of the originals give. That depends on numpy's build and the
            processor, and can move a class by a point of AP where scores are rounded. Of instances with equal tIoU the
            later row comes first under `"argsort_reversed"`, else the earlier.
        instances: `"any"` free instance above the threshold, from the highest tIoU down; `"best"`: a prediction whose
            best instance is taken is wrong (Pascal VOC).
        area: `"interpolated"` area under the monotone precision curve; `"eleven_points"`: mean of its values at recalls
            0, 0.1, ..., 1 (VOC 2007).
        unannotated: predictions for a video without any true instance `"count"` as false positives, or are left out
            (`"ignore"`: AFSD).
        unknown: predictions of a class that no instance has are left out (`"ignore"`), or are an `"error"` (FuSTAL).
        instants: a prediction of length zero beside an instance of length zero. Plain division gives NaN, which the
            ActivityNet code takes for a match at every threshold (`"match"`); here it `"miss"`es.
    """

    ties: Literal["stable", "argsort", "argsort_reversed"] = "stable"
    instances: Literal["any", "best"] = "any"
    area: Literal["interpolated", "eleven_points"] = "interpolated"
    unannotated: Literal["count", "ignore"] = "count"
    unknown: Literal["ignore", "error"] = "ignore"
    instants: Literal["miss", "match"] = "miss"


SANE = Protocol()
"""The default: ActivityNet's evaluation with a stable order."""

ACTIVITYNET = Protocol(ties="argsort_reversed", instants="match")
"""ActivityNet, SPOT, ActionFormer, DETAD."""

FUSTAL = Protocol(ties="argsort_reversed", unknown="error", instants="match")
"""FuSTAL's generator, which evaluates its student, too."""

AFSD = Protocol(ties="argsort_reversed", unannotated="ignore", instants="match")
"""AFSD and TALLFormer on ActivityNet."""

TALLFORMER = Protocol(ties="argsort")
VOC = Protocol(ties="argsort", instances="best")
VOC07 = Protocol(ties="argsort", instances="best", area="eleven_points")
"""TALLFormer's modes "anet" (the published one), default and "voc07" on THUMOS14."""


@dataclasses.dataclass(frozen=True)
class Matching:
    """Which prediction takes which true instance.

    Predictions are sorted by class, then by score, best first; classes are those that have instances.

    Attributes:
        thresholds: tIoU thresholds.
        classes: [classes] int64, ascending.
        instances: [classes] int64, number of true instances.
        videos: names, by number.
        video: [predictions] int64, number of the video.
        label: [predictions] int64, position in `classes`.
        segments: [predictions, 2] float64 seconds.
        scores: [predictions] float64.
        true_video, true_label, true_segments: the same of the [instances].
        taken: [thresholds, predictions] int64, the instance that the prediction takes, -1 for none.
    """

    thresholds: tuple[float, ...]
    classes: np.ndarray
    instances: np.ndarray
    videos: tuple[str, ...]
    video: np.ndarray
    label: np.ndarray
    segments: np.ndarray
    scores: np.ndarray
    true_video: np.ndarray
    true_label: np.ndarray
    true_segments: np.ndarray
    taken: np.ndarray

    def rows(self, label: int) -> slice:
        """The predictions of the class at a position of `classes`."""
        return slice(*np.searchsorted(self.label, [label, label + 1]).tolist())

    def curve(self, label: int, threshold: int) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision after each prediction of a class.

        Args:
            label: position in `classes`.
            threshold: position in `thresholds`.

        Returns:
            recall [predictions of the class] and precision [predictions of the class].
        """
        hits = np.cumsum(self.taken[threshold, self.rows(label)] >= 0)
        return hits / self.instances[label], hits / np.arange(1, len(hits) + 1)


def match(
    predictions: Mapping[str, Detections],
    truths: Mapping[str, Instances],
    thresholds: Sequence[float],
    protocol: Protocol = SANE,
) -> Matching:
    """Finds which prediction takes which instance at every threshold.

    Arguments and errors are those of `detection.evaluate`.
    """
    thresholds = tuple(float(threshold) for threshold in thresholds)
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"tIoU thresholds must lie in 0..1 (0 excluded) and be at least one, found {thresholds}")
    videos = tuple(dict.fromkeys([*truths, *predictions]))
    number = {video: position for position, video in enumerate(videos)}
    true_video, true_label, true_segments = _rows(truths, number)
    if len(true_label) == 0:
        raise ValueError(f"no true instance in {len(truths)} videos: nothing to evaluate; check the subset's name")
    classes, true_label, instances = np.unique(true_label, return_inverse=True, return_counts=True)
    video, label, segments = _rows(predictions, number)
    scores = np.concatenate([found.scores for found in predictions.values()] or [np.zeros(0)])
    position = np.minimum(np.searchsorted(classes, label), len(classes) - 1)
    known = classes[position] == label
    if protocol.unknown == "error" and not known.all():
        raise ValueError(
            f"{np.count_nonzero(~known)} predictions have classes {np.unique(label[~known]).tolist()[:10]}, which no "
            'true instance has; use unknown="ignore" to leave them out'
        )
    if protocol.unannotated == "ignore":
        known &= np.bincount(true_video, minlength=len(videos))[video] > 0
    order = np.flatnonzero(known)
    order = order[_visit(scores[order], position[order], protocol)]
    video, label, segments, scores = video[order], position[order], segments[order], scores[order]
    pairs = pairs_within(
        *(video * len(classes) + label, segments),
        *(true_video * len(classes) + true_label, true_segments),
        *(protocol, min(thresholds)),
    )
    taken = np.stack(
        [_take(pairs, threshold, len(label), len(true_label), protocol.instances) for threshold in thresholds]
    )
    return Matching(
        *(thresholds, classes, instances, videos, video, label, segments, scores),
        *(true_video, true_label, true_segments, taken),
    )


def _visit(scores: np.ndarray, label: np.ndarray, protocol: Protocol) -> np.ndarray:
    """[predictions] int64: classes ascending, within each by descending score."""
    if protocol.ties == "stable":
        return np.lexsort((-scores, label))
    by_class = np.argsort(label, kind="stable")
    classes = np.split(by_class, np.flatnonzero(np.diff(label[by_class])) + 1)
    if protocol.ties == "argsort":
        return np.concatenate([rows[np.argsort(-scores[rows])] for rows in classes])
    return np.concatenate([rows[np.argsort(scores[rows])[::-1]] for rows in classes])


def _rows(
    found: Mapping[str, Detections] | Mapping[str, Instances], number: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of the video, label and segment of every row, in the order of the mapping."""
    video = np.repeat([number[video] for video in found], [len(rows) for rows in found.values()]).astype(np.int64)
    labels = np.concatenate([rows.labels for rows in found.values()] or [np.zeros(0, np.int64)])
    segments = np.concatenate([rows.segments for rows in found.values()] or [np.zeros((0, 2))])
    return video, labels, segments


class Pairs(NamedTuple):
    """Pairs of a prediction and an instance, sorted by prediction and then by descending tIoU.

    Attributes:
        prediction, instance: [pairs] int64, rows.
        overlap: [pairs] float64 tIoU.
    """

    prediction: np.ndarray
    instance: np.ndarray
    overlap: np.ndarray


def pairs_within(
    groups: np.ndarray,
    segments: np.ndarray,
    true_groups: np.ndarray,
    true_segments: np.ndarray,
    protocol: Protocol,
    least: float = 0.0,
) -> Pairs:
    """All pairs of a prediction and an instance of the same group that overlap by at least `least`.

    Args:
        groups: [predictions] int64, such as the video, or video and class together.
        segments: [predictions, 2].
        true_groups: [instances] int64.
        true_segments: [instances, 2].
        protocol: its `ties` decide between instances of equal tIoU, its `instants` about segments of length zero.
        least: least tIoU of a pair.
    """
    by_group = np.argsort(true_groups, kind="stable")
    first, last = (np.searchsorted(true_groups[by_group], groups, side) for side in ("left", "right"))
    counts = last - first
    cuts = np.searchsorted(np.cumsum(counts), np.arange(PAIRS_AT_ONCE, counts.sum(), PAIRS_AT_ONCE))
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for rows in np.split(np.arange(len(groups)), cuts):
        prediction = np.repeat(rows, counts[rows])
        within = np.arange(len(prediction)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        instance = by_group[first[prediction] + within]
        mine, true = segments[prediction], true_segments[instance]
        overlap = iou.TIOU(mine, true)
        if protocol.instants == "match":
            overlap[(mine[:, 0] == mine[:, 1]) & (true[:, 0] == true[:, 1])] = np.inf
        near = overlap >= least
        found.append((prediction[near], instance[near], overlap[near]))
    prediction, instance, overlap = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((-instance if protocol.ties == "argsort_reversed" else instance, -overlap, prediction))
    return Pairs(prediction[order], instance[order], overlap[order])


def _take(
    pairs: Pairs, threshold: float, predictions: int, instances: int, which: Literal["any", "best"]
) -> np.ndarray:
    """The instance that each prediction takes at a threshold, -1 for none; int64 [predictions].

    Every prediction proposes to its best instance, every instance keeps the best proposal (the earliest row), and who
    is refused proposes to the next, until nobody is left.
    """
    near = pairs.overlap >= threshold
    if which == "best":
        near &= np.concatenate([[True], np.diff(pairs.prediction) > 0])[: len(near)]
    prediction, instance = pairs.prediction[near], pairs.instance[near]
    proposal = np.searchsorted(prediction, np.arange(predictions))
    end = np.append(proposal[1:], len(prediction))
    holder = np.full(instances, predictions)
    asking = np.flatnonzero(proposal < end)
    while len(asking):
        asked = instance[proposal[asking]]
        before = holder[asked]
        np.minimum.at(holder, asked, asking)
        replaced = np.unique(before[(before < predictions) & (holder[asked] != before)])
        asking = np.concatenate([asking[holder[asked] != asking], replaced])
        proposal[asking] += 1
        asking = asking[proposal[asking] < end[asking]]
    taken = np.full(predictions, -1)
    held = np.flatnonzero(holder < predictions)
    taken[holder[held]] = held
    return taken
