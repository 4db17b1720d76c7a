"""Distances from boundary bins: a known expectation, and what lies outside the video."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.boundary_bins import expected_distances

BINS = 3


def _logits(time: int, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    starts, ends = (jnp.asarray(rng.standard_normal((1, time, 2)), jnp.float32) for _ in range(2))
    return starts, ends, jnp.asarray(rng.standard_normal((1, time, 2 * (BINS + 1))), jnp.float32)


def test_a_sure_boundary_is_its_distance() -> None:
    starts, ends = jnp.zeros((1, 8, 1)).at[0, 3].set(50.0), jnp.zeros((1, 8, 1)).at[0, 6].set(50.0)
    left, right = expected_distances([starts], [ends], [jnp.zeros((1, 8, 2 * (BINS + 1)))])[0, 4, 0]
    assert (left, right) == pytest.approx((1, 2), abs=1e-4)


def test_the_mean_over_bins_is_that_of_a_loop() -> None:
    time = 6
    starts, ends, offsets = _logits(time)
    found = np.asarray(expected_distances([starts], [ends], [offsets]))
    for step in range(time):
        for label in range(2):
            at = [step - BINS + j for j in range(BINS + 1)]
            before = np.array([starts[0, t, label] if t >= 0 else 0 for t in at]) + offsets[0, step, : BINS + 1]
            behind = np.array([ends[0, step + j, label] if step + j < time else 0 for j in range(BINS + 1)])
            left = jax.nn.softmax(before) @ np.arange(BINS, -1, -1)
            right = jax.nn.softmax(behind + offsets[0, step, BINS + 1 :]) @ np.arange(BINS + 1)
            np.testing.assert_allclose(found[0, step, label], [left, right], rtol=1e-5)


def test_with_masks_no_boundary_lies_outside_and_padding_changes_nothing() -> None:
    starts, ends, offsets = _logits(6)
    negative = [starts - 20], [ends - 20]  # so that the zeros outside would win
    mask = jnp.ones((1, 6), bool)
    outside = expected_distances(*negative, [offsets])[0]
    inside = expected_distances(*negative, [offsets], [mask])[0]
    assert float(outside[0, 0, 0]) > 0.9, "the first frame sees a start before the video"
    steps = jnp.arange(6)
    assert bool((inside[:, :, 0] <= steps[:, None] + 1e-6).all()), "a start lies in the video"
    assert bool((inside[:, :, 1] <= 5 - steps[:, None] + 1e-6).all()), "an end lies in the video"
    longer = [jnp.pad(each, ((0, 0), (0, 4), (0, 0))) for each in (starts - 20, ends - 20, offsets)]
    padded = expected_distances(*([each] for each in longer), [jnp.pad(mask, ((0, 0), (0, 4)))])[0]
    np.testing.assert_allclose(padded[:6], inside, rtol=1e-6)
