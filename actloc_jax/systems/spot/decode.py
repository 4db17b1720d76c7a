"""From what the network says to scored segments.

On device, for a batch: the spans in which some class is likely, and for the best snippets the masks at several
thresholds. On the host, for all videos at once: equal candidates are joined, suppressed and given in seconds.
Source: `sauradip/SPOT:spot_inference.py`, `utils/postprocess_utils.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.ops import iou, nms
from actloc_jax.results.types import ScoredSegments

SHORTEST_RUN = 3  # snippets from the first to the last of a run; below, the mean of its inside would be of nothing
CHUNK = 512  # videos suppressed together, which then fit into the processor's cache


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """How candidates are found and suppressed.

    Attributes:
        top_snippets: snippets whose masks are looked at.
        mask_thresholds: on masks.
        class_thresholds: on the probability of the likeliest class.
        min_run: share of the video that the longest run of a mask must exceed.
        divisor: of the suppression: scores of what overlaps at all are divided by this (`nms_thresh`).
        sigma: of the suppression's Gaussian.
        max_detections: per video.
        ends_at_last_snippet: quirk: a segment ends where its last snippet begins. False: where it ends.
        overlap_exceeds_iou: quirk: overlaps in the suppression are no intersection over union. False: they are.
        last_candidate_lost: quirk: the suppression never gives the last candidate that is left, unless it is the only
            one. False: it does.
        overlap_raises_scores: quirk: the division by `divisor`, by which scores grow. False: none.
    """

    top_snippets: int = 10
    mask_thresholds: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    class_thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    min_run: float = 0.02
    divisor: float = 0.6
    sigma: float = 0.1
    max_detections: int = 100
    ends_at_last_snippet: bool = True
    overlap_exceeds_iou: bool = True
    last_candidate_lost: bool = True
    overlap_raises_scores: bool = True

    @property
    def suppression(self) -> nms.Suppression:
        """The procedure among the candidates of a video, whatever their class."""
        return dataclasses.replace(
            nms.SPOT_SOFT,
            sigma=self.sigma,
            divisor=self.divisor if self.overlap_raises_scores else 1.0,
            selects_last=not self.last_candidate_lost,
            overlap=iou.SPOT_OVERLAP if self.overlap_exceeds_iou else iou.TIOU,
            max_per_class=self.max_detections,
        )


class Candidates(NamedTuple):
    """Segments before suppression, with gaps; slots are masks of snippets at thresholds, then spans for each snippet.

    Attributes:
        spans: [batch, slots, 2] int32, first and last snippet.
        mask_scores: [batch, slots] float32, how sure the mask is.
        class_scores: [batch, slots] float32, how sure the class is.
        valid: [batch, slots] bool, False for gaps.
        video_class: [batch] int32, the class of the video.
    """

    spans: jax.Array
    mask_scores: jax.Array
    class_scores: jax.Array
    valid: jax.Array
    video_class: jax.Array


class VideoScores(NamedTuple):
    """What an external classifier says of whole videos: int [videos] classes, -1 for none, float [videos] scores."""

    labels: np.ndarray
    scores: np.ndarray


class Rows(NamedTuple):
    """Candidates of many videos, equal ones joined, by video, falling mask score, start and end.

    Attributes:
        video: [rows] int64, position of the video.
        segments: [rows, 2] float64, as shares of the video.
        mask_scores, class_scores: [rows] float64.
        labels: [rows] int64.
    """

    video: np.ndarray
    segments: np.ndarray
    mask_scores: np.ndarray
    class_scores: np.ndarray
    labels: np.ndarray


def candidates(logits: jax.Array, masks: jax.Array, settings: DecodeSettings) -> Candidates:
    """Candidates of every video of a batch; pure, to be jitted with the network.

    Args:
        logits: [batch, time, classes + 1], background last.
        masks: [batch, time, snippet] in 0..1.
        settings: thresholds.
    """
    probabilities = jax.nn.softmax(logits, axis=2)[:, :, :-1]
    likeliest = probabilities.max(axis=2)
    video_class = jnp.argmax(logits[:, :, :-1].mean(axis=1), axis=1).astype(jnp.int32)
    of_class = jnp.take_along_axis(probabilities, video_class[:, None, None], axis=2)[:, None, None, :, 0]

    best_score, best = jax.lax.top_k(likeliest, min(settings.top_snippets, logits.shape[1]))
    rows = jnp.take_along_axis(masks, best[:, None, :], axis=2).swapaxes(1, 2)[:, :, None, :]  # [batch, best, 1, time]
    of_masks, valid = _of_masks(rows, of_class, best_score, settings)
    of_classes, span_valid = _of_classes(likeliest, rows, settings)
    span_valid = span_valid & valid.any(axis=2, keepdims=True)  # spans count for snippets with a mask

    def joined(mask: jax.Array, span: jax.Array) -> jax.Array:
        """[batch, best, thresholds, ...] of both kinds to [batch, slots, ...]."""
        return jnp.concatenate([each.reshape(len(logits), -1, *each.shape[3:]) for each in (mask, span)], axis=1)

    slots = [joined(*pair) for pair in zip(of_masks, of_classes, strict=True)]
    return Candidates(*slots, joined(valid, span_valid), video_class)


def _of_masks(
    rows: jax.Array, of_class: jax.Array, best_score: jax.Array, settings: DecodeSettings
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Spans, mask scores and class scores of masks above thresholds, and which are valid: [batch, best, thresholds].

    A segment reaches from the first to the last snippet above the threshold, and is scored by the longest run of such
    snippets: the most of the video's class in the run without its last snippet, times the mean of the mask in the run
    without its first and its last two (slices that are not quite what they seem in the source).
    """
    place = jnp.arange(rows.shape[3])
    above = rows > jnp.asarray(settings.mask_thresholds, jnp.float32)[:, None]
    spans, some = _hull(above)
    gap = jax.lax.cummax(jnp.where(above, -1, place), axis=3)
    length = jnp.where(above, place - gap, 0)
    end = jnp.argmax(length, axis=3)[..., None]
    start = end - length.max(axis=3, keepdims=True) + 1
    # The run is `start` to `end`, both included.
    certain = jnp.where((place >= start) & (place < end), of_class, 0).max(axis=3)
    inside = (place > start) & (place < end - 1)
    mean = jnp.where(inside, rows, 0).sum(axis=3) / jnp.maximum(inside.sum(axis=3), 1)
    valid = some & ((end - start)[..., 0] >= _shortest_run(rows.shape[3], settings.min_run))
    return (spans, certain * mean, certain * best_score[:, :, None]), valid


