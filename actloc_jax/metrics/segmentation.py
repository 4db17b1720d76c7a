"""Metrics of temporal action segmentation: frame accuracy, segmental edit score, segmental F1 (numpy only).

The field publishes two readings of a segment's end that differ by one frame at the end of a video, and numbers that
look comparable are not always made with the same one:

* `"exclusive"`: the last segment ends at T (`yabufarha/ms-tcn:eval.py`, TST);
* `"minus_one"`: the last segment ends at T - 1 (`Finspire13/DiffAct:utils.py`, ASFormer, ASRF).

Labels are class names or class indices, one per frame. Scores are percentages in 0..100.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

SegmentEnd = Literal["exclusive", "minus_one"]
EmptyTruth = Literal["error", "count"]
FrameLabels = Sequence[str] | Sequence[int] | np.ndarray

OVERLAPS = (0.10, 0.25, 0.50)
"""Intersection-over-union thresholds of F1@{10,25,50}."""

BACKGROUND = ("background",)
"""No action in the published protocols. `SIL` of Breakfast and the start and end classes of 50Salads do count."""


@dataclasses.dataclass(frozen=True)
class Segments:
    """Runs of equal labels of one video, background left out.

    Attributes:
        labels: [segments] class names or indices.
        starts: [segments] int64, first frame.
        ends: [segments] int64, first frame after the run (the last run's end depends on the variant).
    """

    labels: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def segments(
    labels: FrameLabels, *, background: Sequence[str | int] = BACKGROUND, segment_end: SegmentEnd = "exclusive"
) -> Segments:
    """Splits frame labels into maximal runs of equal labels and drops the background runs.

    Args:
        labels: [time] class names or indices.
        background: labels that are no action.
        segment_end: where the last run ends, see the module's text.

    Raises:
        ValueError: no frames, or an unknown `segment_end`.
    """
    if segment_end not in ("exclusive", "minus_one"):
        raise ValueError(f'segment_end={segment_end!r} is unknown; use "exclusive" or "minus_one"')
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"frame labels must be a sequence of at least one label, found shape {labels.shape}")
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    ends = np.append(starts[1:], len(labels) - (segment_end == "minus_one"))
    run_labels = labels[starts]
    is_action = np.array([label not in background for label in run_labels.tolist()])
    return Segments(run_labels[is_action], starts[is_action], ends[is_action])


def levenshtein(first: Sequence | np.ndarray, second: Sequence | np.ndarray) -> int:
    """Edit distance (insert, delete, replace cost 1) of two sequences, one numpy row at a time.

    Inside a row, the insertions chain from left to right: `row[j] = min(row[j], row[j-1] + 1)`, which is a running
    minimum of `row[j] - j`.
    """
    first, second = np.asarray(first), np.asarray(second)
    columns = np.arange(len(second) + 1)
    row = columns
    for symbol in first:
        without_insertion = np.append(row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + (second != symbol)))
        row = np.minimum.accumulate(without_insertion - columns) + columns
    return int(row[-1])


def edit_score(predicted: Segments, truth: Segments) -> float:
    """Segmental edit score of one video: 100 (1 - distance / longer sequence).

    Returns:
        The score in 0..100; NaN when both sides have no segment, as in the originals.
    """
    longest = max(len(predicted), len(truth))
    if longest == 0:
        return float("nan")
    return (1 - levenshtein(predicted.labels, truth.labels) / longest) * 100


def match_counts(
    predicted: Segments, truth: Segments, overlap: float, *, empty_truth: EmptyTruth = "error"
) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of one video at one overlap (Lea et al., CVPR 2017).

    Every predicted segment takes its best true segment of the same label (the first one among equals). It is a true
    positive if their intersection over union reaches `overlap` and no earlier prediction took that segment.

    Args:
        predicted, truth: segments of the same video.
        overlap: threshold in 0..1.
        empty_truth: the originals fail where predictions meet a ground truth without any action (`"error"`);
            `"count"` makes all of them false positives.

    Raises:
        ValueError: predictions without true segments, under `empty_truth="error"`.
    """
    if len(predicted) == 0 or len(truth) == 0:
        if len(predicted) and empty_truth == "error":
            raise ValueError(
                f"the ground truth has no action, the prediction has {len(predicted)}: the published F1 is undefined "
                'here; pass empty_truth="count" to count them as false positives'
            )
        return 0, len(predicted), len(truth)
    intersection = np.minimum(predicted.ends[:, None], truth.ends) - np.maximum(predicted.starts[:, None], truth.starts)
    union = np.maximum(predicted.ends[:, None], truth.ends) - np.minimum(predicted.starts[:, None], truth.starts)
    # With "minus_one" two final one-frame segments give 0/0. The NaN wins the argmax and misses every threshold,
    # whatever the labels: so it is in the originals.
    with np.errstate(invalid="ignore"):
        overlaps = intersection / union * (predicted.labels[:, None] == truth.labels)
    best = overlaps.argmax(axis=1)
    reached = overlaps[np.arange(len(predicted)), best] >= overlap
    hits = len(np.unique(best[reached]))
    return hits, len(predicted) - hits, len(truth) - hits


def f1_score(true_positives: float, false_positives: float, false_negatives: float, *, epsilon: float = 0.0) -> float:
    """F1 in 0..100 from counts; 0 where it is undefined.

    Args:
        true_positives, false_positives, false_negatives: counts summed over videos.
        epsilon: added to precision + recall; the ASRF score meter uses 1e-7 (`asformer_tst/libs/metric.py`).
    """
    if true_positives == 0:
        return 0.0
    precision = true_positives / (true_positives + false_positives)
    recall = true_positives / (true_positives + false_negatives)
    return 200.0 * precision * recall / (precision + recall + epsilon)


def evaluate(
    predictions: Mapping[str, FrameLabels],
    truths: Mapping[str, FrameLabels],
    *,
    background: Sequence[str | int] = BACKGROUND,
    segment_end: SegmentEnd = "exclusive",
    overlaps: Sequence[float] = OVERLAPS,
    empty_truth: EmptyTruth = "error",
    f1_epsilon: float = 0.0,
) -> dict[str, float]:
    """Accuracy, edit score and F1 of a set of videos.

    Accuracy counts frames over all videos (background included); the edit score is a mean over videos; F1 sums its
    counts over videos. A prediction longer than its ground truth keeps the extra frames for edit and F1, as in
    `baiyang4/TST-action-segmentation`; accuracy compares the frames of the ground truth.

    Args:
        predictions: video -> [time] class names or indices. Videos without ground truth are not looked at.
        truths: video -> [time] labels of the same kind.
        background: labels that are no action for edit and F1.
        segment_end: `"exclusive"` (MS-TCN, TST) or `"minus_one"` (DiffAct, ASFormer, ASRF).
        overlaps: thresholds of F1.
        empty_truth: what to do with a ground truth without actions, see `match_counts`. With `"count"` a video
            without actions on both sides has edit score 100 instead of NaN.
        f1_epsilon: see `f1_score`.

    Returns:
        `{"Acc": ..., "Edit": ..., "F1@10": ..., ...}` in 0..100.

    Raises:
        ValueError: no videos, a video without prediction, or a prediction shorter than its ground truth.
    """
    _check_videos(predictions, truths)
    correct = frames = 0
    edits = []
    counts = np.zeros([len(overlaps), 3])
    for video, truth in truths.items():
        predicted_labels, true_labels = np.asarray(predictions[video]), np.asarray(truth)
        correct += int(np.count_nonzero(predicted_labels[: len(true_labels)] == true_labels))
        frames += len(true_labels)
        predicted_segments = segments(predicted_labels, background=background, segment_end=segment_end)
        true_segments = segments(true_labels, background=background, segment_end=segment_end)
        edit = edit_score(predicted_segments, true_segments)
        edits.append(100.0 if np.isnan(edit) and empty_truth == "count" else edit)
        for row, overlap in zip(counts, overlaps, strict=True):
            try:
                row += match_counts(predicted_segments, true_segments, overlap, empty_truth=empty_truth)
            except ValueError as error:
                raise ValueError(f"video {video}: {error}") from error
    scores = {"Acc": 100.0 * correct / frames, "Edit": float(np.mean(edits))}
    for overlap, row in zip(overlaps, counts, strict=True):
        scores[f"F1@{round(100 * overlap)}"] = f1_score(*row.tolist(), epsilon=f1_epsilon)
    return scores


def _check_videos(predictions: Mapping[str, FrameLabels], truths: Mapping[str, FrameLabels]) -> None:
    """Refuses sets of videos that cannot be scored, with all the reasons at once."""
    if not truths:
        raise ValueError("no video to evaluate: the ground truth is empty")
    missing = [video for video in truths if video not in predictions]
    short = [
        f"{video} ({len(predictions[video])} frames predicted, {len(truth)} in the ground truth)"
        for video, truth in truths.items()
        if video in predictions and len(predictions[video]) < len(truth)
    ]
    reasons = []
    if missing:
        reasons.append(f"{len(missing)} of {len(truths)} videos have no prediction: {', '.join(missing[:5])}")
    if short:
        reasons.append(
            f"predictions are shorter than the ground truth for {', '.join(short[:5])}; "
            "repeat sub-sampled labels to the full frame rate first"
        )
    if reasons:
        raise ValueError("; ".join(reasons))


def mean_over_splits(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Arithmetic mean of the scores of several splits, as the papers report them.

    Raises:
        ValueError: no split, or splits with different metrics.
    """
    if not scores:
        raise ValueError("no split to average")
    names = list(scores[0])
    for position, split in enumerate(scores):
        if set(split) != set(names):
            raise ValueError(f"split number {position + 1} has metrics {sorted(split)}, the first has {sorted(names)}")
    return {name: float(np.mean([split[name] for split in scores])) for name in names}


def confusion_matrix(
    predictions: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray], num_classes: int
) -> np.ndarray:
    """Frames per pair of true and predicted class, summed over videos.

    Args:
        predictions: video -> [time] class indices; frames beyond the ground truth are not counted.
        truths: video -> [time] class indices; frames outside 0..num_classes-1 (ignored ones) are not counted.
        num_classes: number of classes.

    Returns:
        [classes, classes] int64; rows are the ground truth, columns the prediction.

    Raises:
        ValueError: as for `evaluate`.
    """
    _check_videos(predictions, truths)
    matrix = np.zeros([num_classes, num_classes], np.int64)
    for video, truth in truths.items():
        truth = np.asarray(truth)
        predicted = np.asarray(predictions[video])[: len(truth)]
        counted = (truth >= 0) & (truth < num_classes)
        pairs = num_classes * truth[counted].astype(np.int64) + predicted[counted]
        matrix += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return matrix


def chance(
    train_labels: Sequence[np.ndarray],
    truths: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    background: Sequence[str] = BACKGROUND,
    segment_end: SegmentEnd = "exclusive",
    seed: int = 0,
) -> dict[str, float]:
    """What guessing scores without looking at the video: for every metric the better of two guesses.

    One labels every frame with the most frequent training class. The other takes the labels of a random training
    video, stretched to the length of the test video: it knows which actions follow each other, but not what happens.

    Args:
        train_labels: [time] class indices of each training video.
        truths: video -> [time] class indices.
        class_names: by class index.
        background: names that are no action; those that the data set does not have are not looked at.
        segment_end: as for `evaluate`.
        seed: of the choice of training videos.

    Returns:
        scores as from `evaluate`.
    """
    rng = np.random.default_rng(seed)
    majority = np.bincount(np.concatenate(train_labels), minlength=len(class_names)).argmax()
    constant = {video: np.full(len(truth), majority) for video, truth in truths.items()}
    stretched = {
        video: _stretch(train_labels[rng.integers(len(train_labels))], len(truth)) for video, truth in truths.items()
    }
    ignored = [index for index, name in enumerate(class_names) if name in background]
    guesses = [
        evaluate(guess, truths, background=ignored, segment_end=segment_end, empty_truth="count")
        for guess in (constant, stretched)
    ]
    return {name: max(guess[name] for guess in guesses) for name in guesses[0]}


def _stretch(labels: np.ndarray, length: int) -> np.ndarray:
    """Resamples labels to `length` frames."""
    return labels[np.arange(length) * len(labels) // length]
