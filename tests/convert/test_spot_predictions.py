"""Converted checkpoints of SPOT predict what the original predicted, and can be evaluated and trained on."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import evaluate, predict, systems
from actloc_jax.data import synthetic_spot
from actloc_jax.data.rescaled import resize_linear
from actloc_jax.layers.functional import Network, flatten
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems.api import Predictor
from actloc_jax.systems.runner import Runner
from actloc_jax.systems.spot import decode, settings
from actloc_jax.training import checkpoints
from convert import __main__ as command
from tests.convert.published import random_state
from tests.convert.published_spot import spot_file, spot_shapes, with_buffers
from tests.parity import harness
from tests.parity.harness import Case
from tests.parity.spot_network import close as assert_close
from tests.parity.spot_network import time_first
from tests.tiny import tiny_spot

# Cases with weights of their own: their files are written as the training script writes them.
FORWARD = [case for case in harness.cases("spot", "model_forward") if (case.path / "weights.pth").exists()]
WHOLE = harness.cases("spot", "inference_e2e")


def converted(folder: pathlib.Path, source: pathlib.Path, *flags: str) -> pathlib.Path:
    """The model folder that the command makes of a file."""
    assert command.main(["spot", str(source), str(folder), *flags]) == 0
    return folder


def loaded(folder: pathlib.Path) -> tuple[Any, Network, Predictor, ConfigDict]:
    """The model of a folder, and the system's network and predictor for it."""
    model, meta = checkpoints.load_model(folder)
    config = ConfigDict(meta["config"])
    network = settings.spot_network(config, len(meta["class_names"]))
    return model, network, systems.of(config).predictor(config, meta["class_names"], meta["stage"]), config


def folder_of_features(folder: pathlib.Path, features: dict[str, np.ndarray]) -> pathlib.Path:
    folder.mkdir()
    for video, rows in features.items():
        np.save(folder / f"{video}.npy", rows)
    return folder


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.meta["case"])
def test_the_network_answers_as_the_original_does(case: Case, tmp_path: pathlib.Path) -> None:
    model, network, _, _ = loaded(converted(tmp_path / "model", case.path / "weights.pth"))
    x = time_first(case.arrays["x"])
    output = jax.jit(network)(model["params"], x)
    assert_close(case, time_first(output.logits), case.arrays["top"])
    assert_close(case, time_first(output.masks), case.arrays["bottom"])
    assert_close(case, time_first(output.features), case.arrays["features"])
    order = jax.jit(lambda params, x: network(params, x, method="order"))(model["params"], x)
    assert_close(case, order, case.arrays["clip_logits"])


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.meta["case"])
def test_the_mode_predict_takes_a_converted_model(case: Case, tmp_path: pathlib.Path) -> None:
    folder = converted(tmp_path / "model", case.path / "weights.pth", "--set=eval.timelines=0")
    *_, config = loaded(folder)
    features = {f"v{number}": video.T for number, video in enumerate(case.arrays["x"])}
    inputs = folder_of_features(tmp_path / "inputs", features)
    found = predict.predict(folder, [str(inputs)], tmp_path / "out")
    # What the original's own outputs say, for videos of 24 rows and 0.64 seconds each.
    chosen, time = settings.decode(config), case.config["temporal_scale"]
    outputs = (time_first(case.arrays[name]) for name in ("top", "bottom"))
    slots = jax.tree.map(np.asarray, decode.candidates(*outputs, chosen))
    seconds = np.full(len(features), time * config.decode.row_seconds)
    expected = decode.detections(list(features), seconds, slots, time, chosen, None)
    assert sum(len(video.scores) for video in expected) > 0
    for ours, video in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.labels, video.labels)
        assert_close(case, ours.scores, video.scores)
        np.testing.assert_allclose(ours.segments, video.segments, atol=1e-6)
    assert list((tmp_path / "out" / "predictions").iterdir())
    written = (tmp_path / "out" / "predictions").rglob("*.json")
    assert any("class_" in path.read_text() for path in written)


