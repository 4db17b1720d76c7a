"""Bad input to SPOT ends in one sentence that says what was found, where, what was expected and what to do."""

from __future__ import annotations

import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from actloc_jax import evaluate, inspect, predict, splits, train
from actloc_jax.data.synthetic_spot import FEATURES, Settings, write_folder
from actloc_jax.systems.spot import settings, videos
from actloc_jax.training import checkpoints
from tests.bad_input import training_error, write_untrained
from tests.runs import skip_evaluations
from tests.tiny import tiny_config, tiny_spot

RATIO = "video_info_new_0.8.csv"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A good data folder, to be spoilt: 10 training videos, 2 of them labelled, 2 to evaluate."""
    small = Settings(train_videos=10, val_videos=2, labels=20.0, channels=32, short=0.0)
    return pathlib.Path(write_folder(tmp_path / "data", small))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model folder as a training leaves it, without the training."""
    config = splits.of_split(tiny_spot(), "1")
    params = settings.spot_network(config, 2).init(jax.random.key(0))
    return write_untrained(tmp_path_factory.mktemp("untrained") / "model", config, "finetune", ("a", "b"), params)


def _config(root: pathlib.Path, **changes: Any) -> Any:
    known = {"data__source": "spot", "data__root": str(root), "data__labels": 20.0, "data__features": FEATURES}
    return tiny_spot(**known | {"finetune__unlabelled_batch": 8} | changes)


def _training_error(root: pathlib.Path, workdir: pathlib.Path, **changes: Any) -> str:
    return training_error(_config(root, **changes), workdir)


def _annotations(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "anet_anno_action.json").read_text())


def test_missing_data_folder(tmp_path: pathlib.Path) -> None:
    said = _training_error(tmp_path / "nowhere", tmp_path / "run")
    assert str(tmp_path / "nowhere") in said
    assert ":demo" in said


