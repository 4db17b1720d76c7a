"""Small feature networks as checkpoints, for tests: I3D with few channels, at the published size of pictures."""

from __future__ import annotations

import dataclasses
import pathlib

import jax

from actloc_jax.backbones.i3d import PORTS, STREAMS, SYSTEM, I3DSizes, i3d_network
from actloc_jax.training import checkpoints
from actloc_jax.workdirs import FEATURE_STAGE

DIVISOR = 16
CHANNELS = 1024 // DIVISOR
"""Of the features of one stream."""


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
