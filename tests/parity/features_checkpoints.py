"""Names and shapes of the published files of feature networks, and the reading of their older layout."""

from __future__ import annotations

import jax
import numpy as np

from actloc_jax.backbones.i3d import PORTS, I3DSizes, i3d_network
from actloc_jax.backbones.raft import PRESETS
from actloc_jax.backbones.raft import network as raft_network
from actloc_jax.backbones.raft import shapes as raft_shapes
from actloc_jax.layers.functional import flatten, united
from convert import i3d_tables
from convert.mapping import Table
from convert.raft import COUNTER, PREFIX, TWIN
from convert.raft_tables import RAFT
from tests.parity.harness import Case, parity

I3D_FILES = {  # port, channels of the first convolution
    "rgb_imagenet.pt": ("pytorch-i3d", 3),
    "flow_imagenet.pt": ("pytorch-i3d", 2),
    "i3d_rgb.pt": ("video_features", 3),
    "i3d_flow.pt": ("video_features", 2),
}
RAFT_FILES = {  # how the name of a file begins -> size
    "raft-sintel.pth": "large",
    "raft-small.pth": "small",
}


@parity("features", "checkpoint_layouts")
def check_checkpoint_layouts(case: Case) -> None:
    """Every published file fits its network; the excerpt, of the older layout and from a GPU, is read to the byte."""
    check_excerpt(case)
    check_i3d_files(case)
    check_raft_files(case)


def check_excerpt(case: Case) -> None:
    """The tensors of the file under its own keys, types included."""
    state = case.weights()
    assert set(state) == set(case.arrays)
    for key, array in case.arrays.items():
        found = np.atleast_1d(state[key])  # the case holds numbers as arrays of one
        assert found.dtype == array.dtype, key
        np.testing.assert_array_equal(found, array, err_msg=key)


def check_i3d_files(case: Case) -> None:
    """The keys and shapes of both streams of both ports are those of the networks, none more and none less."""
    for name, (port, channels) in I3D_FILES.items():
        network = i3d_network(I3DSizes(channels, 400, *PORTS[port]))
        abstract = jax.eval_shape(lambda net=network: united(net.init(jax.random.key(0)), net.init_statistics()))
        shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}
        state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in case.config["files"][name].items()}
        report = i3d_tables.TABLES[port].to_ours(state, shapes)
        assert not report.problems(), f"{name}: {report.problems()[:3]}"
        assert len(report.entries) == len(state)


def check_raft_files(case: Case) -> None:
    """The keys and shapes of both sizes are those of the networks, but for counters and what is stored twice."""
    table = Table(RAFT.under(PREFIX, ""))
    for begin, size in RAFT_FILES.items():
        (published,) = (shapes for name, shapes in case.config["files"].items() if name.startswith(begin))
        shapes = {path: leaf.shape for path, leaf in flatten(raft_shapes(raft_network(PRESETS[size]))).items()}
        beside = {key for key in published if TWIN in key or key.endswith(COUNTER)}
        state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in published.items() if key not in beside}
        report = table.to_ours(state, shapes)
        assert not report.problems(), f"{begin}: {report.problems()[:3]}"
        assert len(report.entries) + len(beside) == len(published)
