"""From refined segments back to frame labels, on the device; and running the refiner at a fitting capacity.

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
from actloc_jax.systems.tst.refiner import RefinerOutput

CAPACITIES = (128, 512, 2048)
HYBRID_MARGIN = 5
NO_LABEL = -1


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


def segment_capacities(length: int) -> tuple[int, ...]:
    """Capacities to choose from for sequences of `length` frames, which cannot have more runs than frames."""
    return tuple(sorted({min(capacity, length) for capacity in CAPACITIES}))


def largest_run_count(labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Largest number of runs in a sequence of the batch: labels and mask [batch, time] to an int32 scalar."""
    return jnp.max(jnp.sum(run_starts(labels, mask), axis=1, dtype=jnp.int32))


def with_capacity(function: Callable[..., Any], largest: jax.Array, capacities: tuple[int, ...], *operands: Any) -> Any:
    """Runs `function(capacity, *operands)` at the smallest capacity that holds `largest` runs, else at the last.

    All capacities are compiled, one is run. What `function` returns must have the same shapes for each.

    Args:
        function: takes a static capacity and the operands.
        largest: int32 scalar, the number of runs to hold.
        capacities: ascending, such as `segment_capacities` gives.
        operands: arrays, or trees of them.
    """
    branches = [lambda *args, capacity=capacity: function(capacity, *args) for capacity in capacities]
    too_small = sum((largest > capacity).astype(jnp.int32) for capacity in capacities[:-1])
    return lax.switch(too_small, branches, *operands) if len(branches) > 1 else branches[0](*operands)


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

    def run(capacity: int, params: Mapping[str, Any], *inputs: jax.Array) -> Refined:
        output = network(params, *inputs, capacity)
        return Refined(MODES[mode](output), jnp.maximum(output.runs.count - capacity, 0))

    largest = largest_run_count(jnp.argmax(predictions, axis=-1), mask)
    capacities = segment_capacities(features.shape[1])
    return with_capacity(run, largest, capacities, params, features, predictions, mask)


def _masked(labels: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.where(like == NO_LABEL, NO_LABEL, labels).astype(jnp.int32)
