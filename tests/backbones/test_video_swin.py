"""Video Swin: ways to compute attention, checkpointing, frozen stages, dropped paths, chunks, precision, sizes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.backbones.video_swin import SwinBlock, VideoSwin, VideoSwinSizes, gelu
from actloc_jax.layers.functional import Network, Params, flatten
from actloc_jax.layers.window_attention3d import IMPLEMENTATIONS, attend_by_kind, attend_plain
from actloc_jax.ops.video_windows import merge, partition, regions, relative_positions, table_of_pairs, table_rows

SMALL = VideoSwinSizes(width=8, depths=(1, 2), heads=(2, 4), window=(2, 3, 3), drop_path=0.5, attention="by_window")
VIDEO = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 17, 28, 3)), jnp.float32)


@functools.cache
def network(sizes: VideoSwinSizes = SMALL, dtype: Any = jnp.float32) -> tuple[Network, Params]:
    """The network with parameters that hide nothing: fresh ones are small, and many are zero."""
    net = Network(lambda rngs: VideoSwin(sizes, dtype=dtype, rngs=rngs))
    draw = np.random.default_rng(1)
    return net, jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape), jnp.float32), net.shapes()
    )


def gradients(sizes: VideoSwinSizes) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The output for `VIDEO`, and flat gradients of a sum of it, with dropped paths."""
    net, params = network(sizes)

    @jax.jit
    def run(params: Params) -> Any:
        def total(params: Params) -> tuple[jax.Array, jax.Array]:
            y = net(params, VIDEO, nnx.Rngs(dropout=jax.random.key(2)))
            return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        return jax.grad(total, has_aux=True)(params)

    found, y = run(params)
    return y, flatten(found)


@functools.cache
def expected() -> tuple[jax.Array, dict[str, jax.Array]]:
    return gradients(SMALL)


@pytest.mark.parametrize("changes", [{"attention": "plain"}, {"checkpoint": True}], ids=str)
def test_what_saves_time_or_memory_changes_no_number(changes: dict[str, Any]) -> None:
    y, found = gradients(dataclasses.replace(SMALL, **changes))
    np.testing.assert_allclose(y, expected()[0], atol=1e-5)
    for path, gradient in expected()[1].items():
        np.testing.assert_allclose(found[path], gradient, atol=1e-4, rtol=1e-4, err_msg=path)


def test_windows_of_a_kind_together_find_what_all_at_once_find() -> None:
    draw = np.random.default_rng(3)
    labels = regions((4, 6, 6), (2, 3, 3), (1, 1, 1))
    qkv = jnp.asarray(draw.standard_normal((2, *labels.shape, 3, 2, 4)), jnp.float32)
    bias = jnp.asarray(draw.standard_normal((2, labels.shape[1], labels.shape[1])), jnp.float32)
    for some in (labels, None):
        y = attend_by_kind(qkv, bias, some, implementation="xla")
        np.testing.assert_allclose(y, attend_plain(qkv, bias, some), atol=1e-5)


def test_frozen_stages_get_no_gradient_and_drop_no_path() -> None:
    sizes = dataclasses.replace(SMALL, frozen_stages=1)
    _, found = gradients(sizes)
    for path, gradient in found.items():
        assert sizes.is_frozen(path) == path.startswith(("patch_embed/", "layers/00/")), path
        assert bool(jnp.all(gradient == 0)) == sizes.is_frozen(path), path
    net, params = network(sizes)

    @jax.jit
    def frozen_outputs() -> tuple[jax.Array, jax.Array]:
        rngs = nnx.Rngs(dropout=jax.random.key(0))
        return net(params, VIDEO, rngs, method="stages")[1], net(params, VIDEO, method="stages")[1]

    np.testing.assert_array_equal(*frozen_outputs())
    only_patches = dataclasses.replace(SMALL, frozen_stages=0)
    assert [path for path in found if only_patches.is_frozen(path)] == [p for p in found if p.startswith("patch_embed")]


def test_a_dropped_path_leaves_its_input_and_a_kept_one_is_scaled_up() -> None:
    net = Network(lambda rngs: SwinBlock(SMALL, features=8, heads=2, shifted=True, drop_path=0.75, rngs=rngs))
    params = net.init(jax.random.key(4))
    x = VIDEO[:, :4, :6, :5, :1] * jnp.arange(1.0, 9)
    none, both = jnp.zeros((2, 2), bool), jnp.ones((2, 2), bool)
    run = jax.jit(net)
    np.testing.assert_array_equal(run(params, x, none), x)
    first_only = both.at[1].set(False)
    without_mlp = params | {"mlp": jax.tree.map(jnp.zeros_like, params["mlp"])}
    np.testing.assert_allclose(run(params, x, first_only) - x, 4 * (run(without_mlp, x) - x), rtol=1e-3, atol=1e-5)


