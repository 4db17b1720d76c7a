"""I3D: levels and values, lengths, folded norms, compute types, windows that do not fit, folders that are not I3D."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.backbones.i3d import END_POINTS, PORTS, I3DOutput, I3DSizes, i3d_network, load_i3d
from actloc_jax.layers.functional import Params, flatten, unflatten, united
from actloc_jax.layers.video_conv import fold
from actloc_jax.training import checkpoints

SMALL = I3DSizes(num_classes=5, divisor=16)


@functools.cache
def parameters(sizes: I3DSizes = SMALL) -> Params:
    """Random parameters and running statistics, as a checkpoint holds them."""
    net, rng = i3d_network(sizes), np.random.default_rng(0)
    flat = flatten(jax.eval_shape(lambda: united(net.init(jax.random.key(0)), net.init_statistics())))

    def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn = rng.standard_normal(shape)
        if path.endswith("kernel"):
            return drawn * np.sqrt(2 / np.prod(shape[:-1]))
        return np.exp(0.2 * drawn) if path.endswith(("var", "scale")) else 0.1 * drawn

    return unflatten({path: value(path, leaf.shape).astype(np.float32) for path, leaf in flat.items()})


def windows(time: int = 10, height: int = 224, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, time, height, 224, channels), np.uint8)


def outputs(x: Any, sizes: I3DSizes = SMALL, **options: Any) -> I3DOutput:
    net = i3d_network(sizes, folded=True, **options)
    return jax.jit(functools.partial(net, method="outputs"))(fold(parameters(sizes), sizes.norm_epsilon), x)


def test_folded_norms_change_nothing_and_levels_are_values() -> None:
    levels = windows()
    values = (2 * levels.astype(np.float64) / 255 - 1).astype(np.float32)
    found = outputs(levels)
    unfolded = jax.jit(functools.partial(i3d_network(SMALL), method="outputs"))(parameters(), values)
    assert found.features.shape == (1, 64)
    assert found.logits.shape == (1, found.steps.shape[1], 5)
    for ours, other in zip(found, unfolded, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.features, found.steps.mean(axis=1), rtol=1e-6)
    assert float(jnp.std(found.features)) > 0.01  # the random network does say something
    rounded = outputs(levels, dtype=jnp.bfloat16).features
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - found.features).max() < 0.05 * np.abs(found.features).max()


def shape_of(sizes: I3DSizes, time: int, height: int = 224) -> I3DOutput:
    net = i3d_network(sizes)
    x = jax.ShapeDtypeStruct((2, time, height, 224, sizes.in_channels), jnp.uint8)
    return jax.eval_shape(functools.partial(net, method="outputs"), parameters(sizes), x)


def test_steps_of_each_length() -> None:
    for padding, lengths in (("tf_same", {9: 1, 16: 1, 21: 2, 24: 2, 64: 7}), ("static_same", {10: 1, 16: 1, 21: 2})):
        sizes = I3DSizes(2, 5, padding, divisor=16)
        for time, steps in lengths.items():
            assert shape_of(sizes, time).steps.shape == (2, steps, 64), (padding, time)


def test_windows_that_do_not_fit() -> None:
    static = I3DSizes(num_classes=5, padding="static_same", divisor=16)
    for sizes, time in ((SMALL, 8), (static, 9)):
        with pytest.raises(ValueError, match=rf"windows of {time} x 224 x 224 become 1 x 7 x 7 positions; exp"):
            shape_of(sizes, time)
    with pytest.raises(ValueError, match=r"become 2 x 8 x 7 positions; .*give at least 10 frames of 224 x 224"):
        shape_of(SMALL, 16, height=256)
    with pytest.raises(ValueError, match=r"\(1, 10, 224, 224, 2\); expected \[batch, .*, 3\] for the rgb stream"):
        outputs(windows(channels=2))
    with pytest.raises(ValueError, match="padding='same' is unknown; use one of tf_same, static_same"):
        I3DSizes(padding="same")


def test_end_points_have_the_published_sizes() -> None:
    net = i3d_network(I3DSizes())
    params = jax.eval_shape(lambda: united(net.init(jax.random.key(0)), net.init_statistics()))
    x = jax.ShapeDtypeStruct((1, 64, 224, 224, 3), jnp.float32)
    points = jax.eval_shape(functools.partial(net, method="end_points"), params, x)
    assert set(points) == set(END_POINTS)
    sizes = {name: points[name].shape[1:] for name in ("conv3d_1a_7x7", "mixed_3c", "mixed_4f", "mixed_5c")}
    assert sizes == {
        "conv3d_1a_7x7": (32, 112, 112, 64),
        "mixed_3c": (32, 28, 28, 480),
        "mixed_4f": (16, 14, 14, 832),
        "mixed_5c": (8, 7, 7, 1024),
    }


def test_folders_that_hold_no_i3d(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model checkpoint"):
        load_i3d(tmp_path / "nothing")
    meta = {"system": "spot", "stage": "train"}
    checkpoints.save_model(tmp_path / "spot", {"params": {"x": np.ones(1)}, "batch_stats": {}}, meta)
    with pytest.raises(ValueError, match=r"holds a model of system 'spot', no I3D; make one with: python -m convert"):
        load_i3d(tmp_path / "spot")
    assert [port.padding for port in PORTS.values()] == ["tf_same", "static_same"]
