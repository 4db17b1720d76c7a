"""The data set of a SPOT experiment from each of its sources, and a user's own features."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import tfds_detection
from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.grid import thumos14_i3d
from actloc_jax.data.rescaled import resize_linear
from actloc_jax.data.spot_files import SpotFolder
from actloc_jax.systems.spot import videos
from configs import spot_anet, spot_thumos
from tests.data.spot_folder import ENTRIES, ORDER, write_spot_folder

STEPS = 20
SHORT = "as published, videos with long actions"


@pytest.fixture
def spot(tmp_path: pathlib.Path) -> pathlib.Path:
    """The files of SPOT's release."""
    return write_spot_folder(tmp_path / "spot")


@pytest.fixture
def thumos(tmp_path: pathlib.Path) -> pathlib.Path:
    """A data set in ActionFormer's package: six training videos and two to evaluate, one of them with short actions."""
    (tmp_path / "i3d_features").mkdir()
    (tmp_path / "annotations").mkdir()
    database, rng = {}, np.random.default_rng(0)
    for number in range(8):
        rows = 60 + number
        np.save(tmp_path / "i3d_features" / f"v{number}.npy", rng.standard_normal([rows, 4]).astype(np.float32))
        seconds = ((rows - 1) * 4 + 16) / 30
        end = seconds / (20 if number == 7 else 1)
        database[f"v{number}"] = {
            "subset": "Validation" if number < 6 else "Test", "duration": seconds + 0.3, "fps": 30.0,
            "annotations": [{"segment": [0.0, end], "label": f"class{number % 2}"}],
        }  # fmt: skip
    (tmp_path / "annotations" / "thumos14.json").write_text(json.dumps({"database": database}))
    return tmp_path


def _config(module: Any, root: pathlib.Path, arg: str = "labels=50", **data: Any) -> ConfigDict:
    config = module.get_config(arg)
    config.data.update({"root": str(root), "feature_dim": 4, "steps": STEPS, **data})
    config.decode.video_scores = ""
    return config


def _open(config: ConfigDict) -> videos.SpotDataset:
    return videos.open_dataset(config, epath.Path("unused"))


def _assert_same(one: videos.SpotDataset, two: videos.SpotDataset) -> None:
    """Both have the same records in every part, and the same evaluations."""
    assert one.class_names == two.class_names
    assert list(one.truth("val")) == list(two.truth("val"))
    assert [(name, list(truth)) for name, truth in one.also_scored("val").items()] == [
        (name, list(truth)) for name, truth in two.also_scored("val").items()
    ]
    for part in ("labelled", "unlabelled", "pretraining", "evaluation"):
        sources = one.videos.source(part), two.videos.source(part)
        assert sources[0].videos == sources[1].videos
        for record, other in zip(*sources, strict=True):
            np.testing.assert_array_equal(record["features"], other["features"])
            np.testing.assert_array_equal(record["spans"], other["spans"])


def test_the_release_as_published_and_fixed(spot: pathlib.Path) -> None:
    published, fixed = (_open(_config(spot_anet, spot, arg, steps=100)) for arg in ("labels=50", "labels=50,fixed"))
    assert published.source("train").videos == ("v_d", "v_b")
    assert (list(published.also_scored("val")), list(fixed.also_scored("val"))) == (["all videos"], [SHORT])
    assert fixed.videos.source("unlabelled").videos == ("v_a", "v_c")
    assert published.truth("val").keys() == fixed.truth("val").keys() == {"v_e"}
    assert published.chance("val").keys() == {f"mAP@{number / 100:g}" for number in range(50, 100, 5)} | {"mAP"}
    assert not [problem for problem in published.problems("train") if problem.severity == "error"]


def test_features_of_another_format(spot: pathlib.Path) -> None:
    patterns = ("csv/{video}.csv", "npy/{video}.npy")
    _assert_same(*(_open(_config(spot_anet, spot, features=pattern, steps=100)) for pattern in patterns))


def test_a_detection_data_set_has_both_protocols(thumos: pathlib.Path) -> None:
    data = _open(_config(spot_thumos, thumos))
    assert data.problems("train") == []
    assert (len(data.source("train")), len(data.videos.source("unlabelled"))) == (3, 3)
    assert data.videos.split.rule == "drawn with seed 0"
    assert list(data.truth("val")) == ["v6", "v7"]
    assert list(data.also_scored("val")[SHORT]) == ["v6"]
    assert data.source("val")[0]["features"].shape == (STEPS, 4)
    other = _open(_config(spot_thumos, thumos, labels_seed=3))
    assert other.source("train").videos != data.source("train").videos
    assert len(_open(_config(spot_thumos, thumos, "labels=100")).source("train")) == 6


def test_prepared_data_are_the_same(thumos: pathlib.Path, spot: pathlib.Path, tmp_path: pathlib.Path) -> None:
    subsets = {"train": ("validation",), "test": ("test",)}
    folder = DetectionFolder(
        thumos, annotations="annotations/thumos14.json", features="i3d_features/{video}.npy", grid=thumos14_i3d(),
        subsets=subsets,
    )  # fmt: skip
    prepared = tfds_detection.prepare(folder, tmp_path / "prepared")
    _assert_same(_open(_config(spot_thumos, thumos)), _open(_config(spot_thumos, prepared, source="prepared")))
    prepared = tfds_detection.prepare(SpotFolder(spot, labels=50), tmp_path / "prepared")
    read, again = (
        _open(_config(spot_anet, root, steps=100, source=source))
        for root, source in ((spot, "spot"), (prepared, "prepared"))
    )
    _assert_same(read, again)


def test_own_features_are_resized(tmp_path: pathlib.Path) -> None:
    rows = np.random.default_rng(0).standard_normal([50, 4]).astype(np.float32)
    np.save(tmp_path / "own.npy", rows)
    (tmp_path / "table").mkdir()
    lines = ["a,b,c,d", *(",".join(f"{value:.9g}" for value in row) for row in rows)]
    (tmp_path / "table" / "own.csv").write_text("\n".join(lines))
    config = _config(spot_anet, tmp_path)
    for path in ("own.npy", "", "table"):  # a file, a folder without the format of the config, a folder with it
        inputs = videos.open_inputs(config, {}, [str(tmp_path / path)])
        assert inputs.lengths == (STEPS,)
        record = inputs[0]
        assert record["video"] == "own"
        np.testing.assert_allclose(record["features"], resize_linear(rows, STEPS), rtol=1e-6)
        assert record["duration"] == pytest.approx(50 * 0.64)
    with pytest.raises(ValueError, match=r"own.npy has 4 channels; the checkpoint was trained on 5"):
        videos.open_inputs(_config(spot_anet, tmp_path, feature_dim=5), {}, [str(tmp_path / "own.npy")])


def test_order_of_the_release_is_kept(spot: pathlib.Path) -> None:
    data = _open(_config(spot_anet, spot, "labels=50,fixed"))
    training = [video for video, subset in ORDER.items() if subset == "training"]
    assert list(data.videos.source("pretraining").videos) == training
    assert set(ENTRIES) == set(training) | set(data.truth("val"))
