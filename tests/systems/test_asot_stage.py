"""ASOT's training stage: where clusters start and stay, what a step sees, what the switches change."""

from __future__ import annotations

import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax.layers.functional import flatten
from actloc_jax.systems.asot import network, predictor, settings, stage
from actloc_jax.training import checkpoints
from tests.tiny import RandomVideos, tiny_asot

KEY = jax.random.key(0)
VIDEOS = RandomVideos((70, 64, 90, 40, 130))
META = {"system": "asot", "stage": "asot", "stage_index": 0, "class_names": [], "config": {}, "score": None}


def _stage(config: ConfigDict, videos: RandomVideos = VIDEOS) -> Any:
    return stage.asot_stage(config, types.SimpleNamespace(source=lambda split: videos))


def _network(config: ConfigDict) -> tuple[Any, dict[str, Any]]:
    """The network, and parameters of which clusters have length 1."""
    net = network.encoder_network(config, stage.num_clusters(config))
    return net, net.init(jax.random.key(3))


def _batch(frames: list[int], time: int = 64, seed: int = 5) -> dict[str, np.ndarray]:
    """Random features of videos with so many frames, filled up to `time`."""
    features = np.random.default_rng(seed).standard_normal([len(frames), time, 64]).astype(np.float32)
    mask = np.arange(time) < np.array(frames)[:, None]
    return {"features": features, "mask": mask, "index": np.arange(len(frames), dtype=np.int32)}


def _loss(config: ConfigDict, params: Any, batch: Any) -> float:
    net, _ = _network(config)
    return float(jax.jit(lambda p: stage.batch_loss(config, net, p, batch))(params))


def _loss_and_gradient(config: ConfigDict, params: Any, batch: Any) -> tuple[float, dict[str, np.ndarray]]:
    net, _ = _network(config)
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: stage.batch_loss(config, net, p, batch)))(params)
    return float(loss), flatten(gradient)


def test_clusters_start_at_the_centres_of_the_untrained_embeddings() -> None:
    config = tiny_asot()
    trained = _stage(config)
    fresh = trained.scratch(KEY)
    started = trained.warm_start(fresh)
    net, _ = _network(config)
    frames = np.concatenate([
        np.asarray(net(fresh.params, batch["features"]))[batch["index"] >= 0].reshape(-1, 12)
        for batch in stage.training_batches(config, VIDEOS, epochs=1)
    ])  # fmt: skip
    assert len(frames) == len(VIDEOS) * config.asot.frames, "the filler row of the last batch takes no part"

    def distances(clusters: jax.Array) -> np.ndarray:
        return np.square(frames[:, None] - np.asarray(clusters)).sum(axis=2)

    centres = started.params["clusters"]
    assert distances(centres).min(axis=1).mean() < 0.5 * distances(fresh.params["clusters"]).min(axis=1).mean()
    nearest = distances(centres).argmin(axis=1)
    means = [frames[nearest == k].mean(axis=0) for k in range(6)]
    np.testing.assert_allclose(centres, means, atol=1e-3)
    assert np.linalg.norm(centres, axis=1).max() < 0.999, "means of unit vectors are shorter"
    for path, values in flatten(fresh.params).items():
        if path != "clusters":
            np.testing.assert_array_equal(flatten(started.params)[path], values)


def test_every_process_starts_from_the_same_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(config: ConfigDict, net: Any, params: Any, batches: Any) -> jax.Array:
        seen.extend(int(index) for batch in batches for index in batch["index"] if index >= 0)
        return params["clusters"]

    trained = _stage(tiny_asot())
    fresh = trained.scratch(KEY)
    monkeypatch.setattr(stage, "kmeans_clusters", noted)
    monkeypatch.setattr(stage.jax, "process_count", lambda: 2)
    monkeypatch.setattr(stage.jax, "process_index", lambda: 1)
    trained.warm_start(fresh)
    assert sorted(seen) == list(range(len(VIDEOS))), "all videos, and not only those of this process"
    assert next(trained.batches())["index"].shape == (1,), "trains on its rows alone"


def test_without_kmeans_clusters_start_where_they_were_drawn() -> None:
    trained = _stage(tiny_asot(asot__kmeans=False))
    fresh = trained.scratch(KEY)
    assert trained.warm_start(fresh) is fresh
    np.testing.assert_allclose(np.linalg.norm(fresh.params["clusters"], axis=1), 1, atol=1e-6)


def test_more_clusters_than_frames_end_in_a_sentence() -> None:
    config = tiny_asot(clusters__tea=400)
    trained = _stage(config)
    with pytest.raises(ValueError, match=r"config.clusters.tea is 400, but .* 320 sampled frames"):
        trained.warm_start(trained.scratch(KEY))


