"""The blocks of TriDet (Shi et al., CVPR 2023, arXiv 2303.07347, section 3.2): SGP and, as an alternative, plain ones.

SGP ("scalable granularity perception") replaces self-attention: convolutions per channel at two widths, gated by one
another and by the mean over time. Source: `dingfengshi/TriDet:libs/modeling/blocks.py`.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.masked import (
    ChannelConv,
    FrameMlp,
    FrameNorm,
    Frames,
    MaskedConv,
    ScaledPath,
    TimeGroupNorm,
    max_pool,
    mean_pool,
)
from actloc_jax.layers.temporal import Dense

Pooling = Literal["max", "avg"]


def wide_kernel(window: int, factor: float) -> int:
    """Taps of the wider of SGP's two convolutions: about `factor` times the other's `window`, and odd."""
    taps = round((window + 1) * factor)
    return taps + 1 if taps % 2 == 0 else taps


class SGPBlock(nnx.Module):
    """One SGP layer, which may shorten the sequence.

    Attributes (the names of the original): `psi` gates the sum of `convw` and the wider `convkw`; `global_fc` of the
    mean over time gates `fc`.
    """

    def __init__(
        self,
        features: int,
        *,
        window: int,
        factor: float,
        hidden: int,
        stride: int = 1,
        pooling: Pooling = "max",
        drop_path: float | None = None,
        init_std: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the block.

        Args:
            features: channels.
            window: taps of the narrow convolutions, odd.
            factor: how much wider the wide convolution is, see `wide_kernel`.
            hidden: channels inside the perceptron.
            stride: by which the sequence is shortened.
            pooling: how it is shortened: the largest of `stride + 1` frames, or the mean of `stride` and a linear map.
            drop_path: rate of dropping both residual paths, which then are scaled; None: they are neither.
            init_std: standard deviation of the initial taps; 0 as published.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: of the initial values.
        """
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        taps = {"kernel_init": nnx.initializers.normal(init_std), **dtypes, "rngs": rngs}
        self.ln = FrameNorm(features, param_dtype=param_dtype)
        self.gn = TimeGroupNorm(features, param_dtype=param_dtype)
        self.psi = ChannelConv(features, kernel_size=window, **taps)
        self.fc = ChannelConv(features, kernel_size=1, **taps)
        self.convw = ChannelConv(features, kernel_size=window, **taps)
        self.convkw = ChannelConv(features, kernel_size=wide_kernel(window, factor), **taps)
        self.global_fc = ChannelConv(features, kernel_size=1, **taps)
        self.mlp = FrameMlp(features, hidden, rngs=rngs, **dtypes)
        self.stride = stride
        self.pooling = pooling
        if stride > 1 and pooling == "avg":
            self.downsample = Dense(features, features, bias_init=nnx.initializers.zeros, rngs=rngs, **dtypes)
        self.has_paths = drop_path is not None
        if drop_path is not None:
            self.drop_path_out = ScaledPath(features, rate=drop_path, param_dtype=param_dtype)
            self.drop_path_mlp = ScaledPath(features, rate=drop_path, param_dtype=param_dtype)

    def __call__(self, x: jax.Array, frames: Frames, keep: jax.Array | None = None) -> tuple[jax.Array, Frames]:
        """Runs the block.

        Args:
            x: [batch, time, features].
            frames: of `x`.
            keep: [2, batch] bool, which rows keep the first and the second residual path; None for evaluation.

        Returns:
            [batch, time // stride, features], not masked, and its frames.
        """
        x, frames = self._shortened(x, frames)
        o = frames.only_seen(self.ln(x))
        gate = nnx.relu(self.global_fc(frames.mean(o).astype(o.dtype)))
        o = self.fc(o) * gate + (self.convw(o) + self.convkw(o)) * self.psi(o) + o
        first, second = (None, None) if keep is None else keep
        y = frames.only_valid(x) + (self.drop_path_out(o, first) if self.has_paths else o)
        z = self.mlp(self.gn(y, frames))
        return y + (self.drop_path_mlp(z, second) if self.has_paths else z), frames

    def _shortened(self, x: jax.Array, frames: Frames) -> tuple[jax.Array, Frames]:
        if self.stride == 1:
            return x, frames
        if self.pooling == "max":
            return max_pool(x, frames, self.stride), frames.every(self.stride)
        return self.downsample(mean_pool(x, frames, self.stride)), frames.every(self.stride)


class ConvBlock(nnx.Module):
    """The basic block of a residual network over time: the backbone type "conv" of ActionFormer and TriDet."""

    def __init__(
        self,
        features: int,
        *,
        stride: int = 1,
        kernel_size: int = 3,
        expansion: int = 2,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width = features * expansion
        self.conv1 = MaskedConv(features, width, kernel_size=kernel_size, stride=stride, **options)
        self.conv2 = MaskedConv(width, features, kernel_size=kernel_size, **options)
        self.has_paths = False
        self.stride = stride
        if stride > 1:
            self.downsample = MaskedConv(features, features, kernel_size=1, stride=stride, **options)

    def __call__(self, x: jax.Array, frames: Frames, keep: jax.Array | None = None) -> tuple[jax.Array, Frames]:
        """[batch, time, features] to [batch, time // stride, features] and its frames; `keep` has no meaning here."""
        del keep
        shortened = frames.every(self.stride)
        y = self.conv2(nnx.relu(self.conv1(x, frames)), shortened)
        shortcut = x if self.stride == 1 else self.downsample(x, frames)
        return nnx.relu(y + shortcut), shortened
