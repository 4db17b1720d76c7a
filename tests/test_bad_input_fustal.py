"""Bad input to FuSTAL ends in one sentence that says what was found, where, what was expected and what to do."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import evaluate, splits, train
from actloc_jax.data.synthetic_detection import CLASSES, Settings, write_folder
from actloc_jax.systems.fustal import settings
from tests.bad_input import prediction_error, training_error, write_untrained
from tests.tiny import tiny_config, tiny_fustal

VIDEOS = Settings(train_videos=3, test_videos=2, min_steps=100, max_steps=120)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A good data folder, to be spoilt."""
    return pathlib.Path(write_folder(tmp_path / "data", VIDEOS))


def _config(root: pathlib.Path, *stages: str, **changes: Any) -> ConfigDict:
    """The tiny experiment on a folder; `changes` as for `tiny_fustal`."""
    config = tiny_fustal(data__source="folder", data__student__root=str(root), **changes)
    config.data.generator.root = str(root)
    config.stages = stages or config.stages
    return config


def _model(folder: pathlib.Path, stage: str, **changes: Any) -> pathlib.Path:
    """A model folder as a training leaves it, without the training."""
    config = splits.of_split(tiny_fustal(**changes), "1")
    if stage == "generator":
        net = settings.generator_network(config, len(CLASSES))
    else:
        net = settings.detector_network(config, settings.detector_sizes(config, len(CLASSES)))
    return write_untrained(folder, config, stage, CLASSES, net.init(jax.random.key(0)))


# ---------------------------------------------------------------------------------------------------------- the data


def test_missing_data_folder(tmp_path: pathlib.Path) -> None:
    said = training_error(_config(tmp_path / "nowhere"), tmp_path / "run")
    for part in (str(tmp_path / "nowhere"), "annotations.json", "features/", ":demo"):
        assert part in said