def test_a_step_begins_with_clusters_of_length_one() -> None:
    config = tiny_asot()
    trained = _stage(config)
    state = trained.scratch(KEY)
    longer = state._replace(params={**state.params, "clusters": 3 * state.params["clusters"]})
    step = jax.jit(trained.train_step)
    batch = _batch([64, 50])
    (expected, first), (found, second) = step(state, batch, KEY), step(longer, batch, KEY)
    assert float(first["loss"]) == pytest.approx(float(second["loss"]), rel=1e-5)
    np.testing.assert_allclose(found.params["clusters"], expected.params["clusters"], atol=1e-5)
    moved = network.unit_rows(expected.params["clusters"]) - state.params["clusters"]
    assert np.abs(moved).max() > 1e-4, "clusters are learned"
    assert np.abs(np.linalg.norm(expected.params["clusters"], axis=1) - 1).max() > 1e-5, "the optimizer moves them off"


def test_clusters_that_are_not_learned_stay() -> None:
    config = tiny_asot(network__learn_clusters=False)
    trained = _stage(config)
    state = trained.scratch(KEY)
    start = network.unit_rows(state.params["clusters"])
    step = jax.jit(trained.train_step)
    before = state.params["layers"]["00"]["kernel"]
    for seed in range(3):
        state, _ = step(state, _batch([64, 50], seed=seed), KEY)
    np.testing.assert_allclose(network.unit_rows(state.params["clusters"]), start, atol=1e-6)
    assert np.abs(state.params["layers"]["00"]["kernel"] - before).max() > 1e-4


def test_a_filler_row_changes_neither_loss_nor_gradient() -> None:
    config = tiny_asot()
    assert config.quirks.step_over_batch, "else rows could not change each other"
    _, params = _network(config)
    batch = _batch([64, 50])
    batch["features"] = 0.1 * batch["features"] + batch["features"][:, :1]  # frames so alike that their costs are small
    loss, gradient = _loss_and_gradient(config, params, batch)
    rows = _batch([64, 50, 0])
    rows["features"][:2] = batch["features"]
    rows["index"][2] = -1
    filled_loss, filled_gradient = _loss_and_gradient(config, params, rows)
    assert filled_loss == pytest.approx(loss, rel=1e-6)
    for path, values in gradient.items():
        np.testing.assert_allclose(filled_gradient[path], values, atol=1e-6, err_msg=path)


def test_step_over_batch_couples_the_videos_of_a_batch() -> None:
    config = tiny_asot()
    _, params = _network(config)
    batch = _batch([64, 64])
    mean = np.mean([_loss(config, params, {name: rows[i : i + 1] for name, rows in batch.items()}) for i in range(2)])
    for published in (True, False):
        config.quirks.step_over_batch = published
        same = _loss(config, params, batch) == pytest.approx(mean, rel=1e-6)
        assert same is not published


def test_window_of_padded_length_counts_repeats() -> None:
    config = tiny_asot()
    mask = _batch([64, 20])["mask"]
    assert stage.sampled_lengths(config, mask).tolist() == [64, 64]
    config.quirks.window_of_padded_length = False
    assert stage.sampled_lengths(config, mask).tolist() == [64, 20]


def test_band_weight_by_radius_reaches_both_problems() -> None:
    config = tiny_asot()
    for make in (settings.training_settings, settings.decoding_settings):
        assert make(config).band_weight == "radius"
    config.quirks.band_weight_by_radius = False
    for make in (settings.training_settings, settings.decoding_settings):
        assert make(config).band_weight == "window"


def test_settings_of_both_problems_are_those_of_their_groups() -> None:
    config = tiny_asot()
    training, decoding = settings.training_settings(config), settings.decoding_settings(config)
    assert (training.epsilon, training.alpha, training.lambda_actions) == (0.07, 0.3, 0.11)
    assert (decoding.epsilon, decoding.alpha, decoding.lambda_actions) == (0.04, 0.6, 0.01)
    assert (training.step, training.step_scope, decoding.step_scope) == (None, "batch", "video")
    config.quirks.step_over_batch = False
    assert settings.training_settings(config).step_scope == "video"


def test_clusters_normalised_in_training_only_decodes_them_as_they_are() -> None:
    config = tiny_asot()
    net, params = _network(config)
    longer = {**params, "clusters": 2 * params["clusters"]}
    batch = _batch([64])
    for published in (True, False):
        config.quirks.clusters_normalised_in_training_only = published
        predict = predictor.encoder_predictor(config, net).predict
        codes_of = jax.jit(lambda p, predict=predict: predict({"params": p}, batch, KEY)["codes"])
        codes = [codes_of(p) for p in (params, longer)]
        assert np.allclose(*codes, atol=1e-5) is not published


