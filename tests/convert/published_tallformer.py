"""Key sets of Video Swin and of TALLFormer's snapshots, as their code names and shapes its arrays, buffers included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tests.convert.published import Shapes

AFSD = "coarse_pyramid_detection."
INTEGERS = ("relative_position_index", "num_batches_tracked")


class Swin(NamedTuple):
    """Sizes of a backbone; the defaults are Swin-B's."""

    width: int = 128
    depths: Sequence[int] = (2, 2, 18, 2)
    heads: Sequence[int] = (4, 8, 16, 32)
    window: Sequence[int] = (8, 7, 7)
    patch: Sequence[int] = (2, 4, 4)


SMALL_SWIN = Swin(4, (2, 1), (1, 2), (2, 3, 3))


def swin_shapes(sizes: Swin = SMALL_SWIN, prefix: str = "", *, dummies: bool = True) -> Shapes:
    """A backbone: with `dummies` as in snapshots of detectors, else as in Kinetics files. Windows may have two axes."""
    tokens, rows = np.prod(sizes.window), np.prod([2 * extent - 1 for extent in sizes.window])
    kernel = sizes.patch[-len(sizes.window) :]
    shapes: Shapes = {"patch_embed.proj.weight": (sizes.width, 3, *kernel), "patch_embed.proj.bias": (sizes.width,)}
    shapes |= _norm("patch_embed.norm", sizes.width)
    for stage, (depth, heads) in enumerate(zip(sizes.depths, sizes.heads, strict=True)):
        width = sizes.width * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shapes |= {f"{name}.dummy_tensor": (1,)} if dummies else {}
            shapes |= _attention_block(name, width, (int(rows), heads), int(tokens))
        if stage < len(sizes.depths) - 1:
            shapes |= _norm(f"layers.{stage}.downsample.norm", 4 * width)
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
    shapes |= _norm("norm", sizes.width * 2 ** (len(sizes.depths) - 1))
    return {prefix + key: shape for key, shape in shapes.items()}


def thumos_shapes(
    swin: Swin = SMALL_SWIN, *, width: int = 8, pyramid: int = 6, heads: int = 2, layers: int = 1, length: int = 4,
    levels: int = 5, classes: int = 3, anchors: int = 5, head_layers: int = 2,
) -> Shapes:  # fmt: skip
    """A snapshot of the detector with anchors; every table of distances is made for `length` rows."""
    shapes = swin_shapes(swin, "backbone.")
    shapes |= _reduction("neck.0", swin, width)
    for layer in range(layers):
        shapes |= _attention_block(f"neck.1.encoder.layers.{layer}", width, (2 * length - 1, heads), length)
    shapes["neck.2.pe.pe"] = (5000, 1, width)
    for level in range(levels - 1):
        shapes[f"neck.2.reductions.{level}.0.weight"] = (width, 2 * width)
        shapes |= _norm(f"neck.2.reductions.{level}.1", width)
        name = f"neck.2.trans_layers.{level}"
        shapes |= {
            f"{name}.self_attn.in_proj_weight": (3 * width, width),
            f"{name}.self_attn.in_proj_bias": (3 * width,),
        }
        shapes |= _linear(f"{name}.self_attn.out_proj", width, width)
        shapes |= _linear(f"{name}.linear1", 4 * width, width) | _linear(f"{name}.linear2", width, 4 * width)
        shapes |= _norm(f"{name}.norm1", width) | _norm(f"{name}.norm2", width)
    for level in range(levels):
        shapes |= _conv_batch_norm(f"neck.3.lateral_convs.{level}", (pyramid, width, 1))
        shapes |= _conv_batch_norm(f"neck.3.fpn_convs.{level}", (pyramid, pyramid, 3))
    for layer in range(head_layers):
        for tower in ("cls_convs", "reg_convs"):
            shapes |= _conv_batch_norm(f"head.{tower}.{layer}", (pyramid, pyramid, 3))
    shapes |= _linear("head.retina_cls", anchors * classes, pyramid, 3)
    return shapes | _linear("head.retina_reg", anchors * 2, pyramid, 3)


