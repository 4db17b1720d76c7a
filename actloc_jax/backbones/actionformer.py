"""The block of ActionFormer (Zhang et al., ECCV 2022, arXiv 2202.07925): attention on convolutions, and a perceptron.

Source: `happyharrycn/actionformer_release:libs/modeling/blocks.py`. Dropout inside the block is left out: the published
rate is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.masked import FrameMlp, FrameNorm, Frames, MaskedConv, ScaledPath, max_pool
from actloc_jax.layers.temporal import Dense
from actloc_jax.ops.window_attention import window_attention


class ConvAttention(nnx.Module):
    """Multi-head attention whose queries, keys and values come from convolutions, which may shorten the sequence.

    Attributes (the names of the original): `{query,key,value}_conv`, `{query,key,value}_norm`, the projections `query`,
    `key`, `value` and `proj`, and with position bias `rel_pe` [heads, window].
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        window: int | None = None,
        stride: int = 1,
        position_bias: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer.

        Args:
            features: channels, divisible by `heads`.
            heads: their number.
            window: how many frames a frame sees, odd; None: all.
            stride: by which the sequence is shortened: 1 or even.
            position_bias: learn a bias per head and distance; needs a window.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: of the initial values.
        """
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv = {"kernel_size": stride + 1 if stride > 1 else 3, "stride": stride, "per_channel": True, "bias": False}
        self.query_conv = MaskedConv(features, features, **conv, **options)
        self.query_norm = FrameNorm(features, param_dtype=param_dtype)
        self.key_conv = MaskedConv(features, features, **conv, **options)
        self.key_norm = FrameNorm(features, param_dtype=param_dtype)
        self.value_conv = MaskedConv(features, features, **conv, **options)
        self.value_norm = FrameNorm(features, param_dtype=param_dtype)
        linear = {"bias_init": nnx.initializers.zeros, **options}
        self.query = Dense(features, features, **linear)
        self.key = Dense(features, features, **linear)
        self.value = Dense(features, features, **linear)
        self.proj = Dense(features, features, **linear)
        self.has_bias = position_bias
        if position_bias:
            init = nnx.initializers.truncated_normal((2.0 / features) ** 0.5)
            self.rel_pe = nnx.Param(init(rngs.params(), (heads, window), param_dtype))
        self.heads = heads
        self.reach = None if window is None else window // 2
        self.stride = stride

    def __call__(self, x: jax.Array, frames: Frames) -> jax.Array:
        """[batch, time, features] to [batch, time // stride, features], zeros on padding."""
        query = self.query(self.query_norm(self.query_conv(x, frames)))
        key = self.key(self.key_norm(self.key_conv(x, frames)))
        value = self.value(self.value_norm(self.value_conv(x, frames)))
        frames = frames.every(self.stride)
        split = (*query.shape[:2], self.heads, query.shape[2] // self.heads)
        y = window_attention(
            query.reshape(split),
            key.reshape(split),
            value.reshape(split),
            frames.valid,
            reach=self.reach,
            position_bias=self.rel_pe[...] if self.has_bias else None,
        )
        return frames.only_valid(self.proj(y.reshape(query.shape)))


class TransformerBlock(nnx.Module):
    """Attention and a perceptron, each behind a norm and with a residual path."""

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        window: int | None = None,
        stride: int = 1,
        position_bias: bool = False,
        drop_path: float | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the block; `drop_path` is the rate of dropping both paths, which then are scaled; None: neither."""
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        self.ln1 = FrameNorm(features, param_dtype=param_dtype)
        self.ln2 = FrameNorm(features, param_dtype=param_dtype)
        self.attn = ConvAttention(
            features, heads=heads, window=window, stride=stride, position_bias=position_bias, rngs=rngs, **dtypes
        )
        self.mlp = FrameMlp(features, 4 * features, rngs=rngs, **dtypes)
        self.stride = stride
        self.has_paths = drop_path is not None
        if drop_path is not None:
            self.drop_path_attn = ScaledPath(features, rate=drop_path, param_dtype=param_dtype)
            self.drop_path_mlp = ScaledPath(features, rate=drop_path, param_dtype=param_dtype)

    def __call__(self, x: jax.Array, frames: Frames, keep: jax.Array | None = None) -> tuple[jax.Array, Frames]:
        """Runs the block.

        Args:
            x: [batch, time, features].
            frames: of `x`.
            keep: [2, batch] bool, which rows keep the first and the second residual path; None for evaluation.

        Returns:
            [batch, time // stride, features], zeros on padding, and its frames.
        """
        attended = self.attn(self.ln1(x), frames)
        shortcut = x if self.stride == 1 else max_pool(x, frames, self.stride)
        frames = frames.every(self.stride)
        first, second = (None, None) if keep is None else keep
        y = frames.only_valid(shortcut) + (self.drop_path_attn(attended, first) if self.has_paths else attended)
        z = frames.only_valid(self.mlp(self.ln2(y)))
        return y + (self.drop_path_mlp(z, second) if self.has_paths else z), frames
