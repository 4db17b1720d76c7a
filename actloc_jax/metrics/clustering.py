"""Metrics of unsupervised segmentation: clusters are matched to classes first, then scored (numpy and scipy only).

The protocol of the field (`mingu6/action_seg_ot:src/metrics.py`): a Hungarian matching of clusters to classes that
maximises the frames in common, then

* MoF: frames whose cluster is matched to their class;
* mIoU: intersection over union of every matched pair, averaged over the true classes;
* F1: from 15 frames drawn at random in every true segment, 50 times (`f1_sampled`). It counts segments against
  classes, so it can exceed 1, and it looks one frame into the next segment;
* F1 exact: a deterministic F1 of segments without these flaws (`f1_exact`). No paper reports it.

Frames whose true label is `IGNORE` are taken out before anything else: a prediction on background costs nothing.
Clusters and classes are integers. Single metrics are fractions; `evaluate` returns percentages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize

IGNORE = -1
"""True label of frames that are not scored."""

EXPERIMENTS = 50  # how often the published F1 draws frames
DRAWS = 15  # frames per segment and experiment of the published F1
EPSILON = 1e-8  # of the published F1


def contingency(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames that each cluster has in common with each class.

    Args:
        predicted: [time] clusters.
        true: [time] classes.

    Returns:
        the distinct clusters and the distinct classes, both ascending, and [clusters, classes] int64 frames.
    """
    clusters, cluster_of_frame = np.unique(predicted, return_inverse=True)
    classes, class_of_frame = np.unique(true, return_inverse=True)
    counts = np.zeros([len(clusters), len(classes)], np.int64)
    np.add.at(counts, (cluster_of_frame, class_of_frame), 1)
    return clusters, classes, counts


def match_clusters(predicted: np.ndarray, true: np.ndarray) -> dict[int, int]:
    """One-to-one matching of clusters to classes with the most frames in common.

    Args:
        predicted: [time] clusters.
        true: [time] classes.

    Returns:
        cluster -> class, min(#clusters, #classes) pairs in ascending order of the clusters. Among equally good
        matchings it is the one that SciPy finds for the table of `contingency`, as published.
    """
    clusters, classes, counts = contingency(predicted, true)
    rows, columns = optimize.linear_sum_assignment(counts, maximize=True)
    return dict(zip(clusters[rows].tolist(), classes[columns].tolist(), strict=True))


def mof(predicted: np.ndarray, true: np.ndarray, matching: Mapping[int, int]) -> float:
    """Fraction of frames whose cluster is matched to their class ("mean over frames").

    Args:
        predicted: [time] clusters.
        true: [time] classes.
        matching: cluster -> class, from `match_clusters`.

    Raises:
        ValueError: no frames.
    """
    _require_frames(predicted, true)
    correct = sum(np.count_nonzero((predicted == k) & (true == c)) for k, c in matching.items())
    return correct / len(true)


def miou(predicted: np.ndarray, true: np.ndarray, matching: Mapping[int, int]) -> float:
    """Intersection over union of the matched pairs, summed and divided by the number of classes in `true`.

    A class without a cluster counts 0, and so does a pair that occurs on no frame. Arguments as for `mof`, [time].

    Raises:
        ValueError: no frames.
    """
    _require_frames(predicted, true)
    total = 0.0
    for cluster, label in matching.items():
        union = np.count_nonzero((predicted == cluster) | (true == label))
        total += np.count_nonzero((predicted == cluster) & (true == label)) / max(union, 1)
    return total / len(np.unique(true))


