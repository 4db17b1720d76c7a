"""Transformer layers over short windows of time: with a bias per distance, and with a band of neighbours.

Windows have one length, and their padding is part of the input, as published: nothing here takes a mask. Sources:
`klauscc/TALLFormer:vedatad/models/modules/swin_1d.py`, `transformer.py` beside it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop, keep_masks
from actloc_jax.layers.masked import FrameNorm
from actloc_jax.layers.temporal import Dense

FAR = -1e9  # added to the logits of frames outside the band
HIDDEN = 4  # hidden channels of a perceptron per channel
TABLE_STD = 0.02


def dropped(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
    """Dropout of single values of `x`, of any shape; nothing where `rngs` is None."""
    return drop(x, keep_masks(rngs, rate, 1, x.shape)[0], rate)


def attend(
    qkv: jax.Array, bias: jax.Array, heads: int, *, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """Softmax attention of all frames to all frames.

    Args:
        qkv: [batch, time, 3 * channels]: queries, keys and values one behind the other, each by heads.
        bias: [heads or 1, time, time], added to the logits.
        heads: number of heads.
        rate: of dropout on the attention weights.
        rngs: makes dropout active; None for evaluation.

    Returns:
        [batch, time, channels] in the dtype of `qkv`; the softmax is float32.
    """
    batch, time, width = qkv.shape
    query, key, value = jnp.moveaxis(qkv.reshape(batch, time, 3, heads, width // (3 * heads)), 2, 0)
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits + bias.astype(jnp.float32), axis=-1)
    weights = dropped(weights, rate, rngs).astype(qkv.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value).reshape(batch, time, width // 3)


class DistanceAttention(nnx.Module):
    """Self-attention with a learnt bias per head and distance.

    Attributes (the names of the original): `qkv`, `proj`, and
        relative_position_bias_table: [2 * max_length - 1, heads]; row d + max_length - 1 for a query d frames later.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        max_length: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        table = TABLE_STD * jax.random.truncated_normal(rngs.params(), -2, 2, (2 * max_length - 1, heads), param_dtype)
        self.relative_position_bias_table = nnx.Param(table)
        self.qkv = Dense(features, 3 * features, **options)
        self.proj = Dense(features, features, **options)
        self.heads = heads
        self.max_length = max_length

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, features] to the same shape.

        Raises:
            ValueError: more frames than the table was made for.
        """
        time = x.shape[1]
        if time > self.max_length:
            raise ValueError(f"{time} frames, but the table of distances is made for at most {self.max_length}")
        distance = np.arange(time)[:, None] - np.arange(time) + self.max_length - 1
        bias = jnp.moveaxis(self.relative_position_bias_table[...][distance], 2, 0)
        return self.proj(attend(self.qkv(x), bias, self.heads))


class Mlp(nnx.Module):
    """Linear, GELU, linear; starts as PyTorch's linear layers do. Attributes: `fc1`, `fc2`."""

    def __init__(self, features: int, **options: object):
        self.fc1 = Dense(features, HIDDEN * features, **options)
        self.fc2 = Dense(HIDDEN * features, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] to the same shape."""
        return self.fc2(nnx.gelu(self.fc1(x), approximate=False))


class DistanceLayer(nnx.Module):
    """A transformer layer with the norms before its two paths. Attributes: `norm1`, `attn`, `norm2`, `mlp`."""

    def __init__(self, features: int, heads: int, max_length: int, *, drop_path: float, **options: object):
        self.norm1 = FrameNorm(features, param_dtype=options["param_dtype"])
        self.attn = DistanceAttention(features, heads, max_length, **options)
        self.norm2 = FrameNorm(features, param_dtype=options["param_dtype"])
        self.mlp = Mlp(features, **options)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """[batch, time, features] to the same shape; `rngs` drops each path for whole rows."""
        keeps = keep_masks(rngs, self.drop_path, 2, (x.shape[0], 1, 1))
        for norm, path, keep in ((self.norm1, self.attn, keeps[0]), (self.norm2, self.mlp, keeps[1])):
            y = path(norm(x))
            x = x + drop(y, None if keep is None else jnp.broadcast_to(keep, y.shape), self.drop_path)
        return x


class DistanceTransformer(nnx.Module):
    """A stack of `DistanceLayer` (the original's `Transformer1DRelPos`). Attribute: `layers`."""

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        num_layers: int,
        max_length: int,
        drop_path: float = 0.1,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"drop_path": drop_path, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.layers = nnx.List(DistanceLayer(features, heads, max_length, **options) for _ in range(num_layers))

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """[batch, time, features] to the same shape; `rngs` makes stochastic depth active."""
        for layer in self.layers:
            x = layer(x, rngs=rngs)
        return x


class PackedAttention(nnx.Module):
    """Self-attention to neighbours. Attributes: `in_proj` (queries, keys and values in one), `out_proj`."""

    def __init__(self, features: int, heads: int, dropout: float, **options: object):
        zero = nnx.initializers.zeros
        glorot = nnx.initializers.glorot_uniform()
        self.in_proj = Dense(features, 3 * features, kernel_init=glorot, bias_init=zero, **options)
        self.out_proj = Dense(features, features, bias_init=zero, **options)
        self.heads = heads
        self.dropout = dropout

    def __call__(self, x: jax.Array, bias: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """[batch, time, features] to the same shape; `bias` [1, time, time] is added to the logits."""
        return self.out_proj(attend(self.in_proj(x), bias, self.heads, rate=self.dropout, rngs=rngs))


class BandLayer(nnx.Module):
    """A transformer layer with the norms after its paths, in which every frame sees its neighbours only.

    Attributes (the names of the original): `self_attn`, `linear1`, `linear2`, `norm1`, `norm2`.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        window: int,
        dropout: float = 0.1,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer; a frame sees `window // 2` frames on each side."""
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.self_attn = PackedAttention(features, heads, dropout, **options)
        self.linear1 = Dense(features, HIDDEN * features, **options)
        self.linear2 = Dense(HIDDEN * features, features, **options)
        self.norm1 = FrameNorm(features, param_dtype=param_dtype)
        self.norm2 = FrameNorm(features, param_dtype=param_dtype)
        self.reach = window // 2
        self.dropout = dropout

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """[batch, time, features] to the same shape; `rngs` makes dropout active."""
        x = self.norm1(x + dropped(self.self_attn(x, band(x.shape[1], self.reach), rngs=rngs), self.dropout, rngs))
        hidden = dropped(nnx.relu(self.linear1(x)), self.dropout, rngs)
        return self.norm2(x + dropped(self.linear2(hidden), self.dropout, rngs))


def band(time: int, reach: int) -> jax.Array:
    """0 up to `reach` frames apart and `FAR` beyond: float32 [1, time, time]."""
    apart = np.abs(np.arange(time)[:, None] - np.arange(time))
    return jnp.asarray(np.where(apart <= reach, 0, FAR)[None], jnp.float32)
