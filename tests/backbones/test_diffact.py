"""DiffAct without golden data: padding, noise that belongs to a video, dropout, gradients, half precision."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.backbones.diffact import PREDICTIONS, RAW_INPUT, DiffAct, DiffActSizes
from actloc_jax.layers.functional import Network, Params

SIZES = DiffActSizes(
    num_classes=4, input_dim=5, encoder_layers=3, encoder_width=6, encoder_kernel_size=3, feature_layers=(1, 2),
    decoder_layers=2, decoder_width=6, decoder_kernel_size=5, time_dim=8, timesteps=50, sampling_steps=4,
)  # fmt: skip
WITH_ALL_FEATURES = dataclasses.replace(SIZES, feature_layers=(RAW_INPUT, 0, PREDICTIONS), use_instance_norm=True)
GARBAGE = 50.0


@functools.cache
def network_of(sizes: DiffActSizes, dtype: Any = jnp.float32) -> tuple[Network, Params]:
    network = Network(lambda rngs: DiffAct(sizes, dtype=dtype, rngs=rngs))
    return network, network.init(jax.random.key(0))


def videos(lengths: list[int], time: int, channels: int = SIZES.input_dim) -> tuple[jax.Array, jax.Array]:
    """Video i is the same whatever the others are; padding holds garbage."""
    x = np.full((len(lengths), time, channels), GARBAGE, np.float32)
    for row, length in enumerate(lengths):
        x[row, :length] = np.random.default_rng(row).normal(size=(length, channels))
    return jnp.asarray(x), jnp.arange(time) < jnp.asarray(lengths)[:, None]


@functools.cache
def sampler(sizes: DiffActSizes, dropout: bool) -> Callable[..., jax.Array]:
    network, params = network_of(sizes)

    def run(x: jax.Array, mask: jax.Array, keys: jax.Array, dropout_key: jax.Array) -> jax.Array:
        rngs = nnx.Rngs(dropout=dropout_key) if dropout else None
        return network(params, x, mask, keys, rngs=rngs, method="sample")

    return jax.jit(run)


def sample(
    sizes: DiffActSizes, x: jax.Array, mask: jax.Array, keys: jax.Array, dropout: int | None = None
) -> jax.Array:
    """Probabilities by the noise of `keys`, in train mode with the dropout seed if one is given."""
    return sampler(sizes, dropout is not None)(x, mask, keys, jax.random.key(dropout or 0))


@pytest.mark.parametrize("sizes", [SIZES, WITH_ALL_FEATURES], ids=["layers", "all features"])
def test_padding_and_the_batch_change_nothing_in_encoder_and_decoder(sizes: DiffActSizes) -> None:
    network, params = network_of(sizes)

    @jax.jit
    def run(params: Params, x: jax.Array, mask: jax.Array, event: jax.Array) -> list[jax.Array]:
        logits, features = network(params, x, mask, method="encode")
        time = jnp.full(x.shape[:1], 20)
        return [logits, features, network(params, features, time, event, mask, method="denoise")]

    event, mask = videos([11, 30], 30, SIZES.num_classes)
    together = run(params, videos([11, 30], 30)[0], mask, event)
    alone = run(params, *videos([11], 11), videos([11], 11, SIZES.num_classes)[0])
    for ours, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours[:1, :11], expected, atol=2e-5)


@pytest.mark.parametrize("sizes", [SIZES, WITH_ALL_FEATURES], ids=["layers", "all features"])
def test_a_video_is_sampled_alike_alone_in_a_batch_and_padded(sizes: DiffActSizes) -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    alone = sample(sizes, *videos([11], 11), keys[:1])
    together = sample(sizes, *videos([11, 30], 30), keys)
    x, mask = videos([11, 30], 30)
    swapped = sample(sizes, x[::-1], mask[::-1], keys[::-1])
    np.testing.assert_allclose(together[:1, :11], alone, atol=2e-5)
    np.testing.assert_allclose(swapped[1:, :11], alone, atol=2e-5)
    np.testing.assert_allclose(jnp.sum(alone, axis=-1), 1, atol=1e-5)


def test_another_key_draws_another_noise() -> None:
    first, second = (sample(SIZES, *videos([11], 11), jax.random.split(jax.random.key(seed), 1)) for seed in range(2))
    assert not np.allclose(first, second, atol=1e-3)


def test_given_noise_replaces_the_keys_and_the_trace_ends_in_the_result() -> None:
    network, params = network_of(SIZES)
    x, mask = videos([11], 11)
    noise = jax.random.normal(jax.random.key(4), (SIZES.sampling_steps, 1, 11, SIZES.num_classes))
    probabilities, trace = jax.jit(
        lambda params, noise: network(params, x, mask, None, noise=noise, trace=True, method="sample")
    )(params, noise)
    np.testing.assert_array_equal(trace.x[0], noise[0])
    np.testing.assert_allclose(trace.x0[-1] / SIZES.scale / 2 + 0.5, probabilities, atol=1e-6)


def test_features_from_an_earlier_pass_give_the_same_sample() -> None:
    network, params = network_of(SIZES)
    x, mask = videos([11], 11)
    keys = jax.random.split(jax.random.key(5), 1)
    _, features = network(params, x, mask, method="encode")
    reused = jax.jit(lambda features: network(params, x, mask, keys, condition=features, method="sample"))(features)
    np.testing.assert_allclose(reused, sample(SIZES, x, mask, keys), atol=1e-5)


def test_dropout_in_sampling_needs_rngs_and_follows_them() -> None:
    x, mask = videos([11], 11)
    keys = jax.random.split(jax.random.key(6), 1)
    quiet, first, again, second = (sample(SIZES, x, mask, keys, dropout) for dropout in (None, 0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, quiet, atol=1e-3)
    assert not np.allclose(first, second, atol=1e-3)


def test_decoder_dropout_is_fresh_in_every_step() -> None:
    """The decoder is made blind to state and time: what is left to differ between the steps is dropout."""
    sizes = dataclasses.replace(SIZES, encoder_dropout=0.0, channel_dropout=0.0, temporal_dropout=0.0, eta=0.0)
    network, params = network_of(sizes)
    x, mask = videos([11], 11)
    noise = jnp.zeros((sizes.sampling_steps, 1, 11, sizes.num_classes))
    decoder = params["decoder"]
    conv_in = {"kernel": jnp.zeros_like(decoder["conv_in"]["kernel"]), "bias": jnp.linspace(-1, 1, sizes.decoder_width)}
    time_proj = jax.tree.map(jnp.zeros_like, decoder["time_proj"])
    blind = {**params, "decoder": {**decoder, "conv_in": conv_in, "time_proj": time_proj}}

    def x0(rngs: nnx.Rngs | None) -> jax.Array:
        return network(blind, x, mask, None, noise=noise, trace=True, rngs=rngs, method="sample")[1].x0

    quiet, noisy = jax.jit(lambda: x0(None))(), jax.jit(lambda: x0(nnx.Rngs(dropout=jax.random.key(7))))()
    np.testing.assert_allclose(quiet[1], quiet[0], atol=1e-6)
    assert not np.allclose(noisy[1], noisy[0], atol=1e-4)


@pytest.mark.parametrize("detach", [False, True])
def test_the_decoder_reaches_the_encoder_unless_detached(detach: bool) -> None:
    network, params = network_of(dataclasses.replace(SIZES, detach_decoder=detach))
    x, mask = videos([11], 11)
    event = jnp.full((1, 11, SIZES.num_classes), 0.25)

    def objective(params: Params) -> jax.Array:
        _, features = network(params, x, mask, method="encode")
        return jnp.sum(jnp.square(network(params, features, jnp.asarray([3]), event, mask, method="denoise")))

    gradients = jax.jit(jax.grad(objective))(params)
    reached = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradients["encoder"]))
    assert (reached == 0) == detach
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradients))


def test_half_precision_stays_close_and_keeps_the_sampler_in_full_precision() -> None:
    full, params = network_of(SIZES)
    half, _ = network_of(SIZES, jnp.bfloat16)
    x, mask = videos([40], 40)
    keys = jax.random.split(jax.random.key(8), 1)
    ours = jax.jit(lambda: half(params, x, mask, keys, method="sample"))()
    expected = jax.jit(lambda: full(params, x, mask, keys, method="sample"))()
    assert ours.dtype == jnp.float32
    assert 0 < float(jnp.max(jnp.abs(ours - expected))) < 0.1


def test_the_scanned_layers_of_training_compute_what_the_layers_compute() -> None:
    """With dropout of rate 0 the network in train mode, forward and backward, equals the one in evaluation."""
    dropouts = ("encoder_dropout", "channel_dropout", "temporal_dropout", "decoder_dropout")
    network, params = network_of(dataclasses.replace(SIZES, **dict.fromkeys(dropouts, 0.0)))
    x, mask = videos([11, 30], 30)
    event, _ = videos([11, 30], 30, SIZES.num_classes)

    @functools.partial(jax.jit, static_argnums=1)
    def run(params: Params, train: bool) -> Any:
        rngs = nnx.Rngs(dropout=jax.random.key(0)) if train else None

        def total(params: Params) -> tuple[jax.Array, Any]:
            logits, features = network(params, x, mask, rngs=rngs, method="encode")
            denoised = network(params, features, jnp.asarray([3, 20]), event, mask, rngs=rngs, method="denoise")
            outputs = [jnp.where(mask[:, :, None], output, 0) for output in (logits, features, denoised)]
            return sum(jnp.sum(jnp.square(output)) for output in outputs), outputs

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, scanned), scanned_gradients = run(params, True)
    (_, alone), gradients = run(params, False)
    for ours, expected in zip(scanned, alone, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    for ours, expected in zip(jax.tree.leaves(scanned_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
