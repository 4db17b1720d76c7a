"""Maps of [channels, batch, time] against the same on [batch, time, channels], with gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.layers import temporal
from actloc_jax.ops import channels_first

rng = np.random.default_rng(0)
to_last = lambda x: jnp.moveaxis(x, 0, -1)  # noqa: E731


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 7), (7, 3)])
def test_dense_and_its_gradient(inputs: int, outputs: int) -> None:
    kernel, x = rng.normal(size=(inputs, outputs)), rng.normal(size=(inputs, 2, 11))
    cotangent = rng.normal(size=(outputs, 2, 11))
    ours, pull_back = jax.vjp(lambda k, x: channels_first.dense(k, x, jnp.float32), jnp.asarray(kernel), jnp.asarray(x))
    expected, expected_pull_back = jax.vjp(lambda k, x: jnp.moveaxis(to_last(x) @ k, -1, 0), kernel, x)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for got, wanted in zip(pull_back(jnp.asarray(cotangent)), expected_pull_back(cotangent), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_dense_multiplies_in_the_dtype_and_returns_float32() -> None:
    kernel, x = jnp.full((1, 1), 1.001), jnp.full((1, 1, 1), 1.001)
    half = channels_first.dense(kernel, x, jnp.bfloat16)
    assert half.dtype == jnp.float32
    assert half.item() != channels_first.dense(kernel, x, jnp.float32).item()


def test_add_bias_weighs_the_bias_of_each_frame() -> None:
    x, bias, weight = rng.normal(size=(3, 2, 5)), rng.normal(size=3), rng.random(size=(2, 5))
    np.testing.assert_allclose(channels_first.add_bias(x, bias), x + bias[:, None, None], atol=1e-6)
    weighed = channels_first.add_bias(x, bias, jnp.asarray(weight))
    np.testing.assert_allclose(weighed, x + bias[:, None, None] * weight, atol=1e-6)


def test_sum_over_frames() -> None:
    x = rng.normal(size=(3, 2, 5))
    np.testing.assert_allclose(channels_first.sum_over_frames(jnp.asarray(x)), x.sum((1, 2)), atol=1e-5)


def test_instance_norm_is_that_of_the_layers() -> None:
    mask = jnp.arange(9) < jnp.asarray([[9], [5]])
    x = jnp.where(mask, jnp.asarray(rng.normal(3, 2, size=(4, 2, 9)), jnp.float32), 0)
    expected = jnp.where(mask[:, :, None], temporal.instance_norm(to_last(x), mask), 0)
    np.testing.assert_allclose(to_last(channels_first.instance_norm(x, mask)), expected, atol=1e-5)
