"""The table engine and the tables of the published files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert import tst_tables
from convert.mapping import LAYOUTS, Rule, Table
from tests.convert import published

TABLES = {
    "diffact": tst_tables.DIFFACT,
    "refiner": tst_tables.REFINER,
    "asformer": tst_tables.ASFORMER,
    "asrf": tst_tables.ASRF,
    "tst": tst_tables.combined(tst_tables.DIFFACT),
}


def test_layouts():
    rng = np.random.default_rng(0)
    table = Table([Rule(kind, kind, kind) for kind in LAYOUTS])
    state = {
        "linear.weight": rng.normal(size=(5, 3)),
        "pointwise.weight": rng.normal(size=(5, 3, 1)),
        "conv.weight": rng.normal(size=(5, 3, 7)),
        "norm.weight": rng.normal(size=5),
        "embedding.weight": rng.normal(size=(5, 3)),
        "in_projection.in_proj_weight": rng.normal(size=(9, 3)),
        "in_projection.in_proj_bias": rng.normal(size=9),
        "conv.bias": rng.normal(size=5),
        "matrix": rng.normal(size=(5, 3)),
    }
    ours = table.convert_all(state)
    assert {path: array.shape for path, array in ours.items()} == {
        "linear/kernel": (3, 5),
        "pointwise/kernel": (3, 5),
        "conv/kernel": (7, 3, 5),
        "norm/scale": (5,),
        "embedding/embedding": (5, 3),
        "in_projection/kernel": (3, 9),
        "in_projection/bias": (9,),
        "conv/bias": (5,),
        "matrix": (5, 3),
    }
    assert ours["conv/kernel"][6, 2, 4] == state["conv.weight"][4, 2, 6]
    assert ours["pointwise/kernel"][2, 4] == state["pointwise.weight"][4, 2, 0]
    for key, array in table.to_torch(ours).items():
        np.testing.assert_array_equal(array, state[key])


def test_placeholders():
    table = Table([Rule("layers.{i}.att_{q|k}", "blocks/{i}/{q|k}", "linear")])
    assert table.entry_of_key("layers.3.att_k.weight").path == "blocks/03/k/kernel"
    assert table.entry_of_key("layers.123.att_q.bias").path == "blocks/123/q/bias"
    assert table.entry_of_path("blocks/03/k/kernel").key == "layers.3.att_k.weight"
    assert table.entry_of_key("layers.3.att_v.weight") is None
    assert table.entry_of_key("layers.x.att_k.weight") is None
    assert table.entry_of_key("layers.3.att_k.running_mean") is None
    assert table.entry_of_path("blocks/03/k/scale") is None
    assert table.entry_of_key("layers.3.att_k") is None


def test_a_parameter_in_no_module():
    table = Table([Rule("codes", "clusters", "matrix")])
    assert table.entry_of_key("codes").path == "clusters"
    assert table.entry_of_path("clusters").key == "codes"
    assert table.entry_of_key("codes.weight") is None
    with pytest.raises(ValueError, match=r"codes \[4\] has not the shape of a matrix"):
        table.convert_all({"codes": np.zeros(4)})


@pytest.mark.parametrize("dataset", published.SIZES)
def test_published_key_set(dataset):
    """Entries and parameters as in the specification, every key under one rule, and back without loss."""
    sizes = published.SIZES[dataset]
    state = published.tst_shapes(sizes)
    assert len(state) + len(tst_tables.BUFFERS) == sizes.entries
    assert sum(int(np.prod(shape)) for shape in state.values()) == sizes.parameters
    table = TABLES["tst"]
    ours = table.convert_all({key: np.broadcast_to(np.float32(0), shape) for key, shape in state.items()})
    assert len(ours) == len(state)
    assert {key: array.shape for key, array in table.to_torch(ours).items()} == state


@given(st.sampled_from(sorted(published.tst_shapes(published.SIZES["gtea"]))))
def test_key_and_path_are_inverse(key):
    table = TABLES["tst"]
    entry = table.entry_of_key(key)
    assert table.entry_of_path(entry.path).key == key


def test_every_difference_is_listed():
    table = Table([Rule("a", "a", "linear"), Rule("b", "b", "pointwise")])
    shapes = {"a/kernel": (3, 5), "a/bias": (5,), "b/kernel": (5, 2), "b/bias": (2,)}
    state = {
        "a.weight": np.zeros((5, 4)),
        "b.weight": np.zeros((2, 5, 3)),
        "b.bias": np.zeros(2),
        "c.weight": np.zeros(7),
    }
    report = table.to_ours(state, shapes)
    assert report.problems() == [
        "missing    a.bias [5]",
        "unexpected c.weight [7]",
        "misshapen  a.weight [5, 4], expected [5, 3]",
        "misshapen  b.weight [2, 5, 3], expected [2, 5, 1]",
    ]
    assert list(report.params) == ["b/bias"]


def test_arrays_of_another_rank_are_refused():
    table = Table([Rule("a", "a", "pointwise"), Rule("n", "n", "norm")])
    for key, shape in (("a.weight", (4, 3, 2)), ("a.weight", (4, 3)), ("n.weight", (4, 1)), ("a.bias", (4, 1))):
        with pytest.raises(ValueError, match=f"{key} .* has not the shape"):
            table.convert_all({key: np.zeros(shape)})
    with pytest.raises(ValueError, match="no rule for the key x"):
        table.convert_all({"x.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="no rule for the parameter x/kernel"):
        table.to_torch({"x/kernel": np.zeros((3, 2))})
