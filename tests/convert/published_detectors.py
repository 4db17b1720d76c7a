"""Key sets of the checkpoints of FuSTAL, TriDet and ActionFormer, as their code names and shapes its arrays."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tests.convert.published import Shapes
from tests.convert.torch_files import state_dict_file

PREFIX = "module."


def generator_shapes(features: int = 2048, width: int = 2048, classes: int = 20) -> Shapes:
    """The generator's three arrays."""
    return {
        "aness_module.f_embed.0.weight": (width, features, 3),
        "aness_module.f_embed.0.bias": (width,),
        "aness_module.f_cls.0.weight": (classes, width, 1),
    }


def tridet_shapes(
    *,
    windows: Sequence[int] = (1, 1, 1, 1, 1),
    wide: Sequence[int] = (11, 11, 11, 11, 11),
    stem_wide: int = 11,
    hidden: int = 768,
    average: bool = False,
    paths: bool = True,
    bins: int | None = 16,
    width: int = 512,
    **sizes: int | bool,
) -> Shapes:
    """TriDet; the defaults are the published sizes. `windows` and `wide` are of the branch, one per level."""
    shapes: Shapes = {}
    for i in range(2):
        shapes |= _sgp(f"backbone.stem.{i}", width, 1, stem_wide, hidden)
    for i, taps in enumerate(zip(windows, wide, strict=True)):
        shapes |= _sgp(f"backbone.branch.{i}", width, *taps, hidden)
        if average:
            shapes |= _conv(f"backbone.branch.{i}.downsample.1", (width, width, 1))
        if paths:
            shapes |= {f"backbone.branch.{i}.drop_path_{kind}.scale": (1, width, 1) for kind in ("out", "mlp")}
    return shapes | _around(width=width, levels=1 + len(windows), bins=bins, **sizes)


def actionformer_shapes(
    *, branch: int = 5, windows: Mapping[str, int] | None = None, heads: int = 4, width: int = 512, **sizes: int | bool
) -> Shapes:
    """ActionFormer; the defaults are the published sizes. `windows` of blocks that have a position bias, by name."""
    shapes: Shapes = {}
    for block in ("stem.0", "stem.1", *(f"branch.{i}" for i in range(branch))):
        name = f"backbone.{block}"
        for part in ("query", "key", "value"):
            shapes[f"{name}.attn.{part}_conv.conv.weight"] = (width, 1, 3)
            shapes |= _norm(f"{name}.attn.{part}_norm", width)
        for part in ("query", "key", "value", "proj"):
            shapes |= _conv(f"{name}.attn.{part}", (width, width, 1))
        shapes |= _conv(f"{name}.mlp.0", (4 * width, width, 1)) | _conv(f"{name}.mlp.3", (width, 4 * width, 1))
        shapes |= _norm(f"{name}.ln1", width) | _norm(f"{name}.ln2", width)
        shapes |= {f"{name}.drop_path_{kind}.scale": (1, width, 1) for kind in ("attn", "mlp")}
        if windows and block in windows:
            shapes[f"{name}.attn.rel_pe"] = (1, 1, heads, windows[block])
    return shapes | _around(width=width, levels=1 + branch, bins=None, **sizes)


def conv_detector_shapes(width: int = 32, **sizes: int | bool) -> Shapes:
    """The residual network of convolutions that both code bases offer instead, with two levels."""
    shapes: Shapes = {}
    for block in ("stem.0", "branch.0"):
        shapes |= _conv(f"backbone.{block}.conv1.conv", (2 * width, width, 3))
        shapes |= _conv(f"backbone.{block}.conv2.conv", (width, 2 * width, 3))
    shapes |= _conv("backbone.branch.0.downsample.conv", (width, width, 1))
    return shapes | _around(width=width, levels=2, bins=None, **sizes)


def student_file(
    path: pathlib.Path,
    average: Mapping[str, np.ndarray] | None,
    raw: Mapping[str, np.ndarray] | None = None,
    *,
    prefix: str = PREFIX,
    epoch: int = 60,
) -> pathlib.Path:
    """`epoch_XXX.pth.tar` as the training scripts write it, with the state of its optimizer and its scheduler.

    Args:
        path: to write.
        average: state dict without prefix, under `state_dict_ema`; None for a file without.
        raw: the same under `state_dict`.
        prefix: put before every key.
        epoch: stored.
    """
    states = {name: state for name, state in (("state_dict", raw), ("state_dict_ema", average)) if state is not None}
    flat = {f"{name}|{prefix}{key}": array for name, state in states.items() for key, array in state.items()}

    def wrap(entries: Mapping[str, object]) -> dict[str, object]:
        found: dict[str, dict[str, object]] = {name: {} for name in states}
        for joined, entry in entries.items():
            name, key = joined.split("|")
            found[name][key] = entry
        moment = next(iter(entries.values()))
        return {
            "epoch": epoch,
            "scheduler": {"base_lrs": [1e-4, 1e-4], "last_epoch": 100, "_step_count": 101, "_last_lr": [1e-4]},
            "optimizer": {
                "state": {0: {"step": 100, "exp_avg": moment}},
                "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
            },
            **found,
        }

    return state_dict_file(path, flat, wrap)


def _sgp(name: str, width: int, window: int, wide: int, hidden: int) -> Shapes:
    shapes = _norm(f"{name}.ln", width) | {f"{name}.gn.{part}": (width,) for part in ("weight", "bias")}
    taps = {"psi": window, "fc": 1, "convw": window, "convkw": wide, "global_fc": 1}
    for part, count in taps.items():
        shapes |= _conv(f"{name}.{part}", (width, 1, count))
    return shapes | _conv(f"{name}.mlp.0", (hidden, width, 1)) | _conv(f"{name}.mlp.2", (width, hidden, 1))


def _around(
    *,
    width: int,
    levels: int,
    bins: int | None,
    features: int = 2048,
    classes: int = 20,
    neck: int = 512,
    head: int = 512,
    head_layers: int = 3,
    kernel: int = 3,
    pyramid: bool = False,
) -> Shapes:
    """What is around the blocks: embedding, neck and heads; a Trident head where there are bins."""
    shapes: Shapes = {"backbone.embd.0.conv.weight": (width, features, kernel)}
    shapes["backbone.embd.1.conv.weight"] = (width, width, kernel)
    shapes |= _norm("backbone.embd_norm.0", width) | _norm("backbone.embd_norm.1", width)
    for level in range(levels):
        shapes |= _norm(f"neck.fpn_norms.{level}", neck)
        shapes[f"reg_head.scale.{level}.scale"] = ()
        if pyramid:
            shapes[f"neck.lateral_convs.{level}.conv.weight"] = (neck, width, 1)
            shapes[f"neck.fpn_convs.{level}.conv.weight"] = (neck, 1, 3)
    outputs = {"cls_head.cls_head": classes, "reg_head.offset_head": 2 if bins is None else 2 * (bins + 1)}
    if bins is not None:
        outputs |= {"start_head.cls_head": classes, "end_head.cls_head": classes}
    for name, channels in outputs.items():
        trunk = name.split(".")[0]
        for layer in range(head_layers - 1):
            shapes[f"{trunk}.head.{layer}.conv.weight"] = (head, head if layer else neck, kernel)
            shapes |= _norm(f"{trunk}.norm.{layer}", head)
        shapes |= _conv(f"{name}.conv", (channels, head if head_layers > 1 else neck, kernel))
    return shapes


def _conv(name: str, shape: tuple[int, int, int]) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (1, width, 1), f"{name}.bias": (1, width, 1)}
