"""The one-stage detector: padding, reference length, heads without gradient, precision, sizes as published."""

from __future__ import annotations

import dataclasses
import functools
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.backbones.detector import Detector, DetectorSizes, normal_noise
from actloc_jax.layers.functional import Network, count, flatten, unflatten
from convert import fustal_tables

SMALL = DetectorSizes(
    input_dim=6, num_classes=3, width=32, neck_width=32, head_width=16, branch_blocks=2, sgp_hidden=24, bins=4,
    embedding_layers=1, stem_blocks=1, head_layers=2, sgp_init_std=0.3, max_length=20, heads=2,
)  # fmt: skip
VARIANTS = {
    "tridet": SMALL,
    "average": dataclasses.replace(SMALL, sgp_pooling="avg", neck="fpn", windows=3, sgp_factor=1.5, bins=None),
    "actionformer": dataclasses.replace(SMALL, block="transformer", windows=(5, 5, -1), bins=None, position_bias=True),
    "conv": dataclasses.replace(SMALL, block="conv", neck="fpn", position_encoding=True),
}


@functools.cache
def network(sizes: DetectorSizes, dtype: Any = jnp.float32) -> tuple[Network, Any]:
    """The network with parameters that hide nothing: fresh ones have scales of 1e-4 and biases of 0."""
    net = Network(lambda rngs: Detector(sizes, dtype=dtype, rngs=rngs))
    draw = np.random.default_rng(0)
    params = {}
    for path, leaf in flatten(net.shapes()).items():
        value = draw.standard_normal(leaf.shape)
        if path.endswith("/kernel"):
            params[path] = value / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            params[path] = 0.2 * value + ("scale" in path)
    return net, unflatten({path: jnp.asarray(value, jnp.float32) for path, value in params.items()})


def padded(features: np.ndarray, length: int, fill: float = 0.0) -> tuple[jax.Array, jax.Array]:
    x = np.full((1, length, features.shape[1]), fill, np.float32)
    x[0, : len(features)] = features
    return jnp.asarray(x), jnp.arange(length)[None] < len(features)


