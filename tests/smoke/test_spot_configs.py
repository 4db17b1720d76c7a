"""The configs of SPOT build in all variants and have the published settings; the demo runs through all its stages."""

from __future__ import annotations

import importlib
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import evaluate, predict, splits, train
from actloc_jax.data.rescaled import AS_PUBLISHED, FIXED
from actloc_jax.layers import functional
from actloc_jax.results import detection as results
from actloc_jax.systems.spot import settings, stages, videos
from actloc_jax.systems.spot.decode import DecodeSettings
from actloc_jax.systems.spot.losses import DetectionSettings
from actloc_jax.systems.spot.mining import MiningSettings
from actloc_jax.systems.spot.pretext import PretextSettings
from actloc_jax.training import checkpoints
from actloc_jax.training.optimizers import FROZEN
from configs import common_spot
from tests.tiny import tiny_spot

NAMES = ("spot_anet", "spot_thumos")
FILTERED = "SPOT, as published, videos with long actions"

# `config/anet.yaml` of the original, and what its code has as constants.
PRETRAIN = {
    "epochs": 30, "batch_size": 100, "learning_rate": 4e-4, "weight_decay": 0.005, "input_dropout": 0.1,
    "foregrounds": 2, "reconstruction_weight": 2.0, "order_weight": 1.0,
}  # fmt: skip
FINETUNE = {
    "epochs": 25, "batch_size": 100, "learning_rate": 4e-4, "decay_every": 10, "decay_factor": 0.2,
    "weight_decay": 0.005, "reconstruction_weight": 1.0, "contrast_weight": 1.0, "unlabelled_batch": 0,
    "pretrained": True, "unlabelled": True, "teacher": False, "consistency_weight": 0.0, "min_mask": 0.7,
}  # fmt: skip
DATA = {"steps": 100, "feature_dim": 400, "features": "csv/{video}.csv", "annotations": "anet_anno_action.json"}
NETWORK = {"heads": 4, "mask_width": 256, "positions": 400, "dropout": 0.3, "order_dropout": 0.5}
DECODE = {
    "top_snippets": 10, "mask_thresholds": (0, 0.2, 0.4, 0.6, 0.8), "min_run": 0.02, "nms_divisor": 0.6,
    "max_detections": 100, "class_thresholds": tuple(number / 10 for number in range(1, 10)),
}  # fmt: skip


def _config(name: str, arg: str = "") -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(arg)


def _has(group: ConfigDict, expected: dict[str, Any]) -> None:
    assert {name: group[name] for name in expected} == expected


def test_has_the_published_settings() -> None:
    config = _config("spot_anet")
    for group, expected in {
        "pretrain": PRETRAIN, "finetune": FINETUNE, "data": DATA, "network": NETWORK, "decode": DECODE
    }.items():  # fmt: skip
        _has(config[group], expected)
    assert config.train.seed == 1
    assert config.eval.tiou == tuple(np.linspace(0.5, 0.95, 10).round(2))
    assert config.eval.select is None
    assert config.stages == ("pretrain", "finetune")
    assert config.decode.video_scores.endswith("spot_best_score.json")
    assert settings.detection(config) == DetectionSettings(0.5, 0.4)
    assert settings.mining(config) == MiningSettings(10, 20, 4, 8, 0.3, 0.07)
    assert settings.pretext(config) == PretextSettings()
    assert settings.decode(config) == DecodeSettings()
    assert settings.data_quirks(config) == AS_PUBLISHED
    rate = stages._schedule(config.finetune, steps_per_epoch=8)
    np.testing.assert_allclose(
        [rate(8 * epoch) for epoch in (0, 9, 10, 19, 20, 24)], np.repeat([4e-4, 8e-5, 1.6e-5], 2)
    )
    network = settings.spot_network(config, 200)
    assert functional.count(jax.eval_shape(network.init, jax.random.key(0))) == 5_857_460


