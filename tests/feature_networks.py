"""Feature networks for tests: quick ones that can be computed by hand, and small I3Ds as checkpoints."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax import extract
from actloc_jax.backbones.feature_pass import StreamNetwork
from actloc_jax.backbones.i3d import PORTS, STREAMS, SYSTEM, I3DSizes, i3d_network
from actloc_jax.extract import Networks
from actloc_jax.training import checkpoints
from actloc_jax.workdirs import FEATURE_STAGE

NETWORKS = Networks(rgb="rgb", flow="flow", raft="raft")
"""The names that `StandIns` answers to."""

DIVISOR = 16
CHANNELS = 1024 // DIVISOR
"""Of the features of one stream of a small I3D."""


def summary(params: dict, windows: jax.Array, *, channels: int = 3) -> jax.Array:
    """A network that can be computed by hand: [batch, channels], means of a window, its first and its last picture."""
    first, last = windows[:, 0, :100, :100, 0], windows[:, -1, 60:, 30:, 1]
    parts = windows.mean(axis=(1, 2, 3, 4)), first.mean(axis=(1, 2)), last.mean(axis=(1, 2))
    return params["scale"] * jnp.tile(jnp.stack(parts, axis=1), (1, -(-channels // 3)))[:, :channels]


class StandIns:
    """Networks and optical flow that are quick and count what they are asked for, in place of the real ones.

    Args:
        patch: puts them there for a test.
        channels: of the features of one stream.

    Attributes:
        pairs: how often the flow of each pair of frames was computed.
        loaded: networks that were read.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, channels: int = 3) -> None:
        self.pairs: collections.Counter[bytes] = collections.Counter()
        self.loaded, self._channels = 0, channels
        patch.setattr(extract, "load_stream", self._load)
        patch.setattr(extract, "facts_of", lambda folder: {"system": "i3d", "sha256": folder})
        patch.setattr(extract, "optical_flow", lambda algorithm, **options: self.flow)

    def _load(self, folder: str, stream: str) -> StreamNetwork:
        assert folder == stream, "the names in NETWORKS are those of the streams"
        self.loaded += 1
        compute = functools.partial(summary, channels=self._channels)
        return StreamNetwork(compute, {"scale": jnp.float32(1)}, self._channels)

    def flow(self, frames: np.ndarray) -> np.ndarray:
        """Half the difference of the colours, as if it were motion."""
        for first, second in itertools.pairwise(frames):
            self.pairs[first.tobytes() + second.tobytes()] += 1
        colours = frames.astype(np.float32)
        return (colours[1:] - colours[:-1])[..., :2] / 2


def write_i3d(folder: pathlib.Path, stream: str, *, port: str = "pytorch-i3d", seed: int = 0) -> str:
    """Writes a network with random weights; returns its folder as a flag has it."""
    in_channels = next(number for number, name in STREAMS.items() if name == stream)
    sizes = I3DSizes(in_channels, 10, *PORTS[port], divisor=DIVISOR)
    network = i3d_network(sizes)
    meta = {
        "system": SYSTEM, "stage": FEATURE_STAGE, "stage_index": 0, "config": {"system": SYSTEM, "name": SYSTEM},
        "class_names": [], "frame_rate": 0.0, "sample_rate": 1,
        "i3d": {"port": port, "stream": stream, **dataclasses.asdict(sizes)},
    }  # fmt: skip
    model = {"params": network.init(jax.random.key(seed)), "batch_stats": network.init_statistics()}
    checkpoints.save_model(folder, model, meta)
    return str(folder)