class ResizedVideos:
    """Features [rows, channels] of videos in memory, at the steps of a model."""

    def __init__(self, features: dict[str, np.ndarray], durations: dict[str, float], steps: int) -> None:
        self.features, self.durations, self.steps = features, durations, steps
        self.lengths = [steps] * len(features)

    def __len__(self) -> int:
        return len(self.features)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        del epoch
        video, rows = list(self.features.items())[position]
        features = resize_linear(rows, self.steps)
        return {"video": video, "index": position, "features": features, "duration": self.durations[video]}

    __getitem__ = record


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.meta["case"])
def test_a_converted_model_detects_what_the_original_detects(case: Case, tmp_path: pathlib.Path) -> None:
    arrays, best = case.arrays, json.loads((case.path / "spot_best_score.json").read_text())
    names = sorted({entry["class"] for entry in best.values()})
    names += [f"other {number}" for number in range(case.config["num_classes"] - len(names))]
    (tmp_path / "class_index.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    scores = f'--set=decode.video_scores="{case.path / "spot_best_score.json"}"'
    flags = [f"--class-names={tmp_path / 'class_index.json'}", scores]
    model, _, predictor, config = loaded(converted(tmp_path / "model", case.path / "weights.pth", *flags))
    with np.load((case.path / case.meta["feature_rows"]).resolve() / "io.npz") as file:
        features = {video: file[f"feature_file.{video}"] for video in arrays["video_names"].tolist()}
    annotations = json.loads((case.path / "anet_anno_action.json").read_text())
    durations = {video: annotations[video]["duration_second"] for video in features}
    found = Runner(predictor).run(model, ResizedVideos(features, durations, config.data.steps), seed=0)["SPOT"]
    assert_detections(case, found, names)


def assert_detections(case: Case, found: list[ScoredSegments], names: list[str]) -> None:
    """The detections of the case, in its order."""
    arrays = case.arrays
    assert [video.video.removeprefix("v_") for video in found] == arrays["det.video"].tolist()
    assert [len(video.scores) for video in found] == arrays["det.count"].tolist()
    assert [names[label] for video in found for label in video.labels] == arrays["det.label"].tolist()
    assert_close(case, np.concatenate([video.scores for video in found]), arrays["det.score"])
    assert_close(case, np.concatenate([video.segments for video in found]), arrays["det.segment"])


def demo_file(folder: pathlib.Path, name: str, *, optimizer: bool = False) -> pathlib.Path:
    """A checkpoint with the sizes and classes of the tiny demo."""
    sizes = {"channels": 32, "time": 24, "heads": 2, "mask": 8, "positions": 24}
    state = with_buffers(random_state(spot_shapes(classes=len(synthetic_spot.CLASSES), **sizes)))
    return spot_file(folder / name, state, optimizer=optimizer)


def test_evaluation_and_second_stage_take_converted_models(tmp_path: pathlib.Path) -> None:
    config = tiny_spot(eval__timelines=0)
    (tmp_path / "classes.txt").write_text("\n".join(synthetic_spot.CLASSES))
    flags = [f"--class-names={tmp_path / 'classes.txt'}"]
    folder = converted(tmp_path / "model", demo_file(tmp_path, "SPOT_best_semi.pth.tar"), *flags)
    system, workdir = systems.of(config), epath.Path(tmp_path / "out")
    dataset = system.dataset(config, workdir)
    metrics = evaluate.evaluate(config, workdir, checkpoint=folder, dataset=dataset)
    assert 0 <= metrics["SPOT"]["mAP"] <= 100
    numbered = converted(tmp_path / "other", demo_file(tmp_path, "SPOT_best_semi.pth.tar"))
    with pytest.raises(ValueError, match="was trained on other classes"):
        evaluate.evaluate(config, workdir, checkpoint=numbered, dataset=dataset)

    first = converted(tmp_path / "first", demo_file(tmp_path, "first.pth.tar", optimizer=True), *flags)
    config.finetune.checkpoint = str(first)
    config.stages = ("finetune",)
    (stage,) = system.stages(config, dataset, workdir)
    started = flatten(stage.warm_start(stage.scratch(jax.random.key(0))).params)
    for path, array in flatten(checkpoints.load_model(first)[0]["params"]).items():
        np.testing.assert_array_equal(jnp.asarray(started[path]), array, err_msg=path)
