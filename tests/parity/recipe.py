"""Draws the weights of cases that give a recipe instead of a file: NumPy draws in sorted key order."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from actloc_jax.ops import diffusion


def draw(meta: dict[str, Any]) -> dict[str, np.ndarray]:
    """The state dict described by a case's `weights_recipe` and `weight_keys`.

    Args:
        meta: `case.json` with `weights_recipe` (generator, value rules, multipliers) and `weight_keys` (key -> shape).

    Returns:
        Key -> float32 array in PyTorch's layout; diffusion buffers hold the float64 cosine schedule.

    Raises:
        ValueError: the recipe says something that this function does not know.
    """
    recipe = meta["weights_recipe"]
    seed = re.fullmatch(r"numpy\.random\.default_rng\((\d+)\).*one generator.*", recipe["rng"])
    if not seed:
        raise ValueError(f"unknown generator in the recipe: {recipe['rng']!r}")
    rng = np.random.default_rng(int(seed[1]))
    shapes = meta.get("weight_keys") or recipe["shapes"]
    multipliers = recipe["then_multiply_tensors_with_2_or_more_dims_whose_key_contains"]
    weights: dict[str, np.ndarray] = {}
    for key in sorted(shapes):
        shape = tuple(shapes[key])
        if key.rsplit(".", 1)[-1] in recipe["buffer_names"]:
            weights[key] = diffusion.schedule_buffers(shape[0])[key.rsplit(".", 1)[-1]]
            continue
        value = _value(rng.standard_normal(shape), key, recipe["value"])
        for part, factor in multipliers.items():
            value = value * factor if len(shape) >= 2 and part in key else value
        weights[key] = value.astype(np.float32)
    return {key: weights[key] for key in shapes}


def _value(z: np.ndarray, key: str, rules: dict[str, str]) -> np.ndarray:
    """Applies the first rule whose condition holds to the standard normal draw `z` of the tensor's shape."""
    for condition, formula in rules.items():
        if condition != "unused rule" and _holds(condition, key, z.ndim):
            return _apply(formula, z)
    raise ValueError(f"no rule of the recipe covers {key} of shape {z.shape}")


def _holds(condition: str, key: str, ndim: int) -> bool:
    clauses = re.split(r",\s*|\s+and\s+", condition.removeprefix("other "))
    return all(_clause_holds(clause.strip(), key, ndim) for clause in clauses)


def _clause_holds(clause: str, key: str, ndim: int) -> bool:
    if dims := re.fullmatch(r"(>=)?(\d)-D", clause):
        return ndim >= int(dims[2]) if dims[1] else ndim == int(dims[2])
    if inside := re.fullmatch(r'"([^"]+)" in key|key contains "([^"]+)"', clause):
        return (inside[1] or inside[2]) in key
    if ending := re.fullmatch(r'key ends with "([^"]+)"', clause):
        return key.endswith(ending[1])
    raise ValueError(f"unknown condition in the recipe: {clause!r}")


def _apply(formula: str, z: np.ndarray) -> np.ndarray:
    fan_in = math.prod(z.shape[1:])
    if constant := re.fullmatch(r"(?:(\d+) \+ )?([0-9.]+)\*z", formula):
        return float(constant[1] or 0) + float(constant[2]) * z
    if formula == "z / sqrt(prod(shape[1:]))":
        return z / math.sqrt(fan_in)
    if formula.startswith("z2 = 0.2*z + z[:,:,0:1]"):
        return (0.2 * z + z[:, :, 0:1]) / math.sqrt(fan_in)
    raise ValueError(f"unknown formula in the recipe: {formula!r}")
