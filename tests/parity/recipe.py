"""Draws the weights of cases that give a recipe instead of a file: NumPy draws in sorted key order."""

from __future__ import annotations

import fnmatch
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
    if "text" in recipe:
        return _draw_by_text(recipe)
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


_RULE = re.compile(r"'([^']+)' -> ([^;]+)")


def _draw_by_text(recipe: dict[str, Any]) -> dict[str, np.ndarray]:
    """A recipe of SPOT: a seed, shapes, and a text with rules of the form `'*.bias' -> 0.05*z`."""
    said = recipe["text"]
    begin, rules, rest = "for k in sorted(float32 parameter keys", _RULE.findall(said), "everything else -> "
    buffer = re.search(r"int64 buffers '([^']+)' are arange\(max_pos\)\[None\] and consume no random numbers", said)
    if begin not in said or not rules or rest not in said or not buffer:
        raise ValueError(f"unknown recipe: {said!r}")
    rules = [*rules, ("*", said.split(rest)[1].split(";")[0])]
    rng = np.random.default_rng(recipe["seed"])
    weights: dict[str, np.ndarray] = {}
    for key in sorted(recipe["shapes"]):
        shape = tuple(recipe["shapes"][key])
        if fnmatch.fnmatch(key, buffer[1]):
            weights[key] = np.arange(shape[1])[None]
            continue
        z = rng.standard_normal(shape).astype(np.float32)
        formula = next(formula for pattern, formula in rules if fnmatch.fnmatch(key, pattern))
        weights[key] = _apply(formula, z).astype(np.float32)
    return weights


def _value(z: np.ndarray, key: str, rules: dict[str, str]) -> np.ndarray:
    """Applies the first rule whose condition holds to the standard normal draw `z` of the tensor's shape."""
    for condition, formula in rules.items():
        if condition != "unused rule" and _holds(condition, key, z.shape):
            return _apply(formula, z)
    raise ValueError(f"no rule of the recipe covers {key} of shape {z.shape}")


_QUOTED = r'"([^"]+)"'
_CONDITIONS = (  # (what a condition may say, whether it holds for a key and a shape)
    (
        r"(>=)?(\d)-D",
        lambda found, key, shape: len(shape) >= int(found[2]) if found[1] else len(shape) == int(found[2]),
    ),
    (r"(?:shape\[2\]|kernel(?: size)?) ?> ?1", lambda found, key, shape: len(shape) > 2 and shape[2] > 1),
    (_QUOTED + " in key", lambda found, key, shape: found[1] in key),
    (r"key ends with " + _QUOTED, lambda found, key, shape: key.endswith(found[1])),
    (
        rf"key contains (?:(?:any|one) of )?\[?({_QUOTED}(?:(?:, | or |, or ){_QUOTED})*)\]?",
        lambda found, key, shape: any(part in key for part in re.findall(_QUOTED, found[1])),
    ),
)


def _holds(condition: str, key: str, shape: tuple[int, ...]) -> bool:
    """Whether everything that a condition says is true; `other` only refers to the rules before it."""
    rest, holds = condition.replace("'", '"'), True
    for pattern, test in _CONDITIONS:
        while found := re.search(pattern, rest):
            holds &= test(found, key, shape)
            rest = rest.replace(found[0], " ", 1)
    if unknown := set(re.findall(r"\S+", rest)) - {",", "and", "with", "other"}:
        raise ValueError(f"the recipe's condition {condition!r} says {sorted(unknown)}, which is not known here")
    return holds


def _apply(formula: str, z: np.ndarray) -> np.ndarray:
    fan_in = math.prod(z.shape[1:])
    if constant := re.fullmatch(r"(?:(\d+) ?\+ ?)?([0-9.]+)\*z", formula):
        return float(constant[1] or 0) + float(constant[2]) * z
    if formula.replace(" ", "") == "z/sqrt(prod(shape[1:]))":
        return z / math.sqrt(fan_in)
    if formula.startswith("z2 = 0.2*z + z[:,:,0:1]"):
        return (0.2 * z + z[:, :, 0:1]) / math.sqrt(fan_in)
    raise ValueError(f"unknown formula in the recipe: {formula!r}")
