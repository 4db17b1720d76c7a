"""Sub-sampling of features, labels and boundaries."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.data.subsampling import align_and_downsample, downsample_boundary


@pytest.mark.parametrize("rate", [1, 2, 3, 8])
def test_no_boundary_is_lost(rate: int) -> None:
    boundary = np.zeros(21)
    boundary[[0, 7, 20]] = 1
    kept = downsample_boundary(boundary, rate)
    assert np.flatnonzero(kept).tolist() == sorted({0, 7 // rate, 20 // rate})
    assert kept.dtype == np.float32
    assert len(kept) == len(boundary[::rate])


@pytest.mark.parametrize(("frames", "labels"), [(10, 10), (10, 13), (13, 10)])
def test_all_arrays_are_cut_to_the_shortest(frames: int, labels: int) -> None:
    features, ids, boundary = align_and_downsample(
        np.arange(frames * 2).reshape(frames, 2), np.arange(labels), np.zeros(labels), rate=4
    )
    assert ids.tolist() == [0, 4, 8]
    assert features[:, 0].tolist() == [0, 8, 16]
    assert len(boundary) == 3
