"""From the candidates of a video to its detections, on the host: suppression, seconds, scores of the whole video.

Source: `dingfengshi/TriDet:libs/modeling/meta_archs.py` (`postprocessing`), `libs/utils/postprocessing.py`.
"""

from __future__ import annotations

import numpy as np

from actloc_jax.data.grid import Grid
from actloc_jax.ops import nms
from actloc_jax.results.types import ScoredSegments


def detections(
    video: str,
    segments: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    grid: Grid,
    duration: float,
    rule: nms.Suppression,
) -> ScoredSegments:
    """Suppresses candidates and gives what is left in seconds, by falling score.

    Args:
        video: its name.
        segments: [candidates, 2] float32, grid units.
        scores, labels: [candidates].
        grid: where the units lie, with the frame rate of the video.
        duration: of the video in seconds; segments are clipped to it.
        rule: suppression within every class.
    """
    selected = nms.suppress_classes(segments, scores, labels, rule)
    seconds = np.clip(grid.to_seconds(np.asarray(segments)[selected.index]), 0, duration)
    return ScoredSegments(
        video,
        seconds.astype(np.float32),
        np.asarray(labels)[selected.index].astype(np.int32),
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
