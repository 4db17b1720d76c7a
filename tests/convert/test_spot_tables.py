"""The table of SPOT's names: round trip, sizes, files that lack what detection does not need."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.systems.spot.network import Spot
from convert import spot_tables
from convert.spot_tables import SPOT, Sizes

SIZES = Sizes(input_dim=12, num_classes=3, time=8, heads=2, mask_width=5, num_positions=10)


def state() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A published state dict, and the parameters that it holds."""
    net = Network(lambda rngs: Spot(**dataclasses.asdict(SIZES), rngs=rngs))
    params = {path: np.asarray(value) for path, value in flatten(net.init(jax.random.key(0))).items()}
    return {f"module.{key}": value for key, value in SPOT.to_torch(params).items()}, params


def test_sizes_and_parameters_come_back() -> None:
    published, params = state()
    published |= {f"module.{name}": np.arange(10)[None] for name in spot_tables.BUFFERS}
    for given in (published, {key.removeprefix("module."): value for key, value in published.items()}):
        plain = spot_tables.without_prefix(given)
        assert spot_tables.sizes(plain) == SIZES
        report = SPOT.to_ours(plain, {path: value.shape for path, value in params.items()})
        assert report.problems() == []
        for path, value in params.items():
            np.testing.assert_array_equal(report.params[path], value, err_msg=path)


def test_published_keys_and_shapes() -> None:
    published, _ = state()
    shapes = {key: value.shape for key, value in published.items()}
    assert shapes["module.embedding.w_qs.weight"] == (24, 12)
    assert shapes["module.embedding.fc.weight"] == (12, 24)
    assert shapes["module.classifier.0.weight"] == (4, 12, 1)
    assert shapes["module.global_mask.0.weight"] == (5, 12, 3)
    assert shapes["module.global_mask.2.weight"] == (8, 5, 1)
    assert shapes["module.clip_order.0.weight"] == (1, 12, 3)
    assert shapes["module.clip_order_linear.weight"] == (2, 8)
    assert shapes["module.clip_trans.pos_enc.pe.weight"] == (10, 12)
    assert len(shapes) == 25


def test_optional_keys_may_be_missing() -> None:
    plain = spot_tables.without_prefix(state()[0])
    needed = {key: value for key, value in plain.items() if not spot_tables.is_optional(key)}
    assert len(needed) == 12
    assert spot_tables.sizes(needed) == dataclasses.replace(SIZES, num_positions=SIZES.time)


def test_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a whole state dict of SPOT: it has no classifier\.0\.weight"):
        spot_tables.sizes({"conv.weight": np.zeros(3)})
