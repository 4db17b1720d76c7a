"""Bad input to ASOT ends in one sentence that says what was found, where, what was expected and what to do."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from actloc_jax import evaluate, splits, train
from actloc_jax.data.synthetic_activities import Settings, write_folder
from actloc_jax.systems.asot import network
from configs import asot_affinity
from tests.bad_input import prediction_error, training_error, write_untrained
from tests.tiny import tiny_asot, tiny_config


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A good data folder, to be spoilt."""
    return pathlib.Path(write_folder(tmp_path / "data", Settings(videos=3)))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model folder as a training leaves it, without the training."""
    config = splits.of_split(tiny_asot(), "tea")
    params = network.encoder_network(config, 6).init(jax.random.key(0))
    folder = tmp_path_factory.mktemp("untrained") / "model"
    return write_untrained(folder, config, "asot", ("a", "b"), params, frame_rate=15.0)


def _training_error(root: pathlib.Path, workdir: pathlib.Path, **changes: Any) -> str:
    return training_error(tiny_asot(data__source="folder", data__root=str(root), **changes), workdir)


def test_missing_data_folder(tmp_path: pathlib.Path) -> None:
    said = _training_error(tmp_path / "nowhere", tmp_path / "run")
    for part in (str(tmp_path / "nowhere"), "groundTruth/<video>", "features/", "mapping/mapping.txt", ":demo"):
        assert part in said


def test_activity_without_videos(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said = _training_error(folder, tmp_path / "run", data__split="golf")
    assert "no video of activity 'golf'" in said
    assert "'tea'" in said


def test_all_problems_of_a_data_folder_are_reported_together(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first, second, _ = sorted(folder.rglob("*.npy"))
    values = np.load(first)
    values[3, 7] = np.nan
    np.save(first, values)
    np.save(second, np.load(second)[:, :32])
    said = _training_error(folder, tmp_path / "run")
    assert f"{first.name}: NaN" in said or ("NaN" in said and first.name in said)
    assert f"{second.name} has 32 channels, expected 64" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transport__epsilon": 0.0}, "config.transport: epsilon is 0.0; it must be positive"),
        ({"decode__radius": 1.5}, "config.decode: radius is 1.5; it is a part of the video"),
        ({"asot__batch_size": 0}, "config.asot.batch_size is 0; it must be at least 1"),
        ({"clusters__tea": 500}, "config.clusters.tea is 500, but there are only 192 sampled frames"),
        ({"network__layers": (32, 12)}, "layers starts with 32, but config.data.feature_dim is 64"),
        ({"asot__checkpoint": "/nowhere"}, "/nowhere"),
        ({"eval__select": "F1@50", "asot__kmeans": False}, "selected by 'F1@50', but the evaluation gives MoF"),
        ({"data__activity_of": "middle"}, "activity_of='middle' is unknown"),
    ],
)
def test_options_that_cannot_be_used(
    folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, Any], said: str
) -> None:
    assert said in _training_error(folder, tmp_path / "run", **changes)


def test_stored_affinities_cannot_be_trained_on(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"config.data.source='affinity'.*--mode=predict"):
        splits.each(asot_affinity.get_config(), tmp_path, train.train)


def test_inputs_that_do_not_fit_the_checkpoint_are_named_together(
    untrained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    np.save(inputs / "narrow.npy", np.zeros([50, 40], np.float32))
    np.save(inputs / "infinite.npy", np.full([50, 64], np.inf, np.float32))
    said = prediction_error(untrained, inputs, out=tmp_path / "out")
    assert "narrow.npy has axes [50, 40]; the checkpoint needs [time, 64]" in said
    assert "infinite.npy" in said


def test_checkpoints_of_another_system(untrained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="checkpoint of system 'asot', but the config is for 'tst'"):
        splits.each(tiny_config(), tmp_path / "run", lambda c, w: evaluate.evaluate(c, w, checkpoint=untrained))
    said = prediction_error(untrained, tmp_path, out=tmp_path / "out", config=tiny_config())
    assert "checkpoint of system 'asot', but the config is for 'tst'" in said


def test_features_need_a_checkpoint(tmp_path: pathlib.Path) -> None:
    assert "needs --checkpoint" in prediction_error(None, tmp_path, out=tmp_path / "out", config=tiny_asot())


def test_predictions_outside_their_range(untrained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "inputs" / "a.npy", np.zeros([50, 64], np.float32))
    config = tiny_asot(decode__epsilon=-1.0)
    said = prediction_error(untrained, tmp_path / "inputs", out=tmp_path / "out", config=config)
    assert "config.decode: epsilon is -1.0" in said
