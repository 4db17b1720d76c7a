"""Parity of TV-L1 with OpenCV's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.ops import tvl1
from tests.parity.harness import Case, parity


@parity("features", "tvl1_flow")
def check_tvl1_flow(case: Case) -> None:
    """End point errors against OpenCV's flow; identical frames give exactly zero."""
    config, tolerance = case.config, case.meta["tolerance"]
    assert (config["tau"], config["theta"], config["epsilon"]) == (tvl1.TAU, tvl1.THETA, tvl1.EPSILON)
    assert config["lambda"] * config["theta"] == tvl1.REACH
    assert (config["scales"], config["scale_step"], config["warps"]) == (tvl1.SCALES, tvl1.SCALE_STEP, tvl1.WARPS)
    assert (config["inner"], config["outer"], config["median"]) == (tvl1.INNER, tvl1.OUTER, tvl1.MEDIAN)
    for pair in config["pairs"]:
        greys = jnp.stack([case.arrays[f"{pair}/gray{number}"] for number in (0, 1, 1)])
        found = np.asarray(jax.jit(tvl1.flow)(greys))
        errors = np.linalg.norm(found[0] - case.arrays[f"{pair}/flow"], axis=-1)
        assert errors.mean() <= tolerance["mean_end_point_error"], pair
        assert (errors > 0.5).mean() <= tolerance["max_fraction_above_0.5px"], pair
        np.testing.assert_array_equal(found[1], 0, pair)
