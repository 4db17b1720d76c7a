"""Residual encoders of images to maps of an eighth of their size: those of RAFT.

Source: `princeton-vl/RAFT:core/extractor.py`. Axes are [images, height, width, channels].
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.conv_norm import BatchNorm
from actloc_jax.layers.image_conv import ImageConv, instance_norm, kaiming_fan_out


class Encoder(nnx.Module):
    """An image to a map of an eighth of its size: a stem, three stages of two residual blocks, a linear map.

    Attributes (the names of the original): `conv1`, `norm1` (where it has parameters), `layer1` to `layer3`, `conv2`.
    """

    def __init__(
        self,
        stem: int,
        stages: Sequence[int],
        out_features: int,
        *,
        bottleneck: bool,
        norm: str,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the encoder.

        Args:
            stem: channels after the first convolution.
            stages: channels of the three stages.
            out_features: channels of the map.
            bottleneck: blocks of three convolutions, `BottleneckBlock`, instead of two, `ResidualBlock`.
            norm: kind of `Norm`.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: of the initial values.
        """
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        block = BottleneckBlock if bottleneck else ResidualBlock
        self.conv1 = ImageConv(3, stem, kernel_size=7, stride=2, kernel_init=kaiming_fan_out, **options)
        self.norm1 = Norm(stem, norm, param_dtype=param_dtype)
        widths = (stem, *stages)
        for number, stride in enumerate((1, 2, 2), start=1):
            before, width = widths[number - 1 : number + 1]
            first = block(before, width, stride=stride, norm=norm, **options)
            second = block(width, width, stride=1, norm=norm, **options)
            setattr(self, f"layer{number}", nnx.List([first, second]))
        self.conv2 = ImageConv(stages[-1], out_features, kernel_size=1, kernel_init=kaiming_fan_out, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[images, height, width, 3] from -1 to 1 to [images, height / 8, width / 8, out_features]."""
        x = nnx.relu(self.norm1(self.conv1(x)))
        for block in [*self.layer1, *self.layer2, *self.layer3]:
            x = block(x)
        return self.conv2(x)


class Norm(nnx.Module):
    """The norm of an encoder: "instance" (without parameters), "batch" (running statistics) or "none"."""

    def __init__(self, features: int, kind: str, *, param_dtype: DTypeLike):
        if kind == "batch":
            self.batch = BatchNorm(features, param_dtype=param_dtype)
        self.kind = kind

    def __call__(self, x: jax.Array) -> jax.Array:
        """[images, height, width, features] to the same shape and dtype."""
        if self.kind == "batch":
            return self.batch(x, train=False)
        return instance_norm(x) if self.kind == "instance" else x


class ResidualBlock(nnx.Module):
    """Two convolutions with a norm and a ReLU each, added to what came in; a ReLU on the sum as well.

    Attributes (the names of the original): `conv1`, `conv2`, `norm1`, `norm2`, and where the block strides
    `downsample` with `norm3`.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        stride: int,
        norm: str,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"kernel_init": kaiming_fan_out, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.conv1 = ImageConv(in_features, features, kernel_size=3, stride=stride, **options)
        self.norm1 = Norm(features, norm, param_dtype=param_dtype)
        self.conv2 = ImageConv(features, features, kernel_size=3, **options)
        self.norm2 = Norm(features, norm, param_dtype=param_dtype)
        self.strides = stride > 1
        if self.strides:
            self.downsample = ImageConv(in_features, features, kernel_size=1, stride=stride, **options)
            self.norm3 = Norm(features, norm, param_dtype=param_dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[images, height, width, in_features] to [images, height / stride, width / stride, features]."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        return nnx.relu(y + (self.norm3(self.downsample(x)) if self.strides else x))


class BottleneckBlock(nnx.Module):
    """As `ResidualBlock`, with a convolution on a quarter of the channels between two linear maps.

    Attributes (the names of the original): `conv1` to `conv3`, and where the block strides `downsample`. Its norms
    have no parameters.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        stride: int,
        norm: str,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"kernel_init": kaiming_fan_out, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        narrow = features // 4
        self.conv1 = ImageConv(in_features, narrow, kernel_size=1, **options)
        self.conv2 = ImageConv(narrow, narrow, kernel_size=3, stride=stride, **options)
        self.conv3 = ImageConv(narrow, features, kernel_size=1, **options)
        self.norm = Norm(features, norm, param_dtype=param_dtype)
        self.strides = stride > 1
        if self.strides:
            self.downsample = ImageConv(in_features, features, kernel_size=1, stride=stride, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[images, height, width, in_features] to [images, height / stride, width / stride, features]."""
        y = x
        for conv in (self.conv1, self.conv2, self.conv3):
            y = nnx.relu(self.norm(conv(y)))
        return nnx.relu(y + (self.norm(self.downsample(x)) if self.strides else x))
