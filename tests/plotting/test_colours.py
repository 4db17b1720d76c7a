"""Colours: stable, distinct, grey for what is no action."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from actloc_jax.plotting.colours import class_colours, hex_code, ink_on, published_colours


def test_a_class_keeps_its_colour_when_classes_are_added():
    names = [f"action{index}" for index in range(64)]
    np.testing.assert_array_equal(class_colours(names)[:11], class_colours(names[:11]))


@pytest.mark.parametrize(("count", "least"), [(11, 0.15), (19, 0.12), (48, 0.06), (130, 0.01)])
def test_colours_differ(count, least):
    colours = class_colours([f"action{index}" for index in range(count)])
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > least


@pytest.mark.parametrize("name", ["background", "SIL", "action_start", "action_end"])
def test_no_action_is_grey(name):
    names = ["take", name, "open"]
    red, green, blue = class_colours(names)[1]
    assert max(red, green, blue) - min(red, green, blue) < 0.05
    np.testing.assert_array_equal(class_colours(names)[[0, 2]], class_colours(["take", "x", "open"])[[0, 2]])


def test_published_table_starts_as_known():
    np.testing.assert_array_equal(published_colours(4), [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]])


def test_hex_code_and_ink():
    assert hex_code(np.array([1.0, 0.5, 0.0])) == "#ff8000"
    assert ink_on(np.array([1.0, 1.0, 0.8])) == "black"
    assert ink_on(np.array([0.1, 0.1, 0.4])) == "white"