def test_ratio_file_of_other_videos(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = folder / RATIO
    path.write_text(path.read_text().replace("v_training_003", "v_other_003"))
    said = _training_error(folder, tmp_path / "run")
    assert f"1 of the 12 videos in {path} have no entry in {folder / 'anet_anno_action.json'}" in said
    assert "v_other_003" in said
    assert "use csv and annotation files of the same data set" in said


def test_unknown_share_of_labels_lists_the_known_ones(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said = _training_error(folder, tmp_path / "run", data__labels=30.0)
    assert f"{folder / 'video_info_new_0.7.csv'} does not exist" in said
    assert f"There are: {RATIO}. Choose one of them" in said


def test_ratio_file_of_another_share(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (folder / "video_info_new_0.3.csv").write_text((folder / RATIO).read_text())
    said = _training_error(folder, tmp_path / "run", data__labels=70.0)
    assert "2 of 10 training videos are labelled, 20 %" in said
    assert "labels=70 per cent were asked for" in said


def test_missing_features_are_counted_and_the_first_is_named(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for number in (4, 7):
        (folder / "features" / f"v_training_00{number}.npy").unlink()
    said = _training_error(folder, tmp_path / "run")
    assert "2 of 10 videos of split 'train' have no features: v_training_004, v_training_007" in said
    assert str(folder / "features" / "v_training_004.npy") in said
    config = _config(folder, data__missing_features="skip")
    with pytest.warns(UserWarning, match="v_training_004"):
        assert len(videos.open_dataset(config, tmp_path).videos.source("pretraining")) == 8


def test_no_labelled_video(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = folder / RATIO
    path.write_text(path.read_text().replace(",training,", ",training_unlabel,"))
    assert f"none of 10 training videos is labelled (stated by {path})" in _training_error(folder, tmp_path / "run")


def test_all_problems_are_reported_together(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first, second = sorted((folder / "features").iterdir())[:2]
    values = np.load(first)
    values[3, 7] = np.nan
    np.save(first, values)
    np.save(second, np.load(second)[:, :16])
    said = _training_error(folder, tmp_path / "run", decode__video_scores=str(tmp_path / "scores.json"))
    assert "3 problem(s)" in said
    assert f"{first}: 1 NaN or infinite values in 1 of" in said
    assert f"{second}: 16 channels (read as [time, channels]), expected 32" in said
    assert f"{tmp_path / 'scores.json'} does not exist" in said


def test_videos_without_a_segment_that_counts_are_counted_and_said(
    folder: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = _annotations(folder)
    for video in ("v_training_000", "v_training_005", "v_validation_010"):
        content[video]["annotations"] = [{"segment": [1.0, 2.0], "label": "archery"}]
    for video in ("v_training_004", "v_validation_011"):
        content[video]["annotations"][0]["segment"] = [0.0, content[video]["duration_second"]]
    (folder / "anet_anno_action.json").write_text(json.dumps(content))
    caplog.set_level(logging.INFO, logger="actloc_jax")
    config = _config(folder)
    config.quirks.update(dict.fromkeys(("long_segments_only", "filter_unlabelled", "filter_evaluation"), True))
    config.stages, config.finetune.unlabelled_batch = ("finetune",), 2
    inspect.inspect(config, tmp_path / "run")
    said = [line for line in caplog.messages if "no segment that counts" in line]
    assert [line.partition(" have no segment")[0].removeprefix("[train] ") for line in said] == [
        "1 of 2 labelled videos", "6 of 8 unlabelled videos", "1 of 2 evaluation videos"
    ]  # fmt: skip
    assert said[2].endswith("e.g. v_validation_010; they are not evaluated")
    assert said[1].endswith("they are left out")
    dataset = videos.open_dataset(config, tmp_path)
    assert list(dataset.truth("val")) == ["v_validation_011"]
    assert list(dataset.also_scored("val")["all videos"]) == ["v_validation_010", "v_validation_011"]


def test_an_evaluation_without_a_segment_that_counts(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """It is an error if it is the one that was asked for, and left out if it is the other one."""
    content = _annotations(folder)
    for video in ("v_validation_010", "v_validation_011"):
        content[video]["annotations"] = [{"segment": [1.0, 2.0], "label": "archery"}]
    (folder / "anet_anno_action.json").write_text(json.dumps(content))
    dataset = videos.open_dataset(_config(folder), tmp_path)
    assert list(dataset.truth("val")) == ["v_validation_010", "v_validation_011"]
    assert dataset.also_scored("val") == {}
    said = _training_error(folder, tmp_path / "run", quirks__filter_evaluation=True)
    assert "2 of 2 evaluation videos have no segment that counts at 24 steps" in said
    assert "they are not evaluated" in said


def test_a_constant_channel_trains_without_nan(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_evaluations(monkeypatch)
    for path in (folder / "features").iterdir():
        values = np.load(path)
        values[:, 3], values[:, 4] = 0.0, 2.5
        np.save(path, values)
    config = _config(folder)
    config.stages = ("pretrain",)
    splits.each(config, tmp_path / "run", train.train)
    [said] = [line for line in caplog.messages if "never change" in line]
    assert "10 of 10 training videos have channels that never change, the first is v_training_004 with 2" in said
    model, _ = checkpoints.load_model(tmp_path / "run" / "checkpoints" / "pretrain" / "best")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model["params"]))


def test_scores_of_whole_videos_that_cannot_be_used(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "spot_best_score.json"
    said = _training_error(folder, tmp_path / "run", decode__video_scores=str(path))
    assert f"{path} does not exist" in said
    assert "--config.decode.video_scores= (empty), and the network names them itself" in said
    path.write_text(json.dumps({"v_validation_010": {"class": "chess", "score": 1}}))
    said = _training_error(folder, tmp_path / "run", decode__video_scores=str(path))
    assert "class 'chess' of v_validation_010 is not among the 5" in said
    path.write_text(json.dumps({"v_elsewhere": {"class": "archery", "score": 1}}))
    said = _training_error(folder, tmp_path / "run", decode__video_scores=str(path))
    assert "2 of 2 evaluation videos have no score of the whole video" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__steps": 30}, "config.data.steps=30 needs as many config.network.positions; there are 24"),
        ({"mining__hard": 25}, "24 snippets are too few to choose 5 easy and 25 hard ones"),
        ({"data__source": "files"}, "config.data.source='files' is unknown; use spot, folder, prepared, synthetic"),
        ({"train__dtype": "float16"}, "config.train.dtype='float16' is unknown"),
        ({"eval__select": "F1"}, "selected by 'F1', but the evaluation gives mAP@0.5"),
        ({"finetune__checkpoint": "/nowhere"}, "/nowhere holds no model checkpoint"),
        (
            {"finetune__unlabelled_batch": 40},
            "A batch takes 40 unlabelled videos, but there are 8. Set config.finetune",
        ),
    ],
)
def test_options_that_cannot_be_used(
    folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, Any], said: str
) -> None:
    """None of them is found out after the first stage has been trained."""
    assert said in _training_error(folder, tmp_path / "run", **changes)


def test_inputs_that_do_not_fit_the_checkpoint_are_named_together(
    untrained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    np.save(inputs / "narrow.npy", np.zeros([50, 40], np.float32))
    np.save(inputs / "infinite.npy", np.full([50, 32], np.inf, np.float32))
    np.save(inputs / "good.npy", np.zeros([50, 32], np.float32))
    with pytest.raises(ValueError, match="The inputs cannot be used") as raised:
        predict.predict(untrained, [str(inputs)], tmp_path / "out")
    assert "narrow.npy has 40 channels; the checkpoint was trained on 32" in str(raised.value)
    assert "infinite.npy" in str(raised.value)
    assert "good.npy" not in str(raised.value)


def test_checkpoints_of_another_system_or_other_classes(
    untrained: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def error(config: Any, workdir: pathlib.Path) -> str:
        with pytest.raises(ValueError, match=r"checkpoint of|other classes") as raised:
            splits.each(config, workdir, lambda c, w: evaluate.evaluate(c, w, checkpoint=untrained))
        return str(raised.value)

    assert "checkpoint of system 'spot', but the config is for 'tst'" in error(tiny_config(), tmp_path / "other")
    assert "2 classes against 5" in error(_config(folder), tmp_path / "run")
