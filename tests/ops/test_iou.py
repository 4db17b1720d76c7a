"""Temporal overlaps, by hand and between numpy and JAX."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actloc_jax.ops import iou

FIRST = np.array([0.0, 10.0])
SECOND = np.array([[0.0, 10.0], [5.0, 15.0], [10.0, 20.0], [30.0, 40.0], [2.0, 4.0], [7.0, 7.0]])

VARIANTS = {
    "tiou": iou.TIOU,
    "epsilon": iou.EPSILON_TIOU,
    "inclusive": iou.INCLUSIVE_TIOU,
    "hull": iou.HULL_TIOU,
    "floored": iou.FLOORED_TIOU,
    "coverage": iou.FLOORED_COVERAGE,
    "afsd": iou.AFSD_TIOU,
    "spot": iou.SPOT_OVERLAP,
}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("tiou", [1, 5 / 15, 0, 0, 0.2, 0]),
        ("epsilon", [10 / (10 + 2e-6), 5 / (15 + 2e-6), 0, 0, 2 / (10 + 2e-6), 0]),
        ("inclusive", [1, 6 / 16, 1 / 21, 0, 3 / 11, 1 / 11]),
        ("hull", [10 / (10 + 1e-9), 5 / (15 + 1e-9), 0, 0, 2 / (10 + 1e-9), 0]),
        ("floored", [1, 5 / 15, 0, 0, 0.2, 0]),
        ("coverage", [1, 0.5, 0, 0, 0.2, 0]),
        ("afsd", [1, 5 / 15, 0, 0, 0.2, 0]),
        ("spot", [1, 10 / 15, 10 / 20, 0, 4 / 8, 7 / 3]),
    ],
)
def test_overlaps_by_hand(variant, expected):
    np.testing.assert_allclose(VARIANTS[variant](FIRST, SECOND), expected, rtol=1e-12)


def test_segments_of_length_zero_have_defined_overlaps():
    instant = np.array([[3.0, 3.0]])
    assert iou.TIOU(instant, instant).item() == 0
    assert iou.FLOORED_TIOU(instant, instant).item() == 0
    assert iou.SPOT_OVERLAP(instant, instant).item() == 0
    assert iou.EPSILON_TIOU(instant, np.array([[0.0, 5.0]])).item() == 0
    assert iou.INCLUSIVE_TIOU(instant, instant).item() == 1
    assert iou.AFSD_TIOU(instant, instant).item() == 0


def test_selected_instants_count_as_long_as_afsd_says():
    tiny = np.array([0.0, 1e-6])
    assert iou.AFSD_TIOU(tiny, tiny) == pytest.approx(0.1)  # 1e-6 / (1e-5 + 1e-6 - 1e-6)
    assert iou.TIOU(tiny, tiny) == 1


def test_overlaps_broadcast_to_all_pairs():
    table = iou.TIOU(SECOND[:, None], SECOND)
    assert table.shape == (6, 6)
    np.testing.assert_array_equal(table, table.T)
    assert not np.allclose(iou.SPOT_OVERLAP(SECOND[:, None], SECOND), iou.SPOT_OVERLAP(SECOND, SECOND[:, None]))
    assert iou.TIOU(np.zeros((0, 1, 2)), SECOND).shape == (0, 6)


def test_unknown_denominators_are_refused():
    with pytest.raises(ValueError, match='"union", "hull" or "first"'):
        dataclasses.replace(iou.TIOU, denominator="smaller")


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float32, (5, 2), elements=st.integers(0, 40).map(lambda value: value / 4)),
    st.sampled_from(sorted(VARIANTS)),
)
def test_jax_and_numpy_agree_inside_and_outside_of_jit(points, variant):
    segments = np.sort(points, axis=1)
    overlap = VARIANTS[variant]
    expected = overlap(segments[:, None], segments)
    assert expected.dtype == np.float32
    on_device = jax.jit(overlap)(jnp.asarray(segments)[:, None], jnp.asarray(segments))
    np.testing.assert_allclose(on_device, expected, rtol=1e-6)
