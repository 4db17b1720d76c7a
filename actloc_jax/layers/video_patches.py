"""From video to tokens and from many tokens to fewer: what stands before and between the stages of Video Swin.

Source: `SwinTransformer/Video-Swin-Transformer:mmaction/models/backbones/swin_transformer.py`. Axes are
[batch, time, height, width, channels].
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.masked import FrameNorm
from actloc_jax.layers.temporal import LinearMap, pytorch_uniform
from actloc_jax.ops.video_windows import Triple, end_padding, pad_end, partition


class PatchEmbedding(nnx.Module):
    """Cuts a video into patches and maps each to a vector: a convolution whose kernel and stride are the patch.

    Attributes (the names of the original):
        kernel: [frames, rows, columns, in_channels, width].
        bias: [width].
        norm: over the vector's channels, if asked for.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        patch: Triple,
        norm: bool,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (*patch, in_channels)
        init = pytorch_uniform(math.prod(shape))
        self.kernel = nnx.Param(init(rngs.params(), (*shape, width), param_dtype))
        self.bias = nnx.Param(init(rngs.params(), (width,), param_dtype))
        self.has_norm = norm
        if norm:
            self.norm = FrameNorm(width, param_dtype=param_dtype)
        self.patch = patch
        self.dtype = dtype

    def __call__(self, video: jax.Array) -> jax.Array:
        """[batch, time, height, width, in_channels] to [batch, time / 2, height / 4, width / 4, width], rounded up."""
        x = pad_end(video.astype(self.dtype), end_padding(video.shape[1:4], self.patch))
        batch, *size, channels = x.shape
        grid = [length // extent for length, extent in zip(size, self.patch, strict=True)]
        patches = partition(x, self.patch).reshape(batch, *grid, math.prod(self.patch) * channels)
        kernel = self.kernel[...].astype(self.dtype)
        y = patches @ kernel.reshape(-1, kernel.shape[-1]) + self.bias[...].astype(self.dtype)
        return normalised(self.norm, y) if self.has_norm else y


class PatchMerging(nnx.Module):
    """Joins 2 x 2 neighbouring tokens of a frame into one of twice the channels."""

    def __init__(
        self,
        features: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm = FrameNorm(4 * features, param_dtype=param_dtype)
        self.reduction = LinearMap(
            4 * features,
            2 * features,
            kernel_init=nnx.initializers.normal(0.02),
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, height, width, features] to [batch, time, height / 2, width / 2, 2 * features], rounded up."""
        x = pad_end(x, (0, x.shape[2] % 2, x.shape[3] % 2))
        batch, time, height, width, features = x.shape
        x = x.reshape(batch, time, height // 2, 2, width // 2, 2, features)
        x = x.transpose(0, 1, 2, 4, 5, 3, 6)  # of the four: first the left column, from above
        return self.reduction(normalised(self.norm, x.reshape(batch, time, height // 2, width // 2, 4 * features)))


def normalised(norm: FrameNorm, x: jax.Array) -> jax.Array:
    """Every token of [batch, ..., features] normalised over its features."""
    return norm(x.reshape(len(x), -1, x.shape[-1])).reshape(x.shape)
