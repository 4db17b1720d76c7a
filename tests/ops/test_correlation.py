"""Correlations and windows of them beside plain loops."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.ops import correlation


def test_levels_are_means_of_products() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 2, 5, 7, 4)).astype(np.float32)
    products = np.einsum("pijc,pklc->pijkl", first, second).reshape(2, 35, 5, 7) / 2
    levels = correlation.pyramid(jnp.asarray(first), jnp.asarray(second), 2)
    np.testing.assert_allclose(levels[0], products, atol=1e-5)
    halves = products[:, :, :4, :6].reshape(2, 35, 2, 2, 3, 2).mean(axis=(3, 5))  # the odd row and column are dropped
    np.testing.assert_allclose(levels[1], halves, atol=1e-5)


def test_windows_read_around_positions_and_zeros_outside() -> None:
    rng = np.random.default_rng(1)
    radius, levels = 1, [rng.standard_normal((2, 6, *size)).astype(np.float32) for size in ((5, 6), (2, 3))]
    positions = rng.uniform(-4, 9, (2, 6, 2)).astype(np.float32)
    positions[0, 0], positions[0, 1] = (-1e6, 2), (2, 1e6)
    padded = correlation.padded([jnp.asarray(level) for level in levels], radius)
    found = jax.jit(lambda *inputs: correlation.windows(*inputs, radius))(padded, jnp.asarray(positions))

    def read(image: np.ndarray, x: float, y: float) -> float:
        height, width = image.shape
        return sum(
            image[row, column] * max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
            for row, column in itertools.product(range(height), range(width))
        )

    offsets = list(itertools.product((-1, 0, 1), repeat=2))  # x is the slow one
    for pair, query in itertools.product(range(2), range(6)):
        expected = [
            read(level[pair, query], positions[pair, query, 0] / 2**k + dx, positions[pair, query, 1] / 2**k + dy)
            for k, level in enumerate(levels)
            for dx, dy in offsets
        ]
        np.testing.assert_allclose(found[pair, query], expected, atol=1e-5)
