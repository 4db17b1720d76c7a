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


class Refined(NamedTuple):
    """Refined labels of a batch.

    Attributes:
        labels: [batch, time] int32, -1 outside the mask.
        left_out: [batch] int32, segments beyond the largest capacity. In the modes "hardmax" and "hybrid" their frames
            keep the backbone's labels; in "soft" they cast no vote.
    """

    labels: jax.Array
    left_out: jax.Array


def hardmax_labels(output: RefinerOutput) -> jax.Array:
    """Paints the best action class of every segment over the run it came from; the mode of all published numbers.

    Returns:
        [batch, time] int32, -1 outside the mask.
    """
    best = jnp.argmax(output.segment_logits[-1, :, :, :-1], axis=-1).astype(jnp.int32)
    return paint(output.runs, best, output.frame_labels)


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


def soft_labels(output: RefinerOutput) -> jax.Array:
    """Labels by the vote of all segments' masks over the action classes.

    Returns:
        [batch, time] int32, -1 outside the mask.
    """
    probabilities = jax.nn.softmax(output.segment_logits[-1, :, :, :-1], axis=-1)
    scores = mask_vote(probabilities, output.segment_masks[-1], output.runs.valid)
    return _masked(jnp.argmax(scores, axis=-1), output.frame_labels)


def hybrid_labels(output: RefinerOutput, margin: int = HYBRID_MARGIN) -> jax.Array:
    """Hardmax labels, but the backbone's in the frames [b - margin, b + margin) around every boundary b between runs.

    The published code runs the backbone again for these; with the same noise that gives the same labels.

    Returns:
        [batch, time] int32, -1 outside the mask.
    """
    if margin == 0:
        return hardmax_labels(output)
    boundary = run_starts(output.frame_labels, output.frame_labels != NO_LABEL).at[:, 0].set(False)
    # Frame t is near when a boundary lies in (t - margin, t + margin].
    near = lax.reduce_window(boundary, False, jnp.logical_or, (1, 2 * margin), (1, 1), ((0, 0), (margin - 1, margin)))
    return jnp.where(near, output.frame_labels, hardmax_labels(output))


MODES: dict[str, Callable[[RefinerOutput], jax.Array]] = {
    "hardmax": hardmax_labels,
    "soft": soft_labels,
    "hybrid": hybrid_labels,
}


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
        return Refined(MODES[mode](output), jnp.maximum(output.runs.count - capacity, 0))

    capacities = segment_capacities(features.shape[1])
    return with_capacity(run, capacities, largest_run_count(proposed, mask), params, memory, proposed)


def _masked(labels: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.where(like == NO_LABEL, NO_LABEL, labels).astype(jnp.int32)
