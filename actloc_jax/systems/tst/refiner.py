"""The Temporal Segment Transformer: refines the segments that any frame-wise backbone proposes.

Liu et al., "Temporal Segment Transformer for Action Segmentation" (arXiv 2302.13074), in the form of the published code
(`tst/tst_refiner.py`): the runs of the backbone's labels become segment queries, which look at the frames around them
and at each other in two rounds, and leave as a class and a mask over the frames each.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop, keep_masks
from actloc_jax.layers.temporal import Dense, DilatedResidualStack, pytorch_uniform
from actloc_jax.ops.segments import NO_RUN, Runs, runs

ROUNDS = 2
ONEHOT_WIDTH = 128
NO_LABEL = -1
MASKED = -1e30  # a score that no softmax notices, finite so that rows without any frame stay finite

# Blocks that `encode_frames` uses and `refine_segments` does not.
FRAME_BLOCKS = ("feat_down", "pixel_decoder", "pd_proj", "pd_proj2")

# Parameters that the published checkpoints hold but no output depends on.
UNUSED_PARAMETERS = ("pixel_decoder/conv_out/", "cross_attn/norm1/", "cross_attn2/norm1/", "self_attn/self_attn/")


@dataclasses.dataclass(frozen=True)
class RefinerSizes:
    """Hyper-parameters of the refiner.

    Attributes:
        num_classes: action classes; the class head has one more output, "no action".
        feature_dim: channels of the backbone's frame features; None if they come with `inner_dim` channels and no
            projection stands before the pixel decoder (the older TST).
        inner_dim: channels of the pixel decoder.
        segment_dim: half the width of the segment queries.
        num_layers: dilated layers of the pixel decoder, at least 3.
        dropout: rate inside the attention blocks (the pixel decoder's is 0.5).
    """

    num_classes: int
    feature_dim: int | None = 192
    inner_dim: int = 64
    segment_dim: int = 256
    num_layers: int = 10
    dropout: float = 0.1


class FrameMemory(NamedTuple):
    """What the segments read from the frames: the part of the refiner that does not depend on the segments.

    Attributes:
        frames: [batch, time, inner_dim], the projected features, 0 outside the mask.
        round1: [batch, time, 2 * segment_dim], keys and values of the first round.
        round2: [batch, time, 2 * segment_dim], those of the second.
        mask_features: [batch, time, inner_dim], what segment masks are compared with.
    """

    frames: jax.Array
    round1: jax.Array
    round2: jax.Array
    mask_features: jax.Array


class RefinerOutput(NamedTuple):
    """What the refiner makes of a batch. Values of empty slots and of frames outside the mask have no meaning.

    Attributes:
        frame_labels: [batch, time] int32, the backbone's labels, -1 outside the mask.
        runs: their runs, one per segment.
        segment_logits: [rounds, batch, runs, classes + 1] float32, the last class being "no action".
        segment_masks: [rounds, batch, runs, time] float32 logits.
    """

    frame_labels: jax.Array
    runs: Runs
    segment_logits: jax.Array
    segment_masks: jax.Array


def frame_labels(predictions: jax.Array, mask: jax.Array) -> jax.Array:
    """The class of every frame's first maximum: scores [batch, time, classes] to [batch, time] int32, -1 outside."""
    return jnp.where(mask, jnp.argmax(predictions, axis=-1).astype(jnp.int32), NO_LABEL)


def refiner_group(path: str) -> str:
    """Optimizer group of a refiner parameter: "pixel_decoder", "transformer", "heads", or "frozen" if unused.

    Args:
        path: "/"-joined path inside the refiner's parameters, such as `cross_attn/linear1/kernel`.
    """
    if path.startswith(UNUSED_PARAMETERS):
        return "frozen"
    block = path.split("/", 1)[0]
    if block == "pixel_decoder":
        return "pixel_decoder"
    return "transformer" if block in ("cross_attn", "self_attn", "cross_attn2") else "heads"


def sinusoid_table(length: int, width: int) -> jax.Array:
    """Sinusoidal positions: sin (even channel j) or cos (odd j) of p / 10000^(2 * (j // 2) / width).

    The angle of position p = 64 a + b is split by the addition theorem: only the short tables over a and over b are
    computed, in float64, and stored in the program.

    Returns:
        [length, width] float32.
    """
    block = 64
    channel = np.arange(width)
    rate = 10000.0 ** -(2 * (channel // 2) / width)
    coarse = np.arange(0, length, block)[:, None] * rate + np.where(channel % 2, np.pi / 2, 0.0)
    fine = np.arange(block)[:, None] * rate
    sin_coarse, cos_coarse = (jnp.asarray(f(coarse), jnp.float32)[:, None] for f in (np.sin, np.cos))
    sin_fine, cos_fine = (jnp.asarray(f(fine), jnp.float32)[None] for f in (np.sin, np.cos))
    table = sin_coarse * cos_fine + cos_coarse * sin_fine
    return table.reshape(-1, width)[:length]


def run_means(found: Runs, frames: jax.Array) -> jax.Array:
    """Mean of the frames of every run.

    Args:
        found: runs of the sequences.
        frames: [batch, time, channels].

    Returns:
        [batch, runs, channels]; 0 in empty slots.
    """
    total = jnp.einsum("bnt,btc->bnc", found.members.astype(frames.dtype), frames)
    return total / jnp.maximum(found.end - found.start, 1)[:, :, None].astype(frames.dtype)


def masked_softmax(scores: jax.Array, allowed: jax.Array) -> jax.Array:
    """[..., keys] softmax of `scores` (same shape) over the keys `allowed` (broadcast to it), float32.

    Rows with nothing allowed are uniform, not NaN.
    """
    return jax.nn.softmax(jnp.where(allowed, scores.astype(jnp.float32), MASKED), axis=-1)


class Perceptron(nnx.Module):
    """Linear layers with ReLU between them: `widths` are the channels from the input to the output."""

    def __init__(self, *widths: int, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List(
            Dense(before, after, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for before, after in itertools.pairwise(widths)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., first width] to [..., last width]."""
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class SegmentFrameAttention(nnx.Module):
    """One head from every segment to the frames of its own run and of the two runs beside it, then a feed-forward."""

    def __init__(self, width: int, dropout: float, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.tgt2_linear = Dense(width, width, **options)
        self.linear1 = Dense(width, width, **options)
        self.linear2 = Dense(width, width, **options)
        self.norm1 = _layer_norm(width, **options)
        self.norm2 = _layer_norm(width, **options)
        self.norm3 = _layer_norm(width, **options)
        self.dropout = dropout

    def __call__(
        self,
        state: jax.Array,
        queries: jax.Array,
        memory: jax.Array,
        positions: jax.Array,
        found: Runs,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Runs the block.

        Args:
            state: [batch, runs, width], what the segments carry from the round before.
            queries: [batch, runs, width], added to the state to form the query.
            memory: [batch, time, width], frames.
            positions: [time, width], added to the frames to form the keys.
            found: runs of the backbone's labels.
            rngs: makes dropout active; None for evaluation.

        Returns:
            [batch, runs, width].
        """
        scores = jnp.einsum("bnc,btc->bnt", state + queries, memory + positions.astype(memory.dtype))
        distance = found.run_of_frame[:, None, :] - jnp.arange(found.capacity)[:, None]
        nearby = (found.run_of_frame != NO_RUN)[:, None, :] & (jnp.abs(distance) <= 1)
        weights = masked_softmax(scores / math.sqrt(queries.shape[-1]), nearby).astype(memory.dtype)
        context = self.tgt2_linear(nnx.relu(jnp.einsum("bnt,btc->bnc", weights, memory)))
        keep = keep_masks(rngs, self.dropout, 3, state.shape)
        state = self.norm2(state + drop(context, keep[0], self.dropout))
        inner = drop(nnx.relu(self.linear1(state)), keep[1], self.dropout)
        return self.norm3(state + drop(self.linear2(inner), keep[2], self.dropout))


class SegmentSelfAttention(nnx.Module):
    """One head between the segments, without projections, then a feed-forward.

    The attribute `self_attn` is a multi-head attention that the published checkpoints hold and nothing uses.
    """

    def __init__(
        self,
        width: int,
        dropout: float,
        *,
        window: int | None = None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.self_attn = UnusedAttention(width, param_dtype=param_dtype, rngs=rngs)
        self.conv_out = Dense(width, width, **options)
        self.linear1 = Dense(width, width, **options)
        self.linear2 = Dense(width, width, **options)
        self.norm1 = _layer_norm(width, **options)
        self.norm2 = _layer_norm(width, **options)
        self.dropout = dropout
        self.window = window

    def __call__(self, state: jax.Array, valid: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Runs the block.

        Args:
            state: [batch, runs, width].
            valid: [batch, runs] bool, True for slots that hold a run.
            rngs: makes dropout active; None for evaluation.

        Returns:
            [batch, runs, width]. With a `window`, segment n attends to segments n - window to n + window.
        """
        capacity, width = state.shape[1:]
        placed = state + sinusoid_table(capacity, width).astype(state.dtype)
        scores = jnp.einsum("bnc,bmc->bnm", placed, placed) / math.sqrt(width)
        allowed = jnp.broadcast_to(valid[:, None, :], scores.shape)
        if self.window is not None:
            slots = jnp.arange(capacity)
            allowed &= jnp.abs(slots[:, None] - slots) <= self.window
        weights = masked_softmax(scores, allowed).astype(state.dtype)
        context = self.conv_out(nnx.relu(jnp.einsum("bnm,bmc->bnc", weights, state)))
        keep = keep_masks(rngs, self.dropout, 3, state.shape)
        state = self.norm1(state + drop(context, keep[0], self.dropout))
        inner = drop(nnx.relu(self.linear1(state)), keep[1], self.dropout)
        return self.norm2(state + drop(self.linear2(inner), keep[2], self.dropout))


class UnusedAttention(nnx.Module):
    """Parameters of a multi-head attention that is never called, kept so that checkpoints can be written back."""

    def __init__(self, width: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        xavier = nnx.initializers.xavier_uniform()
        self.in_proj = nnx.Linear(width, 3 * width, kernel_init=xavier, param_dtype=param_dtype, rngs=rngs)
        uniform = pytorch_uniform(width)
        self.out_proj = nnx.Linear(width, width, kernel_init=uniform, param_dtype=param_dtype, rngs=rngs)


class Refiner(nnx.Module):
    """The refiner: pixel decoder, segment queries, two rounds of attention, class and mask heads."""

    def __init__(
        self,
        sizes: RefinerSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if sizes.num_layers < 3:
            raise ValueError(
                f"num_layers is {sizes.num_layers}; the refiner reads the last three layers of its pixel decoder, so "
                "it needs at least 3."
            )
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        inner, half, width = sizes.inner_dim, sizes.segment_dim, 2 * sizes.segment_dim
        self.sizes = sizes
        if sizes.feature_dim is not None:
            self.feat_down = Dense(sizes.feature_dim, inner, **options)
        self.pixel_decoder = DilatedResidualStack(
            inner, inner, sizes.num_classes, num_layers=sizes.num_layers, **options
        )
        self.pd_proj = Perceptron(inner, half, half, width, **options)
        self.pd_proj2 = Perceptron(inner, half, half, width, **options)
        self.feat_proj = Dense(inner, half, **options)
        self.onehot_proj = Perceptron(sizes.num_classes, ONEHOT_WIDTH, ONEHOT_WIDTH, half, **options)
        self.label_embedding = nnx.Embed(
            sizes.num_classes, half, embedding_init=nnx.initializers.normal(1.0), **options
        )
        self.cross_attn = SegmentFrameAttention(width, sizes.dropout, **options)
        self.self_attn = SegmentSelfAttention(width, sizes.dropout, **options)
        self.cross_attn2 = SegmentFrameAttention(width, sizes.dropout, **options)
        self.class_head = Dense(width, sizes.num_classes + 1, **options)
        self.mask_head = Dense(width, inner, **options)

    def __call__(
        self,
        features: jax.Array,
        predictions: jax.Array,
        mask: jax.Array,
        capacity: int,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> RefinerOutput:
        """Refines a batch.

        Args:
            features: [batch, time, feature_dim], the backbone's frame features.
            predictions: [batch, time, classes], its class scores; only the class of the (first) maximum is used.
            mask: [batch, time] bool, True = valid.
            capacity: number of segments per video that are refined; static. Those beyond it do not take part: see
                `RefinerOutput.runs.count`.
            rngs: makes dropout active; None for evaluation.
        """
        memory = self.encode_frames(features, mask, rngs=rngs)
        return self.refine_segments(memory, frame_labels(predictions, mask), capacity, rngs=rngs)

    def encode_frames(self, features: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None) -> FrameMemory:
        """The part of `__call__` that does not depend on the segments.

        Its first arguments: features [batch, time, feature_dim] and mask [batch, time] bool.
        """
        frames = features if self.sizes.feature_dim is None else self.feat_down(features)
        _, layers = self.pixel_decoder(frames, mask, rngs=rngs)
        round1, round2 = self.pd_proj(layers[-3]), self.pd_proj2(layers[-2])
        return FrameMemory(jnp.where(mask[:, :, None], frames, 0), round1, round2, layers[-1])

    def refine_segments(
        self, memory: FrameMemory, labels: jax.Array, capacity: int, *, rngs: nnx.Rngs | None = None
    ) -> RefinerOutput:
        """The rest of `__call__`.

        Args:
            memory: what `encode_frames` returned.
            labels: [batch, time] int32, the backbone's labels, -1 outside the mask.
            capacity: number of segments per video that are refined; static.
            rngs: makes dropout active; None for evaluation.
        """
        found = runs(labels, labels != NO_LABEL, capacity)
        queries = segment_queries(self, found, memory.frames)
        positions = sinusoid_table(labels.shape[1], queries.shape[-1])

        state = jnp.zeros_like(queries)
        state = self.cross_attn(state, queries, memory.round1, positions, found, rngs=rngs)
        first = self.self_attn(state, found.valid, rngs=rngs)
        second = self.cross_attn2(first, queries, memory.round2, positions, found, rngs=rngs)

        refined = jnp.stack([first, second])
        masks = jnp.einsum("rbnc,btc->rbnt", self.mask_head(refined), memory.mask_features)
        return RefinerOutput(labels, found, self.class_head(refined).astype(jnp.float32), masks.astype(jnp.float32))


def segment_queries(network: nnx.Module, found: Runs, frames: jax.Array) -> jax.Array:
    """What the frames of a run look like, beside an embedding of its label.

    Args:
        network: holds `feat_proj`, `onehot_proj` and `label_embedding`.
        found: runs of the backbone's labels.
        frames: [batch, time, inner_dim], 0 outside the mask.

    Returns:
        [batch, runs, 2 * segment_dim].
    """
    # The mean over a run and the linear map commute; there are fewer runs than frames.
    appearance = network.feat_proj(run_means(found, frames))
    onehot = jax.nn.one_hot(found.label, network.label_embedding.num_embeddings, dtype=appearance.dtype)
    label = network.onehot_proj(onehot)
    return jnp.concatenate([appearance + label, network.label_embedding(found.label)], axis=-1)


def _layer_norm(width: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
