"""TV-L1 flow: its filters beside SciPy's, known motions, pairs that do not know of each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from actloc_jax.ops import tvl1


def pictures(shifts: list[tuple[int, int]], size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """uint8 [frames, height, width]: one smooth picture, moved to the right and down by `shifts`."""
    rng = np.random.default_rng(0)
    whole = ndimage.gaussian_filter(rng.random((size[0] + 16, size[1] + 16)), 2)
    whole = np.uint8(255 * (whole - whole.min()) / np.ptp(whole))
    return np.stack([whole[8 - y : 8 - y + size[0], 8 - x : 8 - x + size[1]] for x, y in shifts])


def test_known_motions_and_exact_rest() -> None:
    found = np.asarray(jax.jit(tvl1.flow)(pictures([(0, 0), (2, 0), (2, 0), (1, 3)])))
    assert found.shape == (3, 40, 48, 2)
    inside = found[:, 6:-6, 6:-6]
    for field, expected in zip(inside[[0, 2]], [(2, 0), (-1, 3)], strict=True):
        np.testing.assert_allclose(np.median(field, axis=(0, 1)), expected, atol=0.05)
        assert np.mean(np.linalg.norm(field - np.array(expected), axis=-1)) < 0.2
    np.testing.assert_array_equal(found[1], 0)


def test_pairs_do_not_change_each_other() -> None:
    greys = jnp.asarray(pictures([(0, 0), (1, 0), (1, 2), (0, 0)], size=(24, 28)))
    alone = jax.jit(lambda x: tvl1.flow(x, at_once=1))(greys)
    together = jax.jit(lambda x: tvl1.flow(x, at_once=3))(greys)
    np.testing.assert_allclose(alone, together, atol=1e-3)


def test_median_is_scipys() -> None:
    image = np.random.default_rng(1).standard_normal((17, 23)).astype(np.float32)
    expected = ndimage.median_filter(image, size=5, mode="nearest")
    np.testing.assert_array_equal(jax.jit(tvl1.median)(image), expected)


def test_reading_between_pixels() -> None:
    rng = np.random.default_rng(2)
    image = rng.standard_normal((9, 11, 1)).astype(np.float32)
    whole = tuple(jnp.full((9, 11), shift, jnp.float32) for shift in (2, -1))
    moved = np.asarray(tvl1.sampled(image, whole))
    np.testing.assert_array_equal(moved[1:, :-2], image[:-1, 2:])
    np.testing.assert_array_equal(moved[0], 0)
    np.testing.assert_array_equal(moved[:, -2:], 0)
    half = tuple(jnp.full((9, 11), shift, jnp.float32) for shift in (0.5, 0))
    weights = np.array([-0.09375, 0.59375, 0.59375, -0.09375])  # of the cubic with -0.75
    expected = sum(weight * image[:, k : 8 + k] for k, weight in enumerate(weights))
    np.testing.assert_allclose(np.asarray(tvl1.sampled(image, half))[:, 1:9], expected, atol=1e-6)
    far = tuple(jnp.full((9, 11), shift, jnp.float32) for shift in (1e9, -1e9))
    np.testing.assert_array_equal(tvl1.sampled(image, far), 0)


def test_luma_is_opencvs() -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [10, 200, 37]], np.uint8)
    np.testing.assert_array_equal(tvl1.grey(colours[None, None])[0, 0], [76, 150, 29, 255, 125])


def test_frames_that_give_no_flow() -> None:
    for shape in ((1, 32, 32), (2, 15, 32), (2, 32, 32, 3)):
        with pytest.raises(ValueError, match=r"TV-L1 needs \[two or more frames, height, width\], sides of 16 pixels"):
            tvl1.flow(jnp.zeros(shape, jnp.uint8))
