"""ASFormer (Yi, Wen, Jiang, BMVC 2021, arXiv 2110.08568), after `ChinaYi/ASFormer:model.py`.

An encoder and several decoders, each a stack of blocks that join a dilated convolution with sliding-window attention.
Each decoder refines the class probabilities of the stage before it and takes its attention values from that stage's
features.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.temporal import Dense, DilatedConv, instance_norm
from actloc_jax.ops.sliding_attention import WindowPattern, sliding_window_attention


@dataclasses.dataclass(frozen=True)
class ASFormerSizes:
    """Everything that decides the shapes and the arithmetic of an ASFormer.

    Attributes:
        input_dim: channels of the input features.
        num_classes: classes of the output.
        num_layers: attention blocks per stage; block `i` has dilation and attention block length `2**i`.
        width: channels inside the network.
        num_decoders: refinement stages after the encoder.
        query_reduction: queries and keys have `width // query_reduction` channels (`r1` in the original).
        value_reduction: values have `width // value_reduction` channels (`r2` in the original).
        channel_dropout: rate at which whole input channels are dropped (GTEA uses 0.5).
        window_pattern: which keys a query sees, see `ops.sliding_attention.window_mask`.
    """

    input_dim: int
    num_classes: int
    num_layers: int = 10
    width: int = 64
    num_decoders: int = 3
    query_reduction: int = 2
    value_reduction: int = 2
    channel_dropout: float = 0.3
    window_pattern: WindowPattern = "published"


class ASFormerOutput(NamedTuple):
    """Result of an ASFormer.

    Attributes:
        logits: class logits of the encoder and of every decoder, `[stages, batch, time, classes]`.
        features: features behind the last stage's logits, `[batch, time, width]`.
    """

    logits: jax.Array
    features: jax.Array


class AttentionLayer(nnx.Module):
    """Single-head sliding-window attention with 1x1 projections; `block` is the attention block length in frames."""

    def __init__(
        self,
        width: int,
        *,
        block: int,
        query_reduction: int = 2,
        value_reduction: int = 2,
        window_pattern: WindowPattern = "published",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.query_conv = Dense(width, width // query_reduction, **options)
        self.key_conv = Dense(width, width // query_reduction, **options)
        self.value_conv = Dense(width, width // value_reduction, **options)
        self.conv_out = Dense(width // value_reduction, width, **options)
        self.block = block
        self.window_pattern = window_pattern

    def __call__(
        self, x: jax.Array, mask: jax.Array, *, source: jax.Array | None = None, visible: jax.Array | None = None
    ) -> jax.Array:
        """Attends within windows.

        Args:
            x: `[batch, time, width]`, gives queries and keys.
            mask: bool `[batch, time]`, True for the frames of the sequence.
            source: `[batch, time, width]`, gives the values; None for `x` (encoder).
            visible: bool `[batch, time]`, see `ASFormer`.

        Returns:
            `[batch, time, width]`, zero on frames that are not visible.
        """
        visible = mask if visible is None else visible & mask
        y = sliding_window_attention(
            self.query_conv(x),
            self.key_conv(x),
            self.value_conv(x if source is None else source),
            mask,
            block=self.block,
            pattern=self.window_pattern,
            visible=visible,
        )
        return jnp.where(visible[..., None], self.conv_out(nnx.relu(y)), 0)


class AttentionBlock(nnx.Module):
    """Dilated convolution, instance norm and attention with a residual around them (figure 2 of the paper).

    `alpha` weighs the attention against the convolution.
    """

    def __init__(
        self,
        width: int,
        *,
        dilation: int,
        alpha: float,
        query_reduction: int = 2,
        value_reduction: int = 2,
        window_pattern: WindowPattern = "published",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.feed_forward = DilatedConv(width, width, kernel_size=3, dilation=dilation, **options)
        self.att_layer = AttentionLayer(
            width,
            block=dilation,
            query_reduction=query_reduction,
            value_reduction=value_reduction,
            window_pattern=window_pattern,
            **options,
        )
        self.conv_1x1 = Dense(width, width, **options)
        self.dropout = nnx.Dropout(0.5)
        self.alpha = alpha

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        *,
        source: jax.Array | None = None,
        visible: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """`[batch, time, width]` to the same; arguments as in `AttentionLayer`, dropout active if `rngs` is given."""
        visible = mask if visible is None else visible & mask
        y = nnx.relu(self.feed_forward(x, mask))
        y = self.alpha * self.att_layer(instance_norm(y, mask), mask, source=source, visible=visible) + y
        y = self.dropout(self.conv_1x1(y), deterministic=rngs is None, rngs=rngs)
        return jnp.where(visible[..., None], x + y, 0)


class AttentionStack(nnx.Module):
    """1x1 input, then attention blocks of dilation 1, 2, 4, ...: what the encoder and the decoders share.

    The encoder passes no `source`, so that its attention values come from the current features.
    """

    def __init__(
        self,
        in_features: int,
        sizes: ASFormerSizes,
        *,
        alpha: float,
        channel_dropout: float = 0.0,
        with_logits: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        # Whole channels over all time: the mask is broadcast over axis 1.
        self.channel_dropout = nnx.Dropout(channel_dropout, broadcast_dims=(1,))
        self.conv_1x1 = Dense(in_features, sizes.width, **options)
        self.layers = nnx.List(
            AttentionBlock(
                sizes.width,
                dilation=2**i,
                alpha=alpha,
                query_reduction=sizes.query_reduction,
                value_reduction=sizes.value_reduction,
                window_pattern=sizes.window_pattern,
                **options,
            )
            for i in range(sizes.num_layers)
        )
        if with_logits:
            self.conv_out = Dense(sizes.width, sizes.num_classes, **options)

    def features(
        self,
        x: jax.Array,
        mask: jax.Array,
        *,
        source: jax.Array | None = None,
        visible: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """`[batch, time, in_features]` to the features of the last block, `[batch, time, width]`."""
        x = self.conv_1x1(self.channel_dropout(x, deterministic=rngs is None, rngs=rngs))
        for layer in self.layers:
            x = layer(x, mask, source=source, visible=visible, rngs=rngs)
        return x

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        *,
        source: jax.Array | None = None,
        visible: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Logits `[batch, time, classes]`, zero on frames that are not visible, and features `[batch, time, width]`."""
        visible = mask if visible is None else visible & mask
        features = self.features(x, mask, source=source, visible=visible, rngs=rngs)
        return jnp.where(visible[..., None], self.conv_out(features), 0), features


