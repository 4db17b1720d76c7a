"""Convolutions over images and the norms that stand between them. Axes are [images, height, width, channels]."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from actloc_jax.layers.masked import EPSILON
from actloc_jax.layers.temporal import pytorch_uniform

kaiming_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al.'s normal initialisation by the number of outputs, for layers before a ReLU."""


class ImageConv(nnx.Module):
    """Convolution over height and width with an odd kernel and zero padding of half of it.

    Attributes:
        kernel: [rows, columns, in_features, out_features].
        bias: [out_features].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: tuple[int, int] | int,
        stride: int = 1,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer; the initial values are PyTorch's where no `kernel_init` is given."""
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        default = pytorch_uniform(rows * columns * in_features)
        shape = (rows, columns, in_features, out_features)
        self.kernel = nnx.Param((kernel_init or default)(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(default(rngs.params(), (out_features,), param_dtype))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[images, height, width, in_features] to [images, ceil(height / stride), ceil(width / stride), out_features].

        In the compute dtype.
        """
        y = convolve(x.astype(self.dtype), self.kernel[...].astype(self.dtype), stride=self.stride)
        return y + self.bias[...].astype(self.dtype)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Convolution with zero padding of half the kernel.

    Args:
        x: [images, height, width, in_features].
        kernel: [rows, columns, in_features, out_features], rows and columns odd.
        stride: along both axes.

    Returns:
        [images, ceil(height / stride), ceil(width / stride), out_features].
    """
    padding = [(taps // 2, taps // 2) for taps in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def instance_norm(x: jax.Array) -> jax.Array:
    """Every channel of every image to zero mean and unit (biased) variance over height and width; no affine map.

    Args:
        x: [images, height, width, channels]; statistics are float32.

    Returns:
        The shape and dtype of `x`.
    """
    values = x.astype(jnp.float32)
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    variance = jnp.square(centred).mean(axis=(1, 2), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + EPSILON)).astype(x.dtype)
