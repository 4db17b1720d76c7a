"""Parity of FuSTAL's student, a TriDet: blocks, points, forward passes, with the ActionFormer variant."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from actloc_jax.backbones.actionformer import ConvAttention, TransformerBlock
from actloc_jax.backbones.detector import Detector, DetectorOutput, DetectorSizes
from actloc_jax.backbones.tridet import ConvBlock, SGPBlock
from actloc_jax.data.grid import Grid
from actloc_jax.layers.detection_heads import ClassHead, OffsetHead, join, join_frames, split
from actloc_jax.layers.functional import Network
from actloc_jax.layers.masked import FrameNorm, Frames, MaskedConv, sinusoids
from actloc_jax.layers.pyramid import FeaturePyramid, IdentityNeck
from actloc_jax.ops import nms
from actloc_jax.systems.fustal.decode import DecodeSettings, decode
from actloc_jax.systems.fustal.points import Points, make_points
from convert import fustal_tables
from convert.mapping import Rule, Table
from tests.parity.harness import Case, parity
from tests.parity.params import params_of, student_params


def channels_last(x: np.ndarray) -> jax.Array:
    return jnp.asarray(np.moveaxis(x, -2, -1))


def channels_first(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, -2)


def close(case: Case, ours: Any, expected: np.ndarray, name: str = "") -> None:
    tolerance = case.meta["tolerance"]
    np.testing.assert_allclose(ours, expected, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=name)


def sizes_of(config: Mapping[str, Any]) -> DetectorSizes:
    """The sizes of a golden case, which gives the original's yaml."""
    model, train = config["model"], config["train_cfg"]
    transformer = config["model_name"] == "LocPointTransformer"
    windows = model["n_mha_win_size"] if transformer else model["n_sgp_win_size"]
    trident = model.get("use_trident_head", False) and not transformer
    layers, stem, branch = model["backbone_arch"]
    return DetectorSizes(
        input_dim=model["input_dim"],
        num_classes=model["num_classes"],
        block="transformer" if transformer else "sgp",
        width=model["embd_dim"],
        neck_width=model["fpn_dim"],
        head_width=model["head_dim"],
        embedding_layers=layers,
        stem_blocks=stem,
        branch_blocks=branch,
        scale=model["scale_factor"],
        embedding_kernel=model["embd_kernel_size"],
        windows=windows if isinstance(windows, int) else tuple(windows),
        sgp_factor=model.get("k", 1.5),
        sgp_hidden=model.get("sgp_mlp_dim", 4 * model["embd_dim"]),
        sgp_pooling=model.get("downsample_type", "max"),
        heads=model.get("n_head", 4),
        position_bias=model.get("use_rel_pe", False),
        position_encoding=model["use_abs_pe"],
        max_length=model["max_seq_len"],
        neck=model["fpn_type"],
        head_layers=model["head_num_layers"],
        head_kernel=model["head_kernel_size"],
        bins=model["num_bins"] if trident else None,
        drop_path=train["droppath"],
        input_noise=model.get("input_noise", 0.0),
        prior=train["cls_prior_prob"],
        empty_classes=tuple(train["head_empty_cls"]),
    )


def table_of(sizes: DetectorSizes) -> Table:
    return fustal_tables.ACTIONFORMER if sizes.block == "transformer" else fustal_tables.TRIDET


def run(build: Callable[[nnx.Rngs], nnx.Module], table: Table, state: Mapping[str, Any], *args: Any) -> Any:
    """The output of a module with the parameters of the original's."""
    return Network(build)(params_of(table, state), *args)


@parity("fustal", "student_blocks")
def check_blocks(case: Case) -> None:
    """Every building block by itself."""
    arrays, blocks = case.arrays, case.weights()
    x, frames = channels_last(arrays["x"]), Frames(jnp.asarray(arrays["mask"][:, 0]))
    width = x.shape[-1]

    def sgp(name: str, factor: float, **options: Any) -> None:
        state = blocks[name]
        window, hidden = state["psi.weight"].shape[-1], len(state["mlp.0.bias"])
        y, after = run(
            lambda rngs: SGPBlock(width, window=window, factor=factor, hidden=hidden, rngs=rngs, **options),
            fustal_tables.SGP_BLOCK, state, x, frames,
        )  # fmt: skip
        close(case, channels_first(y), arrays[name], name)
        np.testing.assert_array_equal(after.valid, arrays[f"{name}_mask"][:, 0])

    sgp("sgp_stem", 5)
    sgp("sgp_stem_k3_15", 1.5)
    sgp("sgp_branch_max", 5, stride=2, drop_path=0.1)
    sgp("sgp_branch_avg", 2, stride=2, drop_path=0.1, pooling="avg")

    for name, stride in (("masked_conv", 1), ("masked_conv_s2", 2)):
        out, _, taps = blocks[name]["conv.weight"].shape
        conv = Network(lambda rngs, o=out, k=taps, s=stride: MaskedConv(width, o, kernel_size=k, stride=s, rngs=rngs))
        params = params_of(Table([Rule("conv", "conv", "conv")]), blocks[name])["conv"]
        close(case, channels_first(conv(params, x, frames)), arrays[name], name)
    np.testing.assert_array_equal(frames.every(2).valid, arrays["masked_conv_s2_mask"][:, 0])
    norm = params_of(Table([Rule("n", "n", "channel_norm")]), {f"n.{k}": v for k, v in blocks["layer_norm"].items()})
    close(case, channels_first(Network(lambda rngs: FrameNorm(width))(norm["n"], x)), arrays["layer_norm"])
    y, after = run(
        lambda rngs: ConvBlock(width, stride=2, rngs=rngs), fustal_tables.CONV_BLOCK, blocks["conv_block"], x, frames
    )
    close(case, channels_first(y), arrays["conv_block"], "conv_block")
    np.testing.assert_array_equal(after.valid, arrays["conv_block_mask"][:, 0])
    np.testing.assert_allclose(sinusoids(*arrays["sinusoid"].shape[:0:-1]), arrays["sinusoid"][0].T, atol=1e-6)
    _check_necks_and_heads(case)
    _check_attention(case, x, frames)


