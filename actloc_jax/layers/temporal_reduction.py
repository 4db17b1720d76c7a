"""Backbone features to a quarter of their frames: the first part of both of TALLFormer's necks.

Source: `klauscc/TALLFormer:vedatad/models/necks/srm_vswin.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from actloc_jax.layers.conv_norm import Conv


class TemporalReduction(nnx.Module):
    """Two convolutions of stride 2 with a ReLU between them (the original's `SRMSwin`).

    Attributes: `conv1`, `conv2`.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {
            "kernel_size": 3,
            "stride": 2,
            "kernel_init": kernel_init,
            "bias_init": bias_init,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        self.conv1 = Conv(in_features, features, **options)
        self.conv2 = Conv(features, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, in_features] to [batch, ceil(time / 4), features]."""
        return self.conv2(nnx.relu(self.conv1(x)))
