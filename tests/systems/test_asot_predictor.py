"""From features, or from stored affinities, to results of whole videos."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import segment_asot
from actloc_jax.predict import predict
from actloc_jax.results.types import FrameLabels, embedded_frames
from actloc_jax.systems.asot import network, predictor, stage
from actloc_jax.systems.runner import Runner
from configs import asot_affinity
from tests.tiny import RandomVideos, tiny_asot

VIDEOS = RandomVideos((30, 290, 77))


CONFIG = tiny_asot(decode__batch_size=1, data__max_buckets=2)
NET = network.encoder_network(CONFIG, stage.num_clusters(CONFIG))


def _run(config: ConfigDict, model: dict[str, Any]) -> dict[str, list[FrameLabels]]:
    return Runner(predictor.encoder_predictor(config, NET, with_loss=True)).run(model, VIDEOS, seed=0)


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    """An untrained encoder, with clusters at the means of the actions' embeddings."""
    params = NET.init(jax.random.key(1))
    embedding = np.concatenate([NET(params, VIDEOS[i]["features"]) for i in range(len(VIDEOS))])
    labels = np.concatenate([VIDEOS[i]["labels"] for i in range(len(VIDEOS))])
    means = np.stack([embedding[labels == k].mean(axis=0) for k in range(6)])
    return {"params": {**params, "clusters": network.unit_rows(means)}, "batch_stats": {}}


@pytest.fixture(scope="module")
def alone(model: dict[str, Any]) -> dict[str, list[FrameLabels]]:
    """Results of the videos, one in a batch."""
    return _run(CONFIG, model)


def test_batches_and_padding_change_nothing(model: dict[str, Any], alone: dict[str, list[FrameLabels]]) -> None:
    together = _run(tiny_asot(decode__batch_size=4, data__max_buckets=1), model)
    assert list(alone) == list(together) == ["ASOT", "nearest cluster"]
    for source, results in alone.items():
        for expected, found in zip(results, together[source], strict=True):
            assert found.video == expected.video
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
            np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-3)
    for expected, found in zip(alone["ASOT"], together["ASOT"], strict=True):
        np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)


def test_results_hold_what_figures_and_metrics_need(model: dict[str, Any], alone: dict[str, list[FrameLabels]]) -> None:
    assert [result.video for result in alone["ASOT"]] == [f"video_{i}" for i in range(3)]
    for index, (own, nearest) in enumerate(zip(*alone.values(), strict=True)):
        frames = VIDEOS.lengths[index]
        for result in (own, nearest):
            assert (result.labels.shape, result.labels.dtype) == ((frames,), np.int32)
            assert (result.scores.shape, result.confidence.shape) == ((frames, 6), (frames,))
            np.testing.assert_array_equal(result.labels, result.scores.argmax(axis=1))
            np.testing.assert_allclose(result.scores.sum(axis=1), 1, atol=1e-4)
            np.testing.assert_allclose(result.confidence, result.scores.max(axis=1), atol=1e-4)
        embedding = np.asarray(NET(model["params"], VIDEOS[index]["features"]))
        np.testing.assert_allclose(own.embedding, embedding[embedded_frames(frames)], atol=1e-5)
        similarity = embedding @ np.asarray(model["params"]["clusters"]).T
        np.testing.assert_array_equal(nearest.labels, similarity.argmax(axis=1))
        assert np.isfinite(own.loss)
        assert (nearest.embedding, nearest.loss) == (None, None)
    assert any((own.labels != other.labels).any() for own, other in zip(*alone.values(), strict=True))


def test_stored_affinities_are_decoded_as_by_the_function(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    affinities = {name: rng.uniform(size=[frames, 5]) for name, frames in (("tea", 90), ("milk", 40))}
    for kind, make in (("affinity", lambda a: a), ("cost", lambda a: 1 - a)):
        config = asot_affinity.get_config("cost" if kind == "cost" else None)
        (tmp_path / kind).mkdir()
        for name, affinity in affinities.items():
            np.save(tmp_path / kind / f"{name}.npy", make(affinity))
        results = predict(None, [str(tmp_path / kind)], tmp_path / f"out_{kind}", config=config)
        options = {name: config.decode[name] for name in ("epsilon", "alpha", "radius", "lambda_actions")}
        expected = segment_asot([affinities["milk"], affinities["tea"]], rho=config.decode.rho, **options)
        assert [result.video for result in results] == ["milk", "tea"]
        for result, one in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result.labels, one.labels)
            np.testing.assert_allclose(result.scores, one.plan, atol=1e-3)
    for folder, names in (
        ("predictions", {"tea", "milk"}),
        ("figures", {f"{kind}_{name}.png" for kind in ("timeline", "assignment") for name in ("tea", "milk")}),
    ):
        assert {path.name for path in (tmp_path / "out_cost" / folder).iterdir()} == names
    words = (tmp_path / "out_cost" / "predictions" / "tea").read_text().splitlines()[1].split()
    assert words == [f"cluster_{label:02d}" for label in results[1].labels]


def test_inputs_without_a_model_that_cannot_be_used_are_named_together(tmp_path: pathlib.Path) -> None:
    config = asot_affinity.get_config()
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        predict(None, [str(tmp_path / "nowhere")], tmp_path / "out", config=config)
    with pytest.raises(FileNotFoundError, match="npy"):
        predict(None, [str(tmp_path)], tmp_path / "out", config=config)
    np.save(tmp_path / "transposed.npy", np.zeros([5, 90], np.float32))
    np.save(tmp_path / "nan.npy", np.full([90, 5], np.nan, np.float32))
    np.save(tmp_path / "vector.npy", np.zeros([90], np.float32))
    np.save(tmp_path / "empty.npy", np.zeros([0, 5], np.float32))
    with pytest.raises(ValueError, match="inputs cannot be used") as raised:
        predict(None, [str(tmp_path)], tmp_path / "out", config=config)
    for part in (
        "transposed.npy has axes [5, 90]: more clusters than frames; expected [time, clusters]",
        "nan.npy",
        "vector.npy has 1 axes (90,); expected",
        "empty.npy has axes [0, 5]",
    ):
        assert part in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_inputs_of_the_same_name_are_refused(tmp_path: pathlib.Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "tea.npy", np.random.default_rng(0).uniform(size=[40, 4]))
    config = asot_affinity.get_config()
    with pytest.raises(ValueError, match=r"a/tea.npy and .*b/tea.npy have the same name"):
        predict(None, [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out", config=config)