def _check_necks_and_heads(case: Case) -> None:
    arrays, blocks = case.arrays, case.weights()
    levels = sum(name.startswith("pyr_in_") for name in arrays)
    pyramid = [channels_last(arrays[f"pyr_in_{i}"]) for i in range(levels)]
    frames = [Frames(jnp.asarray(arrays[f"pyr_mask_{i}"][:, 0])) for i in range(levels)]
    width = pyramid[0].shape[-1]
    fpn = run(
        lambda rngs: FeaturePyramid(width, width, levels, rngs=rngs), fustal_tables.NECK, blocks["fpn"], pyramid, frames
    )
    identity = run(
        lambda rngs: IdentityNeck(width, levels), fustal_tables.NECK, blocks["fpn_identity"], pyramid, frames
    )
    for i in range(levels):
        close(case, channels_first(fpn[i]), arrays[f"fpn_out_{i}"], f"fpn {i}")
        close(case, channels_first(identity[i]), arrays[f"fpn_identity_out_{i}"], f"identity {i}")

    lengths, gap = [x.shape[1] for x in pyramid], 1
    joined, seen = join(pyramid, gap), join_frames(frames, gap)
    classes = len(arrays["cls_head_init_bias"])
    head = Network(lambda rngs: ClassHead(width, width, classes, rngs=rngs))
    np.testing.assert_allclose(head.init(jax.random.key(0))["cls_head"]["bias"], arrays["cls_head_init_bias"])
    logits = head(params_of(fustal_tables.HEAD, blocks["cls_head"]), joined, seen)
    level = np.concatenate([[0] * gap, *([i] * (n + gap) for i, n in enumerate(lengths))])
    outputs = arrays["reg_out_0"].shape[1]
    offsets = run(
        lambda rngs: OffsetHead(width, width, outputs, num_levels=levels, rngs=rngs),
        fustal_tables.HEAD, blocks["reg_head"], joined, seen, level,
    )  # fmt: skip
    for i, (ours, theirs) in enumerate(zip(split(logits, lengths, gap), split(offsets, lengths, gap), strict=True)):
        close(case, channels_first(ours), arrays[f"cls_out_{i}"], f"classes {i}")
        close(case, channels_first(theirs), arrays[f"reg_out_{i}"], f"offsets {i}")


def _check_attention(case: Case, x: jax.Array, frames: Frames) -> None:
    arrays, blocks, width = case.arrays, case.weights(), x.shape[-1]
    heads = blocks["local_mhca_w5_rel"]["rel_pe"].shape[2]
    window = blocks["local_mhca_w5_rel"]["rel_pe"].shape[3]
    attention = Table([*fustal_tables.ATTENTION.under("attn.", "attn/"), fustal_tables.POSITION_BIAS])
    options = {
        "mhca": {}, "mhca_s2": {"stride": 2}, "local_mhca_w5": {"window": window},
        "local_mhca_w5_rel": {"window": window, "position_bias": True},
    }  # fmt: skip
    for name, chosen in options.items():
        net = Network(lambda rngs, chosen=chosen: ConvAttention(width, heads=heads, rngs=rngs, **chosen))
        params = params_of(attention, {f"attn.{key}": value for key, value in blocks[name].items()})["attn"]
        close(case, channels_first(net(params, x, frames)), arrays[name], name)
    y, _ = run(
        lambda rngs: TransformerBlock(width, heads=heads, window=window, stride=2, drop_path=0.1, rngs=rngs),
        fustal_tables.TRANSFORMER_BLOCK, blocks["transformer_s2_w5"], x, frames,
    )  # fmt: skip
    close(case, channels_first(y), arrays["transformer_s2_w5"], "transformer")


