"""Padding and maxima of windows over video, as the two published ports of I3D take them.

The ports pad with zeros before every convolution and before every maximum, by two rules:

- `tf_same` (TensorFlow's, `piergiaj/pytorch-i3d:pytorch_i3d.py`): as much as the size needs;
- `static_same` (`v-iashin/video_features:models/i3d/i3d_src/i3d_net.py`): by kernel and stride alone. A maximum's last
  window may then reach over the end, where nothing counts.

They agree where strides divide sizes. Arrays are [batch, time, height, width, channels].
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from actloc_jax.ops.video_windows import Triple

TF_SAME, STATIC_SAME = "tf_same", "static_same"
PADDINGS = (TF_SAME, STATIC_SAME)


def zeros_around(rule: str, size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of `size`, by one of `PADDINGS`."""
    rest = size % stride if rule == TF_SAME else 0
    total = max(kernel - (rest or stride), 0)
    return total // 2, total - total // 2


def pad(x: jax.Array, kernel: Triple, stride: Triple, rule: str) -> jax.Array:
    """[batch, time, height, width, channels] with the zeros around it that a kernel needs."""
    sides = [zeros_around(rule, *axis) for axis in zip(x.shape[1:4], kernel, stride, strict=True)]
    return jnp.pad(x, [(0, 0), *sides, (0, 0)]) if any(map(any, sides)) else x


def max_pool(x: jax.Array, kernel: Triple, stride: Triple, rule: str) -> jax.Array:
    """The largest value of every window, the zeros of the padding included.

    One axis after the other, by whole slices: XLA's own windows take many times as long on CPUs.

    Args:
        x: [batch, time, height, width, channels].
        kernel: frames, rows and columns of a window.
        stride: between windows.
        rule: one of `PADDINGS`.
    """
    x = pad(x, kernel, stride, rule)
    for axis, (extent, step) in enumerate(zip(kernel, stride, strict=True), 1):
        x = _largest_along(x, axis, extent, step)
    return x


def _largest_along(x: jax.Array, axis: int, kernel: int, stride: int) -> jax.Array:
    """Windows along one axis; the last one starts inside `x` and may reach over its end."""
    size = x.shape[axis]
    count = -(-max(size - kernel, 0) // stride) + 1
    if (count - 1) * stride >= size:
        count -= 1
    over = (count - 1) * stride + kernel - size
    if over > 0:
        x = jnp.pad(x, [(0, over if each == axis else 0) for each in range(x.ndim)], constant_values=-jnp.inf)
    last = (count - 1) * stride + 1
    taps = [jax.lax.slice_in_dim(x, tap, tap + last, stride, axis) for tap in range(kernel)]
    return functools.reduce(jnp.maximum, taps)
