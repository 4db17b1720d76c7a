"""The encoder of ASOT and its clusters (`mingu6/action_seg_ot:src/train.py`)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from actloc_jax.layers.functional import Network
from actloc_jax.layers.temporal import Dense

SMALLEST_NORM = 1e-12


class Encoder(nnx.Module):
    """A perceptron applied to every frame, and the clusters that its outputs are compared with."""

    def __init__(
        self,
        widths: Sequence[int],
        clusters: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.layers = nnx.List(
            Dense(before, after, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for before, after in itertools.pairwise(widths)
        )
        self.clusters = nnx.Param(unit_rows(jax.random.normal(rngs.params(), (clusters, widths[-1]), param_dtype)))

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [..., time, channels] to embeddings of length 1, [..., time, width] float32."""
        x = features
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return unit_rows(self.layers[-1](x).astype(jnp.float32))


def encoder_network(config: ConfigDict, clusters: int) -> Network:
    """The network that the groups `network`, `data` and `train` of a config describe.

    Raises:
        ValueError: the first layer does not have the width of the features.
    """
    widths = tuple(config.network.layers)
    if widths[0] != config.data.feature_dim:
        raise ValueError(
            f"config.network.layers starts with {widths[0]}, but config.data.feature_dim is {config.data.feature_dim}; "
            "the first layer reads the features, so that both must be the same."
        )
    dtype = jnp.dtype(config.train.dtype)
    return Network(lambda rngs: Encoder(widths, clusters, dtype=dtype, rngs=rngs))


def unit_rows(x: jax.Array) -> jax.Array:
    """The rows of [..., channels] scaled to length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), SMALLEST_NORM)
