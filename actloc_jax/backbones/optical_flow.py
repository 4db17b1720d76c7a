"""Optical flow by name: every way to compute it behind one function.

    flow = optical_flow("tvl1")
    fields = flow(frames)  # uint8 [frames, height, width, 3] to float32 [frames - 1, height, width, 2]

| name | what | needs |
|---|---|---|
| `raft` | a network, on any device (`actloc_jax.backbones.raft`) | converted weights |
| `tvl1` | OpenCV's TV-L1 as a program for any device (`actloc_jax.ops.tvl1`) | nothing |
| `tvl1_opencv` | OpenCV's own, on the processor | `opencv-contrib-python-headless` |
| `dis` | OpenCV's dense inverse search, on the processor: fast, but no published features rest on it | the same |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.typing import DTypeLike

from actloc_jax.backbones import raft
from actloc_jax.ops import flow_fields, tvl1

ALGORITHMS = ("raft", "tvl1", "tvl1_opencv", "dis")

FlowFunction = Callable[[np.ndarray], np.ndarray]
"""Frames uint8 [frames, height, width, 3] RGB, two at least, to flow float32 [frames - 1, height, width, 2] in pixels.

x (to the right) before y (down), from each frame to the next.
"""


def optical_flow(
    algorithm: str,
    *,
    weights: epath.PathLike | None = None,
    at_once: int = 8,
    iterations: int = raft.ITERATIONS,
    padding: str = "sintel",
    unpadded: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> FlowFunction:
    """A function from frames to flow; its compiled programs, one per size of frames, stay with it.

    Args:
        algorithm: one of `ALGORITHMS`.
        weights: the model folder of RAFT.
        at_once: pairs of frames that a device computes at a time; further ones wait, missing ones are filled up.
        iterations: of RAFT.
        padding: how RAFT's frames become multiples of 8, "sintel" or "kitti".
        unpadded: cut RAFT's flow to the size of the frames; otherwise it has that of the padded ones.
        dtype: of RAFT's convolutions.

    Raises:
        FileNotFoundError: no model in `weights`.
        ValueError: an unknown algorithm, RAFT without weights or with those of another model, or a package is missing.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"flow {algorithm!r} is unknown; use one of {', '.join(ALGORITHMS)}.")
    if algorithm in ("tvl1_opencv", "dis"):
        return functools.partial(_by_pairs, _opencv_estimator(algorithm))
    if algorithm == "tvl1":
        return functools.partial(_in_portions, jax.jit(lambda frames: tvl1.flow(tvl1.grey(frames))), at_once)
    if weights is None:
        raise ValueError(
            "flow 'raft' needs weights: convert raft-sintel.pth with python -m convert raft and give its folder, "
            "or take flow by tvl1."
        )
    flow_fields.margins(raft.SMALLEST, raft.SMALLEST, padding)  # an unknown mode is told before any frame is read
    model = raft.load_raft(weights, dtype=dtype)
    options = {"iterations": iterations, "padding": padding, "unpadded": unpadded}
    compiled = jax.jit(functools.partial(raft.flow_of_frames, model.network, **options))
    return functools.partial(_in_portions, functools.partial(compiled, model.params), at_once)


def _in_portions(compute: Callable[[np.ndarray], jax.Array], at_once: int, frames: np.ndarray) -> np.ndarray:
    """Frames in portions of one size, each with the last frame of the one before; the last portion is filled up."""
    _check(frames)
    fields = []
    for start in range(0, len(frames) - 1, at_once):
        portion = frames[start : start + at_once + 1]
        missing = at_once + 1 - len(portion)
        portion = np.concatenate([portion, np.repeat(portion[-1:], missing, axis=0)])
        fields.append(np.asarray(compute(portion))[: at_once - missing])
    return np.concatenate(fields)


def _by_pairs(make_estimator: Callable[[], Any], frames: np.ndarray) -> np.ndarray:
    """OpenCV's estimators, pair after pair."""
    _check(frames)
    greys = np.asarray(tvl1.grey(frames))
    estimator = make_estimator()  # a new one: TV-L1 keeps the number of levels of the smallest frames it ever saw
    return np.stack([estimator.calc(greys[k], greys[k + 1], None) for k in range(len(greys) - 1)])


def _check(frames: np.ndarray) -> None:
    if frames.ndim != 4 or len(frames) < 2 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} {list(frames.shape)}; flow needs uint8 [two or more, height, width, 3]."
        )


def _opencv_estimator(algorithm: str) -> Callable[[], Any]:
    try:
        import cv2
    except ImportError as err:
        raise ValueError(
            f"flow {algorithm!r} needs OpenCV: pip install opencv-contrib-python-headless, or take flow by tvl1."
        ) from err
    if algorithm == "dis":
        return functools.partial(cv2.DISOpticalFlow_create, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if not hasattr(cv2, "optflow"):
        raise ValueError(
            "flow 'tvl1_opencv' needs OpenCV's contrib modules, which the installed OpenCV has not: uninstall "
            "opencv-python and opencv-python-headless, then pip install opencv-contrib-python-headless."
        )
    return cv2.optflow.DualTVL1OpticalFlow_create
