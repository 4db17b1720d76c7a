"""Samples: sub-sampling, crops, boundaries and soft labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from actloc_jax.data import boundaries
from actloc_jax.data.samples import DiffActSample, FixedOffsetSample

LABELS = np.repeat([0, 2, 1, 2], [5, 8, 3, 9]).astype(np.int32)
RECORD = {
    "video": "v",
    "index": 3,
    "features": np.arange(25 * 2, dtype=np.float32).reshape(25, 2),
    "labels": LABELS,
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_boundary_marks_both_sides_of_every_change():
    assert np.flatnonzero(boundaries.boundary_sequence(LABELS)).tolist() == [4, 5, 12, 13, 15, 16]


def test_smoothed_boundary_is_clipped_and_scaled_to_one():
    smooth = boundaries.boundary_sequence(LABELS, 2.0)
    assert smooth.max() == 1
    assert smooth[5] == smooth[4]
    assert 0 < smooth[8] < smooth[6] < 1


def test_one_segment_has_no_boundary():
    assert not boundaries.boundary_sequence(np.ones(7, np.int32), 3.0).any()
    assert not boundaries.renormalise_boundary(np.zeros(4)).any()


def test_soft_labels_are_blurred_one_hot_rows():
    soft = boundaries.soft_labels(LABELS, 4, 1.4)
    assert soft.dtype == np.float32
    expected = ndimage.gaussian_filter1d((LABELS == 2).astype(np.float32), 1.4)
    np.testing.assert_array_equal(soft[:, 2], expected)
    assert not soft[:, 3].any()
    assert not boundaries.soft_labels(np.full(5, -1), 2, 1.0).any()


def test_fixed_offset_sample_loses_no_start(rng):
    sample = FixedOffsetSample(sample_rate=4)(RECORD, rng)
    assert sample["labels"].tolist() == LABELS[::4].tolist()
    np.testing.assert_array_equal(sample["features"], RECORD["features"][::4])
    assert np.flatnonzero(sample["boundary"]).tolist() == [0, 1, 3, 4]
    assert sample["index"] == 3
    assert len(sample["labels"]) == FixedOffsetSample(sample_rate=4).length(25) == 7
    assert len(FixedOffsetSample(4, offset=2)(RECORD, rng)["labels"]) == FixedOffsetSample(4, offset=2).length(25) == 6


def test_diffact_sample_takes_every_offset_with_matching_arrays(rng):
    transform = DiffActSample(sample_rate=3, boundary_sigma=1.0)
    boundary = boundaries.boundary_sequence(LABELS, 1.0)
    seen = set()
    for _ in range(40):
        sample = transform(RECORD, rng)
        offset = int(sample["features"][0, 0]) // 2
        seen.add(offset)
        assert sample["labels"].tolist() == LABELS[offset::3].tolist()
        expected = boundary[offset::3] / boundary[offset::3].max()
        np.testing.assert_allclose(sample["boundary"], expected, rtol=1e-6)
        assert "soft_labels" not in sample
        assert len(sample["labels"]) <= transform.length(25)
    assert seen == {0, 1, 2}
    fixed = DiffActSample(sample_rate=3, temporal_aug=False)
    assert {float(fixed(RECORD, rng)["features"][0, 0]) for _ in range(10)} == {0.0}


def test_diffact_sample_draws_a_spatial_crop(rng):
    crops = np.stack([RECORD["features"] + 1000 * crop for crop in range(3)])
    transform = DiffActSample(soft_label_sigma=1.0, num_classes=3)
    samples = [transform(RECORD | {"features": crops}, rng) for _ in range(30)]
    assert {int(sample["features"][0, 0]) for sample in samples} == {0, 1000, 2000}
    assert samples[0]["features"].shape == (25, 2)
    assert samples[0]["soft_labels"].shape == (25, 3)
    assert FixedOffsetSample(crop=2)(RECORD | {"features": crops}, rng)["features"][0, 0] == 2000
