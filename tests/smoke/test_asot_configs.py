"""Every config of ASOT builds in all its variants, has the published settings, and its demo runs to a report."""

from __future__ import annotations

import copy
import importlib
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import evaluate, predict, splits, train
from tests.tiny import tiny_asot

CONFIGS = sorted(path.stem for path in (pathlib.Path(__file__).parents[2] / "configs").glob("asot_*.py"))
NAMES = [name for name in CONFIGS if name != "asot_affinity"]  # the experiments
BREAKFAST = {
    "pancake": 14, "salat": 8, "friedegg": 9, "scrambledegg": 12, "sandwich": 9,
    "juice": 8, "milk": 5, "tea": 7, "cereals": 5, "coffee": 7,
}  # fmt: skip
YTI = {"changing_tire": 11, "coffee": 10, "cpr": 7, "jump_car": 12, "repot": 8}

# The hyper-parameters of the paper's experiments: layers, clusters, epochs, rho, lambda, radius, alphas, standardise.
PUBLISHED = {
    ("asot_breakfast", ""): ((64, 128, 40), BREAKFAST, 15, 0.2, 0.1, 0.04, (0.4, 0.7), True, None),
    ("asot_yti", ""): ((3000, 32, 32), YTI, 10, 0.15, 0.12, 0.04, (0.3, 0.6), False, -1),
    ("asot_50salads", "mid"): ((64, 128, 40), {"videos": 19}, 30, 0.15, 0.15, 0.04, (0.3, 0.6), False, None),
    ("asot_50salads", "eval"): ((64, 128, 40), {"videos": 12}, 30, 0.15, 0.11, 0.04, (0.3, 0.6), False, None),
    ("asot_desktop_assembly", ""): ((512, 128, 40), {"videos": 22}, 30, 0.25, 0.16, 0.02, (0.3, 0.6), False, None),
}


def _config(name: str, arg: str = "") -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize(("name", "arg"), PUBLISHED)
def test_has_the_published_settings(name: str, arg: str) -> None:
    config = _config(name, arg)
    layers, clusters, epochs, rho, weight, radius, alphas, standardise, excluded = PUBLISHED[name, arg]
    assert (config.network.layers, config.clusters.to_dict(), config.asot.epochs) == (layers, clusters, epochs)
    assert config.data.feature_dim == layers[0]
    assert (config.transport.rho, config.transport.lambda_actions, config.transport.radius) == (rho, weight, radius)
    assert (config.transport.alpha, config.decode.alpha) == alphas
    assert (config.data.standardise, config.data.exclude_id) == (standardise, excluded)
    assert (config.decode.rho, config.decode.radius, config.decode.lambda_actions) == (rho, radius, 0.01)
    assert (config.transport.epsilon, config.decode.epsilon, config.network.temperature) == (0.07, 0.04, 0.1)
    for group in (config.transport, config.decode):
        assert (group.mode, group.iterations, group.inner_iterations, group.step) == ("pmd", 25, 1, 0)
        assert (group.relax_frames, group.relax_actions, group.lambda_frames) == (False, True, 0.05)
    stage = config.asot
    assert (stage.learning_rate, stage.weight_decay, stage.batch_size, stage.frames) == (1e-3, 1e-4, 2, 256)
    assert (stage.kmeans, stage.evaluate_every, config.train.seed, config.eval.select) == (True, 5, 0, None)


@pytest.mark.parametrize("name", CONFIGS)
def test_builds_in_all_variants(name: str) -> None:
    plain, fixed = _config(name), _config(name, "fixed")
    assert (plain.system, plain.name.startswith(name)) == ("asot", True)
    assert len(plain.quirks) == 6
    assert all(plain.quirks.values())
    assert not any(fixed.quirks.values())
    with pytest.raises(ValueError, match=r"Unknown config argument 'quick'; known: .*fixed .default False"):
        _config(name, "quick")
    if name == "asot_affinity":
        assert (plain.data.source, _config(name, "cost").data.source) == ("affinity", "cost")
        return
    demo = _config(name, "demo")
    assert demo.name == f"{plain.name}_demo"
    assert (demo.data.source, demo.clusters.to_dict(), demo.network.layers[0]) == ("synthetic", {"tea": 6}, 64)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_activities_are_refused_with_the_known_ones(name: str) -> None:
    config = _config(name)
    with pytest.raises(ValueError, match="activity=golf does not exist; this data set has") as raised:
        _config(name, "activity=golf")
    for activity in config.data.splits:
        assert activity in str(raised.value)
        chosen = splits.of_split(_config(name, f"activity={activity}"), activity)
        assert {chosen.data.train_split, chosen.data.test_split, chosen.eval.selection_split} == {activity}
        assert activity in chosen.clusters
    assert splits.chosen(_config(name, "activity=all")) == config.data.splits


