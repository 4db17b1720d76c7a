"""The configs of FuSTAL, TriDet and ActionFormer build in all variants and have the published settings; demos run."""

from __future__ import annotations

import importlib
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import evaluate, predict, splits, train
from actloc_jax.results import detection as results
from actloc_jax.systems.fustal import settings
from actloc_jax.training import checkpoints
from tests.tiny import tiny_fustal

NAMES = ("fustal_thumos", "tridet_thumos", "actionformer_thumos")
STAGES = ("generator", "proposals", "filter", "student")
DEFECTS = ("empty_prediction_ends_distillation", "own_labels_beyond_crop")  # repaired by default

# `configs/thumos_i3d.yaml` over `libs/core/config.py` of the three repositories.
SHARED_STUDENT = {
    "learning_rate": 1e-4, "clip_norm": 1.0, "crop_ratio": (0.9, 1.0), "crop_threshold": 0.5, "centre_radius": 1.5,
    "ranges": ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000)), "regression_weight": 1.0,
    "label_smoothing": 0.0, "initial_normaliser": 100.0, "ema_decay": 0.999, "iou_power": 0.2, "least_rate": 1e-8,
}  # fmt: skip
STUDENT = {
    "fustal_thumos": {
        "labels": "filtered", "epochs": 101, "warmup_epochs": 1, "batch_size": 8, "weight_decay": 0.05,
        "schedule": "constant", "video_weight": 1.0, "video_dropout": 0.7, "crop_margin": False, "distil_from": 61,
        "distil_score": 0.4, "evaluate_from": 60, "evaluate_every": 10,
    },
    "tridet_thumos": {
        "labels": "annotated", "epochs": 20 + 20, "warmup_epochs": 20, "batch_size": 2, "weight_decay": 0.025,
        "schedule": "cosine", "video_weight": 0.0, "crop_margin": False, "distil_from": -1,
    },
    "actionformer_thumos": {
        "labels": "annotated", "epochs": 30 + 5, "warmup_epochs": 5, "batch_size": 2, "weight_decay": 0.05,
        "schedule": "cosine", "video_weight": 0.0, "crop_margin": True, "distil_from": -1,
    },
}  # fmt: skip
DECODE = {
    "min_score": 0.001, "per_level": 2000, "min_length": 0.05, "nms": "soft", "nms_sigma": 0.5, "nms_min_score": 0.001,
    "class_aware": True,
}  # fmt: skip
SIZES = {
    "width": 512, "neck_width": 512, "head_width": 512, "embedding_layers": 2, "stem_blocks": 2, "branch_blocks": 5,
    "scale": 2, "embedding_kernel": 3, "neck": "identity", "head_layers": 3, "head_kernel": 3, "drop_path": 0.1,
    "max_length": 2304, "position_encoding": False, "prior": 0.01, "input_dim": 2048,
}  # fmt: skip
TRIDET = {
    "block": "sgp", "windows": 1, "sgp_factor": 5, "sgp_hidden": 768, "sgp_pooling": "max", "sgp_init_std": 0.0,
    "bins": 16, "input_noise": 5e-4,
}  # fmt: skip
ACTIONFORMER = {
    "block": "transformer", "windows": 19, "heads": 4, "position_bias": False, "bins": None, "input_noise": 0.0,
}  # fmt: skip
GENERATOR = {
    "steps": 6000, "batch_size": 16, "snippets": 750, "learning_rate": 1e-4, "weight_decay": 5e-4, "easy_ratio": 5,
    "hard_ratio": 20, "narrow": 3, "wide": 6, "mining_dropout": 0.6, "evaluate_every": 100,
}  # fmt: skip


def _config(name: str, arg: str = "") -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(arg)


def _has(group: Any, expected: dict[str, Any]) -> None:
    found = {name: group[name] if isinstance(group, ConfigDict) else getattr(group, name) for name in expected}
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_has_the_published_settings(name: str) -> None:
    config = _config(name)
    _has(config.student, SHARED_STUDENT | STUDENT[name])
    _has(config.decode, DECODE | {"max_detections": 200 if name == "actionformer_thumos" else 2000})
    network = ACTIONFORMER if name == "actionformer_thumos" else TRIDET
    sizes = settings.detector_sizes(config, 20)
    _has(sizes, SIZES | network)
    assert sizes.length_multiple == (576 if name == "actionformer_thumos" else 32)
    view = config.data.student
    assert view.grid.to_dict() == {"stride": 4.0, "window": 16.0, "fps": 0.0, "align": "centre"}
    assert (view.train_subsets, view.test_subsets) == ("validation", "test")
    supervised = name != "fustal_thumos"
    assert config.train.seed == (1234567891 if supervised else 3407)
    assert config.eval.tiou == tuple(np.arange(3 if supervised else 1, 8) / 10)
    assert config.eval.select == (None if supervised else "mAP")