@pytest.mark.parametrize("name", NAMES)
def test_builds_in_all_variants(name: str) -> None:
    for labels, paper in ((10, True), (60, True), (40, False), (100, False)):
        config = _config(name, f"labels={labels}")
        assert (config.name, config.data.labels, bool(config.paper)) == (f"{name}_{labels}", labels, paper)
    plain, fixed, demo = _config(name), _config(name, "fixed"), _config(name, "demo")
    assert (plain.system, plain.data.labels) == ("spot", 10)
    of_data = name == "spot_anet"  # its rules would leave nearly no video of THUMOS14
    assert plain.quirks.to_dict() == {quirk: of_data or quirk not in common_spot.DATA_QUIRKS for quirk in plain.quirks}
    assert not any(fixed.quirks.values())
    assert fixed.quirks.keys() == plain.quirks.keys()
    assert settings.data_quirks(fixed) == FIXED
    assert fixed.eval.select == "mAP"
    assert not any(demo.quirks.values())
    assert (demo.name, demo.data.source) == (f"{name}_10_demo", "synthetic")
    assert demo.decode.video_scores == ""
    assert (demo.stages, demo.finetune.pretrained) == (("labelled_only", "finetune"), False)
    for config in (plain, fixed, demo):
        for unlabelled in (True, False):
            settings.finetune(config, unlabelled=unlabelled)
        settings.spot_network(config, 20)
        known = {field for each in (AS_PUBLISHED, *_all_settings(config)) for field in each.__dataclass_fields__}
        assert set(config.quirks) - known <= {"last_epoch_kept", "order_ignores_transformer"}
    with pytest.raises(ValueError, match=r"Unknown config argument 'label'; known: labels .default '10'"):
        _config(name, "label=10")
    for share in ("0", "110", "most"):
        with pytest.raises(ValueError, match=f"labels={share} must be the share of labelled videos in per cent"):
            _config(name, f"labels={share}")


def _all_settings(config: ConfigDict) -> list[Any]:
    finetune = settings.finetune(config, unlabelled=True)
    return [finetune, finetune.detection, finetune.mining, settings.pretext(config), settings.decode(config)]


def test_thumos_has_its_own_grid_and_thresholds() -> None:
    config = _config("spot_thumos", "labels=60")
    assert config.eval.tiou == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert config.data.grid.to_dict() == {"stride": 4.0, "window": 16.0, "fps": 0.0, "align": "centre"}
    assert (config.data.train_subsets, config.data.test_subsets) == ("validation", "test")
    assert config.decode.row_seconds == pytest.approx(4 / 30)
    (paper,) = config.paper.values()
    assert dict(paper)["mAP@0.3"] == 58.9
    assert dict(paper)["mAP"] == 41.5


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_stage_alone_is_the_same_experiment(stage: str) -> None:
    alone, everything = _config("spot_anet", f"stage={stage},demo"), _config("spot_anet", "demo")
    assert alone.stages == (stage,)
    assert (alone.name, alone.data, alone.network) == (everything.name, everything.data, everything.network)
    with pytest.raises(ValueError, match="stage=student does not exist; the stages are pretrain, finetune and all"):
        _config("spot_anet", "stage=student")


# -------------------------------------------------------------------------------------------------------------- demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[epath.Path, dict[str, dict[str, float]]]:
    """A workdir of the demo after all stages, and its metrics."""
    workdir = epath.Path(tmp_path_factory.mktemp("demo"))
    return workdir, splits.each(tiny_spot(), workdir, train.train)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures of evaluations."""
    monkeypatch.setattr(results, "report", lambda *arguments, **options: "none")


def _detections(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((folder / "predictions" / "detections.json").read_text())["results"]


def _logged(workdir: pathlib.Path, stage: str) -> list[dict[str, Any]]:
    """What the stage logged of its training."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage and "train/loss" in row]


def _params(workdir: pathlib.Path, stage: str) -> dict[str, np.ndarray]:
    model, _ = checkpoints.load_model(workdir / "checkpoints" / stage / "best")
    return functional.flatten(model["params"])


def _same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)


def test_demo_runs_to_the_report(demo: tuple[epath.Path, dict[str, dict[str, float]]]) -> None:
    workdir, metrics = demo
    assert list(metrics) == ["SPOT", FILTERED]
    assert all(np.isfinite(value) for row in metrics.values() for value in row.values())
    written = json.loads((workdir / "evaluation.json").read_text())
    assert written["metrics"] == metrics
    assert {"chance", "after stage labelled_only"} <= written.keys()
    for left in (
        "config.json", "versions.json", "metrics.jsonl", "log.txt", "report.html", "per_class.json",
        "checkpoints/labelled_only/best", "checkpoints/pretrain/best", "checkpoints/finetune/best",
        "figures/tiou.png", "figures/errors.png", "figures/training.png",
    ):  # fmt: skip
        assert (workdir / left).exists(), left
    assert len(list((workdir / "figures").glob("timeline_*.png"))) == 1
    report = (workdir / "report.html").read_text()
    assert FILTERED in report
    assert "after stage labelled_only" in report

    steps = {stage: len(_logged(workdir, stage)) for stage in ("labelled_only", "pretrain", "finetune")}
    assert steps["labelled_only"] == steps["finetune"] > 0
    assert {"train/masks", "train/reconstruction", "train/order"} <= _logged(workdir, "pretrain")[-1].keys()
    last = _logged(workdir, "finetune")[-1]
    assert {"train/contrast", "train/unlabelled/contrast", "train/unlabelled/classes"} <= last.keys()
    assert not any("unlabelled" in name or "contrast" in name for name in _logged(workdir, "labelled_only")[-1])


