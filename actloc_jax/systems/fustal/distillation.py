"""The labels that the student's average gives to the student, on device (`fqhank/FuSTAL:Student-Training`).

Published: the average predicts whole detections of every video, suppression included, and those above a score become
its labels, or the best one alone. Here only candidates above that score are suppressed. The result is the same:
suppression takes candidates by falling score and only lowers scores, so one below the score neither becomes a label nor
is selected before one that does.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.ops import device_nms
from actloc_jax.ops.nms import Suppression
from actloc_jax.systems.fustal.decode import Candidates

NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """Which predictions become labels.

    Attributes:
        num_classes: classes.
        rule: suppression within every class; None: none.
        min_score: that a prediction must exceed; if none does, the best one alone is kept.
        candidates: room for those of a class that enter the suppression.
        labels: room for the labels of a video.
    """

    num_classes: int
    rule: Suppression | None
    min_score: float = 0.4
    candidates: int = 512
    labels: int = 256


class OwnLabels(NamedTuple):
    """Labels by falling score.

    Attributes:
        segments: float32 [batch, labels, 2], grid units.
        labels: int32 [batch, labels], -1 where there is none.
        found: bool [batch], False for videos without any prediction.
        lost: int32 [batch], candidates above the score that there was no room for.
    """

    segments: jax.Array
    labels: jax.Array
    found: jax.Array
    lost: jax.Array


def own_labels(candidates: Candidates, end: jax.Array, settings: DistillationSettings) -> OwnLabels:
    """Turns the candidates of every video into its labels.

    Args:
        candidates: of the averaged network, [batch, candidates].
        end: [batch], grid position at which segments end at the latest; they begin at 0 at the earliest.
        settings: thresholds and room.
    """
    scores = jnp.where(candidates.valid, candidates.scores, 0)
    best = scores.max(axis=1, keepdims=True)
    first = jnp.arange(scores.shape[1]) == jnp.argmax(scores, axis=1)[:, None]
    chosen = (scores > settings.min_score) | (first & (best <= settings.min_score) & (best > 0))
    of_class = chosen[:, None, :] & (candidates.labels[:, None, :] == jnp.arange(settings.num_classes)[:, None])
    room = min(settings.candidates, scores.shape[1])
    entering, place = jax.lax.top_k(jnp.where(of_class, scores[:, None, :], 0), room)  # [batch, classes, room]
    lost = (of_class.sum(axis=2) - (entering > 0).sum(axis=2)).sum(axis=1)
    rows = jnp.arange(len(scores))[:, None, None]
    kept = _suppressed(candidates.segments[rows, place], entering, settings)
    kept = jnp.where((kept > settings.min_score) | (entering == best[:, :, None]), kept, 0).reshape(len(scores), -1)
    values, index = jax.lax.top_k(kept, min(settings.labels, kept.shape[1]))
    lost += (kept > 0).sum(axis=1) - (values > 0).sum(axis=1)
    chosen_place = jnp.take_along_axis(place.reshape(len(scores), -1), index, axis=1)
    segments = jnp.take_along_axis(candidates.segments, chosen_place[:, :, None], axis=1)
    labels = jnp.take_along_axis(candidates.labels, chosen_place, axis=1)
    limits = jnp.clip(segments, 0, end[:, None, None])
    present = values > 0
    return OwnLabels(
        jnp.where(present[:, :, None], limits, 0),
        jnp.where(present, labels, NO_LABEL).astype(jnp.int32),
        present.any(axis=1),
        lost.astype(jnp.int32),
    )


def _suppressed(segments: jax.Array, scores: jax.Array, settings: DistillationSettings) -> jax.Array:
    """Scores [batch, classes, room] after suppression, in the order given; 0 where a candidate is removed."""
    if settings.rule is None:
        return scores
    rule = dataclasses.replace(settings.rule, max_per_class=None, max_total=None)
    if rule.decay != "hard":
        rule = dataclasses.replace(rule, min_score=max(settings.min_score, rule.min_score or 0))
    found = device_nms.suppress(segments, scores, scores > 0, rule, picks=scores.shape[2])
    batch, classes = jnp.arange(scores.shape[0])[:, None, None], jnp.arange(scores.shape[1])[:, None]
    return jnp.zeros_like(scores).at[batch, classes, found.index].max(jnp.where(found.valid, found.scores, 0))
