"""Tables of names for TALLFormer: PyTorch on the left, ours on the right, for every size.

Two kinds of files hold the backbone: those published with Video Swin (Kinetics), whose `state_dict` has the prefix
`backbone.` and a classifier beside it, and snapshots of detectors, flat and with the same prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.mapping import Rule, Table

BACKBONE_PREFIX = "backbone."
BACKBONE_BUFFERS = ("relative_position_index", "attn_mask", "dummy_tensor")
"""Last parts of the names of constants that are stored with the parameters: nothing to convert."""

SWIN_BLOCK = Table(
    [
        Rule("{norm1|norm2}", "{norm1|norm2}", "norm"),
        Rule("attn.{qkv|proj}", "attn/{qkv|proj}", "linear"),
        Rule("attn.relative_position_bias_table", "attn/relative_position_bias_table", "matrix"),
        Rule("mlp.{fc1|fc2}", "mlp/{fc1|fc2}", "linear"),
    ]
)
PATCH_MERGING = Table([Rule("norm", "norm", "norm"), Rule("reduction", "reduction", "linear")])
VIDEO_SWIN = Table(
    [
        Rule("patch_embed.proj", "patch_embed", "video_conv"),
        Rule("patch_embed.norm", "patch_embed/norm", "norm"),
        *SWIN_BLOCK.under("layers.{i}.blocks.{i}.", "layers/{i}/blocks/{i}/"),
        *PATCH_MERGING.under("layers.{i}.downsample.", "layers/{i}/downsample/"),
        Rule("norm", "norm", "norm"),
    ]
)


def backbone_state(file: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The backbone's parameters of a file, by their names without prefix.

    Args:
        file: what the file holds: a state dict, or a dict with the entry `state_dict` (Kinetics files) or `model`
            (2-D Swin). `module.`, `backbone.` and what stands beside the backbone are left out, as are buffers.

    Returns:
        PyTorch key -> array.

    Raises:
        ValueError: there is no Video Swin in the file.
    """
    state = next((file[name] for name in ("state_dict", "model") if name in file), file)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith(BACKBONE_PREFIX) for key in state):
        state = {
            key.removeprefix(BACKBONE_PREFIX): value for key, value in state.items() if key.startswith(BACKBONE_PREFIX)
        }
    if "patch_embed.proj.weight" not in state:
        raise ValueError(f"no Swin Transformer in this file: no patch_embed.proj.weight; first keys: {[*state][:3]}")
    return {key: np.asarray(value) for key, value in state.items() if key.rsplit(".", 1)[-1] not in BACKBONE_BUFFERS}


def inflated(state: Mapping[str, Any], patch_frames: int, window: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """A video backbone from a 2-D Swin Transformer, as published (`inflate_weights` of Video Swin).

    Kernels of patches are spread evenly over the frames of a patch; tables of relative positions are resized to the
    window's height and width, bicubic, and repeated for every distance in time.

    Args:
        state: `backbone_state` of a 2-D file.
        patch_frames: frames of a patch.
        window: time, height and width of the video's windows.

    Returns:
        PyTorch key -> array of the video backbone; what is no table or patch kernel stays as it is.

    Raises:
        ValueError: a table is not that of a square window.
    """
    result = dict(state)
    kernel = np.asarray(state["patch_embed.proj.weight"])
    result["patch_embed.proj.weight"] = np.repeat(kernel[:, :, None], patch_frames, axis=2) / patch_frames
    time, height, width = (2 * extent - 1 for extent in window)
    for key, value in state.items():
        if not key.endswith("relative_position_bias_table"):
            continue
        side = math.isqrt(len(value))
        if side * side != len(value):
            raise ValueError(f"{key} has {len(value)} rows, which is no square: it is not the table of a 2-D window.")
        table = np.asarray(value).reshape(side, side, -1)
        if side * side != height * width:  # a table of as many rows is taken as it is, as published
            table = np.einsum("ij,jkh->ikh", bicubic(side, height), table)
            table = np.einsum("ij,kjh->kih", bicubic(side, width), table)
        table = table.reshape(height * width, -1).astype(np.float32)
        result[key] = np.tile(table, (time, 1))
    return result


def bicubic(length: int, wanted: int) -> np.ndarray:
    """The matrix float64 [wanted, length] that resizes a row as PyTorch does.

    Keys' cubic convolution with a = -0.75, pixel centres, the ends repeated.
    """
    places = (np.arange(wanted) + 0.5) * length / wanted - 0.5
    first = np.floor(places).astype(int)
    matrix = np.zeros((wanted, length))
    for tap in range(-1, 3):
        away = np.abs(places - (first + tap))
        near = (1.25 * away - 2.25) * away**2 + 1
        far = ((-0.75 * away + 3.75) * away - 6) * away + 3
        weights = np.where(away <= 1, near, np.where(away < 2, far, 0))
        np.add.at(matrix, (np.arange(wanted), np.clip(first + tap, 0, length - 1)), weights)
    return matrix
