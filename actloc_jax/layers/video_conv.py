"""Convolution over video with a batch norm and a ReLU: the unit that I3D is made of.

Nothing is trained here: the norm always uses its running statistics, and `fold` puts them into the convolution.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.conv_norm import BatchNorm
from actloc_jax.layers.functional import Params
from actloc_jax.layers.temporal import pytorch_uniform
from actloc_jax.ops.video_convolution import convolve
from actloc_jax.ops.video_windows import Triple

NORM = "norm"  # name of a unit's batch norm


class VideoUnit(nnx.Module):
    """A convolution, and behind it either a batch norm with running statistics and a ReLU, or a bias alone.

    Attributes:
        kernel: [frames, rows, columns, in_features, out_features].
        norm: scale, bias, mean and var, each [out_features]; absent from folded units and from those without a norm.
        bias: [out_features]; where there is no `norm`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: Triple = (1, 1, 1),
        stride: Triple = (1, 1, 1),
        padding: str,
        norm_epsilon: float | None,
        relu: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the unit.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            kernel_size: frames, rows and columns.
            stride: the same.
            padding: one of `actloc_jax.ops.video_pooling.PADDINGS`.
            norm_epsilon: added to the variance of the batch norm; None: there is none, or it is folded.
            relu: cut off what is negative.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: of the initial values.
        """
        shape = (*kernel_size, in_features)
        self.kernel = nnx.Param(pytorch_uniform(math.prod(shape))(rngs.params(), (*shape, out_features), param_dtype))
        if norm_epsilon is None:
            self.bias = nnx.Param(jnp.zeros((out_features,), param_dtype))
        else:
            self.norm = BatchNorm(out_features, param_dtype=param_dtype)
        self.norm_epsilon = norm_epsilon
        self.stride = stride
        self.padding = padding
        self.relu = relu
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, height, width, in_features] to [..., out_features], sizes divided by the stride."""
        if self.norm_epsilon is None:
            kernel, bias = self.kernel[...], self.bias[...]
        else:
            norm = {name: getattr(self.norm, name)[...] for name in ("scale", "bias", "mean", "var")}
            kernel, bias = _folded(self.kernel[...], norm, self.norm_epsilon)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        y = y + bias.astype(self.dtype)
        return nnx.relu(y) if self.relu else y


def fold(params: Params, norm_epsilon: float) -> Params:
    """Parameters of units with their batch norms put into the convolutions.

    Args:
        params: nested dict with the parameters and running statistics of any number of units, see `VideoUnit`.
        norm_epsilon: as the units have it.

    Returns:
        The same dict with `kernel` and `bias` in each unit, for units made with `norm_epsilon=None`.
    """
    if NORM in params:
        kernel, bias = _folded(params["kernel"], params[NORM], norm_epsilon)
        return {"kernel": kernel, "bias": bias}
    return {name: fold(value, norm_epsilon) if isinstance(value, dict) else value for name, value in params.items()}


def _folded(kernel: Any, norm: Params, epsilon: float) -> tuple[Any, Any]:
    """Kernel and bias of a convolution that gives what the norm behind it gives; NumPy or JAX arrays."""
    xp = np if isinstance(kernel, np.ndarray) else jnp
    factor = norm["scale"] / xp.sqrt(norm["var"] + epsilon)
    return kernel * factor, norm["bias"] - norm["mean"] * factor
