"""Parity of the Video Swin backbone: patches, blocks, whole networks, clips cut into chunks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.video_swin import SwinBlock, VideoSwin, VideoSwinSizes
from actloc_jax.layers.functional import Network, Params
from actloc_jax.layers.video_patches import PatchEmbedding, PatchMerging
from actloc_jax.layers.window_attention3d import APART
from actloc_jax.ops.video_windows import end_padding, fitted, regions
from convert.tallformer_tables import PATCH_MERGING, SWIN_BLOCK, backbone_state
from tests.parity.harness import Case, parity
from tests.parity.params import swin_params


def close(case: Case, ours: Any, expected: np.ndarray, name: str = "") -> None:
    """At the tolerance of the case."""
    tolerance = {key: case.meta["tolerance"][key] for key in ("rtol", "atol")}
    np.testing.assert_allclose(ours, expected, err_msg=name, **tolerance)


def channels_last(array: np.ndarray) -> jax.Array:
    """[batch, channels, time, ...] to [batch, time, ..., channels]; integers are the thirty-seconds of the input."""
    array = array / np.float32(32) if array.dtype == np.int8 else array
    return jnp.asarray(np.moveaxis(array, 1, -1))


def sizes_of(config: dict[str, Any], **options: Any) -> VideoSwinSizes:
    """The sizes that a case gives in the original's words."""
    return VideoSwinSizes(
        width=config["embed_dim"],
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        patch=tuple(config["patch_size"]),
        window=tuple(config["window_size"]),
        patch_norm=config["patch_norm"],
        drop_path=config["drop_path_rate"],
        frozen_stages=config.get("frozen_stages", -1),
        **options,
    )


