"""Tables of names for TALLFormer: PyTorch on the left, ours on the right, for every size.

Two kinds of files hold the backbone: those published with Video Swin (Kinetics), whose `state_dict` has the prefix
`backbone.` and a classifier beside it, and snapshots of detectors, flat and with the same prefix.
"""

from __future__ import annotations

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