def padded(features: np.ndarray, sizes: DetectorSizes) -> tuple[jax.Array, jax.Array]:
    """One video [channels, time] as the published code pads it: [1, time, channels] and its mask."""
    time = features.shape[1]
    multiple = sizes.length_multiple
    length = sizes.max_length if time <= sizes.max_length else -(-time // multiple) * multiple
    x = np.zeros((1, length, features.shape[0]), np.float32)
    x[0, :time] = features.T
    return jnp.asarray(x), jnp.arange(length)[None] < time


def network_of(case: Case, state: str = "state_dict_ema") -> tuple[DetectorSizes, Network, Any]:
    """Sizes, network and parameters of a case with a whole network."""
    weights = case.weights()[state]
    sizes = sizes_of(case.config)
    return sizes, Network(lambda rngs: Detector(sizes, rngs=rngs)), student_params(weights, table_of(sizes))


class Selection(NamedTuple):
    """Segments [number, 2], scores and labels of one video."""

    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def candidates(output: DetectorOutput, points: Points, config: Mapping[str, Any]) -> Selection:
    """Segments of the first video before suppression, in grid units."""
    test = config["test_cfg"]
    settings = DecodeSettings(test["pre_nms_thresh"], test["pre_nms_topk"], test["duration_thresh"])
    *found, valid = (np.asarray(values[0]) for values in decode(output, points, settings))
    return Selection(*(values[valid] for values in found))


def after_suppression(found: Selection, config: Mapping[str, Any], meta: Mapping[str, float]) -> Selection:
    """What suppression leaves, in seconds."""
    test = config["test_cfg"]
    rule = dataclasses.replace(
        nms.ACTIONFORMER_SOFT, min_score=test["min_score"], sigma=test["nms_sigma"],
        max_per_class=test["max_seg_num"], max_total=test["max_seg_num"],
    )  # fmt: skip
    index, scores = nms.suppress_classes(*found, rule)
    grid = Grid(meta["feat_stride"], meta["feat_num_frames"], meta["fps"])
    seconds = np.clip(grid.to_seconds(found.segments[index]), 0, meta["duration"])
    return Selection(seconds, scores, found.labels[index])


def check_forward(case: Case) -> None:
    """Features, head outputs, candidates and final segments of every video."""
    sizes, net, params = network_of(case)
    arrays = case.arrays
    run = jax.jit(lambda *inputs: (net(*inputs, method="features"), net(*inputs)))
    for video in range(len(case.config["lens"])):
        x, mask = padded(arrays[f"v{video}_feats"], sizes)
        (pyramid, neck, _), output = run(params, x, mask)
        named = {
            "backbone": pyramid, "neck": neck, "cls": output.classes, "off": output.offsets,
            "start": output.starts, "end": output.ends,
        }  # fmt: skip
        for name, expected in arrays.items():
            parts = name.removeprefix(f"v{video}_").split("_")
            if not name.startswith(f"v{video}_") or parts[0] not in named or len(parts) < 2:
                continue
            ours = channels_first(named[parts[0]][int(parts[1])][0])
            close(case, ours[: len(expected)], expected, name)
        for level, of_level in enumerate(output.masks):
            if f"v{video}_mask_{level}" in arrays:
                np.testing.assert_array_equal(of_level[0], arrays[f"v{video}_mask_{level}"])
        _check_segments(case, f"v{video}", sizes, output)


def _check_segments(case: Case, video: str, sizes: DetectorSizes, output: DetectorOutput) -> None:
    """Candidates from the golden's logits, one by one; final segments also from our own."""
    arrays, config = case.arrays, case.config
    ranges = [tuple(each) for each in config["model"]["regression_range"]]
    points = make_points(output.masks[0].shape[1], sizes.strides, ranges)
    stored = {
        name: tuple(channels_last(arrays[f"{video}_{key}_{level}"])[None] for level in range(sizes.levels))
        for name, key in (("classes", "cls"), ("offsets", "off"), ("starts", "start"), ("ends", "end"))
        if f"{video}_{key}_0" in arrays
    }
    found = candidates(output._replace(**stored), points, config)
    np.testing.assert_array_equal(found.labels, arrays[f"{video}_pre_labels"])
    close(case, found.scores, arrays[f"{video}_pre_scores"])
    close(case, found.segments, arrays[f"{video}_pre_segments"])

    for source in (found, candidates(output, points, config)):
        final = after_suppression(source, config, config["meta"])
        np.testing.assert_array_equal(final.labels, arrays[f"{video}_out_labels"])
        close(case, final.scores, arrays[f"{video}_out_scores"])
        np.testing.assert_allclose(final.segments, arrays[f"{video}_out_segments"], rtol=1e-3, atol=2e-3)


for _kind in ("student_forward_small", "student_forward_plain_head", "student_actionformer_variant"):
    parity("fustal", _kind)(check_forward)
