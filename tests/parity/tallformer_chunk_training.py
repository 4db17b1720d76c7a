"""TALLFormer's training on some of the chunks against the original: gradient drop, momentum, ActivityNet's bank."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.video_swin import VideoSwin
from actloc_jax.data import video_chunks
from actloc_jax.layers.functional import Network
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer import chunk_training as training
from convert.tallformer_tables import backbone_state
from tests.parity.harness import Case, parity
from tests.parity.params import swin_params
from tests.parity.tallformer_anchors import channels_of, detector_of
from tests.parity.tallformer_bank import filled
from tests.parity.tallformer_swin import below, channels_last, close, sizes_of


def backbone_of(config: dict[str, Any], *, pool: bool = True) -> tuple[Network, training.Backbone]:
    """The network, and its features of chunks [batch, chunks, ...]."""
    sizes = sizes_of(config)
    net = Network(lambda rngs: VideoSwin(sizes, rngs=rngs))
    return net, functools.partial(net, method="chunk_features", pool=pool)


@parity("tallformer", "graddrop")
def check_graddrop(case: Case) -> None:
    """Features, and gradients of the kept chunks alone: recomputed, kept, and with shifted chunks."""
    arrays, config = case.arrays, case.config
    params = swin_params(backbone_state(case.weights()))
    video, chunk, stride = channels_last(arrays["x_int8"]), config["chunk"], config["base"]["patch_size"][0]
    for name, recompute in (("v1", True), ("v2", False), ("v2shift", False)):
        _, backbone = backbone_of(config["base"], pool=name != "v1")
        moved = f"{name}/pad_l" in arrays
        count = video.shape[1] // chunk + moved
        keep = arrays["keep_shift" if moved else "keep"]
        drop = np.setdiff1d(np.arange(count), keep)
        if config["mode"] == "uniform":  # the case gives no seed for the others
            chosen = video_chunks.choose("uniform", count, config["keep_ratio"], np.random.RandomState(0))
            np.testing.assert_array_equal(chosen[0], keep, err_msg=name)
        shift = int(arrays.get(f"{name}/pad_l", 0))
        gy = np.moveaxis(arrays.get(f"{name}/gy", arrays["v2/gy"]), 1, -1)
        chunks = training.cut(training.shifted(video, shift, chunk) if moved else video, chunk)

        def product(params, chunks, backbone=backbone, chosen=(keep, drop), shift=shift, gy=gy, again=recompute):
            features = training.dropped_gradient(backbone, params, chunks, *map(jnp.array, chosen), recompute=again)
            features = training.unshifted(training.joined(features), shift, gy.shape[1], stride)
            return (features * gy).sum(), features

        gradients, features = jax.jit(jax.grad(product, has_aux=True))(params, chunks)
        close(case, features, np.moveaxis(arrays[f"{name}/y"], 1, -1), name)
        prefix = f"{name}/g/"
        for key in (key for key in arrays if key.startswith(prefix)):
            close(case, _published(gradients, key.removeprefix(prefix)), arrays[key], key)


@parity("tallformer", "momentum_detector")
def check_momentum_detector(case: Case) -> None:
    """Three steps: the detector's first level, and the features for the bank by parameters that follow slowly."""
    arrays, model = case.arrays, case.config["model"]
    state = case.weights()
    _, backbone = backbone_of(model["backbone"])
    params = swin_params(backbone_state(below(state, "backbone")))
    own = {key: value for key, value in state.items() if not key.startswith("m_backbone.")}
    sizes, detector, head, running = detector_of(model, own)
    frames = jnp.asarray(np.moveaxis(arrays["x_int8"] / np.float32(32), 2, -1)).swapaxes(0, 1)
    frozen = jnp.asarray(arrays["frozen"].transpose(1, 0, 3, 2))
    keep, drop = (jnp.tile(jnp.asarray(arrays[name], jnp.int32), (len(frames), 1)) for name in ("keep", "drop"))
    chunks = keep.shape[1] + drop.shape[1]

    @jax.jit
    def step(params, average, running, number):
        features = banks.compose(backbone(params, frames), frozen, keep, drop, chunks)
        output, running = detector.with_statistics(head, running, features, train=True)
        average = training.momentum_update(average, params, model["momentum"], number)
        return output.classes[0], running, average, backbone(average, frames)

    average = jax.tree.map(jnp.zeros_like, params)
    passes = sorted({name.split("/")[0] for name in arrays if "/" in name})
    for number, name in enumerate(passes):
        classes, running, average, features = step(params, average, running, jnp.int32(number))
        close(case, features.transpose(1, 0, 3, 2), arrays[f"{name}/bank_features"], name)
        close(case, channels_of(classes, sizes.anchors), arrays[f"{name}/cls0"], name)
        close(case, _some_qkv(average, arrays[f"{name}/m_qkv"]), arrays[f"{name}/m_qkv"], name)
        params = jax.tree.map(lambda value: value * 1.1, params)


@parity("tallformer", "anet_membank")
def check_anet_membank(case: Case) -> None:
    """Three passes of a whole video through shifted chunks, some computed and some read by the published rules."""
    arrays, config = case.arrays, case.config
    chunk, stride = config["backbone"]["chunk_size"], config["backbone"]["patch_size"][0]
    _, backbone = backbone_of(config["backbone"])
    params = swin_params(backbone_state(case.weights()))
    access, bank = filled(arrays["bank0"], chunk // stride)
    video = channels_last(arrays["x_int8"])
    length = video.shape[1] // stride
    for number, (chosen, shift) in enumerate(zip(config["keep"], config["frame_pad_l"], strict=True)):
        name = f"t{number}"
        chunks = training.cut(training.shifted(video, shift, chunk), chunk)
        count = chunks.shape[1]
        keep = video_chunks.pad_chunks(np.array(chosen), count)[None]
        drop = video_chunks.pad_chunks(np.setdiff1d(np.arange(count), chosen), count)[None]
        computed = jax.jit(backbone)(params, chunks[:, keep[0]])
        video_number = jnp.zeros(1, jnp.int32)
        reads = access.row_numbers(bank, video_number, jnp.asarray(drop), jnp.array([-shift // stride]))
        writes = access.row_numbers(bank, video_number, jnp.asarray(keep), jnp.array([-(shift // stride)]))
        read = access.read(bank, reads, jnp.int32(number))
        bank = access.write(bank, writes, computed, jnp.int32(number), after=read)
        features = banks.compose(computed, read.features, keep, drop, count)
        features = training.unshifted(features, shift, length, stride)
        close(case, np.moveaxis(features, 1, -1), arrays[f"{name}/backbone_feat"], name)
        close(case, bank.rows[: len(arrays["bank0"])], arrays[f"{name}/bank_after"], name)


def _published(gradients: dict[str, Any], key: str) -> np.ndarray:
    """The gradient that the original calls `layers.1.blocks.0.attn.qkv.weight`."""
    node: Any = gradients
    *parents, leaf = key.split(".")
    for name in parents:
        node = node[f"{int(name):02d}" if name.isdigit() else name]
    if leaf == "weight" and "kernel" in node:
        return node["kernel"].T
    return node[{"weight": "scale"}.get(leaf, leaf)]


def _some_qkv(params: dict[str, Any], expected: np.ndarray) -> np.ndarray:
    """The first block's `qkv.weight` of the stage that has this shape."""
    weights = [stage["blocks"]["00"]["attn"]["qkv"]["kernel"].T for stage in params["layers"].values()]
    return next(weight for weight in weights if weight.shape == expected.shape)
