"""Table of names for SPOT: PyTorch on the left, ours on the right, for every size; and the sizes of a file.

All four kinds of published files (after pre-training and after fine-tuning, the last and the best) hold the same keys,
with the prefix `module.`; those after pre-training also hold the optimizer's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.mapping import Rule, Table, shape_text

PREFIX = "module."
BUFFERS = ("embedding.pos_enc.position_ids", "clip_trans.pos_enc.position_ids")
"""Numbers 0, 1, 2, ...: nothing to convert."""

TELLING = {
    "classifier.0.weight": 3, "embedding.w_qs.weight": 2, "global_mask.0.weight": 3, "global_mask.2.weight": 3,
}  # fmt: skip
"""The arrays that tell the sizes, and how many axes they have."""

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


def num_positions(state: Mapping[str, Any]) -> int | None:
    """Rows of the position tables, from the first array that tells it, keys without prefix; None if none does."""
    for name in ("clip_trans", "embedding"):
        for key, axis in ((f"{name}.pos_enc.pe.weight", 0), (f"{name}.pos_enc.position_ids", 1)):
            if key in state and len(np.shape(state[key])) == 2:
                return np.shape(state[key])[axis]
    return None


def sizes(state: Mapping[str, Any]) -> Sizes:
    """The sizes of a network from the shapes of its state dict, keys without prefix.

    The number of positions of a file without them is the number of snippets.

    Raises:
        ValueError: an array that tells a size is missing or has other axes, or two contradict each other.
    """
    if missing := [key for key in TELLING if key not in state]:
        raise ValueError(
            f"not a whole state dict of SPOT: it has no {', '.join(missing)}; the first keys are {[*state][:3]}"
        )
    shapes = {key: np.shape(state[key]) for key in TELLING}
    for key, axes in TELLING.items():
        if len(shapes[key]) != axes or 0 in shapes[key]:
            raise ValueError(f"{key} has the shape {shape_text(shapes[key])}; expected {axes} axes, none of them empty")
    outputs, channels, _ = shapes["classifier.0.weight"]
    if outputs < 2:
        raise ValueError("classifier.0.weight has one row; expected one for each class and one for background")
    queries = shapes["embedding.w_qs.weight"][0]
    if queries % channels:
        raise ValueError(
            f"embedding.w_qs.weight has {queries} rows; expected as many as classifier.0.weight has channels, "
            f"{channels}, for each head"
        )
    time, positions = shapes["global_mask.2.weight"][0], num_positions(state)
    if positions is not None and positions < time:
        raise ValueError(f"global_mask.2.weight has {time} rows, one for each snippet; there are {positions} positions")
    return Sizes(
        input_dim=channels,
        num_classes=outputs - 1,
        time=time,
        heads=queries // channels,
        mask_width=shapes["global_mask.0.weight"][0],
        num_positions=positions or time,
    )
