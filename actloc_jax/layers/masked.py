"""Layers of temporal detection networks on padded batches, [batch, time, channels].

The published networks (ActionFormer, TriDet) compute on the zeros that fill a video up to a reference length as if they
were frames: norms and convolutions turn them into something else than zeros, and global means count them. So a batch
carries two masks, see `Frames`: with `seen` chosen as the reference length the published numbers come out, with `seen`
equal to `valid` padding never changes a valid frame.

Sources: `dingfengshi/TriDet:libs/modeling/blocks.py`, `happyharrycn/actionformer_release:libs/modeling/blocks.py`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop
from actloc_jax.layers.temporal import Dense, pytorch_uniform

EPSILON = 1e-5  # added to variances


class Frames(NamedTuple):
    """Which frames of a padded batch exist.

    Attributes:
        valid: [batch, time] bool, frames of the video.
        seen: [batch, time] bool, frames that the network computes on: the valid ones and the padding that counts; a
            superset of `valid`. None: the whole array. What lies outside is as far away as the end of the array.
    """

    valid: jax.Array
    seen: jax.Array | None = None

    def every(self, stride: int) -> Frames:
        """The frames of an array that keeps every `stride`-th one, from the first."""
        seen = None if self.seen is None else self.seen[:, ::stride]
        return Frames(self.valid[:, ::stride], seen)

    def only_seen(self, x: jax.Array, other: float = 0) -> jax.Array:
        """`x` [batch, time, channels] with `other` in place of the frames that are not seen."""
        return x if self.seen is None else jnp.where(self.seen[:, :, None], x, other)

    def only_valid(self, x: jax.Array) -> jax.Array:
        """`x` [batch, time, channels] with zeros in place of padding."""
        return jnp.where(self.valid[:, :, None], x, 0)

    def count(self) -> jax.Array:
        """Number of seen frames of each row, at least 1: float32 [batch]."""
        if self.seen is None:
            return jnp.full(self.valid.shape[:1], self.valid.shape[1], jnp.float32)
        return jnp.maximum(self.seen.sum(axis=1), 1).astype(jnp.float32)

    def mean(self, x: jax.Array) -> jax.Array:
        """Mean over the seen frames, float32 [batch, 1, channels]."""
        total = self.only_seen(x).astype(jnp.float32).sum(axis=1, keepdims=True)
        return total / self.count()[:, None, None]


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Convolution over time with zero padding.

    XLA's own: at the widths of detectors (512 and more) it is 15-30% faster on CPUs than a matrix product per tap.

    Args:
        x: [batch, time, in_features].
        kernel: [taps, in_features, out_features], taps odd; tap j reads frame t * stride + j - taps // 2.
        stride: frames between neighbouring outputs; divides `time`.

    Returns:
        [batch, time // stride, out_features].
    """
    margin = len(kernel) // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,), [(margin, margin)], dimension_numbers=("NWC", "WIO", "NWC")
    )