def test_videos_without_features_are_counted_and_named(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    gone = [folder / "features" / f"video_train_00{number}.npy" for number in (1, 2)]
    for path in gone:
        path.unlink()
    for stage in ("generator", "student"):
        said = training_error(_config(folder, stage), tmp_path / "run")
        assert "2 of 3 videos of split 'train' have no features: video_train_001, video_train_002" in said
        assert f"expected for the first: {gone[0]}" in said


def test_annotated_classes_must_be_in_the_class_list(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = json.loads((folder / "annotations.json").read_text())
    entry = content["database"]["video_train_001"]["annotations"][0]
    entry["label"] = "Golf"
    (folder / "annotations.json").write_text(json.dumps(content))
    said = training_error(_config(folder), tmp_path / "run")
    for part in ("annotations.json", "'Golf'", "video_train_001", "clap"):
        assert part in said


def test_all_problems_of_a_data_folder_are_reported_together(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first, second, *_ = sorted(folder.rglob("video_train*.npy"))
    values = np.load(first)
    values[3, 7] = np.nan
    np.save(first, values)
    np.save(second, np.load(second)[:, :32])
    said = training_error(_config(folder), tmp_path / "run")
    assert first.name in said
    assert "NaN" in said
    assert f"{second}: 32 channels (read as [time, channels]), expected 64" in said


def test_views_with_other_classes_do_not_fit(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = pathlib.Path(write_folder(tmp_path / "other", VIDEOS))
    (other / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    config = _config(folder)
    config.data.generator.root = str(other)
    said = training_error(config, tmp_path / "run")
    assert "the views generator and student have other classes" in said
    assert "config.data.classes" in said


# ------------------------------------------------------------------------------------------------- proposals, filter


def _proposals(folder: pathlib.Path, *videos: str, label: str = "wave", score: float = 0.9) -> pathlib.Path:
    """A file with two overlapping proposals of each video."""
    rows = [{"label": label, "score": score, "segment": [start, start + 5.0]} for start in (1.0, 2.0)]
    path = folder / "given.json"
    path.write_text(json.dumps({"results": dict.fromkeys(videos, rows)}))
    return path


def _filter_error(folder: pathlib.Path, tmp_path: pathlib.Path, path: pathlib.Path, **changes: Any) -> str:
    config = _config(folder, "filter", filter__proposals=str(path), **changes)
    said = training_error(config, tmp_path / "run")
    assert not (tmp_path / "run" / "proposals" / "filtered.json").exists()
    return said


def test_stages_say_which_one_they_need(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said = training_error(_config(folder, "proposals"), tmp_path / "run")
    for part in ("checkpoints/generator/best has no generator", "stage=generator", "--config.proposals.checkpoint="):
        assert part in said
    said = training_error(_config(folder, "filter"), tmp_path / "run")
    for part in ("proposals/train.json does not exist", "generator and proposals first", "--config.filter.proposals="):
        assert part in said
    said = training_error(_config(folder, "student"), tmp_path / "run")
    for part in ("proposals/filtered.json does not exist", "run the stage filter first"):
        assert part in said


def test_unknown_stages_and_stages_without_features(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said = training_error(_config(folder, "student", "teacher"), tmp_path / "run")
    assert "teacher" in said
    assert "generator, proposals, filter, student" in said
    config = tiny_fustal("tridet_thumos")
    config.stages = ("generator", "student")
    said = training_error(config, tmp_path / "supervised")
    assert "config.data.generator, which this config does not have; use configs/fustal_thumos.py" in said


def test_proposals_of_another_data_set(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _proposals(folder, "video_train_000", label="GolfSwing")
    said = _filter_error(folder, tmp_path, path)
    assert f"{path}: label 'GolfSwing' of 2 proposals (first in video_train_000) is not among the 5 classes" in said
    path = _proposals(folder, "video_test_003", "video_test_004")
    said = _filter_error(folder, tmp_path, path)
    assert f"{path} holds proposals of 2 videos (video_test_003, video_test_004), none of which is among the 3" in said
    path.write_text(json.dumps({"database": {}}))
    assert "holds annotations ('database'); expected scored segments" in _filter_error(folder, tmp_path, path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"filter__min_score": 0.95}, "the confidence threshold 0.95 removes them all; lower it"),
        ({"filter__min_prior": 3.0}, "the IoU-score threshold 3.0 removes them all; lower it"),
        ({"filter__min_score": 0.95, "filter__min_prior": 3.0}, "each of the two thresholds removes them all"),
    ],
)
def test_filtering_that_leaves_nothing_names_the_threshold(
    folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, float], said: str
) -> None:
    path = _proposals(folder, "video_train_000", "video_train_001")
    found = _filter_error(folder, tmp_path, path, **changes)
    assert "none of 4 proposals of 3 videos is left after filtering" in found
    assert said in found


def test_videos_without_proposals_train_as_background_with_a_warning(
    folder: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _proposals(folder, "video_train_000", "video_else")
    config = _config(folder, "filter", filter__proposals=str(path), filter__min_score=0.4)
    assert splits.each(config, tmp_path / "run", train.train) == {}
    assert "has no proposals for 2 of 3 videos (video_train_001, video_train_002)" in caplog.text
    assert "1 videos (video_else) are not of this split: left out" in caplog.text
    labels = json.loads((tmp_path / "run" / "proposals" / "filtered.json").read_text())["database"]
    assert {video: len(entry["annotations"]) for video, entry in labels.items()} == {
        "video_train_000": 2, "video_train_001": 0, "video_train_002": 0,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("stage", ["generator", "student"])
def test_inputs_that_do_not_fit_the_checkpoint_are_named_together(stage: str, tmp_path: pathlib.Path) -> None:
    model = _model(tmp_path / "model", stage)
    narrow, infinite, short = (tmp_path / f"{name}.npy" for name in ("narrow", "infinite", "short"))
    np.save(narrow, np.zeros([50, 32], np.float32))
    np.save(infinite, np.full([50, 64], np.inf, np.float32))
    np.save(short, np.zeros([1, 64], np.float32))
    said = prediction_error(model, narrow, infinite, short, out=tmp_path / "out")
    assert f"{narrow} has 32 channels; the checkpoint was trained on 64" in said
    assert str(infinite) in said
    assert f"{short} has 1 rows; expected [time, channels] with at least two" in said


def test_checkpoints_of_other_features_or_stages(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    narrow = _model(tmp_path / "narrow", "student", data__student__feature_dim=32)
    config = _config(folder, "student", student__labels="annotated", student__checkpoint=str(narrow))
    said = training_error(config, tmp_path / "run")
    assert f"{narrow} does not fit this config" in said
    assert "it was trained on features of 32 channels, those here have 64" in said
    config = _config(folder, "proposals", proposals__checkpoint=str(narrow))
    assert "stage 'student'; expected stage 'generator' of 'fustal'" in training_error(config, tmp_path / "run")
    narrow = _model(tmp_path / "narrow_generator", "generator", data__generator__feature_dim=32)
    config = _config(folder, "proposals", proposals__checkpoint=str(narrow))
    assert "it was trained on features of 32 channels, those here have 64" in training_error(config, tmp_path / "run2")


def test_checkpoints_of_another_system_or_of_other_classes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = _model(tmp_path / "model", "student")
    said = prediction_error(model, folder / "features", out=tmp_path / "out", config=tiny_config())
    assert "checkpoint of system 'fustal', but the config is for 'tst'" in said
    (folder / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    with pytest.raises(ValueError, match="class 0 is 'clap' there and 'climb' here"):
        splits.each(_config(folder), tmp_path / "run", lambda c, w: evaluate.evaluate(c, w, checkpoint=model))


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student__labels": "guessed"}, "config.student.labels='guessed' is unknown; use filtered or annotated"),
        ({"student__schedule": "step"}, "config.student.schedule='step' is unknown; use constant, cosine or multistep"),
        ({"student__schedule": "cosine", "student__warmup_epochs": 2}, "warmup_epochs=2 leave no epoch of"),
        ({"student__ranges": ((0, 4), (4, 8), (8, 99))}, "config.student.ranges has 3 entries for 2 levels"),
        ({"student__batch_size": 0}, "config.student.batch_size=0 must be at least 1"),
        ({"decode__nms": "greedy"}, "config.decode.nms='greedy' is unknown; use soft, hard or none"),
        ({"decode__video_scores": "/nowhere.json"}, "/nowhere.json"),
        ({"network__student__max_length": 127}, "max_length=127 must be a multiple of 2"),
        ({"network__student__block": "mamba"}, "block is 'mamba'; expected sgp, transformer or conv"),
        ({"generator__steps": 15}, "config.generator.steps=15 is no multiple of config.generator.evaluate_every=8"),
        ({"generator__batch_size": 0}, "config.generator.batch_size=0 must be at least 1"),
        ({"train__dtype": "float16"}, "config.train.dtype='float16' is unknown; use float32 or bfloat16"),
        ({"data__source": "cloud"}, "config.data.source='cloud' is unknown; use folder, prepared, synthetic"),
        ({"eval__protocol": "coco"}, "eval.protocol='coco' is not known"),
    ],
)
def test_options_that_cannot_be_used(
    folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, Any], said: str
) -> None:
    config = _config(folder, "generator", "student")
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    assert said in training_error(config, tmp_path / "run")