def test_the_generator_has_the_published_settings() -> None:
    config = _config("fustal_thumos")
    _has(config.generator, GENERATOR)
    assert config.network.generator.to_dict() == {"width": 2048, "dropout": 0.7}
    _has(config.filter, {"min_prior": 0.2, "min_score": 0.4})
    view = config.data.generator
    assert view.grid.to_dict() == {"stride": 16.0, "window": 16.0, "fps": 25.0, "align": "start"}
    assert (view.streams, view.feature_dim) == (("rgb", "flow"), 2048)
    made = settings.proposal_settings(config, settings.Grid(16.0, 16.0, 25.0, "start"))
    np.testing.assert_allclose(made.class_thresholds, np.arange(10) * 0.025)
    np.testing.assert_allclose(made.action_thresholds, 0.1 + np.arange(33) * 0.025)
    _has(made, {"class_threshold": 0.2, "upscale": 24, "surroundings": 0.25, "video_weight": 0.2, "extrapolate": True})
    assert settings.proposal_suppression(config).threshold == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_builds_in_all_variants(name: str) -> None:
    plain, fixed, demo = _config(name), _config(name, "fixed"), _config(name, "demo")
    assert (plain.system, plain.name) == ("fustal", name)
    quirks = plain.quirks.to_dict()
    assert {quirk for quirk, on in quirks.items() if not on} == set(DEFECTS)
    assert not any(fixed.quirks.values())
    assert fixed.quirks.keys() == plain.quirks.keys()
    assert fixed.eval.select is None
    assert (demo.name, demo.data.source, demo.data.student.feature_dim) == (f"{name}_demo", "synthetic", 64)
    settings.detector_sizes(demo, 5)
    assert plain.stages == demo.stages == (STAGES if name == "fustal_thumos" else ("student",))
    with pytest.raises(ValueError, match=r"Unknown config argument 'quick'; known: .*fixed .default False"):
        _config(name, "quick")


def test_fixed_settings_are_the_sane_ones() -> None:
    plain, fixed = _config("fustal_thumos"), _config("fustal_thumos", "fixed")
    assert (settings.mining(plain).wide, settings.mining(fixed).wide) == (6, 7)
    assert settings.proposal_suppression(plain).overlap != settings.proposal_suppression(fixed).overlap


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_alone_is_the_same_experiment(stage: str) -> None:
    alone, everything = _config("fustal_thumos", f"stage={stage},demo"), _config("fustal_thumos", "demo")
    assert alone.stages == (stage,)
    assert (alone.name, alone.data, alone.network) == (everything.name, everything.data, everything.network)
    with pytest.raises(ValueError, match="stage=teacher does not exist; the stages are generator, proposals"):
        _config("fustal_thumos", "stage=teacher")