def convolve_channels(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """`convolve` with a kernel [taps, 1, features]: every channel with its own taps (depth-wise).

    Written as products of shifted arrays, which are many times faster on CPUs than XLA's grouped convolution.
    """
    return _sum_of_taps(x, kernel)[:, ::stride]


@jax.custom_vjp
def _sum_of_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    time = x.shape[1]
    padded = _with_margins(x, kernel)
    return sum(padded[:, j : j + time] * tap for j, tap in enumerate(kernel))


def _with_margins(x: jax.Array, kernel: jax.Array) -> jax.Array:
    margin = len(kernel) // 2
    return jnp.pad(x, ((0, 0), (margin, margin), (0, 0)))


def _gradients_of_taps(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients of `x` and of the kernel, of the latter tap by tap.

    Left to itself, JAX keeps a shifted copy of `x` for every tap: several times the memory, and twice the time on CPUs.
    """
    x, kernel = saved
    padded = _with_margins(x, kernel)

    def of_tap(j: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.dynamic_slice_in_dim(padded, j, x.shape[1], axis=1) * dy, axis=(0, 1))

    return _sum_of_taps(dy, kernel[::-1]), jax.lax.map(of_tap, jnp.arange(len(kernel)))[:, None]


_sum_of_taps.defvjp(lambda x, kernel: (_sum_of_taps(x, kernel), (x, kernel)), _gradients_of_taps)


class MaskedConv(nnx.Module):
    """Convolution over time whose output is zero on padding (TriDet's `MaskedConv1D`).

    Attributes:
        kernel: [taps, in_features, out_features], or [taps, 1, features] where every channel has its own taps.
        bias: [out_features], starting at zero unless `bias_init` says otherwise; absent where a norm follows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int,
        stride: int = 1,
        per_channel: bool = False,
        bias: bool = True,
        bias_init: Initializer = nnx.initializers.zeros,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        inputs = 1 if per_channel else in_features
        init = pytorch_uniform(inputs * kernel_size)
        self.kernel = nnx.Param(init(rngs.params(), (kernel_size, inputs, out_features), param_dtype))
        if bias:
            self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))
        self.has_bias = bias
        self.convolve = convolve_channels if per_channel else convolve
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array, frames: Frames) -> jax.Array:
        """[batch, time, in_features] to [batch, time // stride, out_features], the frames `frames.every(stride)`."""
        y = self.convolve(
            frames.only_seen(x).astype(self.dtype), self.kernel[...].astype(self.dtype), stride=self.stride
        )
        if self.has_bias:
            y = y + self.bias[...].astype(self.dtype)
        return frames.every(self.stride).only_valid(y)


class ChannelConv(nnx.Module):
    """Convolution over time of every channel with its own taps, with bias and without a mask: SGP's building block.

    Attributes:
        kernel: [taps, 1, features].
        bias: [features], starting at zero.
    """

    def __init__(
        self,
        features: int,
        *,
        kernel_size: int,
        kernel_init: Initializer,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (kernel_size, 1, features), param_dtype))
        self.bias = nnx.Param(jnp.zeros((features,), param_dtype))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, features] to the same shape; what is not seen must be zero in `x`."""
        y = convolve_channels(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return y + self.bias[...].astype(self.dtype)


class FrameNorm(nnx.Module):
    """Normalises every frame over its channels (the LayerNorm of ActionFormer and TriDet).

    Attributes:
        scale: [features].
        bias: [features].
    """

    def __init__(self, features: int, *, param_dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.ones((features,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((features,), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] to the same shape and dtype; statistics are float32, in two passes."""
        return _normalise(x, self.scale[...], self.bias[...])


class _Normalised(NamedTuple):
    """What the gradient of `_normalise` needs: x, its mean and 1 / deviation float32 [..., 1], and the scale."""

    x: jax.Array
    mean: jax.Array
    inverse: jax.Array
    scale: jax.Array


@jax.custom_vjp
def _normalise(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return _normalise_and_save(x, scale, bias)[0]


def _normalise_and_save(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, _Normalised]:
    values = x.astype(jnp.float32)
    mean = values.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(values - mean).mean(axis=-1, keepdims=True) + EPSILON)
    y = (values - mean) * inverse * scale.astype(jnp.float32) + bias.astype(jnp.float32)
    return y.astype(x.dtype), _Normalised(x, mean, inverse, scale)


