"""Sums along time and over windows of it against dense matrices, and the band as a geometry of ott."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ott.geometry import geometry

from actloc_jax.ops.transport import band
from actloc_jax.ops.transport.band import BLOCK, BandGeometry

FRAMES = 24
LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 100, BLOCK**2 + BLOCK + 1)
product = jax.jit(band.band_product, static_argnums=2)
static_product = jax.jit(band.band_product, static_argnums=(1, 2))


def _band(frames: int, half_window: int) -> np.ndarray:
    """The matrix by its definition."""
    distance = np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))
    return ((distance > 0) & (distance <= half_window)).astype(np.float64)


def _draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("length", LENGTHS)
def test_prefix_sums_are_inclusive_sums(length: int) -> None:
    x = _draw((2, 3, length))
    np.testing.assert_allclose(band.prefix_sums(jnp.asarray(x)), np.cumsum(x, axis=-1), atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_band_product_is_the_product_with_the_band(length: int) -> None:
    halves = sorted({0, min(1, length), length // 3, max(length - 1, 0), length})
    x = _draw((len(halves), 2, length))
    expected = np.stack([row @ _band(length, half) for row, half in zip(x.astype(np.float64), halves, strict=True)])
    found = product(x, jnp.asarray(halves, jnp.int32), length)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    for row, half in enumerate(halves):
        np.testing.assert_allclose(static_product(x[row : row + 1], half, half)[0], expected[row], atol=2e-4)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, FRAMES), min_size=3, max_size=3))
def test_every_video_has_its_half_window(seed: int, halves: list[int]) -> None:
    x = _draw((3, 2, FRAMES), seed)
    found = product(x, jnp.asarray(halves, jnp.int32), FRAMES)
    expected = [row @ _band(FRAMES, half) for row, half in zip(x, halves, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("half", [0, 5, 40])
def test_padding_and_its_bound_change_nothing(half: int) -> None:
    x = _draw((1, 2, 50))
    padded = np.pad(x, [(0, 0), (0, 0), (0, 78)])
    halves = jnp.asarray([half], jnp.int32)
    expected = product(x, halves, 40)
    np.testing.assert_allclose(product(padded, halves, 128)[..., :50], expected, atol=1e-5)
    np.testing.assert_allclose(static_product(padded, half, half)[..., :50], expected, atol=1e-5)


@pytest.mark.parametrize("traced", [True, False])
def test_long_videos_stay_accurate(traced: bool) -> None:
    """The sums of a plan of mass 1; with sums frame after frame in float32 they are off by 3e-5."""
    frames, half = 20_000, 400
    plan = np.random.default_rng(0).random((1, 2, frames)).astype(np.float32)
    plan /= plan.sum()
    sums = np.cumsum(np.pad(plan.astype(np.float64), [(0, 0), (0, 0), (half + 1, half)]), axis=-1)
    expected = sums[..., 2 * half + 1 :] - sums[..., :frames] - plan
    found = product(plan, jnp.asarray([half], jnp.int32), half) if traced else static_product(plan, half, half)
    np.testing.assert_allclose(found, expected, rtol=2e-5 if traced else 2e-6)


def _pair(half: int, weight: float = 2.5) -> tuple[BandGeometry, geometry.Geometry]:
    mine = BandGeometry(FRAMES, jnp.int32(half), FRAMES, jnp.float32(weight))
    return mine, geometry.Geometry(jnp.asarray(weight * _band(FRAMES, half), jnp.float32))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(FRAMES,), (FRAMES, 1), (FRAMES, 4)])
def test_geometry_is_applied_as_a_dense_one(axis: int, shape: tuple[int, ...]) -> None:
    mine, dense = _pair(6)
    x = jnp.asarray(_draw(shape))
    np.testing.assert_allclose(mine.apply_cost(x, axis=axis), dense.apply_cost(x, axis=axis), atol=1e-4)

    def halved(entries: jax.Array) -> jax.Array:
        return -entries / 2

    found = mine.apply_cost(x, axis=axis, fn=halved, is_linear=True)
    np.testing.assert_allclose(found, dense.apply_cost(x, axis=axis, fn=halved), atol=1e-4)


def test_geometry_says_what_it_is() -> None:
    mine, dense = _pair(6)
    assert (mine.shape, mine.dtype, mine.is_symmetric) == (dense.shape, dense.dtype, True)


def test_geometry_is_never_a_matrix() -> None:
    mine, _ = _pair(6)
    with pytest.raises(TypeError, match="linear functions"):
        mine.apply_cost(jnp.ones(FRAMES), fn=jnp.square)
    with pytest.raises(TypeError, match="has no matrix"):
        _ = mine.cost_matrix


def test_geometry_passes_through_transformations() -> None:
    """A pytree whose half window is traced: one program for all, and a batch of them under vmap."""
    traces = []

    @jax.jit
    def apply(one: BandGeometry, x: jax.Array) -> jax.Array:
        traces.append(1)
        return one.apply_cost(x)

    x = jnp.asarray(_draw((FRAMES, 3)))
    pairs = [_pair(half, weight) for half, weight in ((0, 1.0), (3, 2.0), (FRAMES, 0.5))]
    for mine, dense in pairs:
        leaves, structure = jax.tree.flatten(mine)
        again = jax.tree.unflatten(structure, leaves)
        assert (again.frames, again.largest) == (mine.frames, mine.largest)
        np.testing.assert_allclose(apply(again, x), dense.apply_cost(x), atol=1e-4)
    assert len(traces) == 1

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[mine for mine, _ in pairs])
    found = jax.vmap(BandGeometry.apply_cost, in_axes=(0, None))(stacked, x)
    np.testing.assert_allclose(found, [dense.apply_cost(x) for _, dense in pairs], atol=1e-4)
