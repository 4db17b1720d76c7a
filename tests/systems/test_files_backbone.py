"""TST on a backbone that ran elsewhere: trains, evaluates and predicts from files of frame features and predictions."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import predict, splits, train
from actloc_jax.data import frame_cache
from actloc_jax.data.segmentation import SegmentationFolder
from actloc_jax.data.synthetic import Settings, write_folder
from configs import tst_gtea


@pytest.fixture(scope="module")
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One folder for all tests here, so that they share the trained model."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def config(tmp_path: pathlib.Path) -> ConfigDict:
    """TST on the ground truth, blurred and stored as a backbone's outputs, with networks as small as they get."""
    folder = SegmentationFolder(write_folder(tmp_path / "data", Settings(train_videos=4, test_videos=2, channels=8)))
    for video in folder.videos("train", 1) + folder.videos("test", 1):
        one_hot = np.eye(folder.num_classes, dtype=np.float32)[folder.labels(video)]
        frame_cache.write_video(tmp_path / "outputs", 0, video, folder.features(video), one_hot)
    frame_cache.write_meta(tmp_path / "outputs", {"n_seeds": 1, "sample_rate": 1})
    for features in (tmp_path / "data" / "features").iterdir():
        features.unlink()  # the backbone has read them; TST does not
    config = tst_gtea.get_config("files")
    config.data.update({"root": str(tmp_path / "data"), "num_classes": folder.num_classes, "max_buckets": 1})
    config.backbone.feature_dim = 8
    config.cache.folder = str(tmp_path / "outputs")
    config.refiner.update({"inner_dim": 8, "segment_dim": 8, "num_layers": 3})
    config.tst.update({"epochs": 2, "evaluate_every": 2})
    config.decode.postprocess = "none"
    config.eval.timelines = 0
    return config


@pytest.fixture(scope="module")
def metrics(config: ConfigDict, tmp_path: pathlib.Path) -> dict[str, dict[str, float]]:
    """Metrics of a short training in `tmp_path / "run"`."""
    return splits.each(config, tmp_path / "run", train.train)


def test_trains_evaluates_and_predicts_from_files(metrics, config: ConfigDict, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    assert metrics["backbone"]["Acc"] == pytest.approx(100.0), "the stored predictions are the ground truth"
    assert metrics["TST"].keys() == metrics["backbone"].keys()

    test_videos = SegmentationFolder(config.data.root).videos("test", 1)
    files = [str(frame_cache.cached_path(config.cache.folder, 0, video)) for video in test_videos]
    results = predict.predict(workdir, files, tmp_path / "out")
    written = {result.video: (workdir / "predictions" / result.video).read_text() for result in results}
    assert sorted(written) == sorted(test_videos)
    for video, text in written.items():
        assert (tmp_path / "out" / "predictions" / video).read_text() == text


def test_files_of_another_width_are_refused(metrics, config: ConfigDict, tmp_path: pathlib.Path) -> None:
    assert metrics
    frame_cache.write_video(tmp_path / "wrong", 0, "video", np.zeros([20, 5]), np.zeros([20, config.data.num_classes]))
    with pytest.raises(ValueError, match=r"video.npz has frame_features \(20, 5\).*expected \[time, 8\]"):
        predict.predict(tmp_path / "run", [str(tmp_path / "wrong" / "seed_000")], tmp_path / "out")
