"""From the outputs of the detector without anchors to detections of a video: ActivityNet and HACS, numpy only.

Source: `klauscc/TALLFormer:AFSD/anet_video_cls/{test,test_hacs}.py`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from actloc_jax.backbones.afsd import AfsdOutput, AfsdSizes
from actloc_jax.ops import nms
from actloc_jax.ops.nms import Suppression
from actloc_jax.systems.tallformer.video_classes import best_classes


@dataclasses.dataclass(frozen=True)
class AfsdDecodeSettings:
    """Which candidates are kept, and how they are suppressed.

    Attributes:
        above: score that a candidate must exceed.
        suppression: as published it loses the last candidate, and with it every video that has one only:
            `selects_last`.
        classes_per_segment: every segment is given that many of the most probable classes of its video.
    """

    above: float = 1e-9
    suppression: Suppression = nms.AFSD_SOFT
    classes_per_segment: int = 2


class Scored(NamedTuple):
    """Segments without a class, in the order of the rows.

    Attributes:
        segments: float32 [segments, 2], seconds.
        scores: float32 [segments].
    """

    segments: np.ndarray
    scores: np.ndarray


def candidates(output: AfsdOutput, sizes: AfsdSizes, fps: float, settings: AfsdDecodeSettings) -> Scored:
    """The rows of a video as segments.

    Args:
        output: of one video, arrays without the batch axis.
        sizes: of the network.
        fps: frames per second of the video as the network saw it.
        settings: thresholds.
    """
    distances, refinements = np.asarray(output.distances), np.asarray(output.refinements)
    refined = np.float32(0.5) * distances.sum(axis=1, keepdims=True) * refinements + distances
    centres = sizes.priors * np.float32(sizes.frames)
    segments = np.stack([centres - refined[:, 0], centres + refined[:, 1]], axis=1)
    segments = np.clip(segments, 0, sizes.frames) / np.float32(fps)
    action = (_softmax(output.classes) + _softmax(output.refined_classes))[:, 1] / 2
    scores = action / (1 + np.exp(-np.asarray(output.centres)))
    kept = scores > settings.above
    return Scored(segments[kept].astype(np.float32), scores[kept].astype(np.float32))


def suppressed(found: Scored, settings: AfsdDecodeSettings) -> Scored:
    """What suppression leaves, still in the order of the rows."""
    chosen = nms.suppress(found.segments, found.scores, settings.suppression)
    order = np.argsort(chosen.index)
    return Scored(found.segments[chosen.index[order]], chosen.scores[order])


class Classified(NamedTuple):
    """Detections: float32 [detections, 2] seconds, float32 [detections] scores, int64 [detections] classes."""

    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def with_video_classes(
    found: Scored, class_scores: np.ndarray, duration: float, settings: AfsdDecodeSettings
) -> Classified:
    """Gives every segment the most probable classes of its video, its score times theirs.

    Segments are cut to the video; those that lie outside are left out.

    Args:
        found: segments of the video.
        class_scores: [classes] of the video: the softmax of the network's own logits without background, those of an
            external classifier, or 1 for the true class.
        duration: of the video, seconds.
        settings: number of classes.
    """
    segments = np.clip(found.segments, 0, duration)
    inside = segments[:, 1] > segments[:, 0]
    best = best_classes(np.asarray(class_scores), settings.classes_per_segment)
    scores = found.scores[inside, None] * np.asarray(class_scores)[best]
    labels = np.broadcast_to(best, scores.shape)
    return Classified(np.repeat(segments[inside], len(best), axis=0), scores.reshape(-1), labels.reshape(-1))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponential = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)
