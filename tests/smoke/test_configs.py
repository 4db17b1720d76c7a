"""Every config of TST builds in all its variants, has the published sizes, and its demo runs all stages."""

from __future__ import annotations

import importlib
import pathlib

import numpy as np
import pytest

from actloc_jax import splits, train
from actloc_jax.layers import functional
from actloc_jax.ops.diffusion import schedule_buffers
from actloc_jax.systems.tst import adapters
from tests.tiny import tiny_config

NAMES = sorted(path.stem for path in (pathlib.Path(__file__).parents[2] / "configs").glob("tst_*.py"))

# Spec of the published checkpoints, 12.1: scalars of the backbone's network, and entries of the whole file.
PUBLISHED = {
    "tst_gtea": (1_204_438, 5_347_053),
    "tst_50salads": (1_214_566, 5_364_877),
    "tst_breakfast": (11_912_800, 16_767_297),
}


def _config(name: str, arg: str = ""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", NAMES)
def test_builds_in_all_variants(name: str) -> None:
    plain, fixed, demo = _config(name), _config(name, "fixed"), _config(name, "demo,split=1")
    assert all(plain.quirks.values())
    assert not any(fixed.quirks.values())
    assert (demo.name, demo.data.source) == (f"{name}_demo", "synthetic")
    assert _config(name, "split=all").data.split == "all"


@pytest.mark.parametrize("name", NAMES)
def test_unknown_arguments_and_splits_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"Unknown config argument 'quick'; known: split .*stages .*demo .*fixed"):
        _config(name, "quick")
    with pytest.raises(ValueError, match="split=9 does not exist; this data set has 1, 2"):
        _config(name, "split=9")


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_published_number_of_parameters(name: str) -> None:
    config = _config(name)
    adapter = adapters.make(config)
    backbone = functional.count(adapter.network.shapes())
    refiner = functional.count(adapters.refiner_network(config, adapter.feature_dim).shapes())
    buffers = sum(values.size for values in schedule_buffers(config.backbone.diffusion.timesteps).values())
    published_backbone, published_file = PUBLISHED[name]
    assert backbone == published_backbone
    assert published_file in (backbone + refiner, backbone + refiner + buffers)


@pytest.mark.slow  # tests/test_resume.py runs all stages by default
@pytest.mark.parametrize("name", ["tst_50salads", "tst_asformer_50salads"])
def test_demo_runs_all_stages(name: str, tmp_path: pathlib.Path) -> None:
    metrics = splits.each(tiny_config(name), tmp_path, train.train)
    assert {"TST", "backbone"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics["TST"].values())
    for stage in tiny_config(name).stages:
        if stage != "cache":
            assert (tmp_path / "checkpoints" / stage / "best").is_dir()
    for left in ("config.json", "versions.json", "metrics.jsonl", "log.txt", "report.html", "evaluation.json"):
        assert (tmp_path / left).exists(), left
    assert len(list((tmp_path / "predictions").iterdir())) == 8
    assert list((tmp_path / "figures").glob("timeline_*.png"))
