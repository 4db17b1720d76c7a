"""Per-frame and dilated temporal layers on [batch, time, channels] sequences, with PyTorch's default initialisation.

Every layer that looks along time takes the mask of valid frames and treats the others as zeros, so that extending the
padding never changes a valid frame. What a layer returns on invalid frames has no meaning.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop, keep_masks


def pytorch_uniform(fan_in: int) -> Initializer:
    """PyTorch's default initialisation of linear and convolution weights and biases: U(+-1/sqrt(fan_in)).

    Args:
        fan_in: inputs that one output sums over: input channels times kernel taps.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, out_sharding=None) -> jax.Array:
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dense(nnx.Module):
    """The same linear map with bias on every frame (a linear layer, or a convolution of kernel size 1).

    Attributes:
        kernel: [in_features, out_features].
        bias: [out_features].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = pytorch_uniform(in_features)
        self.kernel = nnx.Param((kernel_init or init)(rngs.params(), (in_features, out_features), param_dtype))
        self.bias = nnx.Param((bias_init or init)(rngs.params(), (out_features,), param_dtype))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in_features] to [..., out_features] in the compute dtype."""
        return x.astype(self.dtype) @ self.kernel[...].astype(self.dtype) + self.bias[...].astype(self.dtype)


class LinearMap(nnx.Module):
    """The same linear map without bias on every frame.

    Attributes:
        kernel: [in_features, out_features].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = kernel_init or pytorch_uniform(in_features)
        self.kernel = nnx.Param(init(rngs.params(), (in_features, out_features), param_dtype))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in_features] to [..., out_features] in the compute dtype."""
        return x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)


class DilatedConv(nnx.Module):
    """Convolution over time with an odd kernel, zero padding that keeps the length, and bias.

    Attributes:
        kernel: [taps, in_features, out_features]; tap j reads frame t + (j - taps // 2) * dilation.
        bias: [out_features].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int,
        dilation: int = 1,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; a convolution that keeps the length needs an odd one.")
        init = pytorch_uniform(in_features * kernel_size)
        self.kernel = nnx.Param(init(rngs.params(), (kernel_size, in_features, out_features), param_dtype))
        self.bias = nnx.Param(init(rngs.params(), (out_features,), param_dtype))
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.dtype = dtype

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[batch, time, in_features] to [batch, time, out_features]; frames outside `mask` count as zeros."""
        time = x.shape[1]
        margin = self.kernel_size // 2 * self.dilation
        x = jnp.where(mask[:, :, None], x, 0).astype(self.dtype)
        x = jnp.pad(x, ((0, 0), (margin, margin), (0, 0)))
        kernel = self.kernel[...].astype(self.dtype)
        taps = (x[:, j * self.dilation : j * self.dilation + time] @ kernel[j] for j in range(self.kernel_size))
        return sum(taps) + self.bias[...].astype(self.dtype)


def instance_norm(x: jax.Array, mask: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Normalises each channel over the valid frames of its sequence: zero mean, unit (biased) variance, no affine map.

    Args:
        x: [batch, time, channels].
        mask: [batch, time] bool, True on valid frames.
        eps: added to the variance.

    Returns:
        [batch, time, channels] in the dtype of `x`; statistics are float32.
    """
    valid = mask[:, :, None]
    values = jnp.where(valid, x, 0).astype(jnp.float32)
    frames = jnp.maximum(mask.sum(axis=1), 1)[:, None, None]
    centred = jnp.where(valid, values - values.sum(axis=1, keepdims=True) / frames, 0)
    variance = jnp.square(centred).sum(axis=1, keepdims=True) / frames
    return (centred * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


class DilatedResidualLayer(nnx.Module):
    """The residual layer of MS-TCN (Abu Farha and Gall, CVPR 2019, section 3.1): x + dropout(1x1(relu(conv3(x))))."""

    def __init__(
        self,
        features: int,
        *,
        dilation: int,
        dropout: float = 0.5,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        self.conv_dilated = DilatedConv(features, features, kernel_size=3, dilation=dilation, rngs=rngs, **dtypes)
        self.conv_in = Dense(features, features, rngs=rngs, **dtypes)
        self.dropout = dropout

    def __call__(self, x: jax.Array, mask: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """[batch, time, features] to the same shape; dropout leaves what `keep`, a bool array of that shape, marks."""
        y = self.conv_in(nnx.relu(self.conv_dilated(x, mask)))
        return x + drop(y, keep, self.dropout)


class DilatedResidualStack(nnx.Module):
    """A single-stage TCN: 1x1 input, dilated residual layers with dilations 1, 2, 4, ..., 1x1 output."""

    def __init__(
        self,
        in_features: int,
        features: int,
        out_features: int,
        *,
        num_layers: int,
        dropout: float = 0.5,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        self.dropout = dropout
        self.conv_in = Dense(in_features, features, rngs=rngs, **dtypes)
        self.layers = nnx.List(
            DilatedResidualLayer(features, dilation=2**i, dropout=dropout, rngs=rngs, **dtypes)
            for i in range(num_layers)
        )
        self.conv_out = Dense(features, out_features, rngs=rngs, **dtypes)

    def __call__(
        self, x: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Runs the stack.

        Args:
            x: [batch, time, in_features].
            mask: [batch, time] bool, True on valid frames.
            rngs: makes dropout active; None for evaluation.

        Returns:
            The output [batch, time, out_features] and the output of every layer, [batch, time, features] each.
        """
        x = self.conv_in(x)
        outputs = []
        keeps = keep_masks(rngs, self.dropout, len(self.layers), x.shape)
        for layer, keep in zip(self.layers, keeps, strict=True):
            x = layer(x, mask, keep)
            outputs.append(x)
        return self.conv_out(x), outputs
