"""Class and boundary weights on counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.data.class_weights import boundary_positive_weight, median_frequency_weights


def test_weights_are_the_lower_median_over_the_frequency() -> None:
    videos = [np.repeat([0, 1], [8, 2]), np.repeat([2, 3], [4, 2])]  # counts 8, 2, 4, 2: lower median 2
    np.testing.assert_allclose(median_frequency_weights(videos, 4), [0.25, 1, 0.5, 1])


def test_class_without_frames_is_infinite() -> None:
    assert median_frequency_weights([np.array([0, 0, 1, 2, 2])], 4)[3] == np.inf


def test_unknown_label_is_named() -> None:
    with pytest.raises(ValueError, match="labels run from 0 to 5; expected ids 0 to 3"):
        median_frequency_weights([np.array([0, 5])], 4)


def test_positive_weight_is_frames_per_boundary() -> None:
    assert boundary_positive_weight([np.array([1, 0, 0, 0]), np.array([1, 0, 1, 0, 0, 0])]) == pytest.approx(10 / 3)
