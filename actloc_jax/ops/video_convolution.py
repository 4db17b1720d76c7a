"""Convolution over time, height and width. Arrays are [batch, time, height, width, channels]."""

from __future__ import annotations

import jax

from actloc_jax.ops.video_pooling import pad
from actloc_jax.ops.video_windows import Triple

AXES = ("NDHWC", "DHWIO", "NDHWC")


def convolve(x: jax.Array, kernel: jax.Array, stride: Triple, rule: str) -> jax.Array:
    """A convolution with zeros around the video.

    Args:
        x: [batch, time, height, width, in_channels].
        kernel: [frames, rows, columns, in_channels, out_channels], in the dtype of `x`.
        stride: in frames, rows and columns.
        rule: one of `actloc_jax.ops.video_pooling.PADDINGS`.
    """
    x = pad(x, kernel.shape[:3], stride, rule)
    return jax.lax.conv_general_dilated(x, kernel, stride, "VALID", dimension_numbers=AXES)