def _of_classes(
    likeliest: jax.Array, rows: jax.Array, settings: DecodeSettings
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    """The same of the spans in which some class is likely, each scored by every mask: [batch, best, thresholds]."""
    place = jnp.arange(rows.shape[3])
    spans, some = _hull(likeliest[:, None, :] > jnp.asarray(settings.class_thresholds, jnp.float32)[:, None])
    inside = (place >= spans[..., :1]) & (place < spans[..., 1:])  # without the last snippet, as published
    class_scores = jnp.where(inside, likeliest[:, None, :], 0).max(axis=2)[:, None, :]
    mask_scores = jnp.where(inside[:, None], rows, 0).max(axis=3)
    valid = (some & (spans[..., 1] - spans[..., 0] > 1))[:, None, :]
    shape = mask_scores.shape
    spans = jnp.broadcast_to(spans[:, None], (*shape, 2))
    return (spans, mask_scores, jnp.broadcast_to(class_scores, shape)), jnp.broadcast_to(valid, shape)


def _hull(above: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and last marked snippet of [..., time] bool, int32 [..., 2], and whether there is one."""
    first, last = jnp.argmax(above, axis=-1), above.shape[-1] - 1 - jnp.argmax(above[..., ::-1], axis=-1)
    return jnp.stack([first, last], axis=-1).astype(jnp.int32), above.any(axis=-1)


def _shortest_run(time: int, share: float) -> int:
    """Snippets from the first to the last of a run that exceeds `share` of the video, and has an inside."""
    return max(SHORTEST_RUN, next(length for length in range(time + 1) if length / time > share or length == time))


def joined_rows(found: Candidates, time: int, settings: DecodeSettings, external: VideoScores | None = None) -> Rows:
    """All candidates of many videos, each once.

    Args:
        found: as numpy arrays, of all videos.
        time: snippets.
        settings: where segments end.
        external: classes and class scores of the videos by another model; where it has none, and with None, they are
            the network's own.
    """
    valid = np.asarray(found.valid)
    video = np.nonzero(valid)[0]
    spans, mask_scores, class_scores = (np.asarray(each)[valid] for each in found[:3])
    mask_scores, class_scores = mask_scores.astype(np.float64), class_scores.astype(np.float64)
    labels = np.asarray(found.video_class)[video].astype(np.int64)
    if external is not None:
        known = np.asarray(external.labels)[video] >= 0
        labels = np.where(known, np.asarray(external.labels)[video], labels)
        class_scores = np.where(known, np.asarray(external.scores, np.float64)[video], class_scores)
    keys = (class_scores, spans[:, 1], spans[:, 0], -mask_scores, video)
    order = np.lexsort(keys)
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    order = order[np.concatenate([[True], ~same])[: len(order)]]
    ends = spans + np.array([0, 0 if settings.ends_at_last_snippet else 1])
    return Rows(video[order], ends[order] / time, mask_scores[order], class_scores[order], labels[order])


def suppressed(rows: Rows, videos: int, settings: DecodeSettings) -> list[nms.Selected]:
    """For every video the best rows by falling score, with their scores after suppression.

    A row is scored by the product of both its scores; a video's only row is not suppressed.

    Args:
        rows: from `joined_rows`.
        videos: number of videos, with and without rows.
        settings: of the suppression.
    """
    scores = rows.mask_scores * rows.class_scores
    bounds = np.searchsorted(rows.video, np.arange(videos + 1))
    found = []
    for begin in range(0, videos, CHUNK):
        first, *inner, last = bounds[begin : begin + CHUNK + 1]
        members = np.split(np.arange(last - first), np.asarray(inner, np.int64) - first)
        several = [own if len(own) > 1 else own[:0] for own in members]
        kept = nms.suppress_groups(rows.segments[first:last], scores[first:last], several, settings.suppression)
        for own, selected in zip(members, kept, strict=True):
            if len(own) == 1:
                selected = nms.Selected(own, scores[first:last][own])
            best = nms.sorted_by_score(*selected, settings.max_detections)
            found.append(nms.Selected(best.index + first, best.scores))
    return found


def detections(
    names: Sequence[str],
    durations: np.ndarray,
    found: Candidates,
    time: int,
    settings: DecodeSettings,
    external: VideoScores | None = None,
) -> list[ScoredSegments]:
    """The detections of all videos, those without a candidate included; scores are float64, as many are below 1e-38.

    Args:
        names: of the videos.
        durations: [videos] seconds.
        found: their candidates as numpy arrays.
        time: snippets.
        settings: of decoding.
        external: see `joined_rows`.
    """
    rows = joined_rows(found, time, settings, external)
    results = []
    for name, duration, best in zip(names, durations, suppressed(rows, len(names), settings), strict=True):
        segments = np.clip(rows.segments[best.index], 0, 1) * duration
        labels = rows.labels[best.index].astype(np.int32)
        results.append(ScoredSegments(name, segments.astype(np.float32), labels, best.scores))
    return results