def test_chunks_do_not_see_each_other_and_memory_does_not_matter() -> None:
    net, params = network()
    clips = jax.jit(lambda video: net(params, video, 4, method="clip_features"))(VIDEO)
    assert clips.shape == (2, 3, 16)  # of 6 frames, two of padding
    few = jax.jit(lambda video: net(params, video, 4, method="clip_features", at_once=3))(VIDEO)
    np.testing.assert_allclose(few, clips, atol=1e-5)
    changed = jax.jit(lambda video: net(params, video, 4, method="clip_features"))(VIDEO.at[:, 4:].set(0))
    np.testing.assert_allclose(changed[:, :2], clips[:, :2], atol=1e-5)
    assert np.abs(changed[:, 2] - clips[:, 2]).max() > 0.01
    chunks = jnp.stack([VIDEO[:, :4], VIDEO[:, 2:]])
    features = jax.jit(lambda chunks: net(params, chunks, method="chunk_features"))(chunks)
    np.testing.assert_allclose(features[0], clips[:, :2], atol=1e-5)
    with pytest.raises(ValueError, match="at_once"):
        net(params, chunks, nnx.Rngs(dropout=0), method="chunk_features", at_once=1)


def test_half_precision_stays_close() -> None:
    net, params = network(SMALL, jnp.bfloat16)
    y = jax.jit(net)(params, VIDEO)
    full, _ = network()
    reference = np.asarray(jax.jit(full)(params, VIDEO))
    assert y.dtype == jnp.bfloat16
    assert np.abs(np.asarray(y, np.float32) - reference).mean() < 0.05 * np.abs(reference).mean()


def test_windows_and_relative_positions() -> None:
    x = np.arange(2 * 4 * 6 * 6 * 1).reshape(2, 4, 6, 6, 1)
    windows = partition(x, (2, 3, 3))
    np.testing.assert_array_equal(windows[0, 1, :, 0], x[0, :2, :3, 3:, 0].ravel())
    np.testing.assert_array_equal(merge(windows, (2, 3, 3), (4, 6, 6)), x)
    index = relative_positions((2, 3, 3), 18)
    assert index[0, 0] == index[7, 7] == table_rows((2, 3, 3)) // 2
    assert index[9, 0] - index[0, 0] == 25
    assert index[3, 0] - index[0, 0] == 5
    assert index[1, 0] - index[0, 0] == 1
    with pytest.raises(ValueError, match="do not tile"):
        partition(x, (3, 3, 3))


@pytest.mark.parametrize(("window", "tokens"), [((8, 7, 7), 392), ((8, 7, 7), 128), ((4, 3, 3), 20), ((2, 3, 2), 12)])
def test_the_table_spread_over_pairs_is_the_table_read_at_their_positions(window: Any, tokens: int) -> None:
    table = np.random.default_rng(0).standard_normal((table_rows(window), 3)).astype(np.float32)
    read = table[relative_positions(window, tokens)].transpose(2, 0, 1)
    np.testing.assert_array_equal(table_of_pairs(jnp.asarray(table), window, tokens), read)


def test_gelu_and_its_gradient_are_exact() -> None:
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    expected_slope = jax.vmap(jax.grad(lambda value: jax.nn.gelu(value, approximate=False)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), expected_slope, atol=1e-6)


def test_bad_input_is_named() -> None:
    net, params = network()
    with pytest.raises(ValueError, match="has 4 channels, expected 3"):
        net(params, VIDEO[..., :1].repeat(4, -1))
    with pytest.raises(ValueError, match="8 channels do not divide into 3 heads"):
        Network(lambda rngs: VideoSwin(dataclasses.replace(SMALL, heads=(3, 4)), rngs=rngs))
    with pytest.raises(ValueError, match=f"choose one of {', '.join(IMPLEMENTATIONS)}"):
        Network(lambda rngs: VideoSwin(dataclasses.replace(SMALL, attention="flash"), rngs=rngs))
    with pytest.raises(ValueError, match="there are 2 stages"):
        dataclasses.replace(SMALL, frozen_stages=3)