def decoder_stacks(count: int, sizes: ASFormerSizes, **options) -> nnx.List:
    """Decoders whose attention fades: decoder `s` weighs it by `exp(-3 s)` (section 3.3 of the paper)."""
    return nnx.List(AttentionStack(sizes.num_classes, sizes, alpha=math.exp(-3.0 * s), **options) for s in range(count))


def class_probabilities(logits: jax.Array, visible: jax.Array) -> jax.Array:
    """[batch, time, classes] softmax of `logits` (same shape), zero where not `visible` [batch, time]: decoder input.

    Computed in float32, returned in the dtype of `logits`.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(logits.dtype)
    return jnp.where(visible[..., None], probabilities, 0)


class ASFormer(nnx.Module):
    """Encoder and decoders.

    Two masks, because the published network treats its own differently from padding. Frames outside `mask` do not
    exist: extending the padding changes nothing. Frames inside `mask` but outside `visible` are what the original's
    `mask` argument hides: their outputs are zero and their keys nearly weightless, yet convolutions and instance norm
    still see them. The original only ever hides frames that pad a batch; leave `visible` out.
    """

    def __init__(
        self,
        sizes: ASFormerSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.encoder = AttentionStack(
            sizes.input_dim, sizes, alpha=1.0, channel_dropout=sizes.channel_dropout, **options
        )
        self.decoders = decoder_stacks(sizes.num_decoders, sizes, **options)

    def __call__(
        self, x: jax.Array, mask: jax.Array, *, visible: jax.Array | None = None, rngs: nnx.Rngs | None = None
    ) -> ASFormerOutput:
        """Runs all stages.

        Args:
            x: `[batch, time, input_dim]`.
            mask: bool `[batch, time]`, True for the frames of the sequence.
            visible: bool `[batch, time]`, see the class; None for all of `mask`.
            rngs: makes dropout active; None for evaluation.
        """
        visible = mask if visible is None else visible & mask
        logits, features = self.encoder(x, mask, visible=visible, rngs=rngs)
        stages = [logits]
        for decoder in self.decoders:
            probabilities = class_probabilities(logits, visible)
            logits, features = decoder(probabilities, mask, source=features, visible=visible, rngs=rngs)
            stages.append(logits)
        return ASFormerOutput(jnp.stack(stages), features)
