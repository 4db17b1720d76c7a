"""Temporal layers against loops over frames, and their behaviour under padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.layers.temporal import Dense, DilatedConv, DilatedResidualStack, instance_norm, pytorch_uniform

IN, OUT = 3, 4


def _sequence(time: int, valid: int, channels: int = IN, garbage: float = 7.0) -> tuple[jax.Array, jax.Array]:
    """One random video of `valid` frames padded to `time` with `garbage`, and its mask."""
    frames = np.random.default_rng(0).normal(size=(valid, channels)).astype(np.float32)
    x = np.full((1, time, channels), garbage, np.float32)
    x[0, :valid] = frames
    return jnp.asarray(x), jnp.arange(time)[None] < valid


@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (3, 4), (5, 2), (5, 16), (7, 3)])
def test_dilated_conv_equals_a_loop_over_taps(kernel_size: int, dilation: int) -> None:
    network = Network(lambda rngs: DilatedConv(IN, OUT, kernel_size=kernel_size, dilation=dilation, rngs=rngs))
    params = network.init(jax.random.key(1))
    x, mask = _sequence(time=15, valid=11)
    kernel, bias, frames = np.asarray(params["kernel"]), np.asarray(params["bias"]), np.asarray(x[0, :11])
    expected = np.tile(bias, (11, 1))
    for frame in range(11):
        for j in range(kernel_size):
            source = frame + (j - kernel_size // 2) * dilation
            if 0 <= source < 11:
                expected[frame] += frames[source] @ kernel[j]
    np.testing.assert_allclose(network(params, x, mask)[0, :11], expected, atol=1e-5)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size is 4"):
        DilatedConv(IN, OUT, kernel_size=4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("padding", [0, 1, 30])
def test_instance_norm_sees_valid_frames_alone(padding: int) -> None:
    x, mask = _sequence(time=20 + padding, valid=20)
    normalised = instance_norm(5 * x + 100, mask)[0, :20]
    frames = np.asarray(x[0, :20])
    expected = (frames - frames.mean(axis=0)) / np.sqrt(frames.var(axis=0) + 1e-5 / 25)
    np.testing.assert_allclose(normalised, expected, atol=1e-4)


def test_instance_norm_of_an_empty_row_is_zero() -> None:
    x, _ = _sequence(time=6, valid=6)
    np.testing.assert_array_equal(instance_norm(x, jnp.zeros((1, 6), bool)), 0)


@pytest.mark.parametrize("garbage", [7.0, np.nan])
def test_padding_does_not_reach_the_video_through_a_stack(garbage: float) -> None:
    network = Network(lambda rngs: DilatedResidualStack(IN, 6, OUT, num_layers=4, rngs=rngs))
    params = network.init(jax.random.key(2))
    exact, layers = network(params, *_sequence(time=17, valid=17))
    padded, padded_layers = network(params, *_sequence(time=40, valid=17, garbage=garbage))
    np.testing.assert_allclose(padded[:, :17], exact, atol=1e-6)
    for ours, expected in zip(padded_layers, layers, strict=True):
        np.testing.assert_allclose(ours[:, :17], expected, atol=1e-6)


def test_a_stack_reaches_as_far_as_its_dilations_add_up_to() -> None:
    network = Network(lambda rngs: DilatedResidualStack(IN, 6, OUT, num_layers=3, rngs=rngs))
    params = network.init(jax.random.key(3))
    x, mask = _sequence(time=41, valid=41)
    changed = network(params, x, mask)[0] != network(params, x.at[0, 20].add(1.0), mask)[0]
    reached = np.flatnonzero(np.any(changed[0], axis=-1))
    assert (reached.min(), reached.max()) == (20 - 7, 20 + 7)


def test_dropout_is_active_only_with_rngs() -> None:
    network = Network(lambda rngs: DilatedResidualStack(IN, 6, OUT, num_layers=2, dropout=0.5, rngs=rngs))
    params = network.init(jax.random.key(4))
    x, mask = _sequence(time=12, valid=12)
    quiet = [network(params, x, mask)[0] for _ in range(2)]
    noisy = [network(params, x, mask, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[0] for seed in range(2)]
    np.testing.assert_array_equal(*quiet)
    assert not np.allclose(noisy[0], noisy[1])
    assert not np.allclose(noisy[0], quiet[0])


def test_initialisation_fills_the_interval_of_pytorch() -> None:
    values = pytorch_uniform(16)(jax.random.key(5), (16, 500))
    assert 0.249 < float(jnp.max(values)) <= 0.25
    assert -0.25 <= float(jnp.min(values)) < -0.249
    conv = flatten(Network(lambda rngs: DilatedConv(9, 9, kernel_size=9, rngs=rngs)).init(jax.random.key(6)))
    assert 0.1 < float(jnp.max(jnp.abs(conv["kernel"]))) <= 1 / 9
    assert float(jnp.max(jnp.abs(conv["bias"]))) <= 1 / 9


@pytest.mark.parametrize("layer", ["dense", "conv"])
def test_half_precision_computes_on_full_precision_parameters(layer: str) -> None:
    def build(rngs: nnx.Rngs, dtype: jnp.dtype) -> nnx.Module:
        if layer == "dense":
            return Dense(IN, OUT, dtype=dtype, rngs=rngs)
        return DilatedConv(IN, OUT, kernel_size=3, dtype=dtype, rngs=rngs)

    x, mask = _sequence(time=9, valid=9)
    args = (x,) if layer == "dense" else (x, mask)
    full, half = (Network(lambda rngs, dtype=dtype: build(rngs, dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    params = full.init(jax.random.key(7))
    assert {leaf.dtype for leaf in jax.tree.leaves(half.init(jax.random.key(7)))} == {jnp.dtype(jnp.float32)}
    assert half(params, *args).dtype == jnp.bfloat16
    np.testing.assert_allclose(half(params, *args).astype(jnp.float32), full(params, *args), atol=0.05)
