"""The older TST models (`asformer_tst/` of the published code), on the blocks of the present refiner.

Both read features that already have the inner width. The second version is the present refiner without its input
projection: `RefinerSizes(feature_dim=None)`. The first has one round, looks at a window of segments, knows no class
"no action", and is trained without matching: every run gets the label that most of its frames have.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.functional import Network
from actloc_jax.layers.temporal import Dense, DilatedResidualStack
from actloc_jax.ops.segments import Runs, runs
from actloc_jax.systems.tst.losses import mask_losses
from actloc_jax.systems.tst.refiner import (
    ONEHOT_WIDTH,
    Perceptron,
    Refiner,
    RefinerSizes,
    SegmentFrameAttention,
    SegmentSelfAttention,
    segment_queries,
    sinusoid_table,
)

WINDOW = 4  # segments on either side that a segment attends to


class OneRoundOutput(NamedTuple):
    """What the first version makes of a batch. Values of empty slots and outside the mask have no meaning.

    Attributes:
        runs: the runs given, one per segment.
        segment_logits: [batch, runs, classes] float32.
        segment_masks: [batch, runs, time] float32 logits.
    """

    runs: Runs
    segment_logits: jax.Array
    segment_masks: jax.Array


class RunTargets(NamedTuple):
    """Training targets of runs.

    Attributes:
        label: [batch, runs] int32, the most frequent true label of the run's frames; ties go to the lowest.
        inside: [batch, runs, time] bool, the true segment that holds the run's first frame of that label.
    """

    label: jax.Array
    inside: jax.Array


class OneRoundLoss(NamedTuple):
    """Losses of every video, [batch] float32 each; training minimises their sum."""

    classification: jax.Array
    focal: jax.Array
    dice: jax.Array


def two_round_refiner(sizes: RefinerSizes) -> Network:
    """The second version: two rounds, attention between all segments. `sizes.feature_dim` is ignored."""
    sizes = dataclasses.replace(sizes, feature_dim=None)
    return Network(lambda rngs: Refiner(sizes, rngs=rngs))


class OneRoundRefiner(nnx.Module):
    """The first version (`ourmodel` of `asformer_tst/models/asformer_tst.py`), without the boundary branch.

    That branch refines the backbone's boundary logits and does not meet the segments.
    """

    def __init__(
        self,
        sizes: RefinerSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        inner, half, width = sizes.inner_dim, sizes.segment_dim, 2 * sizes.segment_dim
        self.num_classes = sizes.num_classes
        self.pixel_decoder = DilatedResidualStack(
            inner, inner, sizes.num_classes, num_layers=sizes.num_layers, **options
        )
        self.pd_proj = Perceptron(inner, half, half, width, **options)
        self.feat_proj = Dense(inner, half, **options)
        self.onehot_proj = Perceptron(sizes.num_classes, ONEHOT_WIDTH, ONEHOT_WIDTH, half, **options)
        self.label_embedding = nnx.Embed(
            sizes.num_classes, half, embedding_init=nnx.initializers.normal(1.0), **options
        )
        self.cross_attn = SegmentFrameAttention(width, sizes.dropout, **options)
        self.self_attn = SegmentSelfAttention(width, sizes.dropout, window=WINDOW, **options)
        self.class_head = Dense(width, sizes.num_classes, **options)
        self.mask_head = Dense(width, inner, **options)

    def __call__(
        self,
        features: jax.Array,
        labels: jax.Array,
        mask: jax.Array,
        capacity: int,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> OneRoundOutput:
        """Refines the runs of given labels.

        Args:
            features: [batch, time, inner_dim], the backbone's frame features.
            labels: [batch, time] int32 labels whose runs are the segments: the true ones in stage 2, the backbone's
                in stage 3 and in evaluation.
            mask: [batch, time] bool, True = valid.
            capacity: number of segments per video that are refined; static.
            rngs: makes dropout active; None for evaluation.
        """
        found = runs(labels, mask, capacity)
        _, layers = self.pixel_decoder(features, mask, rngs=rngs)
        queries = segment_queries(self, found, jnp.where(mask[:, :, None], features, 0))
        positions = sinusoid_table(features.shape[1], queries.shape[-1])
        state = jnp.zeros_like(queries)
        state = self.cross_attn(state, queries, self.pd_proj(layers[-2]), positions, found, rngs=rngs)
        state = self.self_attn(state, found.valid, rngs=rngs)
        masks = jnp.einsum("bnc,btc->bnt", self.mask_head(state), layers[-1])
        return OneRoundOutput(found, self.class_head(state).astype(jnp.float32), masks.astype(jnp.float32))


def run_targets(found: Runs, labels: jax.Array, mask: jax.Array, num_classes: int) -> RunTargets:
    """Targets of every run from the true labels.

    Args:
        found: runs of any labels of the same frames.
        labels: [batch, time] int32 true labels.
        mask: [batch, time] bool, True = valid.
        num_classes: number of classes.
    """
    length = labels.shape[1]
    frames_of_class = jax.nn.one_hot(jnp.where(mask, labels, -1), num_classes)
    counts = jnp.einsum("bnt,btc->bnc", found.members.astype(jnp.float32), frames_of_class)
    label = jnp.argmax(counts, axis=-1).astype(jnp.int32)
    agreeing = found.members & (labels[:, None, :] == label[:, :, None])
    first = jnp.argmax(agreeing, axis=-1)
    true_run = runs(labels, mask, length).run_of_frame
    inside = true_run[:, None, :] == jnp.take_along_axis(true_run, first, axis=1)[:, :, None]
    return RunTargets(label, inside)


def one_round_loss(output: OneRoundOutput, targets: RunTargets, mask: jax.Array) -> OneRoundLoss:
    """Classification, focal and dice loss, [batch] float32 each: means over a video's runs; 0 without frames.

    `mask` is [batch, time] bool.
    """
    log_probability = jax.nn.log_softmax(output.segment_logits, axis=-1)
    chosen = jnp.take_along_axis(log_probability, targets.label[:, :, None], axis=-1)[:, :, 0]
    focal, dice = mask_losses(output.segment_masks, targets.inside, mask)
    valid = output.runs.valid
    segments = jnp.maximum(jnp.sum(valid, axis=1), 1)
    losses = (jnp.sum(jnp.where(valid, loss, 0), axis=1) / segments for loss in (-chosen, focal, dice))
    return OneRoundLoss(*losses)
