"""Sliding-window attention against a loop over queries, and its behaviour under padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.sliding_attention import sliding_window_attention, window_mask

CHANNELS = 4
attend = jax.jit(sliding_window_attention, static_argnames=("block", "pattern"))


def _random(seed: int, batch: int, time: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, time, CHANNELS)).astype(np.float32) for _ in range(3)]


def _by_loop(query, key, value, visible, block, pattern):
    """One sequence `[time, channels]`: softmax over the window of every query, written as the definition reads."""
    window = window_mask(block, pattern)
    output = np.zeros_like(value)
    for frame in range(len(query)):
        start = frame // block * block - block // 2
        columns = range(start, start + window.shape[1])
        inside = [0 <= c < len(query) for c in columns]
        keys = np.array([key[c] if ok else np.zeros(CHANNELS) for c, ok in zip(columns, inside, strict=True)])
        values = np.array([value[c] if ok else np.zeros(CHANNELS) for c, ok in zip(columns, inside, strict=True)])
        seen = np.array([ok and visible[c] for c, ok in zip(columns, inside, strict=True)]) & window[frame % block]
        scores = keys @ query[frame] / np.sqrt(CHANNELS) + np.log(seen + 1e-6)
        weights = np.exp(scores - scores.max())
        output[frame] = (weights / weights.sum() * seen) @ values
    return output


@pytest.mark.parametrize("pattern", ["published", "band"])
@pytest.mark.parametrize(("time", "block"), [(1, 1), (1, 4), (9, 2), (10, 3), (16, 4), (21, 4), (8, 8), (13, 32)])
def test_equals_the_definition(time: int, block: int, pattern: str) -> None:
    query, key, value = _random(0, 2, time)
    visible = np.random.default_rng(0).random((2, time)) < 0.8
    output = attend(
        query, key, value, jnp.ones((2, time), bool), block=block, pattern=pattern, visible=jnp.asarray(visible)
    )
    for row in range(2):
        expected = _by_loop(query[row], key[row], value[row], visible[row], block, pattern)
        np.testing.assert_allclose(output[row], expected, atol=2e-6)


@pytest.mark.parametrize("pattern", ["published", "band"])
@pytest.mark.parametrize("block", [1, 4, 16, 64])
@pytest.mark.parametrize("padding", [1, 45])
def test_padding_changes_nothing(block: int, pattern: str, padding: int) -> None:
    time = 23
    arrays = _random(0, 1, time)
    expected = attend(*arrays, jnp.ones((1, time), bool), block=block, pattern=pattern)
    junk = _random(1, 1, padding)
    longer = [np.concatenate([array, 9 * more], axis=1) for array, more in zip(arrays, junk, strict=True)]
    mask = jnp.arange(time + padding)[None] < time
    output = attend(*longer, mask, block=block, pattern=pattern)
    np.testing.assert_allclose(output[:, :time], expected, atol=1e-6)


@pytest.mark.parametrize("block", [4, 64])
def test_a_row_without_frames_is_finite_with_gradient(block: int) -> None:
    query, key, value = (jnp.asarray(array) for array in _random(0, 2, 10))
    mask = jnp.array([[True] * 10, [False] * 10])

    def total(query, key, value):
        return jnp.sum(sliding_window_attention(query, key, value, mask, block=block))

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(30 * query, 30 * key, value):
        assert np.isfinite(gradient).all()


def test_band_of_a_query_is_centred_on_it() -> None:
    band = window_mask(6, "band")
    for query in range(6):
        columns = np.flatnonzero(band[query]) - 3  # frames from the start of the block
        assert columns.tolist() == list(range(query - 3, query + 3))


def test_published_pattern_hides_only_the_last_key_of_even_blocks() -> None:
    assert window_mask(4, "published").sum(axis=1).tolist() == [7] * 4
    assert window_mask(3, "published").all()
    assert window_mask(1, "published").tolist() == [[True]]


def test_unknown_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="window_pattern is 'ring'"):
        window_mask(4, "ring")
