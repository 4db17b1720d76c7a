"""Convolution over time, height and width. Arrays are [batch, time, height, width, channels].

XLA's own convolution does well on GPUs and TPUs, not on CPUs, where it gathers the values under a kernel one by one.
Measured on one thread in units of 10^9 operations per second, where a matrix product reaches 130: the first convolution
of I3D (7 x 7 x 7, 3 channels, stride 2) runs at 10, and at 80 by frames; its 3 x 3 x 3 convolutions of 56 x 56 and
28 x 28 positions at 79 and 84, and at 117 by rows; those of 14 x 14 and 7 x 7 positions at 104 and 84, within a tenth
of their rate by rows, which takes longer to compile; one of 1 x 1 x 1 at 73, and at 134 as a product.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from actloc_jax.ops.video_pooling import pad
from actloc_jax.ops.video_windows import Triple

VIDEO_AXES = ("NDHWC", "DHWIO", "NDHWC")
PICTURE_AXES = ("NHWC", "HWIO", "NHWC")
ROWS = 14  # rows of the result at a time, at most: what is gathered for them stays in the cache


def convolve(x: jax.Array, kernel: jax.Array, stride: Triple, rule: str) -> jax.Array:
    """A convolution with zeros around the video.

    Args:
        x: [batch, time, height, width, in_channels].
        kernel: [frames, rows, columns, in_channels, out_channels], in the dtype of `x`.
        stride: in frames, rows and columns.
        rule: one of `actloc_jax.ops.video_pooling.PADDINGS`.

    Returns:
        [batch, time, height, width, out_channels], divided by the stride.
    """
    if kernel.shape[:3] == stride == (1, 1, 1):
        return x @ kernel[0, 0, 0]
    x = pad(x, kernel.shape[:3], stride, rule)
    if jax.default_backend() == "cpu" and stride != (1, 1, 1):
        return by_frames(x, kernel, stride)
    if jax.default_backend() == "cpu" and x.shape[2] - kernel.shape[1] >= ROWS:
        return by_rows(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, stride, "VALID", dimension_numbers=VIDEO_AXES)


def by_frames(x: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    """A convolution without padding, as one of pictures for each frame of the result.

    [batch, time, height, width, channels] by [frames, rows, columns, channels, features] to
    [batch, time, height, width, features]. The frames under the kernel are channels of such a picture, so that values
    that are gathered stand together.
    """
    batch, time, height, width, channels = x.shape
    frames, rows, columns, _, features = kernel.shape
    pictures = x.transpose(0, 2, 3, 1, 4).reshape(batch, height, width, time * channels)
    pictures = jax.lax.optimization_barrier(pictures)  # else every frame is gathered from the video anew
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(rows, columns, frames * channels, features)

    def frame(first: int) -> jax.Array:
        under = pictures[..., first * channels : (first + frames) * channels]
        return jax.lax.conv_general_dilated(under, kernel, stride[1:], "VALID", dimension_numbers=PICTURE_AXES)

    return jnp.stack([frame(first) for first in range(0, time - frames + 1, stride[0])], axis=1)


def by_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution without padding and with stride 1, as one matrix product for some rows of a frame at a time.

    [batch, time, height, width, channels] by [frames, rows, columns, channels, features], as `by_frames`.
    """
    batch, *size, channels = x.shape
    taps, features = kernel.shape[:3], kernel.shape[-1]
    time, height, width = (length - extent + 1 for length, extent in zip(size, taps, strict=True))
    rows = max(number for number in range(1, min(ROWS, height) + 1) if height % number == 0)
    matrix = kernel.reshape(-1, features)

    def some_rows(place: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        under = jax.lax.dynamic_slice(
            x, (*place, 0, 0), (1, taps[0], rows + taps[1] - 1, width + taps[2] - 1, channels)
        )[0]
        # in two steps, which compile in half the time of one and run as fast
        columns = jnp.concatenate([under[:, :, w : w + width] for w in range(taps[2])], axis=-1)
        columns = jax.lax.optimization_barrier(columns)
        places = itertools.product(range(taps[0]), range(taps[1]))
        gathered = jnp.concatenate([columns[t, h : h + rows] for t, h in places], axis=-1)
        return jax.lax.optimization_barrier(gathered).reshape(rows * width, -1) @ matrix

    starts = jnp.meshgrid(jnp.arange(batch), jnp.arange(time), jnp.arange(0, height, rows), indexing="ij")
    y = jax.lax.map(some_rows, tuple(start.ravel() for start in starts))
    return y.reshape(batch, time, height, width, features)
