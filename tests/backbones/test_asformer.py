"""ASFormer and its ASRF branches: padding, batches, dropout, dtypes, gradients and published sizes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.backbones.asformer import ASFormer, ASFormerSizes
from actloc_jax.backbones.asrf import ASFormerASRF, ASRFSizes
from actloc_jax.layers.functional import Network, Params, count, flatten

TIME, CHANNELS, CLASSES = 7, 5, 4
LAYERS = 3  # the last attention block is longer than half of the sequence
KINDS = ("asformer", "asrf")


@functools.cache
def _network(kind: str, window_pattern: str = "published", dtype: str = "float32") -> Network:
    shared = {
        "input_dim": CHANNELS,
        "num_classes": CLASSES,
        "num_layers": LAYERS,
        "width": 8,
        "window_pattern": window_pattern,
    }
    if kind == "asformer":
        sizes = ASFormerSizes(num_decoders=1, **shared)
        return Network(lambda rngs: ASFormer(sizes, dtype=dtype, rngs=rngs))
    sizes = ASRFSizes(class_stages=2, boundary_stages=2, **shared)
    return Network(lambda rngs: ASFormerASRF(sizes, dtype=dtype, rngs=rngs))


@functools.cache
def _init(kind: str) -> Params:
    return jax.jit(_network(kind).init)(jax.random.key(0))


def _input(batch: int, time: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, time, CHANNELS)).astype(np.float32)


@functools.cache
def _alone(kind: str, window_pattern: str = "published", dtype: str = "float32"):
    """Output for one unpadded video."""
    run = jax.jit(_network(kind, window_pattern, dtype))
    return run(_init(kind), _input(1, TIME), np.ones((1, TIME), bool))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_change_nothing(kind: str) -> None:
    """A video gives the same alone, and with junk as padding beside a longer video."""
    longer = 100 * _input(2, 2 * TIME + 1, seed=1)
    longer[0, :TIME] = _input(1, TIME)[0]
    mask = np.ones(longer.shape[:2], bool)
    mask[0, TIME:] = False
    together = jax.jit(_network(kind))(_init(kind), longer, mask)
    for name, expected in _alone(kind)._asdict().items():
        batch_axis = 0 if "features" in name else 1  # stages come before the batch
        found = np.take(getattr(together, name), [0], axis=batch_axis)
        found = np.take(found, np.arange(TIME), axis=batch_axis + 1)
        np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=name)


def test_hidden_frames_are_seen_by_convolutions_but_padding_is_not() -> None:
    run, params, x = jax.jit(_network("asformer")), _init("asformer"), _input(1, TIME)
    visible = np.arange(TIME)[None] < TIME - 2
    everywhere = np.ones((1, TIME), bool)
    hidden = np.asarray(run(params, x, everywhere, visible=visible).logits)
    absent = np.asarray(run(params, x, visible, visible=everywhere).logits)
    assert np.all(hidden[:, :, TIME - 2 :] == 0)
    assert np.all(absent[:, :, TIME - 2 :] == 0)
    assert np.abs(hidden - absent).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_window_pattern_reaches_the_attention(kind: str) -> None:
    assert np.abs(_alone(kind).features - _alone(kind, "band").features).max() > 1e-3


def test_dropout_is_active_only_with_rngs() -> None:
    params, x, mask = _init("asrf"), _input(1, TIME), np.ones((1, TIME), bool)
    train = jax.jit(lambda key: _network("asrf")(params, x, mask, rngs=nnx.Rngs(key)).features)
    first, second = train(jax.random.key(1)), train(jax.random.key(2))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - _alone("asrf").features).max() > 1e-3
    np.testing.assert_array_equal(train(jax.random.key(1)), first)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_finite_gradient_beside_an_empty_row(kind: str) -> None:
    x = _input(2, TIME)
    mask = np.array([[True] * TIME, [False] * TIME])

    @jax.jit
    @jax.grad
    def gradient(params):
        output = _network(kind)(params, x, mask)
        if kind == "asformer":
            return jnp.sum(jnp.where(mask[..., None], output.logits**2, 0))
        of_classes = jnp.where(mask[..., None], output.class_logits**2, 0)
        return jnp.sum(of_classes) + jnp.sum(jnp.where(mask, output.boundary_logits**2, 0))

    for path, values in flatten(gradient(_init(kind))).items():
        assert np.isfinite(values).all(), path
        # A block of one frame has one key, whose weight is 1 whatever its score.
        if not ("layers/00" in path and ("query_conv" in path or "key_conv" in path)):
            assert np.abs(values).max() > 0, path


def test_bfloat16_computes_in_bfloat16_and_stays_close() -> None:
    assert {leaf.dtype for leaf in jax.tree.leaves(_init("asrf"))} == {jnp.dtype("float32")}
    rough = _alone("asrf", dtype="bfloat16").features
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(np.float32), _alone("asrf").features, atol=0.1)


@pytest.mark.slow
def test_published_sizes() -> None:
    """Parameter counts of the PyTorch modules at the sizes of 50Salads (19 classes)."""
    asformer = Network(lambda rngs: ASFormer(ASFormerSizes(input_dim=2048, num_classes=19), rngs=rngs))
    asrf = Network(lambda rngs: ASFormerASRF(ASRFSizes(num_classes=19), rngs=rngs))
    assert count(asformer.shapes()) == 1_134_476
    assert count(asrf.shapes()) == 1_630_480