def _gradients_of_normalise(saved: _Normalised, dy: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of x, scale and bias. They need x alone; what JAX keeps by itself is several times as large."""
    features = dy.shape[-1]
    dy, scale = dy.astype(jnp.float32), saved.scale.astype(jnp.float32)
    centred = saved.x.astype(jnp.float32) - saved.mean
    # Sums over scaled values as products with vectors: for others XLA writes down the vector at the size of x.
    product = functools.partial(jnp.matmul, precision="highest")
    mean = product(dy, scale / features)[..., None]
    along = product(dy * centred, scale / features)[..., None]
    dx = saved.inverse * (dy * scale - mean - saved.inverse**2 * along * centred)
    d_scale = product(saved.inverse.reshape(-1), (dy * centred).reshape(-1, features))
    d_bias = dy.reshape(-1, features).sum(axis=0)
    return dx.astype(saved.x.dtype), d_scale.astype(saved.scale.dtype), d_bias.astype(saved.scale.dtype)


_normalise.defvjp(_normalise_and_save, _gradients_of_normalise)


class TimeGroupNorm(nnx.Module):
    """Normalises groups of neighbouring channels over all seen frames of a row (GroupNorm).

    Attributes:
        scale: [features].
        bias: [features].
    """

    def __init__(self, features: int, *, groups: int = 16, param_dtype: DTypeLike = jnp.float32):
        if features % groups:
            raise ValueError(f"{features} channels do not divide into {groups} groups; choose a multiple of {groups}.")
        self.scale = nnx.Param(jnp.ones((features,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((features,), param_dtype))
        self.groups = groups

    def __call__(self, x: jax.Array, frames: Frames) -> jax.Array:
        """[batch, time, features] to the same shape and dtype; statistics are float32, in two passes."""
        values = x.astype(jnp.float32)
        centred = values - self._over_group(frames.mean(values))
        variance = self._over_group(frames.mean(jnp.square(centred)))
        y = centred * jax.lax.rsqrt(variance + EPSILON)
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)

    def _over_group(self, means: jax.Array) -> jax.Array:
        """Means of channels [batch, 1, features] to means of their groups, in the same shape."""
        batch, _, features = means.shape
        grouped = means.reshape(batch, 1, self.groups, features // self.groups).mean(axis=-1, keepdims=True)
        return jnp.broadcast_to(grouped, (batch, 1, self.groups, features // self.groups)).reshape(means.shape)


class FrameMlp(nnx.Module):
    """A perceptron applied to every frame: linear, GELU, linear; its biases start at zero."""

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"bias_init": nnx.initializers.zeros, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.linear_in = Dense(features, hidden, **options)
        self.linear_out = Dense(hidden, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] to the same shape."""
        hidden = self.linear_in(x)
        # exact GELU as PyTorch writes it; that of jax.nn, with erfc, takes twice the time on CPUs
        return self.linear_out(0.5 * hidden * (1 + jax.lax.erf(hidden * 0.5**0.5)))


class ScaledPath(nnx.Module):
    """A residual path, scaled per channel from nearly zero, and dropped for whole rows in training.

    Touvron et al., "Going deeper with image transformers" (arXiv 2103.17239), and stochastic depth.

    Attributes:
        scale: [features].
    """

    def __init__(self, features: int, *, rate: float, param_dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.full((features,), 1e-4, param_dtype))
        self.rate = rate

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """[batch, time, features] to the same; `keep` [batch] bool says which rows stay, None: all, as they are."""
        y = x * self.scale[...].astype(x.dtype)
        return y if keep is None else drop(y, jnp.broadcast_to(keep[:, None, None], y.shape), self.rate)


def max_pool(x: jax.Array, frames: Frames, stride: int) -> jax.Array:
    """Largest of `stride + 1` seen frames around every `stride`-th frame, [batch, time // stride, channels].

    Where no such frame is seen the result is zero. `stride` is even.
    """
    half, time = stride // 2, x.shape[1]
    lowest = jnp.finfo(x.dtype).min
    padded = jnp.pad(frames.only_seen(x, lowest), ((0, 0), (half, half), (0, 0)), constant_values=lowest)
    pooled = padded[:, :time:stride]
    for shift in range(1, stride + 1):
        pooled = jnp.maximum(pooled, padded[:, shift : shift + time : stride])
    return frames.every(stride).only_seen(pooled)


def mean_pool(x: jax.Array, frames: Frames, stride: int) -> jax.Array:
    """Mean of every `stride` frames, of those that are seen, [batch, time // stride, channels]."""
    batch, time, channels = x.shape
    parts = frames.only_seen(x).reshape(batch, time // stride, stride, channels)
    if frames.seen is None:
        return parts.mean(axis=2)
    number = frames.seen.reshape(batch, time // stride, stride, 1).sum(axis=2)
    return parts.sum(axis=2) / jnp.maximum(number, 1).astype(x.dtype)


def sinusoids(positions: int, features: int) -> np.ndarray:
    """The sinusoid table of "Attention is all you need": float32 [positions, features], sines on even channels."""
    channel = np.arange(features)
    angle = np.arange(positions)[:, None] / np.power(10000, 2 * (channel // 2) / features)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