# ------------------------------------------------------------------------------------------------------------- demos


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, dict[str, float]]]:
    """A workdir of the demo after all stages, and its metrics."""
    workdir = tmp_path_factory.mktemp("demo")
    return workdir, splits.each(tiny_fustal(), workdir, train.train)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures of evaluations."""
    monkeypatch.setattr(results, "report", lambda *arguments, **options: "none")


def _detections(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((folder / "predictions" / "detections.json").read_text())["results"]


def test_demo_runs_to_the_report(demo: tuple[pathlib.Path, dict[str, dict[str, float]]]) -> None:
    workdir, metrics = demo
    assert list(metrics) == ["student"]
    assert all(np.isfinite(value) for value in metrics["student"].values())
    assert json.loads((workdir / "evaluation.json").read_text())["metrics"] == metrics
    for left in (
        "config.json", "versions.json", "metrics.jsonl", "log.txt", "report.html", "per_class.json",
        "checkpoints/generator/best", "checkpoints/student/best", "proposals/filter.txt", "figures/tiou.png",
        "figures/precision_and_recall.png", "figures/errors.png", "figures/training.png",
    ):  # fmt: skip
        assert (workdir / left).exists(), left
    assert len(list((workdir / "figures").glob("timeline_*.png"))) == 1
    made = json.loads((workdir / "proposals" / "train.json").read_text())
    kept = json.loads((workdir / "proposals" / "filtered.json").read_text())["database"]
    assert made["results"].keys() == kept.keys()
    assert all(name.startswith("video_train") for name in kept)
    numbers = [len(row) for row in made["results"].values()], [len(row["annotations"]) for row in kept.values()]
    assert sum(numbers[0]) > sum(numbers[1]) > 0
    assert f"{sum(numbers[1])} of {sum(numbers[0])} proposals" in (workdir / "proposals" / "filter.txt").read_text()
    assert len(_detections(workdir)) == 15
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "generator/mAP" in row] == [8, 16]
    steps = [row for row in rows if row["stage"] == "student" and "train/loss" in row]
    assert [row["train/count/labels"] > 0 for row in steps] == [True] * 2


def test_predicts_features_with_the_checkpoints_as_it_evaluates_them(
    demo: tuple[pathlib.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path, no_report: None
) -> None:
    workdir, _ = demo
    files = sorted((workdir / "demo_data" / "features").glob("video_test*.npy"))
    longest = max(files, key=lambda file: len(np.load(file)))  # padded as in the evaluation
    predict.predict(workdir, [str(longest)], tmp_path / "student")
    found = _detections(tmp_path / "student")
    assert found == {longest.stem: _detections(workdir)[longest.stem]}
    assert (tmp_path / "student" / "figures" / f"timeline_{longest.stem}.png").exists()

    generator = checkpoints.find_model(workdir, ("generator",))
    metrics = splits.each(
        tiny_fustal(), tmp_path / "evaluated", lambda c, w: evaluate.evaluate(c, w, checkpoint=generator)
    )
    assert list(metrics) == ["generator"]
    predict.predict(generator, [str(longest)], tmp_path / "generator")
    assert _detections(tmp_path / "generator") == {longest.stem: _detections(tmp_path / "evaluated")[longest.stem]}
    assert _detections(tmp_path / "generator") != found


def test_evaluates_with_other_ways_to_decode(
    demo: tuple[pathlib.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path, no_report: None
) -> None:
    workdir, _ = demo
    found = {}
    for name, changes in {
        "hard": {"nms": "hard", "nms_threshold": 0.1},
        "none": {"nms": "none", "max_detections": 40},
        "agnostic": {"class_aware": False},
        "vote": {"class_aware": False, "vote": 0.7},
    }.items():
        config = tiny_fustal(**{f"decode__{field}": value for field, value in changes.items()})
        splits.each(config, tmp_path, lambda c, w: evaluate.evaluate(c, w, checkpoint=workdir))
        found[name] = _detections(tmp_path)
        for rows in found[name].values():
            scores = [row["score"] for row in rows]
            assert scores == sorted(scores, reverse=True)
    for rows in found["hard"].values():
        _apart(rows, 0.1)
    assert {len(rows) for rows in found["none"].values()} == {40}
    for before, after in zip(found["agnostic"].values(), found["vote"].values(), strict=True):
        assert [row["score"] for row in before] == [row["score"] for row in after]
        assert [row["segment"] for row in before] != [row["segment"] for row in after]


def _apart(rows: list[dict[str, Any]], threshold: float) -> None:
    """No two detections of a class overlap by the threshold, where they were not clipped to the video afterwards."""
    last = max(row["segment"][1] for row in rows)
    rows = [row for row in rows if row["segment"][0] > 0 and row["segment"][1] < last]
    for label in {row["label"] for row in rows}:
        starts, ends = np.array([row["segment"] for row in rows if row["label"] == label]).T
        shared = np.maximum(np.minimum(ends[:, None], ends) - np.maximum(starts[:, None], starts), 0)
        overlap = shared / ((ends - starts)[:, None] + (ends - starts) - shared)
        assert (overlap - np.eye(len(starts)) < threshold + 1e-3).all()


def test_the_student_alone_goes_on_from_the_filtered_proposals(
    demo: tuple[pathlib.Path, dict[str, dict[str, float]]], tmp_path: pathlib.Path, no_report: None
) -> None:
    workdir, before = demo
    (tmp_path / "proposals").mkdir()
    labels = (workdir / "proposals" / "filtered.json").read_bytes()
    (tmp_path / "proposals" / "filtered.json").write_bytes(labels)
    config = tiny_fustal()
    config.stages = ("student",)
    assert splits.each(config, tmp_path, train.train) == before
    assert not (tmp_path / "checkpoints" / "generator").exists()


def test_a_generator_trained_after_the_student_is_evaluated_on_its_own_features(
    demo: tuple[pathlib.Path, dict[str, dict[str, float]]], no_report: None
) -> None:
    """The last stage that this command trains is meant, not the last one in the workdir."""
    workdir, _ = demo
    config = tiny_fustal()
    config.stages = ("generator",)
    written = [workdir / "evaluation.json", workdir / "predictions" / "detections.json"]
    kept = [path.read_bytes() for path in written]
    assert list(splits.each(config, workdir, train.train)) == ["generator"]
    assert list(splits.each(config, workdir, evaluate.evaluate)) == ["generator"]
    assert list(splits.each(tiny_fustal(), workdir, evaluate.evaluate)) == ["student"]
    config.stages = ("filter",)
    assert splits.each(config, workdir, train.train) == {}
    for path, content in zip(written, kept, strict=True):
        path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[1:])
def test_supervised_demos_train(name: str, tmp_path: pathlib.Path, no_report: None) -> None:
    config = tiny_fustal(name, student__epochs=1, student__warmup_epochs=0)
    config.quirks.empty_prediction_ends_distillation = True  # there is none that it could end
    metrics = splits.each(config, tmp_path, train.train)
    assert all(np.isfinite(value) for value in metrics["student"].values())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [np.isfinite(row["train/loss"]) for row in rows if "train/loss" in row] == [True]
    assert not (tmp_path / "proposals").exists()