def valid_steps(output: Any) -> list[np.ndarray]:
    """All outputs on the frames of the video."""
    parts = (output.classes, output.offsets, output.starts, output.ends)
    return [np.asarray(x[0][m[0]]) for part in parts for x, m in zip(part, output.masks, strict=bool(part))]


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_changes_nothing_where_it_is_not_seen(name: str) -> None:
    net, params = network(VARIANTS[name])
    features = np.random.default_rng(0).standard_normal((21, 6)).astype(np.float32)
    run = jax.jit(lambda x, mask: net(params, x, mask, seen=mask))
    short, long = run(*padded(features, 24)), run(*padded(features, 40, fill=3.0))
    for a, b in zip(valid_steps(short), valid_steps(long), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_reference_length_is_part_of_the_published_result_and_the_array_is_not(name: str) -> None:
    net, params = network(VARIANTS[name])
    features = np.random.default_rng(1).standard_normal((21, 6)).astype(np.float32)
    run = jax.jit(lambda x, mask, seen: net(params, x, mask, seen=seen))
    x, mask = padded(features, 40)
    long = run(x, mask, jnp.arange(40)[None] < 24)
    short = jax.jit(lambda x, mask: net(params, x, mask))(*padded(features, 24))
    for a, b in zip(valid_steps(short), valid_steps(long), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    longer = valid_steps(run(x, mask, jnp.ones_like(mask)))
    assert max(np.abs(a - b).max() for a, b in zip(valid_steps(short), longer, strict=True)) > 1e-3


def test_outputs_are_zero_on_padding() -> None:
    net, params = network(SMALL)
    output = jax.jit(net)(params, *padded(np.ones((10, 6), np.float32), 16))
    for part in (output.classes, output.offsets, output.starts, output.ends):
        for x, mask in zip(part, output.masks, strict=True):
            assert np.all(np.asarray(x)[~np.asarray(mask)] == 0)


def test_start_and_end_heads_give_no_gradient_to_what_they_read() -> None:
    net, params = network(SMALL)
    x, mask = padded(np.ones((16, 6), np.float32), 16)

    def loss(params: Any) -> jax.Array:
        output = net(params, x, mask)
        return sum(jnp.sum(level) for level in (*output.starts, *output.ends))

    gradient = flatten(jax.jit(jax.grad(loss))(params))
    assert all(np.all(value == 0) for path, value in gradient.items() if path.startswith(("backbone", "neck")))
    assert any(np.any(value != 0) for path, value in gradient.items() if path.startswith("start_head"))


def test_dropping_paths_and_noise_need_rngs() -> None:
    net, params = network(dataclasses.replace(SMALL, drop_path=0.5, input_noise=0.1))
    x, mask = padded(np.ones((16, 6), np.float32), 16)
    run = jax.jit(lambda key: net(params, x, mask, rngs=nnx.Rngs(dropout=key)).classes[1])
    first, second = run(jax.random.key(0)), run(jax.random.key(1))
    plain = jax.jit(net)(params, x, mask).classes[1]
    assert not np.allclose(first, second)
    assert not np.allclose(first, plain)


def test_noise_is_normal() -> None:
    numbers = np.sort(np.asarray(normal_noise(jax.random.key(0), (3, 101, 67))).ravel())
    assert numbers.shape == (3 * 101 * 67,)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        np.testing.assert_allclose(numbers[int(share * len(numbers))], NormalDist().inv_cdf(share), atol=0.15)
    np.testing.assert_allclose([numbers.mean(), numbers.std()], [0, 1], atol=0.02)


@pytest.mark.parametrize("name", ["tridet", "actionformer"])
def test_bfloat16_stays_near(name: str) -> None:
    net, params = network(VARIANTS[name])
    half, _ = network(VARIANTS[name], jnp.bfloat16)
    x, mask = padded(np.random.default_rng(3).standard_normal((16, 6)).astype(np.float32), 16)
    for a, b in zip(
        valid_steps(jax.jit(net)(params, x, mask)), valid_steps(jax.jit(half)(params, x, mask)), strict=True
    ):
        assert b.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.05 * max(1.0, np.abs(a).max()))


def test_published_sizes() -> None:
    published = Network(lambda rngs: Detector(DetectorSizes(2048, 20), rngs=rngs)).shapes()
    assert count(published) == 15_989_604
    assert len(flatten(published)) == 192


def test_lengths_that_the_published_code_pads_to() -> None:
    assert DetectorSizes(2048, 20).length_multiple == 32
    assert DetectorSizes(2048, 20, windows=3).length_multiple == 96
    assert DetectorSizes(2048, 20, block="transformer", windows=19).length_multiple == 576
    with pytest.raises(ValueError, match="windows has 2 entries; expected one for each of the 6 levels"):
        _ = DetectorSizes(2048, 20, windows=(1, 1)).window_of_level


def test_a_length_that_the_levels_do_not_divide_is_an_error() -> None:
    net, params = network(SMALL)
    with pytest.raises(ValueError, match="18 frames; expected a multiple of 4"):
        net(params, *padded(np.ones((10, 6), np.float32), 18))


@pytest.mark.parametrize("name", VARIANTS)
def test_names_of_every_parameter_lead_there_and_back(name: str) -> None:
    tables = {"actionformer": fustal_tables.ACTIONFORMER, "conv": fustal_tables.CONV_DETECTOR}
    table = tables.get(name, fustal_tables.TRIDET)
    params = {path: np.asarray(value) for path, value in flatten(network(VARIANTS[name])[1]).items()}
    state = table.to_torch(params)
    report = table.to_ours(state, {path: value.shape for path, value in params.items()})
    assert report.problems() == []
    assert all(np.array_equal(report.params[path], value) for path, value in params.items())


def test_names_are_the_published_ones() -> None:
    shapes = {path: leaf.shape for path, leaf in flatten(network(SMALL)[0].shapes()).items()}
    published = {
        "backbone/branch/00/drop_path_out/scale": ("backbone.branch.0.drop_path_out.scale", (1, 32, 1)),
        "backbone/stem/00/mlp/linear_out/kernel": ("backbone.stem.0.mlp.2.weight", (32, 24, 1)),
        "backbone/branch/01/convkw/kernel": ("backbone.branch.1.convkw.weight", (32, 1, 11)),
        "reg_head/scale/02": ("reg_head.scale.2.scale", ()),
        "end_head/cls_head/bias": ("end_head.cls_head.conv.bias", (3,)),
        "neck/fpn_norms/01/bias": ("neck.fpn_norms.1.bias", (1, 32, 1)),
    }
    for path, (key, shape) in published.items():
        entry = fustal_tables.TRIDET.entry_of_path(path)
        assert entry is not None
        assert (entry.key, entry.torch_shape(shapes[path])) == (key, shape)
