"""Checkpoints that a stage starts from, checked against what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints
from actloc_jax.training.state import TrainState


def from_checkpoint(given: str) -> Callable[[TrainState], TrainState] | None:
    """What puts the parameters of a checkpoint into a fresh state, and into its average; None without a checkpoint.

    Args:
        given: a converted folder or a workdir; "" for none.
    """
    if not given:
        return None

    def start(fresh: TrainState) -> TrainState:
        folder = checkpoints.find_model(given)
        model, _ = checkpoints.load_model(folder)
        params = fitted(model["params"], fresh.params, folder)
        return fresh._replace(params=params, ema=jax.tree.map(jnp.copy, params) if fresh.ema else {})

    return start


def require_stage(meta: dict[str, Any], stage: str, folder: epath.PathLike) -> None:
    """Refuses a checkpoint of another stage.

    Raises:
        ValueError: the checkpoint is not of FuSTAL, or of another stage.
    """
    if (meta["system"], meta["stage"]) != ("fustal", stage):
        raise ValueError(
            f"{folder} is a checkpoint of system {meta['system']!r}, stage {meta['stage']!r}; expected stage {stage!r} "
            "of 'fustal'."
        )


def fitted(params: Any, expected: Any, folder: epath.PathLike) -> Any:
    """`params` as device arrays, if they fit the network.

    Raises:
        ValueError: names or shapes differ; all differences are named, and the width of the features if it is among
            them.
    """
    found, wanted = flatten(params), flatten(expected)
    advice = "set the fields of config.network to those of the checkpoint."
    for path in ("f_embed/kernel", "backbone/embd/00/kernel"):
        if path in found and path in wanted and found[path].shape[1] != wanted[path].shape[1]:
            advice = (
                f"it was trained on features of {found[path].shape[1]} channels, those here have "
                f"{wanted[path].shape[1]}; use the features of its extractor, or another checkpoint."
            )
    return checkpoints.fitted(params, expected, folder, advice)