def f1_sampled(
    predicted: np.ndarray,
    true: np.ndarray,
    matching: Mapping[int, int],
    *,
    rng: np.random.RandomState,
    videos: int = 1,
) -> float:
    """The published F1, on frames drawn from every true segment.

    In each of 50 experiments 15 frames are drawn from every segment, its end INCLUDED (the first frame of the next
    segment, or the last frame of all). The segment is found if more than half of them carry the cluster that is
    matched to its class. Precision is found / (50 videos classes), recall is found / (50 segments). Videos are
    concatenated, so equal labels on both sides of a border make one segment.

    Args:
        predicted: [time] clusters.
        true: [time] classes.
        matching: cluster -> class.
        rng: NumPy's legacy generator. `RandomState(seed)` draws what the original draws after `np.random.seed(seed)`.
        videos: number of videos that are concatenated.

    Returns:
        A fraction, above 1 where videos have more segments than classes.

    Raises:
        ValueError: no frames.
    """
    _require_frames(predicted, true)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(true)) + 1, [len(true) - 1]])
    first, last = edges[:-1], edges[1:]
    shape = (EXPERIMENTS, len(first), DRAWS)
    frames = rng.randint(np.broadcast_to(first[:, None], shape), np.broadcast_to(last[:, None], shape) + 1)
    carries = _carries_its_class(predicted[frames], true[first][:, None], matching)
    found = np.count_nonzero(carries.sum(axis=-1) > DRAWS / 2)
    precision = found / (videos * len(np.unique(true)) * EXPERIMENTS)
    recall = found / (len(first) * EXPERIMENTS + EPSILON)
    return 2 * precision * recall / (precision + recall + EPSILON)


def f1_exact(predicted: Sequence[np.ndarray], true: Sequence[np.ndarray], matching: Mapping[int, int]) -> float:
    """A deterministic F1 of segments, in 0..1; ours, not published.

    A segment is a longest run of equal labels inside one video. A true segment is found if more than half of its
    frames carry the cluster that is matched to its class; it is then credited to the predicted segment of that
    cluster that shares the most frames with it (the first among equals).

    * recall = found true segments / true segments;
    * precision = predicted segments with at least one credit / predicted segments. A predicted segment that spans
      several found segments counts once, hence precision <= 1; every needless piece of a prediction lowers it.

    Args:
        predicted: for every video [time] clusters.
        true: for every video [time] classes.
        matching: cluster -> class.

    Raises:
        ValueError: no frames, or videos of different lengths.
    """
    found = credited = true_segments = predicted_segments = 0
    for clusters, labels in zip(predicted, true, strict=True):
        _require_frames(clusters, labels)
        true_run, true_starts = _runs(labels)
        predicted_run, predicted_starts = _runs(clusters)
        carries = _carries_its_class(clusters, labels, matching)
        shared = np.zeros([len(true_starts), len(predicted_starts)], np.int64)
        np.add.at(shared, (true_run[carries], predicted_run[carries]), 1)
        is_found = 2 * shared.sum(axis=1) > np.bincount(true_run)
        found += np.count_nonzero(is_found)
        credited += len(np.unique(shared[is_found].argmax(axis=1)))
        true_segments += len(true_starts)
        predicted_segments += len(predicted_starts)
    if true_segments == 0:
        raise ValueError("no video to score")
    return 2 * credited * found / max(credited * true_segments + found * predicted_segments, 1)


def evaluate(
    predictions: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray], *, seed: int = 0
) -> dict[str, float]:
    """All metrics of a set of videos.

    Frames with true label `IGNORE` are dropped first. "MoF", "F1", "mIoU" and "F1 exact" use one matching for all
    videos, concatenated in the order of `truths` ("full" in the literature). The same names with " video" match every
    video on its own and average over videos; a video of which no frame is left is not in that average (it still counts
    as a video in the precision of the published F1).

    Args:
        predictions: video -> [time] clusters. Videos without ground truth are not looked at.
        truths: video -> [time] classes.
        seed: of the frames that F1 draws: first video by video, then for all videos, as the original does.

    Returns:
        percentages, of which "F1" and "F1 video" can exceed 100.

    Raises:
        ValueError: no video, a video without prediction or with one of another length, or no frame left to score.
    """
    _check_videos(predictions, truths)
    kept_clusters, kept_labels = [], []
    for video, truth in truths.items():
        true, predicted = np.asarray(truth), np.asarray(predictions[video])
        kept = true != IGNORE
        if kept.any():
            kept_clusters.append(predicted[kept])
            kept_labels.append(true[kept])
    if not kept_labels:
        raise ValueError(
            f"no frame to score: every frame of {len(truths)} videos has the ignored label {IGNORE}; "
            "check which class is excluded, and the mapping and ground truth"
        )
    rng = np.random.RandomState(seed)
    videos = [_scores([one], [true], rng, 1) for one, true in zip(kept_clusters, kept_labels, strict=True)]
    scores = _scores(kept_clusters, kept_labels, rng, len(truths))
    scores |= {f"{name} video": float(np.mean([video[name] for video in videos])) for name in scores}
    return {name: float(100.0 * value) for name, value in scores.items()}


