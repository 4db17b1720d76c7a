"""FuSTAL's second stage: keeps proposals that are confident and lie among similar ones (numpy only; spec: FuSTAL, 4).

The prior of a proposal is the sum of its IoU with all other proposals of the video. As published all classes of a video
are pooled, so that a proposal is also supported by those of other classes; per class is the sane choice. The sum grows
with the number of proposals, so that videos with many are filtered less. Source: `fqhank/FuSTAL:Student-Training`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from actloc_jax.data.proposals import ScoredSegments


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What a proposal must reach.

    Attributes:
        prior: least IoU score (reached: kept).
        score: confidence that must be exceeded.
    """

    prior: float = 0.2
    score: float = 0.4


@dataclasses.dataclass(frozen=True)
class FilterReport:
    """How many proposals survive, and what removed the others.

    Attributes:
        thresholds: what they had to reach.
        class_names: the classes by index.
        videos: number of videos.
        kept_videos: those that keep at least one proposal.
        proposals: [classes] int, before the filter.
        kept: [classes] int.
        removed_by_prior: [classes] int, confident enough, but too little support.
        removed_by_score: [classes] int, enough support, but not confident.
        removed_by_both: [classes] int.
    """

    thresholds: Thresholds
    class_names: tuple[str, ...]
    videos: int
    kept_videos: int
    proposals: np.ndarray
    kept: np.ndarray
    removed_by_prior: np.ndarray
    removed_by_score: np.ndarray
    removed_by_both: np.ndarray

    def describe(self) -> str:
        """What survives, what removed the rest, and the classes that are left with nothing."""
        empty = [
            name
            for name, before, after in zip(self.class_names, self.proposals, self.kept, strict=True)
            if before > after == 0
        ]
        text = (
            f"{self.kept.sum()} of {self.proposals.sum()} proposals and {self.kept_videos} of {self.videos} videos "
            f"survive; removed: {self.removed_by_prior.sum()} only by the IoU score < {self.thresholds.prior}, "
            f"{self.removed_by_score.sum()} only by the confidence <= {self.thresholds.score}, "
            f"{self.removed_by_both.sum()} by both"
        )
        return text + (f"; no proposal is left of {', '.join(empty)}" if empty else "")

    def table(self) -> str:
        """One line per class."""
        lines = [f"{'class':24s} {'before':>8s} {'kept':>8s} {'prior':>8s} {'score':>8s} {'both':>8s}"]
        counts = (self.proposals, self.kept, self.removed_by_prior, self.removed_by_score, self.removed_by_both)
        for name, *row in zip(self.class_names, *counts, strict=True):
            lines.append(f"{name:24s} " + " ".join(f"{count:8d}" for count in row))
        return "\n".join(lines)

    def require_some(self) -> None:
        """Raises ValueError if nothing is left, naming the threshold that did it."""
        if self.kept.any():
            return
        total = int(self.proposals.sum())
        if total == 0:
            raise ValueError(f"the {self.videos} videos have no proposals; run the generator on the training videos")
        above_prior, above_score = int(self.removed_by_score.sum()), int(self.removed_by_prior.sum())
        if above_score == 0 and above_prior > 0:
            cause = f"the confidence threshold {self.thresholds.score} removes them all; lower it"
        elif above_prior == 0 and above_score > 0:
            cause = f"the IoU-score threshold {self.thresholds.prior} removes them all; lower it"
        elif above_prior == above_score == 0:
            cause = "each of the two thresholds removes them all; lower both"
        else:
            cause = "only the two thresholds together remove them all; lower one of them"
        raise ValueError(
            f"none of {total} proposals of {self.videos} videos is left after filtering: {above_score} exceed the "
            f"confidence {self.thresholds.score}, {above_prior} reach the IoU score {self.thresholds.prior}: {cause}"
        )


def prior_scores(segments: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Sum of the IoUs of every segment with all others.

    The IoU is the intersection over the hull of the two, in float32; of segments that overlap this is their IoU.

    Args:
        segments: [n, 2] seconds.
        labels: [n]; given, only segments of the same label count.

    Returns:
        [n] float32.
    """
    overlaps = hull_iou(segments)
    np.fill_diagonal(overlaps, 0.0)
    if labels is not None:
        overlaps *= labels[:, None] == labels[None, :]
    return overlaps.sum(axis=1)


def hull_iou(segments: np.ndarray) -> np.ndarray:
    """[n, n] float32: intersection over hull of every pair of segments [n, 2]."""
    starts, ends = np.asarray(segments, np.float32).reshape(-1, 2).T
    intersection = np.maximum(np.minimum(ends[:, None], ends) - np.maximum(starts[:, None], starts), 0)
    hull = np.maximum(ends[:, None], ends) - np.minimum(starts[:, None], starts)
    return intersection / (hull + np.float32(1e-9))


def passed(
    proposals: ScoredSegments, thresholds: Thresholds = Thresholds(), *, per_class: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Which proposals of a video reach the two thresholds.

    Args:
        proposals: all proposals of one video; none is allowed.
        thresholds: what they must reach.
        per_class: only proposals of the same class support each other; otherwise all of the video, as published.

    Returns:
        Reaches the IoU score, exceeds the confidence: [n] bool each. A proposal is kept if both hold.
    """
    prior = prior_scores(proposals.segments, proposals.labels if per_class else None)
    confident = proposals.scores.astype(np.float32) > np.float32(thresholds.score)
    return prior >= np.float32(thresholds.prior), confident


def filter_proposals(
    videos: Mapping[str, ScoredSegments],
    class_names: Sequence[str],
    thresholds: Thresholds = Thresholds(),
    *,
    per_class: bool = False,
) -> tuple[dict[str, ScoredSegments], FilterReport]:
    """Filters the proposals of all videos.

    Returns:
        Every video with what is left (possibly nothing: it trains as background), in their order, and the report.
    """
    kept_videos: dict[str, ScoredSegments] = {}
    outcomes = np.zeros([2, 2, len(class_names)], np.int64)  # [supported, confident, class]
    for video, proposals in videos.items():
        supported, confident = passed(proposals, thresholds, per_class=per_class)
        kept_videos[video] = proposals[supported & confident]
        np.add.at(outcomes, (supported.astype(int), confident.astype(int), proposals.labels), 1)
    report = FilterReport(
        thresholds=thresholds,
        class_names=tuple(class_names),
        videos=len(videos),
        kept_videos=sum(len(proposals) > 0 for proposals in kept_videos.values()),
        proposals=outcomes.sum(axis=(0, 1)),
        kept=outcomes[1, 1],
        removed_by_prior=outcomes[0, 1],
        removed_by_score=outcomes[1, 0],
        removed_by_both=outcomes[0, 0],
    )
    return kept_videos, report
