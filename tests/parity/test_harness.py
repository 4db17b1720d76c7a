"""The discovery of golden cases, their weights and their tolerances."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.parity import harness, recipe, test_parity
from tests.parity.harness import Case


def case(path, **meta) -> Case:
    return Case(path, {"system": "tst", "kind": "k", "case": "c", **meta})


def test_root_is_the_environments(tmp_path, monkeypatch):
    (tmp_path / "tst" / "one").mkdir(parents=True)
    (tmp_path / "tst" / "one" / "case.json").write_text(json.dumps({"system": "tst", "kind": "k", "case": "one"}))
    monkeypatch.setenv("ACTLOC_GOLDEN", str(tmp_path))
    assert [found.id for found in harness.all_cases()] == ["tst-k-one"]
    assert harness.cases("tst", "other") == []


def test_a_kind_without_check_fails(tmp_path):
    with pytest.raises(AssertionError, match="no @parity"):
        test_parity.test_parity(case(tmp_path, kind="nobody_checks_this"))


def test_one_check_per_kind():
    system, kind = next(iter(harness.CHECKS))
    with pytest.raises(ValueError, match="two checks"):
        harness.parity(system, kind)(lambda case: None)


def test_tolerance(tmp_path):
    some = case(tmp_path, tolerance="network outputs atol 1e-4; ddim outputs atol 2e-3; grads 5e-4*max|g|")
    assert some.tolerance() == 1e-4
    assert some.tolerance("ddim outputs atol") == 2e-3
    assert some.tolerance("grads") == 5e-4
    with pytest.raises(ValueError, match="no number after 'rtol'"):
        some.tolerance("rtol")


def test_weights_of_a_sibling(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights\.pth"):
        case(tmp_path, notes="none").weights()
    files = next(found for found in harness.all_cases(harness.COPIES) if found.kind == "tst_predict_files")
    sibling = files.path.parent / "tst_full_a"
    assert files.weights().keys() == case(sibling).weights().keys()


RECIPE = {
    "rng": "numpy.random.default_rng(3), one generator for all tensors",
    "buffer_names": ["betas"],
    "value": {
        '1-D and "norm" in key and key ends with "weight"': "1 + 0.1*z",
        "other 1-D": "0.1*z",
        '3-D, key contains "smooth"': "z2 = 0.2*z + z[:,:,0:1] (tap 0 to all); value = z2/sqrt(prod(shape[1:]))",
        "other >=2-D": "z / sqrt(prod(shape[1:]))",
    },
    "then_multiply_tensors_with_2_or_more_dims_whose_key_contains": {"head": 3.0},
}


def test_recipe():
    """Draws are in sorted key order; buffers draw nothing; keys come back in the order given."""
    keys = {"norm.weight": [4], "betas": [7], "head.weight": [2, 8], "b.smooth.weight": [2, 3, 3], "head.bias": [2]}
    weights = recipe.draw({"weights_recipe": RECIPE, "weight_keys": keys})
    rng = np.random.default_rng(3)
    smooth, bias, head, norm = (rng.standard_normal(shape) for shape in ((2, 3, 3), 2, (2, 8), 4))
    assert list(weights) == list(keys)
    np.testing.assert_array_equal(weights["b.smooth.weight"], np.float32((0.2 * smooth + smooth[:, :, :1]) / 3))
    np.testing.assert_array_equal(weights["head.bias"], np.float32(0.1 * bias))
    np.testing.assert_array_equal(weights["head.weight"], np.float32(head / np.sqrt(8) * 3.0))
    np.testing.assert_array_equal(weights["norm.weight"], np.float32(1 + 0.1 * norm))
    assert weights["betas"].dtype == np.float64
    assert weights["betas"].shape == (7,)


def test_a_recipe_that_says_something_else():
    other = RECIPE | {"value": {"odd rows": "0.1*z"}}
    with pytest.raises(ValueError, match="odd"):
        recipe.draw({"weights_recipe": other, "weight_keys": {"a": [2]}})
