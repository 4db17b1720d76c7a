"""The losses of FuSTAL's generator (`fqhank/FuSTAL:CrossVideo-Generator`; contrast after CoLA, section 3.4)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.systems.fustal.generator import Snippets
from actloc_jax.systems.fustal.video_level import video_loss

TEMPERATURE = 0.07
PAIR_WEIGHT = 0.2  # of pairs of videos, relative to the contrast inside videos
CONTRAST_WEIGHT = 0.01
SMALLEST_NORM = 1e-12


class GeneratorLoss(NamedTuple):
    """The loss and its parts, scalars: `total = action + 0.01 * contrast`."""

    total: jax.Array
    action: jax.Array
    contrast: jax.Array


def generator_loss(
    scores: jax.Array, labels: jax.Array, embeddings: Snippets, present: jax.Array | None = None
) -> GeneratorLoss:
    """What the generator is trained with.

    Args:
        scores: [batch, classes] video-level probabilities.
        labels: [batch, classes], 1 for every class of the video.
        embeddings: of the mined snippets, [batch, number, width] each.
        present: [batch] bool, False for rows that only fill the batch; None: all are real.
    """
    present = jnp.ones(labels.shape[:1], bool) if present is None else present
    action = video_loss(scores, labels, present)
    contrast = contrast_loss(embeddings, same_labels(labels, present), present)
    return GeneratorLoss(action + CONTRAST_WEIGHT * contrast, action, contrast)


def contrast_loss(embeddings: Snippets, pairs: jax.Array, present: jax.Array) -> jax.Array:
    """Pulls hard snippets to the easy ones of their kind, inside a video and across two videos of a pair.

    Across videos, the hard snippets of one are compared with the easy ones of the other; every pair is the mean of both
    directions.

    Args:
        embeddings: of the mined snippets.
        pairs: [batch, batch] bool, True above the diagonal where two videos make a pair.
        present: [batch] bool, videos that count.
    """
    matrix = contrast_matrix(embeddings.hard_action, embeddings.easy_action, embeddings.easy_background)
    matrix += contrast_matrix(embeddings.hard_background, embeddings.easy_background, embeddings.easy_action)
    inside = jnp.sum(jnp.diagonal(matrix), where=present) / jnp.maximum(present.sum(), 1)
    across = jnp.sum((matrix + matrix.T) / 2, where=pairs) / jnp.maximum(pairs.sum(), 1)
    return inside + PAIR_WEIGHT * across


def contrast_matrix(queries: jax.Array, positives: jax.Array, negatives: jax.Array) -> jax.Array:
    """InfoNCE of every video's snippets against every video's.

    Args:
        queries: [batch, number, width]; their mean is one query per video.
        positives: [batch, number, width]; their mean is one positive per video.
        negatives: [batch, number, width], each of them a negative.

    Returns:
        [batch, batch] float32; entry (i, j) compares the query of video i with positive and negatives of video j.
    """
    query, positive = _unit(queries.astype(jnp.float32).mean(axis=1)), _unit(positives.astype(jnp.float32).mean(axis=1))
    positive_logits = query @ positive.T / TEMPERATURE
    negative_logits = jnp.einsum("id,jnd->ijn", query, _unit(negatives.astype(jnp.float32))) / TEMPERATURE
    everything = jnp.concatenate([positive_logits[:, :, None], negative_logits], axis=2)
    return jax.nn.logsumexp(everything, axis=2) - positive_logits


def same_labels(labels: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """Pairs of videos with exactly the same classes: bool [batch, batch], True above the diagonal only."""
    same = (labels[:, None, :] == labels[None, :, :]).all(axis=2)
    if present is not None:
        same &= present[:, None] & present[None, :]
    return jnp.triu(same, k=1)


def _unit(x: jax.Array) -> jax.Array:
    """The last axis scaled to length 1; a zero vector stays, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), SMALLEST_NORM**2))