def test_predicts_feature_files_as_it_evaluates_them(
    demo: tuple[epath.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path
) -> None:
    """Seconds differ: only the annotations know how long a video is, where features end before it does."""
    workdir, _ = demo
    files = sorted((workdir / "demo_data" / "features").glob("v_validation*.npy"))[:2]
    predict.predict(workdir, [str(file) for file in files], tmp_path)
    durations = json.loads((workdir / "demo_data" / "anet_anno_action.json").read_text())
    found, evaluated = _detections(tmp_path), _detections(workdir)
    assert list(found) == [file.stem for file in files]
    for file in files:
        expected = evaluated[file.stem]
        assert len(found[file.stem]) == len(expected) > 1
        covered, duration = 0.64 * len(np.load(file)), durations[file.stem]["duration_second"]
        for row, other in zip(found[file.stem], expected, strict=True):
            assert row["label"] == other["label"]
            assert row["score"] == pytest.approx(other["score"], rel=1e-4)
            np.testing.assert_allclose(np.divide(row["segment"], covered), np.divide(other["segment"], duration), 1e-4)
        assert (tmp_path / "figures" / f"timeline_{file.stem}.png").exists()


def test_classes_of_videos_come_from_a_file_or_from_the_network(
    demo: tuple[epath.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path, no_report: None
) -> None:
    workdir, metrics = demo
    scores = workdir / "demo_data" / "spot_best_score.json"
    said = json.loads(scores.read_text())
    config = tiny_spot(decode__video_scores=str(scores))
    of_file = splits.each(config, tmp_path, lambda c, w: evaluate.evaluate(c, w, checkpoint=workdir))
    for video, rows in _detections(tmp_path).items():
        assert {row["label"] for row in rows} == {said[video]["class"]}
    own = {video: {row["label"] for row in rows} for video, rows in _detections(workdir).items()}
    assert {len(labels) for labels in own.values()} == {1}
    assert any(labels != {said[video]["class"]} for video, labels in own.items())  # the network has hardly been trained
    assert of_file["SPOT"]["mAP"] > metrics["SPOT"]["mAP"]


def test_evaluates_with_other_ways_to_decode(
    demo: tuple[epath.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path, no_report: None
) -> None:
    workdir, _ = demo
    before, found = _detections(workdir), {}
    for name, changes in {
        "few": {"max_detections": 3},
        "one snippet": {"top_snippets": 1},
        "no masks": {"mask_thresholds": (1.0,)},
        "mild": {"nms_sigma": 1e6},
    }.items():
        config = tiny_spot(**{f"decode__{field}": value for field, value in changes.items()})
        splits.each(config, tmp_path, lambda c, w: evaluate.evaluate(c, w, checkpoint=workdir))
        found[name] = _detections(tmp_path)
        assert found[name].keys() == before.keys()
        for rows in found[name].values():
            scores = [row["score"] for row in rows]
            assert scores == sorted(scores, reverse=True)
    for video, rows in before.items():
        assert found["few"][video] == rows[:3]
        assert 0 < len(found["one snippet"][video]) < len(rows)
        assert found["no masks"][video] == []
        assert sum(row["score"] for row in found["mild"][video]) > sum(row["score"] for row in rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_published_steps_keep_the_shape_of_the_state(
    demo: tuple[epath.Path, dict[str, dict[str, float]]], dtype: str
) -> None:
    """The demo runs the paper's method; here the published one is traced, in both compute types."""
    config = splits.of_split(tiny_spot(train__dtype=dtype, finetune__teacher=False), "1")
    config.quirks = common_spot.quirks(fixed=False)
    config.quirks.long_segments_only = False  # 17 of 24 steps are much
    dataset = videos.open_dataset(config, demo[0])
    key = jax.random.key(0)
    for make in (stages.pretrain_stage, stages.finetune_stage):
        stage = make(config, dataset, demo[0])
        state, batch = jax.eval_shape(stage.scratch, key), next(stage.batches())
        after, scalars = jax.eval_shape(stage.train_step, state, batch, key)
        before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before
        assert {scalar.dtype for scalar in scalars.values()} == {np.dtype("float32")}
        assert {scalar.shape for scalar in scalars.values()} == {()}
    assert "unlabelled/contrast" in scalars
    assert "unlabelled/masks" not in scalars


def test_written_predictions_are_scored_by_both_protocols(
    demo: tuple[epath.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path, no_report: None
) -> None:
    workdir, before = demo
    path = workdir / "predictions" / "detections.json"
    metrics = splits.each(tiny_spot(), tmp_path, lambda c, w: evaluate.evaluate(c, w, predictions=path))
    assert list(metrics) == [name.replace("SPOT", "detections") for name in before]
    for found, expected in zip(metrics.values(), before.values(), strict=True):
        assert found == pytest.approx(expected, abs=0.01)


def test_with_all_labels_training_is_supervised(tmp_path: pathlib.Path, no_report: None) -> None:
    config = tiny_spot(data__labels=100.0, finetune__epochs=1, finetune__pretrained=False)
    config.stages = ("finetune",)
    metrics = splits.each(config, tmp_path, train.train)
    assert list(metrics) == ["SPOT", FILTERED]
    rows = _logged(tmp_path, "finetune")
    losses = {name for name in rows[-1] if name.startswith("train/")}
    assert losses == {"train/loss", "train/classes", "train/masks", "train/grad_norm"}
    for row in rows:
        np.testing.assert_allclose(row["train/loss"], row["train/classes"] + row["train/masks"], rtol=1e-5)
    assert rows[-1]["step"] == 200 // 8


def test_the_second_stage_alone_goes_on_from_the_first(
    demo: tuple[epath.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path, no_report: None
) -> None:
    workdir, before = demo
    config = tiny_spot()
    config.stages = ("finetune",)
    with pytest.raises(FileNotFoundError, match=r"has no pretrained network. Run the stage pretrain first, or set"):
        splits.each(config, tmp_path, train.train)
    shutil.copytree(workdir / "checkpoints" / "pretrain", tmp_path / "checkpoints" / "pretrain", dirs_exist_ok=True)
    assert splits.each(config, tmp_path, train.train) == before
    _same(_params(tmp_path, "finetune"), _params(workdir, "finetune"))


def test_the_second_stage_goes_on_with_the_optimizer_of_the_first(
    demo: tuple[epath.Path, dict[str, dict[str, float]]],
) -> None:
    workdir, _ = demo
    config = splits.of_split(tiny_spot(), "1")
    dataset = videos.open_dataset(config, workdir)
    first, second = stages.pretrain_stage(config, dataset, workdir), stages.finetune_stage(config, dataset, workdir)
    runs = checkpoints.RunCheckpoints(workdir / "checkpoints" / "pretrain" / "run")
    before, _, _ = runs.restore(jax.eval_shape(first.scratch, jax.random.key(0)))
    fresh = second.scratch(jax.random.key(5))
    start = second.warm_start(fresh)
    _same(functional.flatten(start.params), functional.flatten(before.params))
    assert int(start.step) == 0

    moments = start.opt_state[0].inner_states
    assert set(moments) == {stages.BOTH, stages.SECOND_ONLY, FROZEN}
    kept, new = (jax.tree.leaves(moments[name]) for name in (stages.BOTH, stages.SECOND_ONLY))
    for found, expected in zip(kept, jax.tree.leaves(before.opt_state[0].inner_states[stages.BOTH]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [int(leaf) for leaf in kept if leaf.ndim == 0] == [first.epochs * first.steps_per_epoch]
    assert all(np.any(leaf) for leaf in kept)
    assert not any(np.any(leaf) for leaf in new)
    assert int(start.opt_state[1].count) == 0  # the rate's

    runs = checkpoints.RunCheckpoints(workdir / "checkpoints" / "finetune" / "run")
    after, _, _ = runs.restore(jax.eval_shape(second.scratch, jax.random.key(0)))
    steps = second.epochs * second.steps_per_epoch
    counts = {
        name: [int(leaf) for leaf in jax.tree.leaves(states) if leaf.ndim == 0]
        for name, states in after.opt_state[0].inner_states.items()
    }
    assert counts == {
        stages.BOTH: [first.epochs * first.steps_per_epoch + steps],
        stages.SECOND_ONLY: [steps],
        FROZEN: [],
    }
    params = functional.flatten(after.params)
    moved = {path for path, values in functional.flatten(start.params).items() if np.any(params[path] != values)}
    assert {"classifier/kernel", "embedding/fc/kernel"} <= moved
    assert not any(path.startswith(("clip_order", "clip_trans")) for path in moved)
