"""From the student's outputs to candidate segments, the part that runs on device; suppression follows.

Source: `dingfengshi/TriDet:libs/modeling/meta_archs.py` (`inference_single_video`).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.backbones.detector import DetectorOutput
from actloc_jax.ops.boundary_bins import expected_distances
from actloc_jax.systems.fustal.points import Points


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """Which candidates are kept.

    Attributes:
        min_score: probability that a candidate must exceed.
        per_level: at most so many of each level.
        min_length: that a segment must exceed, in grid units.
        boundaries_outside: whether a Trident head may see boundaries beyond the ends of the video, as published.
    """

    min_score: float = 0.001
    per_level: int = 2000
    min_length: float = 0.05
    boundaries_outside: bool = True


class Candidates(NamedTuple):
    """Segments before suppression: levels in order, in each level by falling score, gaps among them.

    Attributes:
        segments: [batch, candidates, 2] float32, grid units.
        scores: [batch, candidates] float32.
        labels: [batch, candidates] int32.
        valid: [batch, candidates] bool, False for gaps.
    """

    segments: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array


def decode(output: DetectorOutput, points: Points, settings: DecodeSettings) -> Candidates:
    """The best pairs of point and class of every level as segments.

    Args:
        output: of the network.
        points: of its pyramid.
        settings: thresholds.
    """
    if output.starts:
        distances = expected_distances(
            output.starts, output.ends, output.offsets, None if settings.boundaries_outside else output.masks
        )
    else:
        distances = jnp.concatenate(output.offsets, axis=1)[:, :, None, :]
    parts, begin = [], 0
    for logits, mask in zip(output.classes, output.masks, strict=True):
        end = begin + logits.shape[1]
        of_level = Points(*(values[begin:end] for values in points))
        parts.append(_of_level(logits, mask, distances[:, begin:end], of_level, settings))
        begin = end
    return Candidates(*(jnp.concatenate(values, axis=1) for values in zip(*parts, strict=True)))


def _of_level(
    logits: jax.Array, mask: jax.Array, distances: jax.Array, points: Points, settings: DecodeSettings
) -> Candidates:
    """`decode` of one level; `distances` [batch, time, classes or 1, 2]."""
    batch, time, classes = logits.shape
    probabilities = jnp.where(mask[:, :, None], jax.nn.sigmoid(logits), 0).reshape(batch, time * classes)
    scores, place = jax.lax.top_k(probabilities, min(settings.per_level, time * classes))
    step, label = place // classes, place % classes
    row = step * distances.shape[2] + (label if distances.shape[2] > 1 else 0)
    chosen = jnp.take_along_axis(distances.reshape(batch, -1, 2), row[:, :, None], axis=1)
    centre, stride = jnp.asarray(points.time)[step], jnp.asarray(points.stride)[step]
    segments = jnp.stack([centre - chosen[..., 0] * stride, centre + chosen[..., 1] * stride], axis=2)
    valid = (scores > settings.min_score) & (segments[..., 1] - segments[..., 0] > settings.min_length)
    return Candidates(segments, scores, label.astype(jnp.int32), valid)
