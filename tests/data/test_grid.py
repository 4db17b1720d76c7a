"""Feature-grid arithmetic: the published formulas, and round trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actloc_jax.data import grid
from actloc_jax.data.grid import Grid

SECONDS = np.array([[0.0, 0.2], [1.0, 33.83], [-1.0, 1e4]])


def test_actionformer_centre_rule():
    positions = grid.thumos14_i3d(30.0).to_grid(SECONDS)
    np.testing.assert_allclose(positions, (SECONDS * 30 - 8) / 4)
    assert grid.thumos14_i3d(30.0).to_seconds(0.0) == 8 / 30  # the centre of frames 0..15


def test_generator_rows_are_edges_not_centres():
    recipe = grid.wtal_i3d()
    assert recipe.to_seconds(1) == 16 / 25
    assert recipe.to_grid(0.0) == 0
    # centres, where the same windows are read by ActionFormer's rule
    assert grid.activitynet_i3d().to_seconds(0) == 8 / 25
    assert grid.activitynet_tsp().to_seconds(3) == pytest.approx((3 * 16 + 8) / 15)
    assert grid.epic_slowfast().to_seconds(2) == pytest.approx((2 * 16 + 16) / 30)


def test_downsampling_keeps_the_window():
    half = grid.thumos14_i3d(30.0).downsampled(2)
    np.testing.assert_allclose(half.to_grid(SECONDS), (SECONDS * 30 - 8) / 8)
    np.testing.assert_allclose(half.to_seconds(1), grid.thumos14_i3d(30.0).to_seconds(2))


def test_resized_features_cover_the_same_frames():
    original = Grid(stride=16, window=32, fps=25.0)
    resized = original.resized(rows=50, steps=192)
    stride = (49 * 16 + 32) / 192
    np.testing.assert_allclose(resized.to_grid(SECONDS), SECONDS * 25 / stride - 0.5)
    assert resized.covered_frames(192) == pytest.approx(original.covered_frames(50))


def test_features_of_fixed_length_cover_the_video():
    fixed = grid.whole_video(124.23, 100)
    np.testing.assert_allclose(fixed.to_grid(SECONDS), SECONDS * 100 / 124.23 - 0.5)
    assert fixed.covered_seconds(100) == pytest.approx(124.23)


def test_spot_scales_by_the_corrected_length():
    corrected = 2000 / 2303 * 92.18
    recipe = grid.spot_rescaled(92.18, 2303, 2000)
    np.testing.assert_allclose(recipe.to_grid([0.0, 46.09, corrected]), [0, 46.09 / corrected * 100, 100])


def test_tallformer_counts_frames_and_pairs_of_frames():
    assert grid.tallformer_frames().to_grid(32.0) == 480
    assert grid.tallformer_rows().to_grid(32.0) == 240


def test_rows_of_a_video():
    assert [grid.thumos14_i3d(30.0).rows(frames) for frames in (15, 16, 19, 20, 24)] == [0, 1, 1, 2, 3]
    assert [grid.wtal_i3d().rows(frames) for frames in (15, 201)] == [0, 12]
    assert grid.wtal_i3d().covered_seconds(12) == 192 / 25


def test_the_rate_of_the_video_is_needed_unless_the_recipe_has_one():
    with pytest.raises(ValueError, match="the frame rate of the video is unknown"):
        grid.thumos14_i3d().to_grid(1.0)
    assert grid.thumos14_i3d().at(25.0) == grid.thumos14_i3d(25.0)
    assert grid.wtal_i3d().at(30.0).fps == 25
    with pytest.raises(ValueError, match="fps=0 of a feature grid must be a positive number"):
        grid.thumos14_i3d(0)
    with pytest.raises(ValueError, match="align='center' is unknown"):
        Grid(4, 16, 30.0, align="center")


@settings(max_examples=60, deadline=None)
@given(
    stride=st.floats(0.5, 64),
    window=st.floats(0.5, 64),
    fps=st.floats(1, 60),
    align=st.sampled_from(["centre", "start"]),
    rate=st.integers(1, 4),
    seconds=st.floats(-10, 1e4),
)
def test_round_trip(stride, window, fps, align, rate, seconds):
    for one in (
        Grid(stride, window, fps, align).downsampled(rate),
        Grid(stride, window, fps, align).resized(37, 100),
    ):
        assert one.to_seconds(one.to_grid(seconds)) == pytest.approx(seconds, rel=1e-9, abs=1e-6)
        step = one.to_grid(seconds + one.seconds_per_step) - one.to_grid(seconds)
        assert step == pytest.approx(1, abs=1e-5)


def test_margin_is_the_reach_of_the_first_window():
    assert grid.thumos14_i3d(30.0).margin == 2
    assert grid.thumos14_i3d(30.0).to_seconds(-2.0) == 0
    assert grid.wtal_i3d().margin == 0
