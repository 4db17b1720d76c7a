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
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from actloc_jax.backbones import raft
from actloc_jax.layers.functional import Params
from actloc_jax.ops import flow_fields, tvl1
from actloc_jax.training import sharding

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
        at_once: pairs of frames that this process's devices compute at a time; further ones wait, missing ones are
            filled up.
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
        return _OnDevices(lambda _, frames: tvl1.flow(tvl1.grey(frames)), {}, at_once)
    if weights is None:
        raise ValueError(
            "flow 'raft' needs weights: convert raft-sintel.pth with python -m convert raft and give its folder, "
            "or take flow by tvl1."
        )
    flow_fields.margins(raft.SMALLEST, raft.SMALLEST, padding)  # an unknown mode is told before any frame is read
    model = raft.load_raft(weights, dtype=dtype)
    options = {"iterations": iterations, "padding": padding, "unpadded": unpadded}
    return _OnDevices(functools.partial(raft.flow_of_frames, model.network, **options), model.params, at_once)


class _OnDevices:
    """Computes frames in portions of one size, one on each device of this process; compiled once per size of frames.

    Args:
        compute: parameters and frames [frames, height, width, 3] to flow [frames - 1, height, width, 2].
        params: of `compute`.
        at_once: pairs that all devices compute at a time.
    """

    def __init__(self, compute: Callable[[Params, jax.Array], jax.Array], params: Params, at_once: int) -> None:
        mesh = sharding.make_mesh(devices=jax.local_devices())
        self._devices = mesh.shape["data"]
        self._pairs = max(at_once // self._devices, 1)
        self._sharding = sharding.batch_sharding(mesh)
        self._params = jax.device_put(params, sharding.replicated(mesh))

        def each(params: Params, portions: jax.Array) -> jax.Array:
            return compute(params, portions[0])[None]

        # Every device loops as often as its own frames need.
        specs = {"in_specs": (P(), P("data")), "out_specs": P("data"), "check_vma": False}
        self._compute = jax.jit(jax.shard_map(each, mesh=mesh, **specs))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """`FlowFunction`. The last frame of a portion is the first one of the next; the last portions are filled up."""
        _check(frames)
        last, step, fields = len(frames) - 1, self._devices * self._pairs, []
        for start in range(0, last, step):
            begins = np.arange(start, start + step, self._pairs)
            numbers = np.minimum(begins[:, None] + np.arange(self._pairs + 1), last)
            found = self._compute(self._params, jax.device_put(frames[numbers], self._sharding))
            fields.append(np.asarray(found).reshape(step, *found.shape[2:])[: last - start])
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
