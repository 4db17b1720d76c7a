"""Constants that TALLFormer's files hold beside the parameters: checked on the way in, written again on the way back.

Indices of relative positions, sinusoids, ones without a meaning (`dummy_tensor`), and the counters of batch norms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from actloc_jax.layers.masked import sinusoids
from actloc_jax.ops.video_windows import Triple, relative_positions
from convert.mapping import shape_text
from convert.tallformer_config import INDEX, TABLE, Kind, Shapes

POSITIONS = 5000  # rows of the table of sinusoids
SINUSOIDS = "neck.2.pe.pe"
FLOAT32_ANGLES = 1e-3  # by so much sines of float32 angles up to 5000 are off
COUNTER = "num_batches_tracked"


class Compared(NamedTuple):
    """The buffers of a file beside those that its network has.

    Attributes:
        found: names of those that the file has.
        problems: one line per buffer that holds something else.
        kept: those that are not bit by bit what would be written for a model trained here.
        types: names of the types of half precision among `kept`, which are float32 there.
        absent: names of those that the file lacks.
    """

    found: list[str]
    problems: list[str]
    kept: dict[str, np.ndarray]
    types: dict[str, str]
    absent: list[str]


def published(kind: Kind, prefix: str, shapes: Shapes, window: Triple) -> dict[str, np.ndarray]:
    """The buffers of a network as the original stores them; counters are at 0.

    Args:
        kind: of the file.
        prefix: of its keys.
        shapes: PyTorch key with prefix -> shape, of all parameters and running statistics.
        window: of the backbone.
    """
    of_backbone = relative_positions(window, math.prod(window)).astype(np.int64)
    below = re.escape(prefix) + (r"(m_)?backbone\." if kind.detector else "")
    found = {}
    for key, shape in shapes.items():
        parent, _, name = key.rpartition(".")
        if key.endswith(TABLE):
            is_spatial = re.match(below + r"layers\.", key)
            found[key.removesuffix(TABLE) + INDEX] = of_backbone if is_spatial else _distances((shape[0] + 1) // 2)
        elif name == "running_mean":
            found[f"{parent}.{COUNTER}"] = np.zeros((), np.int64)
        elif re.fullmatch(below + r"layers\.\d+\.blocks\.\d+\.norm1\.weight", key):
            found[key.removesuffix("norm1.weight") + "dummy_tensor"] = np.ones(1, np.float32)
    reduction = shapes.get(f"{prefix}neck.2.reductions.0.1.weight")
    if reduction:
        found[prefix + SINUSOIDS] = sinusoids(POSITIONS, reduction[0])[:, None]
    return found


def compared(state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Compared:
    """Compares the buffers of a file, a state dict, with those of its network."""
    result = Compared([], [], {}, {}, [])
    for key, wanted in expected.items():
        if key not in state:
            result.absent.append(key)
            continue
        array = state[key]
        result.found.append(key)
        if array.shape != wanted.shape:
            result.problems.append(f"misshapen  {key} {shape_text(array.shape)}, expected {shape_text(wanted.shape)}")
        elif not _is_alike(key, array, wanted):
            result.problems.append(f"unknown    {key} holds other numbers than the published network")
        elif array.dtype != wanted.dtype or array.tobytes() != wanted.tobytes():
            if array.dtype.name in ("float16", "bfloat16"):
                result.types[key] = array.dtype.name
                array = array.astype(np.float32)
            result.kept[key] = array
    return result


def _is_alike(key: str, array: np.ndarray, wanted: np.ndarray) -> bool:
    if key.endswith(COUNTER):
        return True
    tolerance = FLOAT32_ANGLES if key.endswith(SINUSOIDS) else 0
    return np.allclose(array.astype(np.float64), wanted, rtol=0, atol=tolerance)


def _distances(length: int) -> np.ndarray:
    """The index of a one-dimensional table: int64 [length, length], queries first."""
    return np.arange(length)[:, None] - np.arange(length) + length - 1
