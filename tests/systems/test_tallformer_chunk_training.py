"""Training on some chunks: where gradient flows, that both ways agree, momentum, shifted windows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.systems.tallformer import chunk_training as training

VIDEO = jnp.asarray(np.random.default_rng(0).standard_normal([2, 12, 3]), jnp.float32)
KEEP, DROP = jnp.array([2, 0]), jnp.array([1])


def backbone(params: jax.Array, chunks: jax.Array) -> jax.Array:
    """Two frames to one row."""
    return jnp.tanh(chunks @ params).reshape(*chunks.shape[:2], -1, 2, 5).mean(3)


@pytest.mark.parametrize("recompute", [False, True])
def test_only_kept_chunks_give_gradient(recompute: bool) -> None:
    params, chunks = jnp.ones([3, 5]) / 3, training.cut(VIDEO, 4)

    def total(params: jax.Array, chunks: jax.Array) -> jax.Array:
        return training.dropped_gradient(backbone, params, chunks, KEEP, DROP, recompute=recompute).sum()

    features = training.dropped_gradient(backbone, params, chunks, KEEP, DROP, recompute=recompute)
    np.testing.assert_allclose(features, backbone(params, chunks), rtol=1e-6)
    by_params, by_chunks = jax.grad(total, (0, 1))(params, chunks)
    expected = jax.grad(lambda params: backbone(params, chunks[:, [0, 2]]).sum())(params)
    np.testing.assert_allclose(by_params, expected, rtol=1e-5)
    assert not by_chunks.any()


def test_a_shifted_window_has_one_chunk_more_and_comes_back() -> None:
    for shift in (0, 2):
        longer = training.shifted(VIDEO, jnp.int32(shift), 4)
        assert training.cut(longer, 4).shape == (2, 4, 4, 3)
        assert not longer[:, :shift].any()
        rows = longer.reshape(2, 8, 2, 3)[:, :, 0]
        np.testing.assert_array_equal(training.unshifted(rows, jnp.int32(shift), 6, 2), VIDEO[:, ::2])
    with pytest.raises(ValueError, match="12 frames is not a whole number of chunks of 5"):
        training.cut(VIDEO, 5)


def test_momentum_copies_first_and_follows_slowly_then() -> None:
    average = training.momentum_update({"w": jnp.zeros(2)}, {"w": jnp.array([1.0, 2.0])}, 0.9, jnp.int32(0))
    np.testing.assert_array_equal(average["w"], [1, 2])
    average = training.momentum_update(average, {"w": jnp.array([2.0, 2.0])}, 0.9, jnp.int32(1))
    np.testing.assert_allclose(average["w"], [1.1, 2.0], rtol=1e-6)


def test_both_backbones_each_see_their_chunks() -> None:
    chunks = training.cut(VIDEO, 4)
    fast, slow = jnp.ones([3, 5]), -jnp.ones([3, 5])
    found = training.combined(backbone, fast, slow, chunks, KEEP, DROP)
    np.testing.assert_allclose(found[:, 1], backbone(slow, chunks)[:, 1], rtol=1e-6)
    np.testing.assert_allclose(found[:, [0, 2]], backbone(fast, chunks)[:, [0, 2]], rtol=1e-6)
    everything = training.combined(backbone, fast, slow, chunks, jnp.arange(3), jnp.zeros(0, jnp.int32))
    np.testing.assert_allclose(everything, backbone(fast, chunks), rtol=1e-6)
