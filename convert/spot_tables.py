"""Table of names for SPOT: PyTorch on the left, ours on the right, for every size; and the sizes of a file.

All four kinds of published files (after pre-training and after fine-tuning, the last and the best) hold the same keys,
with the prefix `module.`; those after pre-training also hold the optimizer's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.mapping import Rule, Table

PREFIX = "module."
BUFFERS = ("embedding.pos_enc.position_ids", "clip_trans.pos_enc.position_ids")
"""Numbers 0, 1, 2, ...: nothing to convert."""

SPOT = Table(
    [
        Rule("{embedding|clip_trans}.pos_enc.pe", "{embedding|clip_trans}/positions", "embedding"),
        Rule("{embedding|clip_trans}.{w_qs|w_ks|w_vs|fc}", "{embedding|clip_trans}/{w_qs|w_ks|w_vs|fc}", "linear"),
        Rule("{embedding|clip_trans}.layer_norm", "{embedding|clip_trans}/layer_norm", "norm"),
        Rule("classifier.0", "classifier", "pointwise"),
        Rule("clip_order.0", "clip_order", "conv"),
        Rule("clip_order_linear", "clip_order_linear", "linear"),
        Rule("global_mask.0", "mask_hidden", "conv"),
        Rule("global_mask.2", "mask_out", "pointwise"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a network, as `actloc_jax.systems.spot.network.Spot` takes them."""

    input_dim: int
    num_classes: int
    time: int
    heads: int
    mask_width: int
    num_positions: int


def without_prefix(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state dict without the prefix `module.`, where it has one, and without buffers."""
    named = {key.removeprefix(PREFIX): value for key, value in state.items()}
    return {key: value for key, value in named.items() if key not in BUFFERS}


def is_optional(key: str) -> bool:
    """Whether detection works without this key: the branch for the order of halves, and position tables."""
    return key.startswith("clip_") or ".pos_enc." in key


def sizes(state: Mapping[str, Any]) -> Sizes:
    """The sizes of a network from the shapes of its state dict, `without_prefix`.

    The number of positions of a file without them is the number of snippets.

    Raises:
        ValueError: a key is missing that every file of SPOT has.
    """
    needed = ("classifier.0.weight", "embedding.w_qs.weight", "global_mask.0.weight", "global_mask.2.weight")
    if missing := [key for key in needed if key not in state]:
        raise ValueError(f"not a state dict of SPOT: it has no {', '.join(missing)}; the first keys are {[*state][:3]}")
    shapes = [np.shape(state[key]) for key in needed]
    (outputs, channels, *_), (queries, _), (width, *_), (time, *_) = shapes
    table = state.get("clip_trans.pos_enc.pe.weight")
    return Sizes(
        input_dim=channels,
        num_classes=outputs - 1,
        time=time,
        heads=queries // channels,
        mask_width=width,
        num_positions=time if table is None else len(table),
    )