def test_switches_of_the_samples() -> None:
    config = tiny_asot(asot__batch_size=1, asot__frames=16)
    config.data.standardise = True
    videos = RandomVideos((24,))
    last = {}
    for published in (True, False):
        config.quirks.last_frame_never_drawn = published
        config.quirks.standardise_after_sampling = published
        batches = [batch["features"][0] for batch in stage.training_batches(config, videos, epochs=20)]
        means = [np.abs(features.mean()) for features in batches]
        assert bool(max(means) < 1e-5) is published, "standardised by the sampled frames"
        config.quirks.standardise_after_sampling = False  # so that the last frame can be recognised
        batches = [batch["features"][0] for batch in stage.training_batches(config, videos, epochs=20)]
        whole = next(predictor.video_batches(config, videos)).arrays["features"][0, 23]
        last[published] = any(np.allclose(row, whole) for features in batches for row in features)
    assert last == {True: False, False: True}


def test_the_loss_of_a_whole_video_is_that_of_training() -> None:
    config = tiny_asot()
    trained = _stage(config)
    _, params = _network(config)
    batch = _batch([64])
    outputs = jax.jit(trained.predictor.predict)({"params": params}, batch, KEY)
    assert float(outputs["loss"][0]) == pytest.approx(_loss(config, params, batch), rel=1e-5)
    results = trained.predictor.decode(jax.device_get(outputs), [("video", 64)])
    assert results["ASOT"][0].loss == pytest.approx(float(outputs["loss"][0]))


def test_learns_with_a_bfloat16_encoder() -> None:
    config = tiny_asot(train__dtype="bfloat16")
    trained = _stage(config)
    state = trained.scratch(KEY)
    step, batch, losses = jax.jit(trained.train_step), _batch([64, 64]), []
    for _ in range(30):
        state, scalars = step(state, batch, KEY)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < 0.9 * losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    net, _ = _network(config)
    assert net(state.params, batch["features"]).dtype == jnp.float32
    exact, _ = _network(tiny_asot())
    difference = np.abs(net(state.params, batch["features"]) - exact(state.params, batch["features"])).max()
    assert 0 < difference < 0.05


def test_starts_from_a_checkpoint(tmp_path: pathlib.Path) -> None:
    _, params = _network(tiny_asot())
    checkpoints.save_model(tmp_path / "model", {"params": params, "batch_stats": {}}, META)
    trained = _stage(tiny_asot(asot__checkpoint=str(tmp_path / "model")))
    started = trained.warm_start(trained.scratch(KEY)).params
    for path, values in flatten(params).items():
        np.testing.assert_array_equal(flatten(started)[path], values, err_msg=path)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: pathlib.Path) -> None:
    _, params = _network(tiny_asot(network__layers=(64, 16, 8)))
    model = {"params": params, "batch_stats": {}}
    checkpoints.save_model(tmp_path / "narrow", model, META)
    trained = _stage(tiny_asot(asot__checkpoint=str(tmp_path / "narrow")))
    with pytest.raises(ValueError, match=r"(?s)narrow.* does not fit this config.*clusters has shape \(6, 8\)"):
        trained.warm_start(trained.scratch(KEY))
    checkpoints.save_model(tmp_path / "other", model, {**META, "system": "tst"})
    trained = _stage(tiny_asot(asot__checkpoint=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="checkpoint of system 'tst', not of 'asot'"):
        trained.warm_start(trained.scratch(KEY))
    trained = _stage(tiny_asot(asot__checkpoint=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        trained.warm_start(trained.scratch(KEY))


def test_widths_and_numbers_of_clusters_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match=r"layers starts with 32, but config.data.feature_dim is 64"):
        _stage(tiny_asot(network__layers=(32, 16, 12)))
    with pytest.raises(
        ValueError, match=r"no number of clusters for 'coffee' .it has tea.; pass --config.clusters.cof"
    ):
        _stage(tiny_asot(data__split="coffee"))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("transport__epsilon", 0.0, r"config.transport: epsilon is 0.0; it must be positive"),
        ("decode__epsilon", -0.1, r"config.decode: epsilon is -0.1; it must be positive"),
        ("transport__radius", 1.5, r"config.transport: radius is 1.5"),
        ("decode__mode", "sinkhorn", r"config.decode: mode is 'sinkhorn'; use pmd, gw, prox"),
        ("asot__evaluate_every", -1, r"config.asot.evaluate_every is -1"),
        ("asot__batch_size", 0, r"config.asot.batch_size is 0; it must be at least 1"),
    ],
)
def test_options_outside_their_range_end_before_the_training(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _stage(tiny_asot(**{field: value}))


def test_evaluations_come_every_so_many_epochs() -> None:
    trained = _stage(tiny_asot(asot__evaluate_every=5))
    assert [epoch for epoch in range(12) if trained.evaluate_at(epoch)] == [4, 9]
    assert not any(map(_stage(tiny_asot(asot__evaluate_every=0)).evaluate_at, range(12)))
