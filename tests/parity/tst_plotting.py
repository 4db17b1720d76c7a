"""Parity of the qualitative figure: its colour table and the segments that it draws."""

from __future__ import annotations

import numpy as np

from actloc_jax.plotting import colours, timeline
from tests.parity.harness import Case, parity


@parity("tst", "tst_visual")
def check_visual(case: Case) -> None:
    """The colours of the first classes, normalised and as bytes; borders and labels of a label sequence."""
    for name, expected in case.arrays.items():
        if name.startswith("color_map"):
            table = colours.published_colours(len(expected))
            table = table if expected.dtype == np.uint8 else table.astype(np.float32) / 255
            np.testing.assert_array_equal(table, expected, err_msg=name)
    borders, labels = timeline.label_runs(case.arrays["seq"])
    np.testing.assert_array_equal(borders, case.arrays["seg_time"])
    np.testing.assert_array_equal(labels, case.arrays["seg_label"])
