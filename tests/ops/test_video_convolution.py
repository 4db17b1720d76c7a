"""Convolution over video by rows and by frames, against XLA's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.video_convolution import ROWS, VIDEO_AXES, by_frames, by_rows, convolve
from actloc_jax.ops.video_pooling import PADDINGS, pad


def arrays(size: tuple[int, ...], kernel: tuple[int, ...], channels: int = 3) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x, k = rng.standard_normal((2, *size, channels)), rng.standard_normal((*kernel, channels, 5))
    return jnp.asarray(x, jnp.float32), jnp.asarray(k, jnp.float32)


def own(x: jax.Array, kernel: jax.Array, stride: tuple[int, ...]) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, stride, "VALID", dimension_numbers=VIDEO_AXES)


@pytest.mark.parametrize(
    ("size", "kernel"), [((4, 18, 7), (3, 3, 3)), ((3, 15, 6), (1, 2, 3)), ((5, 21, 4), (2, 5, 1))]
)
def test_by_rows(size: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    x, k = arrays(size, kernel)
    np.testing.assert_allclose(jax.jit(by_rows)(x, k), own(x, k, (1, 1, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 3), (3, 1, 2)])
def test_by_frames(stride: tuple[int, int, int]) -> None:
    x, k = arrays((8, 9, 11), (3, 4, 5))
    found = jax.jit(by_frames, static_argnums=2)(x, k, stride)
    np.testing.assert_allclose(found, own(x, k, stride), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", PADDINGS)
def test_every_way_pads_alike(rule: str) -> None:
    for size, kernel, stride in (
        ((3, ROWS + 5, 4), (3, 3, 3), (1, 1, 1)),
        ((3, 7, 7), (3, 3, 3), (1, 1, 1)),
        ((9, 15, 13), (7, 7, 7), (2, 2, 2)),
        ((2, 3, 4), (1, 1, 1), (1, 1, 1)),
    ):
        x, k = arrays(size, kernel)
        found = convolve(x, k, stride, rule)
        np.testing.assert_allclose(found, own(pad(x, kernel, stride, rule), k, stride), rtol=1e-4, atol=1e-4)