def test_variants_that_exclude_or_combine() -> None:
    with pytest.raises(ValueError, match="Choose one of the granularities"):
        _config("asot_50salads", "eval,mid")
    together = _config("asot_breakfast", "activity=together")
    assert (together.clusters.to_dict(), splits.chosen(together)) == ({"together": 48}, ("together",))


def _copied(config: ConfigDict) -> ConfigDict:
    return copy.deepcopy(config)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("copied", [lambda config: config, _copied], ids=["itself", "copy"])
def test_what_decoding_shares_with_training_follows_it(name: str, copied: Any) -> None:
    original = _config(name)
    config = copied(original)
    changed = {"radius": 0.5, "rho": 0.75, "relax_frames": True, "relax_actions": False, "step": 3.0}
    config.update_from_flattened_dict({f"transport.{field}": value for field, value in changed.items()})
    split = config.data.splits[0]
    for decode in (config.decode, splits.of_split(config, split).decode):
        assert {field: decode[field] for field in changed} == changed
    if config is not original:
        assert original.decode.radius == original.transport.radius != 0.5
    config.decode.radius = 0.25
    assert (splits.of_split(config, split).decode.radius, config.transport.radius) == (0.25, 0.5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, dict[str, float]]]:
    """A workdir of the demo after two epochs, and its metrics."""
    workdir = tmp_path_factory.mktemp("demo")
    return workdir, splits.each(tiny_asot(), workdir, train.train)


def test_demo_runs_to_the_report(demo: tuple[pathlib.Path, dict[str, dict[str, float]]]) -> None:
    workdir, metrics = demo
    assert list(metrics) == ["ASOT", "nearest cluster"]
    assert all(np.isfinite(value) for row in metrics.values() for value in row.values())
    written = json.loads((workdir / "evaluation.json").read_text())
    assert written["metrics"] == metrics
    assert metrics["ASOT"]["MoF"] > written["chance"]["MoF"] + 15
    assert metrics["ASOT"]["MoF"] > metrics["nearest cluster"]["MoF"]
    for left in ("config.json", "versions.json", "metrics.jsonl", "log.txt", "report.html", "checkpoints/asot/best"):
        assert (workdir / left).exists(), left
    clusters = json.loads((workdir / "clusters.json").read_text())
    assert set(clusters) <= {f"cluster_{k:02d}" for k in range(6)}
    predictions = list((workdir / "predictions").iterdir())
    assert len(predictions) == 16
    assert set(predictions[0].read_text().splitlines()[1].split()) <= set(clusters)
    assert len(list((workdir / "figures").glob("timeline_*.png"))) == 1
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "ASOT/loss" in row]
    assert logged, "the loss of the evaluation"
    assert np.isfinite(logged[-1]["ASOT/loss"])


def test_predicts_features_with_the_demos_checkpoint(
    demo: tuple[pathlib.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path
) -> None:
    workdir, _ = demo
    (features,) = (workdir / "demo_data").rglob("P00_tea.npy")
    (found,) = predict.predict(workdir, [str(features)], tmp_path)
    written = (workdir / "predictions" / "P00_tea").read_text()
    assert (tmp_path / "predictions" / "P00_tea").read_text() == written
    assert len(written.splitlines()[1].split()) == len(found.labels) == len(np.load(features))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "timeline_P00_tea.png",
        "assignment_P00_tea.png",
    }


def test_evaluates_with_other_ways_to_decode(
    demo: tuple[pathlib.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path
) -> None:
    workdir, before = demo
    config = tiny_asot(decode__alpha=0.0, eval__timelines=0)
    metrics = splits.each(config, tmp_path, lambda c, w: evaluate.evaluate(c, w, checkpoint=workdir))
    assert metrics["nearest cluster"]["MoF"] == pytest.approx(before["nearest cluster"]["MoF"])
    assert metrics["ASOT"]["MoF"] < before["ASOT"]["MoF"], "without the temporal structure"


def test_a_workdir_of_other_clusters_is_refused(demo: tuple[pathlib.Path, dict[str, dict[str, float]]]) -> None:
    with pytest.raises(ValueError, match=r"holds a run of another config .different: clusters, network."):
        splits.each(tiny_asot(clusters__tea=7, network__layers=(64, 16, 8)), demo[0], train.train)
