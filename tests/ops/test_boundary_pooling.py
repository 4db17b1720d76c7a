"""Boundary max pooling against loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.boundary_pooling import boundary_max_pool


@pytest.mark.parametrize("time", [1, 7, 16])
def test_windows_are_what_loops_find(time: int) -> None:
    rng = np.random.default_rng(time)
    x = rng.integers(-3, 3, (2, time, 4)).astype(np.float32)  # many equal values
    windows = rng.uniform(-4, time + 4, (2, 9, 4)).astype(np.float32)
    expected, weights, gradient = np.zeros((2, 9, 4)), rng.normal(size=(2, 9, 4)), np.zeros_like(x)
    for video, segment, channel in np.ndindex(2, 9, 4):
        side = 2 * (channel >= 2)
        first, last = np.clip(np.trunc(windows[video, segment, side : side + 2]), 0, time - 1).astype(int)
        part = x[video, first : max(first, last) + 1, channel]
        expected[video, segment, channel] = part.max()
        gradient[video, first + part.argmax(), channel] += weights[video, segment, channel]
    found, pull = jax.vjp(jax.jit(lambda values: boundary_max_pool(values, windows)), x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(pull(jnp.asarray(weights, jnp.float32))[0], gradient, rtol=1e-5, atol=1e-6)


def test_windows_get_no_gradient() -> None:
    x = jnp.arange(8.0).reshape(1, 4, 2)
    gradient = jax.grad(lambda windows: boundary_max_pool(x, windows).sum())(jnp.asarray([[[0.5, 2.5, 1.0, 3.0]]]))
    assert not gradient.any()