def below(state: dict[str, Any], name: str) -> dict[str, Any]:
    """The part of a state dict below `name.`, without that prefix."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


@parity("tallformer", "patch_embed_merge")
def check_patch_embed_merge(case: Case) -> None:
    """Patches of sizes that do and do not divide, with and without norm; merging of even and odd sizes."""
    config, state = case.config, case.weights()
    for name in sorted({key.split("/")[0] for key in case.arrays}):
        x, y = case.arrays[f"{name}/x"], case.arrays[f"{name}/y"]
        if name.startswith("merge"):
            net = Network(lambda rngs: PatchMerging(config["merge_dim"], rngs=rngs))
            close(case, jax.jit(net)(swin_params(state, PATCH_MERGING, f"{name}."), jnp.asarray(x)), y, name)
            continue
        net = Network(
            lambda rngs, name=name: PatchEmbedding(
                3, config["embed_dim"], patch=tuple(config["patch"]), norm=f"{name}.norm.weight" in state, rngs=rngs
            )
        )
        params = swin_params({f"patch_embed.{key}": value for key, value in below(state, name).items()})
        close(case, jax.jit(net)(params["patch_embed"], channels_last(x)), np.moveaxis(y, 1, -1), name)


@parity("tallformer", "swin_block")
def check_swin_block(case: Case) -> None:
    """Each way to compute attention: outputs, gradients, the mask of shifted windows; padded and clipped windows."""
    for name, config in case.config.items():
        arrays = {key.split("/")[1]: value for key, value in case.arrays.items() if key.startswith(f"{name}/")}
        window, size = tuple(config["window"]), tuple(config["shape"][1:])
        used, shift = fitted(size, window, tuple(extent // 2 for extent in window))
        assert (used, shift) == (tuple(config["used_window"]), tuple(config["used_shift"])), name
        padded = tuple(length + more for length, more in zip(size, end_padding(size, used), strict=True))
        labels = regions(padded, used, shift)
        np.testing.assert_array_equal(APART * (labels[:, :, None] != labels[:, None, :]), arrays["mask"], name)
        params = swin_params(case.weights(), SWIN_BLOCK, f"{name}.")
        for attention in ("plain", "by_window"):
            check_block(case, block_network(config, attention), params, arrays, f"{name} {attention}")


def block_network(config: dict[str, Any], attention: str) -> Network:
    """The block of a sub-case."""
    sizes = VideoSwinSizes(config["dim"], (1,), (1,), window=tuple(config["window"]), attention=attention)
    return Network(
        lambda rngs: SwinBlock(
            sizes,
            features=config["dim"],
            heads=config["heads"],
            shifted=any(config["shift"]),
            drop_path=0.0,
            rngs=rngs,
        )
    )


def check_block(case: Case, net: Network, params: Params, arrays: dict[str, np.ndarray], name: str) -> None:
    """Output, and gradients of the product with `gy`."""
    x, gy = jnp.asarray(arrays["x"]), jnp.asarray(arrays["gy"])

    @jax.jit
    def run(params: Params, x: jax.Array) -> Any:
        def product(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = net(params, x)
            return (y * gy).sum(), y

        return jax.grad(product, (0, 1), has_aux=True)(params, x)

    (by_params, by_x), y = run(params, x)
    close(case, y, arrays["y"], name)
    close(case, by_x, arrays["gx"], name)
    close(case, by_params["attn"]["relative_position_bias_table"], arrays["g_bias_table"], name)
    close(case, by_params["attn"]["qkv"]["kernel"].T, arrays["g_qkv_w"], name)


@parity("tallformer", "swin_small_full")
def check_swin_small_full(case: Case) -> None:
    """Embedded patches, every stage and the output of a whole network from a file in the Kinetics layout."""
    sizes = sizes_of(case.config)
    net = Network(lambda rngs: VideoSwin(sizes, rngs=rngs))
    params = swin_params(backbone_state(case.weights()))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, net.shapes())
    video = channels_last(case.arrays["x_int8"])
    stages, features = jax.jit(lambda *inputs: (net(*inputs, method="stages"), net(*inputs)))(params, video)
    names = ["patch_embed", *(f"stage{number}" for number in range(1, len(stages)))]
    for name, ours in zip(names, stages, strict=True):
        close(case, ours, np.moveaxis(case.arrays[name], 1, -1), name)
    close(case, features, np.moveaxis(case.arrays["y"], 1, -1))


@parity("tallformer", "chunk_backbone")
def check_chunk_backbone(case: Case) -> None:
    """Videos cut into chunks, chunks given as such, pooled or not, and the two ways to split for memory."""
    arrays, frames = case.arrays, case.config["chunk_size"]
    sizes = sizes_of(case.config)
    net = Network(lambda rngs: VideoSwin(sizes, rngs=rngs))
    params = swin_params(backbone_state(case.weights()))

    def clips(video: jax.Array, **options: Any) -> jax.Array:
        return jax.jit(lambda *inputs: net(*inputs, frames, method="clip_features", **options))(params, video)

    video = channels_last(arrays["batch_x_int8"])
    close(case, clips(video), np.moveaxis(arrays["batch_y_pool"], 1, -1), "clips")
    close(case, clips(video, at_once=2), np.moveaxis(arrays["split_batch_y"], 1, -1), "clips, two at once")
    close(case, clips(video, pool=False), np.moveaxis(arrays["batch_y_nopool"], 1, -1), "clips, not pooled")

    chunks = jnp.moveaxis(jnp.asarray(arrays["chunk_x_int8"] / np.float32(32)), 2, -1)
    features = jax.jit(lambda *inputs: net(*inputs, method="chunk_features"))(params, chunks)
    close(case, features, np.moveaxis(arrays["chunk_y_pool"], 2, -1), "chunks")

    # The original halves the frames of a single video, and pads each half.
    half = video.shape[1] // 2
    halves = jnp.concatenate([clips(video[:1, :half]), clips(video[:1, half:])], axis=1)
    close(case, halves, np.moveaxis(arrays["split_one_y"], 1, -1), "one clip in halves")
    aligned = 2 * arrays["split_one_y_aligned"].shape[-1]
    close(case, clips(video[:1, :aligned], at_once=1), np.moveaxis(arrays["split_one_y_aligned"], 1, -1), "one aligned")
