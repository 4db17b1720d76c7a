"""The benchmark of optical flow runs, at sizes too small to measure anything."""

from __future__ import annotations

import numpy as np

from actloc_jax.ops import tvl1
from benchmarks import optical_flow


def test_rows() -> None:
    frames = optical_flow.moving_picture(2, 128, 128)
    (row,) = optical_flow.raft_rows(frames, ["small"], iterations=1, repeat=2)
    assert (row.name, row.milliseconds.shape) == ("RAFT small", (2,))
    frames = optical_flow.moving_picture(2, 20, 32)
    names = [row.name for row in optical_flow.variational_rows(frames, repeat=1)]
    assert names[0] == "TV-L1"
    field = np.asarray(tvl1.flow(tvl1.grey(frames)))
    np.testing.assert_allclose(np.median(field, axis=(0, 1, 2)), [3, 1], atol=0.1)
