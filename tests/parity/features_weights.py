"""Weights of the feature networks in the golden cases, drawn by the recipe that the cases give."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

RULES = (
    'walk the keys in Python-sorted order with the PyTorch shapes of "shapes"; keys ending in num_batches_tracked draw '
    "nothing (int64 zero). For every other key draw z = rng.standard_normal(shape) (float64), then: *.running_mean -> "
    "0.1*z; *.running_var -> exp(0.2*z); other 1-D keys ending in weight (norm scale) -> 1 + 0.1*z; other 1-D keys "
    "(biases, norm shifts) -> 0.05*z; tensors with >= 2 dims -> z * sqrt(gain/prod(shape[1:])). Multiply by the factor "
    'of the first matching entry of "multipliers" (regular expression searched in the key; none matches: 1). Cast to '
    "float32 last."
)
COPIES = "Finally copy every X.downsample.1.Y onto X.norm3.Y"


def drawn(recipe: dict[str, Any]) -> dict[str, np.ndarray]:
    """The state dict of a recipe with `seed`, `gain`, `multipliers`, `shapes` and the rules in `text`.

    Returns:
        PyTorch key -> array in PyTorch's layout, in the order of `shapes`, counters of batch norms included.

    Raises:
        ValueError: the text gives other rules.
    """
    if RULES not in recipe["text"]:
        raise ValueError(f"unknown recipe: {recipe['text']!r}")
    rng, state = np.random.default_rng(recipe["seed"]), {}
    for key in sorted(recipe["shapes"]):
        shape = tuple(recipe["shapes"][key])
        if key.endswith("num_batches_tracked"):
            state[key] = np.zeros(shape, np.int64)
            continue
        factors = (factor for pattern, factor in recipe["multipliers"] if re.search(pattern, key))
        state[key] = (_value(key, rng.standard_normal(shape), recipe["gain"]) * next(factors, 1)).astype(np.float32)
    if COPIES in recipe["text"]:
        twice = {key: key.replace(".downsample.1.", ".norm3.") for key in state if ".downsample.1." in key}
        state |= {twin: state[key] for key, twin in twice.items() if twin in state}
    return {key: state[key] for key in recipe["shapes"]}


def _value(key: str, z: np.ndarray, gain: float) -> np.ndarray:
    if z.ndim >= 2:
        return z * math.sqrt(gain / math.prod(z.shape[1:]))
    if key.endswith(".running_mean"):
        return 0.1 * z
    if key.endswith(".running_var"):
        return np.exp(0.2 * z)
    return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z
