"""Parity of ASOT's segmentation bars: the colour of every true label."""

from __future__ import annotations

import re

import numpy as np

from actloc_jax.plotting.clusters import published_colour
from tests.parity.harness import Case, parity


@parity("asot", "bar_colours")
def check_bar_colours(case: Case) -> None:
    """The colours of all labels for every number of labels of the case."""
    for name, expected in case.arrays.items():
        assert re.fullmatch(r"rgba_\d+", name), name
        colours = [published_colour(position, len(expected)) for position in range(len(expected))]
        np.testing.assert_allclose(colours, expected, rtol=0, atol=case.meta["tolerance"]["atol"], err_msg=name)
    assert case.arrays
