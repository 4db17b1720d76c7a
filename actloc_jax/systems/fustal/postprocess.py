"""From the candidates of a video to its detections, on the host: suppression, seconds, scores of the whole video.

Source: `dingfengshi/TriDet:libs/modeling/meta_archs.py` (`postprocessing`), `libs/utils/postprocessing.py`.
"""

from __future__ import annotations

import numpy as np

from actloc_jax.data.grid import Grid
from actloc_jax.ops import device_nms, nms, segment_merging
from actloc_jax.results.types import ScoredSegments


def detections(
    video: str,
    segments: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    grid: Grid,
    duration: float,
    rule: nms.Suppression | None,
    class_aware: bool = True,
    vote: float = 0.0,
    most: int | None = None,
) -> ScoredSegments:
    """Suppresses candidates and gives what is left in seconds, by falling score.

    Args:
        video: its name.
        segments: [candidates, 2] float32, grid units.
        scores, labels: [candidates].
        grid: where the units lie, with the frame rate of the video.
        duration: of the video in seconds; segments are clipped to it.
        rule: suppression; None: none.
        class_aware: suppress within every class, rather than among all candidates.
        vote: where not class-aware: every segment becomes the mean, weighted by score, of all candidates that overlap
            it by this tIoU; 0: none.
        most: at most so many detections, where the rule does not say.
    """
    segments, labels = np.asarray(segments), np.asarray(labels)
    if rule is None:
        selected = nms.sorted_by_score(np.arange(len(scores)), np.asarray(scores), most)
    elif class_aware:
        selected = device_nms.suppress_classes(segments, scores, labels, rule)
    else:
        chosen = nms.suppress(segments, scores, rule)
        selected = nms.sorted_by_score(chosen.index, chosen.scores, rule.max_total)
    found = segments[selected.index]
    if vote and rule is not None and not class_aware:
        found = segment_merging.vote(found, segments, scores, vote)
    seconds = np.clip(grid.to_seconds(found), 0, duration)
    return ScoredSegments(
        video,
        seconds.astype(np.float32),
        labels[selected.index].astype(np.int32),
        selected.scores.astype(np.float32),
    )


def with_video_scores(
    found: ScoredSegments, video_scores: np.ndarray, *, segments: int = 200, classes: int = 2
) -> ScoredSegments:
    """Lets another model's scores of the whole video name the classes: ActivityNet's usual fusion.

    The best segments, whatever their class, are taken once for each of the best classes of the video, with the
    geometric mean of both scores.

    Args:
        found: detections.
        video_scores: [classes], of the whole video.
        segments: so many of the detections are taken.
        classes: so many of the classes.
    """
    best = np.argsort(-found.scores, kind="stable")[:segments]
    named = np.argsort(-video_scores, kind="stable")[:classes]
    return ScoredSegments(
        found.video,
        np.tile(found.segments[best], (len(named), 1)),
        np.repeat(named, len(best)).astype(np.int32),
        np.sqrt(video_scores[named][:, None] * found.scores[best]).reshape(-1).astype(np.float32),
    )
