"""Erosion and dilation, against a loop over windows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.morphology import dilated, eroded


def windows(active: np.ndarray, before: int, after: int) -> list[np.ndarray]:
    padded = np.pad(active, (before, after))
    return [padded[i : i + before + after + 1] for i in range(len(active))]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
def test_windows_reach_as_far_as_stated(width: int) -> None:
    active = np.random.default_rng(width).random(30) < 0.7
    before, after = width // 2, width - 1 - width // 2
    batch = jnp.asarray(active)[None]
    np.testing.assert_array_equal(eroded(batch, width)[0], [w.all() for w in windows(active, before, after)])
    np.testing.assert_array_equal(dilated(batch, width)[0], [w.any() for w in windows(active, after, before)])
    same = dilated(batch, width, mirrored=False)[0]
    np.testing.assert_array_equal(same, [w.any() for w in windows(active, before, after)])


def test_axes_are_independent() -> None:
    active = jnp.asarray(np.random.default_rng(0).random((2, 9, 7)) < 0.6)
    np.testing.assert_array_equal(eroded(active, 3, axis=2), eroded(active.swapaxes(1, 2), 3, axis=1).swapaxes(1, 2))


def test_beyond_the_ends_nothing_is_marked() -> None:
    np.testing.assert_array_equal(eroded(jnp.ones((1, 5), bool), 3)[0], [False, True, True, True, False])
