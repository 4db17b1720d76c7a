"""Convolutions with a norm, and the top-down pyramid built of them: TALLFormer's two detectors.

Windows have one length, and their padding is part of the input, as published: nothing here takes a mask. Sources:
`klauscc/TALLFormer:vedacore/modules/bricks/conv_module.py`, `vedatad/models/necks/fpn.py`, `AFSD/common/layers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from actloc_jax.layers.masked import EPSILON, Frames, TimeGroupNorm, convolve
from actloc_jax.layers.temporal import pytorch_uniform

MOMENTUM = 0.1  # share of a batch in the running statistics


class Conv(nnx.Module):
    """Convolution over time with an odd kernel and zero padding.

    Attributes:
        kernel: [taps, in_features, out_features].
        bias: [out_features]; absent where a norm follows that needs none.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer; initialisers that are not given are PyTorch's."""
        default = pytorch_uniform(in_features * kernel_size)
        shape = (kernel_size, in_features, out_features)
        self.kernel = nnx.Param((kernel_init or default)(rngs.params(), shape, param_dtype))
        if bias:
            self.bias = nnx.Param((bias_init or default)(rngs.params(), (out_features,), param_dtype))
        self.has_bias = bias
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, in_features] to [batch, ceil(time / stride), out_features] in the compute dtype."""
        y = convolve(x.astype(self.dtype), self.kernel[...].astype(self.dtype), stride=self.stride)
        return y + self.bias[...].astype(self.dtype) if self.has_bias else y


class BatchNorm(nnx.Module):
    """Normalises every channel over all frames of the batch.

    Under `jit` the batch is the global one, so that the statistics are those of PyTorch's SyncBatchNorm. Where the
    levels of a pyramid share a norm, each is normalised by its own statistics, and the running ones follow each in turn
    (several updates per step), as published.

    Attributes:
        scale, bias: [features].
        mean, var: [features] float32, running; `var` counts with n - 1.
    """

    def __init__(self, features: int, *, param_dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.ones((features,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((features,), param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros((features,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((features,), jnp.float32))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[batch, time, features] to the same shape and dtype; `train` uses and records the batch's statistics."""
        values = x.astype(jnp.float32)
        if train:
            number = x.shape[0] * x.shape[1]
            mean = values.mean(axis=(0, 1))
            var = jnp.square(values - mean).mean(axis=(0, 1))
            unbiased = var * (number / max(number - 1, 1))
            for running, new in ((self.mean, mean), (self.var, unbiased)):
                running[...] = (1 - MOMENTUM) * running[...] + MOMENTUM * jax.lax.stop_gradient(new)
        else:
            mean, var = self.mean[...], self.var[...]
        scale = self.scale[...].astype(jnp.float32) * jax.lax.rsqrt(var + EPSILON)
        return ((values - mean) * scale + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class ConvNorm(nnx.Module):
    """A convolution, a norm and, where asked for, a ReLU.

    Attributes: `conv`, `norm`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int,
        groups: int | None = None,
        relu: bool = True,
        stride: int = 1,
        bias: bool = False,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer; `groups` of the GroupNorm, None for BatchNorm; the rest as for `Conv`."""
        init = {"bias": bias, "kernel_init": kernel_init, "bias_init": bias_init}
        options = {"kernel_size": kernel_size, "stride": stride, "dtype": dtype, "param_dtype": param_dtype}
        self.conv = Conv(in_features, out_features, rngs=rngs, **init, **options)
        if groups is None:
            self.norm = BatchNorm(out_features, param_dtype=param_dtype)
        else:
            self.norm = TimeGroupNorm(out_features, groups=groups, param_dtype=param_dtype)
        self.groups = groups
        self.relu = relu

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[batch, time, in_features] to [batch, time / stride, out_features]; `train` matters to BatchNorm alone."""
        y = self.conv(x)
        everywhere = Frames(jnp.ones(y.shape[:2], bool))
        y = self.norm(y, train=train) if self.groups is None else self.norm(y, everywhere)
        return nnx.relu(y) if self.relu else y


class TopDownPyramid(nnx.Module):
    """A feature pyramid network: every level is added to the finer ones, from the coarsest on, then smoothed.

    There is no activation in it.

    Attributes (the names of the original): `lateral_convs`, `fpn_convs`.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        levels: int,
        *,
        groups: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {
            "groups": groups,
            "relu": False,
            "kernel_init": nnx.initializers.glorot_uniform(),
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        self.lateral_convs = nnx.List(ConvNorm(in_features, features, kernel_size=1, **options) for _ in range(levels))
        self.fpn_convs = nnx.List(ConvNorm(features, features, kernel_size=3, **options) for _ in range(levels))

    def __call__(self, levels: Sequence[jax.Array], *, train: bool = False) -> list[jax.Array]:
        """Levels [batch, time of the level, in_features], finest first, to [..., features]."""
        merged = [conv(x, train=train) for conv, x in zip(self.lateral_convs, levels, strict=True)]
        for finer in range(len(merged) - 2, -1, -1):
            merged[finer] = merged[finer] + stretch(merged[finer + 1], merged[finer].shape[1])
        return [conv(x, train=train) for conv, x in zip(self.fpn_convs, merged, strict=True)]


def stretch(x: jax.Array, time: int) -> jax.Array:
    """Nearest neighbours as PyTorch takes them: frame t of the result is frame floor(t * old / time).

    Args:
        x: [batch, old, channels].
        time: frames of the result, [batch, time, channels].
    """
    return x[:, np.arange(time) * x.shape[1] // time]