def anet_shapes(
    swin: Swin = SMALL_SWIN, *, width: int = 32, heads: int = 2, layers: int = 1, length: int = 8, levels: int = 3,
    classes: int = 3,
) -> Shapes:  # fmt: skip
    """A snapshot of the detector without anchors; `classes` without background."""
    shapes = _reduction("pyramids.0", swin, width)
    for layer in range(layers):
        shapes |= _attention_block(f"pyramids.1.encoder.layers.{layer}", width, (2 * length - 1, heads), length)
    for level in range(1, levels):
        shapes |= _conv_group_norm(f"pyramids.2.layer{level}.0", (width, width, 3))
    for level in range(levels):
        shapes |= _conv_group_norm(f"pyramids.3.lateral_convs.{level}", (width, width, 1))
        shapes |= _conv_group_norm(f"pyramids.3.fpn_convs.{level}", (width, width, 3))
        shapes[f"loc_heads.{level}.scale"] = (1,)
    shapes |= _linear("action_head.cls", classes + 1, swin.width * 2 ** (len(swin.depths) - 1))
    for kind in ("loc", "conf"):
        for layer in range(2):
            shapes |= _unit(f"{kind}_tower.{layer}", (width, width, 3))
        branch = f"{kind}_proposal_branch"
        shapes |= _unit(f"{branch}.cur_point_conv", (width, width, 1)) | _unit(f"{branch}.roi_conv", (width, width, 1))
        shapes |= _unit(f"{branch}.lr_conv", (2 * width, width, 1))
        shapes |= _unit(f"{branch}.proposal_conv", (width, 4 * width, 1))
    for name, shape in (("loc_head", (2, width, 3)), ("conf_head", (2, width, 3)), ("center_head", (1, width, 3)),
                        ("prop_loc_head", (2, width, 1)), ("prop_conf_head", (2, width, 1))):  # fmt: skip
        shapes |= _linear(f"{name}.conv1d", *shape)
    for number, taps in ((0, 3), (3, 3), (6, 1)):
        shapes |= _linear(f"deconv.{number}.conv1d", width, width, taps) | _norm(f"deconv.{number + 1}", width)
    return {AFSD + key: shape for key, shape in shapes.items()} | swin_shapes(swin, "backbone.")


def filled(shapes: Shapes, window: Sequence[int] = SMALL_SWIN.window, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of these shapes: random parameters and counters, and the buffers that PyTorch would have stored.

    The sinusoids are computed in float32, as the original computes them: not bit by bit ours.
    """
    rng = np.random.default_rng(seed)
    makers = {
        "relative_position_index": lambda shape: pair_index(window if shape[0] == np.prod(window) else shape[:1]),
        "num_batches_tracked": lambda shape: np.int64(rng.integers(1, 10_000)).reshape(()),
        "dummy_tensor": lambda shape: np.ones(shape, np.float32),
        "running_var": lambda shape: rng.uniform(0.5, 2, shape).astype(np.float32),
        "pe": lambda shape: float32_sinusoids(shape[0], shape[2])[:, None],
    }

    def array(key: str, shape: tuple[int, ...]) -> np.ndarray:
        make = makers.get(key.rsplit(".", 1)[-1], lambda shape: rng.standard_normal(shape, np.float32))
        return make(shape)

    return {key: array(key, shape) for key, shape in shapes.items()}


def pair_index(window: Sequence[int]) -> np.ndarray:
    """int64 [tokens, tokens], queries first; computed as Swin's code does it."""
    places = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij")).reshape(len(window), -1)
    apart = places[:, :, None] - places[:, None, :]
    index = np.zeros(apart.shape[1:], np.int64)
    for axis, extent in enumerate(window):
        index = index * (2 * extent - 1) + apart[axis] + extent - 1
    return index


def float32_sinusoids(positions: int, width: int) -> np.ndarray:
    """float32 [positions, width]; angles are rounded to float32, too."""
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000.0) / width))
    angles = np.arange(positions, dtype=np.float32)[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(positions, width)


def parameter_count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Scalars of all arrays that are neither buffers nor running statistics."""
    others = (*INTEGERS, "dummy_tensor", "pe", "running_mean", "running_var")
    return sum(int(np.prod(shape)) for key, shape in shapes.items() if key.rsplit(".", 1)[-1] not in others)


def _attention_block(name: str, width: int, table: tuple[int, int], tokens: int) -> Shapes:
    return {
        **_norm(f"{name}.norm1", width),
        f"{name}.attn.relative_position_bias_table": table,
        f"{name}.attn.relative_position_index": (tokens, tokens),
        **_linear(f"{name}.attn.qkv", 3 * width, width),
        **_linear(f"{name}.attn.proj", width, width),
        **_norm(f"{name}.norm2", width),
        **_linear(f"{name}.mlp.fc1", 4 * width, width),
        **_linear(f"{name}.mlp.fc2", width, 4 * width),
    }


def _reduction(name: str, swin: Swin, width: int) -> Shapes:
    features = swin.width * 2 ** (len(swin.depths) - 1)
    return _linear(f"{name}.conv1", width, features, 3) | _linear(f"{name}.conv2", width, width, 3)


def _linear(name: str, outputs: int, *rest: int) -> Shapes:
    return {f"{name}.weight": (outputs, *rest), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv_batch_norm(name: str, shape: tuple[int, int, int]) -> Shapes:
    statistics = {f"{name}.bn.{part}": shape[:1] for part in ("running_mean", "running_var")}
    counter: Shapes = {f"{name}.bn.num_batches_tracked": ()}
    return {f"{name}.conv.weight": shape} | _norm(f"{name}.bn", shape[0]) | statistics | counter


def _conv_group_norm(name: str, shape: tuple[int, int, int]) -> Shapes:
    return {f"{name}.conv.weight": shape} | _norm(f"{name}.gn", shape[0])


def _unit(name: str, shape: tuple[int, int, int]) -> Shapes:
    return _linear(f"{name}.0.conv1d", *shape) | _norm(f"{name}.1", shape[0])
