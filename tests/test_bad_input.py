"""Bad input ends in one sentence that says what was found, where, what was expected and what to do."""

from __future__ import annotations

import errno
import json
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import evaluate, predict, splits, train, workdirs
from actloc_jax.data.synthetic import Settings, write_folder
from actloc_jax.training import checkpoints
from tests.bad_input import training_error
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A workdir of a short training of DiffAct."""
    workdir = tmp_path_factory.mktemp("trained")
    splits.each(_config(stages=("diffact",)), workdir, train.train)
    return workdir


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A good data folder, to be spoilt."""
    return pathlib.Path(write_folder(tmp_path / "data", Settings(train_videos=3, test_videos=2)))


def _config(root: pathlib.Path | None = None, **fields) -> ConfigDict:
    config = tiny_config()
    if root is not None:
        config.data.update({"source": "folder", "root": str(root)})
    config.update(fields)
    return config


def test_missing_data_folder(tmp_path: pathlib.Path) -> None:
    said = training_error(_config(tmp_path / "nowhere"), tmp_path / "run")
    for part in (str(tmp_path / "nowhere"), "groundTruth/<video>.txt", "zenodo.org/records/3625992", ":demo"):
        assert part in said


def test_all_problems_of_a_data_folder_are_reported_together(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    videos = [line[:-4] for line in (folder / "splits" / "train.split1.bundle").read_text().split()]
    labels = folder / "groundTruth" / f"{videos[0]}.txt"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(["juggle", *lines[1:]]))
    features = folder / "features" / f"{videos[1]}.npy"
    values = np.load(features)
    values[3, 7] = np.nan
    np.save(features, values[:, : values.shape[1] // 2])
    (folder / "splits" / "test.split1.bundle").write_text("")
    said = training_error(_config(folder), tmp_path / "run")
    assert "'juggle'" in said
    assert "mapping.txt" in said
    assert f"{videos[1]}.npy has {values.shape[1] // 2} frames" in said
    assert f"{values.shape[1]} labels" in said
    assert "test.split1.bundle lists no videos" in said
    assert "NaN" in said


def test_wrong_feature_width(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = _config(folder)
    config.data.update({"feature_dim": 32, "layout": "channels_first"})
    said = training_error(config, tmp_path / "run")
    assert "64 channels" in said
    assert "expected 32" in said


def test_wrong_number_of_classes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = _config(folder)
    config.data.num_classes = 11
    assert "8 classes, but config.data.num_classes is 11" in training_error(config, tmp_path / "run")


def test_unknown_stage_and_condition(tmp_path: pathlib.Path) -> None:
    assert "stages of tst are diffact, asformer" in training_error(_config(stages=("tset",)), tmp_path / "a")


def test_stage_without_the_one_before(tmp_path: pathlib.Path) -> None:
    said = training_error(_config(stages=("tst",)), tmp_path / "run")
    assert "needs a trained backbone" in said
    assert "--config.tst.backbone_checkpoint" in said


def test_unwritable_workdir(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    said = training_error(_config(), tmp_path / "file" / "run")
    assert "cannot be written" in said
    assert "choose another folder" in said


def test_full_disk_leaves_the_checkpoint_before(trained: pathlib.Path, tmp_path: pathlib.Path, monkeypatch) -> None:
    target = tmp_path / "model"
    model, meta = checkpoints.load_model(checkpoints.find_model(trained))
    checkpoints.save_model(target, model, meta, step=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_model(target, model, meta, step=2)
    monkeypatch.undo()
    assert checkpoints.load_meta(target)["step"] == 1
    checkpoints.load_model(target)

    monkeypatch.setattr(workdirs, "replace_text", full)
    with pytest.raises(ValueError, match=r"cannot be written: No space left on device. Free some space"):
        workdirs.prepare(workdirs.epath.Path(tmp_path / "run"), _config())


def test_workdir_of_another_experiment(trained: pathlib.Path) -> None:
    config = _config(stages=("diffact",))
    config.refiner.inner_dim = 16
    assert "holds a run of another config (different: refiner)" in training_error(config, trained)


def test_no_checkpoint(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no model checkpoint.*Train first"):
        predict.predict(tmp_path, ["x.npy"], tmp_path / "out")


def test_truncated_checkpoint(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoints.find_model(trained), copy)
    for data in sorted(path for path in copy.rglob("*") if path.is_file() and "/d/" in str(path)):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"not a readable model checkpoint .truncated"):
        predict.predict(copy, [str(tmp_path)], tmp_path / "out")


def _with_meta(source: pathlib.Path, target: pathlib.Path, **changes) -> pathlib.Path:
    shutil.copytree(checkpoints.find_model(source), target)
    path = next(target.glob("*/meta/metadata"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def test_checkpoint_of_another_system(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = _with_meta(trained, tmp_path / "other", system="spot")
    with pytest.raises(ValueError, match="checkpoint of system 'spot', but the config is for 'tst'"):
        splits.each(_config(), tmp_path / "run", lambda c, w: evaluate.evaluate(c, w, checkpoint=other))


def test_checkpoint_of_other_classes(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    names = checkpoints.load_meta(checkpoints.find_model(trained))["class_names"]
    other = _with_meta(trained, tmp_path / "other", class_names=[*names[:-1], "juggle"])
    with pytest.raises(ValueError, match="class 7 is 'juggle' there and 'put' here"):
        splits.each(_config(), tmp_path / "run", lambda c, w: evaluate.evaluate(c, w, checkpoint=other))


def test_inputs_that_do_not_fit_the_checkpoint_are_named_together(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    np.save(inputs / "narrow.npy", np.zeros([40, 50], np.float32))
    np.save(inputs / "empty_frames.npy", np.full([64, 50], np.nan, np.float32))
    (inputs / "text.npy").write_text("not an array")
    with pytest.raises(ValueError, match="inputs cannot be used") as raised:
        predict.predict(trained, [str(inputs)], tmp_path / "out")
    for part in ("narrow.npy", "64", "empty_frames.npy", "NaN", "text.npy", "not a NumPy"):
        assert part in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere.npy does not exist; expected a .npy file"):
        predict.predict(trained, [str(tmp_path / "nowhere.npy")], tmp_path / "out")


def test_predicts_good_inputs(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "video.npy", np.random.default_rng(0).normal(size=[64, 90]).astype(np.float32))
    (result,) = predict.predict(trained, [str(tmp_path / "video.npy")], tmp_path / "out")
    assert len(result.labels) == 90
    header, names = (tmp_path / "out" / "predictions" / "video").read_text().split("\n")
    assert header == "### Frame level recognition: ###"
    assert len(names.split()) == 90
    assert (tmp_path / "out" / "figures" / "timeline_video.png").exists()
