"""Key sets of the published files (TST's README names the files; shapes as its code builds the networks)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from actloc_jax.ops import diffusion

Shapes = dict[str, tuple[int, ...]]


class Sizes(NamedTuple):
    """What decides the shapes of a TST file, and what the whole file counts."""

    classes: int
    encoder_layers: int
    encoder_width: int
    decoder_width: int
    decoder_kernel: int
    inner: int
    entries: int
    parameters: int
    features: int = 2048
    encoder_kernel: int = 5
    decoder_layers: int = 8
    conditions: int = 3
    time: int = 512
    segment: int = 256
    pixel_layers: int = 10


SIZES = {
    "gtea": Sizes(11, 10, 64, 24, 5, 64, 351, 5_347_053),
    "50salads": Sizes(19, 10, 64, 24, 7, 64, 351, 5_364_877),
    "breakfast": Sizes(48, 12, 256, 128, 5, 128, 375, 16_767_297),
}


def diffact_shapes(sizes: Sizes, prefix: str = "") -> Shapes:
    """PyTorch key -> shape of DiffAct's parameters."""
    width, narrow, condition = sizes.encoder_width, sizes.decoder_width, sizes.conditions * sizes.encoder_width
    shapes: Shapes = {"encoder.conv_in": (width, sizes.features, 1), "encoder.conv_out": (sizes.classes, width, 1)}
    shapes |= {f"decoder.time_in.{i}": (sizes.time, sizes.time) for i in range(2)}
    shapes |= {"decoder.conv_in": (narrow, sizes.classes, 1), "decoder.conv_out": (sizes.classes, narrow, 1)}
    shapes |= {"decoder.module.time_proj": (narrow, sizes.time)}
    stacks = (
        ("encoder.encoder.layers", sizes.encoder_layers, width, sizes.encoder_kernel, width),
        ("decoder.module.layers", sizes.decoder_layers, narrow, sizes.decoder_kernel, narrow + condition),
    )
    for name, layers, own, kernel, seen in stacks:
        for i in range(layers):
            shapes |= {
                f"{name}.{i}.conv_block.0": (own, own, kernel),
                f"{name}.{i}.att_linear_q": (own, seen, 1),
                f"{name}.{i}.att_linear_k": (own, seen, 1),
                f"{name}.{i}.att_linear_v": (own, own, 1),
                f"{name}.{i}.ffn_block.0": (own, own, 1),
                f"{name}.{i}.ffn_block.2": (own, own, 1),
            }
    return _with_biases(shapes, prefix)


def refiner_shapes(sizes: Sizes, feature_dim: int, prefix: str = "refiner.") -> Shapes:
    """PyTorch key -> shape of the TST refiner's parameters."""
    inner, half, full, classes = sizes.inner, sizes.segment, 2 * sizes.segment, sizes.classes
    shapes: Shapes = {"feat_down": (inner, feature_dim), "feat_proj": (half, inner)}
    shapes |= {"pixel_decoder.conv_in": (inner, inner, 1), "pixel_decoder.conv_out": (classes, inner, 1)}
    for i in range(sizes.pixel_layers):
        shapes |= {f"pixel_decoder.layers.{i}.conv_dilated": (inner, inner, 3)}
        shapes |= {f"pixel_decoder.layers.{i}.conv_in": (inner, inner, 1)}
    for name, widths in (
        ("pd_proj", (inner, half, half, full)),
        ("pd_proj2", (inner, half, half, full)),
        ("onehot_proj", (classes, 128, 128, half)),
    ):
        shapes |= {f"{name}.layers.{i}": (widths[i + 1], widths[i]) for i in range(3)}
    for name in ("cross_attn", "cross_attn2"):
        shapes |= {f"{name}.{linear}": (full, full) for linear in ("tgt2_linear", "linear1", "linear2")}
        shapes |= {f"{name}.norm{i}": (full,) for i in (1, 2, 3)}
    shapes |= {f"self_attn.linear{i}": (full, full) for i in (1, 2)} | {f"self_attn.norm{i}": (full,) for i in (1, 2)}
    shapes |= {"self_attn.conv_out": (full, full, 1), "self_attn.self_attn.out_proj": (full, full)}
    shapes |= {"class_head": (classes + 1, full), "mask_head": (inner, full)}
    named = _with_biases(shapes, prefix)
    named[f"{prefix}label_embedding.weight"] = (classes, half)
    named[f"{prefix}self_attn.self_attn.in_proj_weight"] = (3 * full, full)
    named[f"{prefix}self_attn.self_attn.in_proj_bias"] = (3 * full,)
    return named


def tst_shapes(sizes: Sizes) -> Shapes:
    """PyTorch key -> shape of a whole TST file, its buffers left out."""
    backbone = diffact_shapes(sizes, "adapter.backbone.")
    return backbone | refiner_shapes(sizes, sizes.conditions * sizes.encoder_width)


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of these shapes, float32."""
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}


def buffers(prefix: str = "", timesteps: int = 1000) -> dict[str, np.ndarray]:
    """The buffers of the diffusion schedule, float64 [timesteps]."""
    return {prefix + name: values for name, values in diffusion.schedule_buffers(timesteps).items()}


def _with_biases(weights: Shapes, prefix: str) -> Shapes:
    return {
        f"{prefix}{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in weights.items()
        for part in ("weight", "bias")
    }
