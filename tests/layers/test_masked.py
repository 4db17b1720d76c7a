"""Layers on padded batches: what padding may and may not do, pooling, norms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.layers.functional import Network
from actloc_jax.layers.masked import (
    FrameNorm,
    Frames,
    MaskedConv,
    ScaledPath,
    TimeGroupNorm,
    convolve_channels,
    max_pool,
    mean_pool,
    sinusoids,
)


def frames_of(valid: int, seen: int | None, time: int) -> Frames:
    steps = jnp.arange(time)[None]
    return Frames(steps < valid, None if seen is None else steps < seen)


def test_what_is_not_seen_is_as_far_away_as_the_end_of_the_array() -> None:
    x = jax.random.normal(jax.random.key(0), (1, 12, 16))
    conv = Network(lambda rngs: MaskedConv(16, 8, kernel_size=3, stride=2, rngs=rngs))
    norm = Network(lambda rngs: TimeGroupNorm(16, groups=4))
    for net in (conv, norm):
        params = net.init(jax.random.key(1))
        short = net(params, x[:, :8], frames_of(5, None, 8))
        long = net(params, x, frames_of(5, 8, 12))
        np.testing.assert_allclose(long[:, : short.shape[1]], short, atol=1e-6)
        assert not np.allclose(net(params, x, frames_of(5, None, 12))[:, :3], short[:, :3]) or net is conv
    for pool in (max_pool, mean_pool):
        short = pool(x[:, :8], frames_of(5, None, 8), 2)
        np.testing.assert_allclose(pool(x, frames_of(5, 8, 12), 2)[:, :4], short, atol=1e-6)


def test_convolution_is_zero_on_padding_and_reads_it_where_it_is_seen() -> None:
    net = Network(lambda rngs: MaskedConv(2, 2, kernel_size=3, rngs=rngs))
    params = net.init(jax.random.key(0)) | {"bias": jnp.ones(2)}
    x = jnp.ones((1, 6, 2))
    assert np.all(net(params, x, frames_of(4, None, 6))[:, 4:] == 0)
    changed = x.at[:, 4].set(9.0)
    seen, unseen = frames_of(4, None, 6), frames_of(4, 4, 6)
    assert not np.allclose(net(params, x, seen)[:, 3], net(params, changed, seen)[:, 3])
    np.testing.assert_array_equal(net(params, x, unseen)[:, 3], net(params, changed, unseen)[:, 3])


def test_max_pool_looks_one_frame_to_either_side() -> None:
    x = jnp.asarray([5.0, 1, 2, 7, 3, 4])[None, :, None]
    np.testing.assert_array_equal(max_pool(x, frames_of(6, None, 6), 2)[0, :, 0], [5, 7, 7])
    np.testing.assert_array_equal(max_pool(x, frames_of(3, 3, 6), 2)[0, :, 0], [5, 2, 0])


def test_mean_pool_counts_seen_frames() -> None:
    x = jnp.asarray([5.0, 1, 2, 7])[None, :, None]
    np.testing.assert_array_equal(mean_pool(x, frames_of(4, None, 4), 2)[0, :, 0], [3, 4.5])
    np.testing.assert_array_equal(mean_pool(x, frames_of(3, 3, 4), 2)[0, :, 0], [3, 2])


def test_norms_take_large_offsets() -> None:
    """One-pass variances lose everything here."""
    x = 1e4 + jax.random.normal(jax.random.key(0), (1, 64, 32))
    for build, args in ((lambda rngs: FrameNorm(32), ()), (lambda rngs: TimeGroupNorm(32), (frames_of(64, None, 64),))):
        net = Network(build)
        y = net(net.init(jax.random.key(0)), x, *args)
        assert abs(float(y.std()) - 1) < 0.02


def test_group_norm_needs_groups_that_fit() -> None:
    with pytest.raises(ValueError, match="30 channels do not divide into 16 groups"):
        TimeGroupNorm(30)


def test_scaled_path_drops_whole_rows_and_keeps_the_mean() -> None:
    net = Network(lambda rngs: ScaledPath(3, rate=0.25))
    x = jnp.ones((2, 4, 3))
    y = net({"scale": jnp.ones(3)}, x, jnp.asarray([True, False]))
    np.testing.assert_allclose(y[0], 1 / 0.75, rtol=1e-6)
    assert np.all(y[1] == 0)
    np.testing.assert_array_equal(net({"scale": jnp.ones(3)}, x), x)


def test_sinusoids_begin_with_sine_and_cosine_of_the_position() -> None:
    table = sinusoids(5, 6)
    np.testing.assert_allclose(table[:, 0], np.sin(np.arange(5)), rtol=1e-6)
    np.testing.assert_allclose(table[:, 1], np.cos(np.arange(5)), rtol=1e-6)


def test_convolution_computes_in_its_dtype() -> None:
    net = Network(lambda rngs: MaskedConv(4, 4, kernel_size=3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    y = net(net.init(jax.random.key(0)), jnp.ones((1, 6, 4)), frames_of(6, None, 6))
    assert y.dtype == jnp.bfloat16


def test_the_gradients_written_down_are_those_of_the_arithmetic() -> None:
    x, dy = jax.random.normal(jax.random.key(0), (2, 2, 9, 8))
    kernel = jax.random.normal(jax.random.key(1), (5, 1, 8))
    scale, bias = jax.random.normal(jax.random.key(2), (2, 8))

    def normalised(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return scale * (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) + bias

    def filtered(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (2,), [(2, 2)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=8
        )

    def norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return Network(lambda rngs: FrameNorm(8))({"scale": scale, "bias": bias}, x)

    for ours, plain, arguments in (
        (norm, normalised, (x, scale, bias)),
        (lambda x, kernel: convolve_channels(x, kernel, stride=2), filtered, (x, kernel)),
    ):
        (y, found), (expected_y, expected) = (jax.vjp(function, *arguments) for function in (ours, plain))
        np.testing.assert_allclose(y, expected_y, atol=1e-5)
        for gradient, wanted in zip(found(dy[:, : y.shape[1]]), expected(dy[:, : y.shape[1]]), strict=True):
            np.testing.assert_allclose(gradient, wanted, atol=1e-5)
