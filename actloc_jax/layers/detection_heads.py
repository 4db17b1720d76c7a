"""Heads of temporal detectors, shared by all levels of a pyramid.

The levels stand one behind the other in one array, with unseen frames between them, so that every layer of a head is
one matrix product and not one per level. Source: `dingfengshi/TriDet:libs/modeling/meta_archs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.masked import FrameNorm, Frames, MaskedConv


def join(levels: Sequence[jax.Array], gap: int) -> jax.Array:
    """Levels [batch, time of the level, ...] one behind the other with `gap` zeros (False) between and around them."""
    zeros = jnp.zeros_like(levels[0], shape=(levels[0].shape[0], gap, *levels[0].shape[2:]))
    return jnp.concatenate([zeros, *(part for level in levels for part in (level, zeros))], axis=1)


def split(joined: jax.Array, lengths: Sequence[int], gap: int) -> list[jax.Array]:
    """The inverse of `join`: [batch, joined time, ...] to levels [batch, length of the level, ...]."""
    levels, start = [], gap
    for length in lengths:
        levels.append(joined[:, start : start + length])
        start += length + gap
    return levels


def join_frames(levels: Sequence[Frames], gap: int) -> Frames:
    """`join` of masks; what lies between levels is not seen."""
    seen = [jnp.ones_like(level.valid) if level.seen is None else level.seen for level in levels]
    return Frames(join([level.valid for level in levels], gap), join(seen, gap))


class Trunk(nnx.Module):
    """Convolutions with norm and ReLU, which every head starts with.

    Attributes (the names of the original): `head` the convolutions, `norm` the norms.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        num_layers: int,
        kernel_size: int,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"kernel_size": kernel_size, "bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.head = nnx.List(
            MaskedConv(in_features if i == 0 else features, features, **options) for i in range(num_layers)
        )
        self.norm = nnx.List(FrameNorm(features, param_dtype=param_dtype) for _ in range(num_layers))

    def __call__(self, x: jax.Array, frames: Frames) -> jax.Array:
        """[batch, time, in_features] to [batch, time, features]."""
        for conv, norm in zip(self.head, self.norm, strict=True):
            x = nnx.relu(norm(conv(x, frames)))
        return x


class ClassHead(Trunk):
    """A logit per class and frame; also the start and end heads of TriDet."""

    def __init__(
        self,
        in_features: int,
        features: int,
        num_classes: int,
        *,
        num_layers: int = 3,
        kernel_size: int = 3,
        prior: float = 0.01,
        empty_classes: Sequence[int] = (),
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the head; initial probabilities are `prior`, and 1e-6 for the classes in `empty_classes`."""
        options = {"kernel_size": kernel_size, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(in_features, features, num_layers=num_layers - 1, **options)
        self.cls_head = MaskedConv(features, num_classes, **options)
        bias = jnp.full((num_classes,), -math.log((1 - prior) / prior), param_dtype)
        if empty_classes:
            bias = bias.at[jnp.asarray(empty_classes)].set(-math.log((1 - 1e-6) / 1e-6))
        self.cls_head.bias = nnx.Param(bias)

    def __call__(self, x: jax.Array, frames: Frames) -> jax.Array:
        """[batch, time, in_features] to logits [batch, time, num_classes] float32, zeros on padding."""
        return self.cls_head(super().__call__(x, frames), frames).astype(jnp.float32)


class OffsetHead(Trunk):
    """Distances from a frame to the start and the end of its action, or what they are decoded from.

    Attributes:
        scale: scalar per level.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        out_features: int,
        *,
        num_levels: int,
        num_layers: int = 3,
        kernel_size: int = 3,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"kernel_size": kernel_size, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(in_features, features, num_layers=num_layers - 1, **options)
        self.offset_head = MaskedConv(features, out_features, **options)
        self.scale = nnx.List(nnx.Param(jnp.ones((), param_dtype)) for _ in range(num_levels))

    def __call__(self, x: jax.Array, frames: Frames, level: jax.Array) -> jax.Array:
        """Runs the head.

        Args:
            x: [batch, time, in_features].
            frames: of `x`.
            level: [time] int, the level of each frame.

        Returns:
            [batch, time, out_features] float32, at least zero, zeros on padding.
        """
        y = self.offset_head(super().__call__(x, frames), frames).astype(jnp.float32)
        scale = jnp.stack([value[...] for value in self.scale]).astype(jnp.float32)
        return nnx.relu(y * scale[level][:, None])