def equal_parts(length: int, clusters: int) -> np.ndarray:
    """[length] int32: the frames cut into `clusters` parts of equal length, numbered in order."""
    return (np.arange(length) * clusters // max(length, 1)).astype(np.int32)


def chance(truths: Mapping[str, np.ndarray], clusters: int, seed: int = 0) -> dict[str, float]:
    """What a cut of every video into `clusters` equal parts scores, without a look at the video.

    It knows the order of the actions but not when they change, which makes it a strong baseline wherever all videos
    follow one order: a method that does not clearly beat it has learned little from the features.

    Args:
        truths: video -> [time] classes.
        clusters: number of parts.
        seed: as for `evaluate`.

    Returns:
        scores as from `evaluate`.
    """
    parts = {video: equal_parts(len(truth), clusters) for video, truth in truths.items()}
    return evaluate(parts, truths, seed=seed)


def _scores(
    predicted: list[np.ndarray], true: list[np.ndarray], rng: np.random.RandomState, videos: int
) -> dict[str, float]:
    """All metrics with one matching for the given videos, as fractions."""
    clusters, labels = np.concatenate(predicted), np.concatenate(true)
    matching = match_clusters(clusters, labels)
    return {
        "MoF": mof(clusters, labels, matching),
        "F1": f1_sampled(clusters, labels, matching, rng=rng, videos=videos),
        "mIoU": miou(clusters, labels, matching),
        "F1 exact": f1_exact(predicted, true, matching),
    }


def _carries_its_class(clusters: np.ndarray, labels: np.ndarray, matching: Mapping[int, int]) -> np.ndarray:
    """Where the cluster is matched to the class of the frame; `labels` broadcasts against `clusters`."""
    carries = np.zeros(np.broadcast_shapes(clusters.shape, labels.shape), bool)
    for cluster, label in matching.items():
        carries |= (clusters == cluster) & (labels == label)
    return carries


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The run of equal labels that each frame belongs to [time], and the first frame of each run [runs]."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1])
    return np.searchsorted(starts, np.arange(len(labels)), side="right") - 1, starts


def _require_frames(predicted: np.ndarray, true: np.ndarray) -> None:
    """Refuses sequences that cannot be scored."""
    if len(true) == 0 or len(predicted) != len(true):
        raise ValueError(
            f"{len(predicted)} predicted and {len(true)} true labels; expected the same number of frames, at least one"
        )


def _check_videos(predictions: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray]) -> None:
    """Refuses sets of videos that cannot be scored, with all the reasons at once."""
    if not truths:
        raise ValueError("no video to evaluate: the ground truth is empty")
    reasons = []
    missing = [video for video in truths if video not in predictions]
    if missing:
        reasons.append(f"{len(missing)} of {len(truths)} videos have no prediction: {', '.join(missing[:5])}")
    different = [
        f"{video} ({len(predictions[video])} frames predicted, {len(truth)} in the ground truth)"
        for video, truth in truths.items()
        if video in predictions and len(predictions[video]) != len(truth)
    ]
    if different:
        reasons.append(
            f"predictions and ground truth differ in length for {', '.join(different[:5])}; predict every frame"
        )
    if reasons:
        raise ValueError("; ".join(reasons))
