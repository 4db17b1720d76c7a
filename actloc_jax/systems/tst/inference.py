"""From refined segments back to frame labels, on the device.

Source: `tst/predict.py` of the published code. All functions are batched and masked; the second (last) round decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from actloc_jax.layers.functional import Network
from actloc_jax.ops.segments import paint, run_starts
from actloc_jax.systems.tst.capacity import largest_run_count, segment_capacities, with_capacity
from actloc_jax.systems.tst.refiner import NO_LABEL, FrameMemory, RefinerOutput, frame_labels

HYBRID_MARGIN = 5


class FramePrediction(NamedTuple):
    """Labels of a batch of frames.

    Attributes:
        labels: [batch, time] int32, -1 outside the mask.
        confidence: [batch, time] float32 in [0, 1], 0 outside the mask. In the modes "hardmax" and "hybrid" the
            probability, among the action classes, of the segment's best class; in "soft" the best class's share of the
            vote.
    """

    labels: jax.Array
    confidence: jax.Array


class Refined(NamedTuple):
    """Refined labels of a batch: those of `FramePrediction`, and what did not fit.

    Attributes:
        labels: [batch, time] int32, -1 outside the mask.
        confidence: [batch, time] float32.
        left_out: [batch] int32, segments beyond the largest capacity. In the modes "hardmax" and "hybrid" their frames
            keep the backbone's labels, at confidence 0; in "soft" they cast no vote.
    """

    labels: jax.Array
    confidence: jax.Array
    left_out: jax.Array


def hardmax(output: RefinerOutput) -> FramePrediction:
    """Paints the best action class of every segment over the run it came from; the mode of all published numbers."""
    probabilities = _action_probabilities(output)
    best = jnp.argmax(probabilities, axis=-1).astype(jnp.int32)
    return FramePrediction(
        labels=paint(output.runs, best, output.frame_labels),
        confidence=paint(output.runs, jnp.max(probabilities, axis=-1), jnp.zeros_like(output.frame_labels)),
    )


def mask_vote(probabilities: jax.Array, mask_logits: jax.Array, valid: jax.Array) -> jax.Array:
    """Frame scores: every segment gives its class probabilities to the frames of its soft mask.

    Args:
        probabilities: [batch, runs, classes].
        mask_logits: [batch, runs, time].
        valid: [batch, runs] bool, True for slots that hold a segment.

    Returns:
        [batch, time, classes].
    """
    weights = jnp.where(valid[:, :, None], jax.nn.sigmoid(mask_logits), 0)
    return jnp.einsum("bnc,bnt->btc", probabilities, weights)


def soft(output: RefinerOutput) -> FramePrediction:
    """Labels by the vote of all segments' masks over the action classes."""
    scores = mask_vote(_action_probabilities(output), output.segment_masks[-1], output.runs.valid)
    total = jnp.sum(scores, axis=-1)
    share = jnp.max(scores, axis=-1) / jnp.where(total > 0, total, 1)
    return FramePrediction(
        labels=_masked(jnp.argmax(scores, axis=-1), output.frame_labels),
        confidence=jnp.where(output.frame_labels == NO_LABEL, 0, share),
    )


def hybrid(output: RefinerOutput, margin: int = HYBRID_MARGIN) -> FramePrediction:
    """Hardmax labels, but the backbone's in the frames [b - margin, b + margin) around every boundary b between runs.

    The published code runs the backbone again for these; with the same noise that gives the same labels.
    """
    refined = hardmax(output)
    if margin == 0:
        return refined
    boundary = run_starts(output.frame_labels, output.frame_labels != NO_LABEL).at[:, 0].set(False)
    # Frame t is near when a boundary lies in (t - margin, t + margin].
    near = lax.reduce_window(boundary, False, jnp.logical_or, (1, 2 * margin), (1, 1), ((0, 0), (margin - 1, margin)))
    return refined._replace(labels=jnp.where(near, output.frame_labels, refined.labels))


MODES: dict[str, Callable[[RefinerOutput], FramePrediction]] = {"hardmax": hardmax, "soft": soft, "hybrid": hybrid}


def vote(labels: jax.Array, num_classes: int) -> jax.Array:
    """Majority over several predictions of the same frames; ties go to the lowest class.

    Args:
        labels: [draws, batch, time] int32, -1 outside the mask.
        num_classes: number of classes.

    Returns:
        [batch, time] int32, -1 outside the mask.
    """
    return _masked(jnp.argmax(count_votes(labels, num_classes), axis=-1), labels[0])


def count_votes(labels: jax.Array, num_classes: int) -> jax.Array:
    """[draws, batch, time] int32 labels to the votes of every class, [batch, time, classes] int32."""
    return jnp.sum(jax.nn.one_hot(labels, num_classes, dtype=jnp.int32), axis=0)


def refine(
    network: Network,
    params: Mapping[str, Any],
    features: jax.Array,
    predictions: jax.Array,
    mask: jax.Array,
    *,
    mode: str = "hardmax",
) -> Refined:
    """Refined labels of a batch, at the capacity that it needs.

    Args:
        network: the `Refiner`.
        params: its parameters.
        features: [batch, time, feature_dim] frame features.
        predictions: [batch, time, classes] frame class scores.
        mask: [batch, time] bool, True = valid.
        mode: a key of `MODES`.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"Unknown inference mode {mode!r}; known: {', '.join(MODES)}.")

    memory = network(params, features, mask, method="encode_frames")
    proposed = frame_labels(predictions, mask)

    def run(capacity: int, params: Mapping[str, Any], memory: FrameMemory, proposed: jax.Array) -> Refined:
        output = network(params, memory, proposed, capacity, method="refine_segments")
        return Refined(*MODES[mode](output), jnp.maximum(output.runs.count - capacity, 0))

    capacities = segment_capacities(features.shape[1])
    return with_capacity(run, capacities, largest_run_count(proposed, mask), params, memory, proposed)


def _action_probabilities(output: RefinerOutput) -> jax.Array:
    """[batch, runs, classes] softmax over the action classes alone, of the last round."""
    return jax.nn.softmax(output.segment_logits[-1, :, :, :-1], axis=-1)


def _masked(labels: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.where(like == NO_LABEL, NO_LABEL, labels).astype(jnp.int32)
