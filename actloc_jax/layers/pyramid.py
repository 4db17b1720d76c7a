"""Necks: what stands between a pyramid of temporal features and the heads that all its levels share.

Source: `dingfengshi/TriDet:libs/modeling/necks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.masked import FrameNorm, Frames, MaskedConv


class IdentityNeck(nnx.Module):
    """One norm per level."""

    def __init__(self, features: int, levels: int, *, param_dtype: DTypeLike = jnp.float32):
        self.fpn_norms = nnx.List(FrameNorm(features, param_dtype=param_dtype) for _ in range(levels))

    def __call__(self, pyramid: Sequence[jax.Array], frames: Sequence[Frames]) -> list[jax.Array]:
        """Levels [batch, time of the level, features] to the same shapes, not masked."""
        del frames
        return [norm(x) for norm, x in zip(self.fpn_norms, pyramid, strict=True)]


class FeaturePyramid(nnx.Module):
    """A feature pyramid network: every level is added to the finer ones, from the coarsest on, then smoothed."""

    def __init__(
        self,
        in_features: int,
        features: int,
        levels: int,
        *,
        scale: int = 2,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.lateral_convs = nnx.List(
            MaskedConv(in_features, features, kernel_size=1, **options) for _ in range(levels)
        )
        self.fpn_convs = nnx.List(
            MaskedConv(features, features, kernel_size=3, per_channel=True, **options) for _ in range(levels)
        )
        self.fpn_norms = nnx.List(FrameNorm(features, param_dtype=param_dtype) for _ in range(levels))
        self.scale = scale

    def __call__(self, pyramid: Sequence[jax.Array], frames: Sequence[Frames]) -> list[jax.Array]:
        """Levels [batch, time of the level, in_features] to [..., features], not masked."""
        merged = [conv(x, level) for conv, x, level in zip(self.lateral_convs, pyramid, frames, strict=True)]
        for finer in range(len(merged) - 2, -1, -1):
            merged[finer] = merged[finer] + jnp.repeat(merged[finer + 1], self.scale, axis=1)
        smooth = zip(self.fpn_convs, self.fpn_norms, merged, frames, strict=True)
        return [norm(conv(x, level)) for conv, norm, x, level in smooth]
