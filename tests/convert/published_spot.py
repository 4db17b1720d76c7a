"""Key sets of SPOT's checkpoints, as its code names and shapes its arrays."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from tests.convert.published import Shapes
from tests.convert.torch_files import state_dict_file

PREFIX = "module."


def spot_shapes(
    *, channels: int = 400, classes: int = 200, time: int = 100, heads: int = 4, mask: int = 256, positions: int = 400
) -> Shapes:
    """All parameters without prefix; the defaults are the published sizes."""
    shapes: Shapes = {}
    for name in ("embedding", "clip_trans"):
        shapes[f"{name}.pos_enc.pe.weight"] = (positions, channels)
        shapes |= {f"{name}.{part}.weight": (heads * channels, channels) for part in ("w_qs", "w_ks", "w_vs")}
        shapes |= {f"{name}.fc.weight": (channels, heads * channels), f"{name}.fc.bias": (channels,)}
        shapes |= {f"{name}.layer_norm.{part}": (channels,) for part in ("weight", "bias")}
    return shapes | {
        "classifier.0.weight": (classes + 1, channels, 1),
        "classifier.0.bias": (classes + 1,),
        "clip_order.0.weight": (1, channels, 3),
        "clip_order.0.bias": (1,),
        "clip_order_linear.weight": (2, time),
        "clip_order_linear.bias": (2,),
        "global_mask.0.weight": (mask, channels, 3),
        "global_mask.0.bias": (mask,),
        "global_mask.2.weight": (time, mask, 1),
    }


def with_buffers(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict with its two tables of positions numbered, as every published file has them."""
    rows = len(state["embedding.pos_enc.pe.weight"])
    return {f"{name}.pos_enc.position_ids": np.arange(rows)[None] for name in ("embedding", "clip_trans")} | dict(state)


def spot_file(
    path: pathlib.Path, state: Mapping[str, np.ndarray], *, prefix: str = PREFIX, optimizer: bool = False
) -> pathlib.Path:
    """A checkpoint as the training script writes it: epoch, state dict and, after pre-training, Adam's state."""

    def wrap(entries: Mapping[str, object]) -> dict[str, object]:
        wrapper: dict[str, object] = {"epoch": 25, "state_dict": entries}
        if optimizer:
            moment = next(iter(entries.values()))
            group = {"lr": 4e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.005, "params": [0]}
            wrapper["optimizer"] = {
                "state": {0: {"step": 300, "exp_avg": moment, "exp_avg_sq": moment}},
                "param_groups": [group],
            }
        return wrapper

    return state_dict_file(path, {prefix + key: array for key, array in state.items()}, wrap)
