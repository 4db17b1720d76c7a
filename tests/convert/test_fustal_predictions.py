"""Converted checkpoints of FuSTAL, TriDet and ActionFormer predict what the originals predicted."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import evaluate, predict, systems
from actloc_jax.data import synthetic_detection
from actloc_jax.data.grid import Grid
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems.api import Predictor
from actloc_jax.systems.fustal import settings
from actloc_jax.systems.fustal.points import make_points
from actloc_jax.systems.runner import Runner
from actloc_jax.training import checkpoints
from convert import __main__ as command
from tests.convert import published_detectors as published
from tests.convert.published import random_state
from tests.parity import fustal_student, harness
from tests.parity.harness import Case

FORWARD = ("student_forward_small", "student_forward_plain_head", "student_actionformer_variant")
STUDENTS = [case for kind in FORWARD for case in harness.cases("fustal", kind)]
GENERATORS = harness.cases("fustal", "generator_forward")
GRID = Grid(stride=4, window=16, fps=30.0)
META = {"fps": 30.0, "duration": 40.0, "feat_stride": 4, "feat_num_frames": 16}


@dataclasses.dataclass(frozen=True)
class Videos:
    """Videos in memory: features [time, channels] of each."""

    features: Sequence[np.ndarray]
    grid: Grid = GRID
    duration: float = 40.0

    @property
    def lengths(self) -> list[int]:
        return [len(each) for each in self.features]

    def __len__(self) -> int:
        return len(self.features)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        del epoch
        return {
            "video": f"v{position}", "index": position, "features": self.features[position],
            "segments": np.zeros([0, 2], np.float32), "labels": np.zeros(0, np.int32),
            "duration": self.duration, "fps": self.grid.fps, "grid": self.grid,
        }  # fmt: skip

    __getitem__ = record


def converted(folder: pathlib.Path, source: pathlib.Path, **fields: Any) -> pathlib.Path:
    """The model folder that the command makes of a file; fields with `__` for dots."""
    flags = [f"--set={field.replace('__', '.')}={value}" for field, value in fields.items() if field != "weights"]
    weights = [f"--weights={fields['weights']}"] if "weights" in fields else []
    assert command.main(["fustal", str(source), str(folder), *flags, *weights]) == 0
    return folder


def settings_of(case: Case) -> dict[str, Any]:
    """What shapes do not tell of a golden case: the fields to set."""
    model, test = case.config["model"], case.config["test_cfg"]
    fields = {
        "network__student__max_length": model["max_seq_len"],
        "decode__per_level": test["pre_nms_topk"],
        "decode__max_detections": test["max_seg_num"],
    }
    return fields | ({"network__student__windows": model["n_mha_win_size"]} if "n_mha_win_size" in model else {})


def loaded(folder: pathlib.Path) -> tuple[Any, Predictor]:
    """The model of a folder, and the system's predictor for it."""
    model, meta = checkpoints.load_model(folder)
    config = ConfigDict(meta["config"])
    return model, systems.of(config).predictor(config, meta["class_names"], meta["stage"])


def detections(folder: pathlib.Path, videos: Videos) -> list[ScoredSegments]:
    """What the system's predictor says with a converted model."""
    model, predictor = loaded(folder)
    return Runner(predictor).run(model, videos, seed=0)["student"]


def golden_videos(case: Case) -> Videos:
    assert case.config["meta"] == META
    return Videos([case.arrays[f"v{video}_feats"].T for video in range(len(case.config["lens"]))])


@pytest.mark.parametrize("case", STUDENTS, ids=lambda case: case.meta["case"])
def test_a_student_detects_what_the_original_detects(case: Case, tmp_path: pathlib.Path) -> None:
    folder = converted(tmp_path / "model", case.path / "weights.pth", **settings_of(case))
    for number, found in enumerate(detections(folder, golden_videos(case))):
        expected = {name: case.arrays[f"v{number}_out_{name}"] for name in ("labels", "scores", "segments")}
        np.testing.assert_array_equal(found.labels, expected["labels"])
        fustal_student.close(case, found.scores, expected["scores"])
        np.testing.assert_allclose(found.segments, expected["segments"], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("case", STUDENTS[:1], ids=lambda case: case.meta["case"])
def test_raw_weights_detect_something_else(case: Case, tmp_path: pathlib.Path) -> None:
    folder = converted(tmp_path / "model", case.path / "weights.pth", weights="raw", **settings_of(case))
    scores = detections(folder, golden_videos(case))[0].scores
    assert np.abs(scores - case.arrays["v0_out_scores"]).max() > 0.01


@pytest.mark.parametrize("case", STUDENTS[:1], ids=lambda case: case.meta["case"])
def test_the_mode_predict_takes_a_converted_student(case: Case, tmp_path: pathlib.Path) -> None:
    folder = converted(tmp_path / "model", case.path / "weights.pth", eval__timelines=1, **settings_of(case))
    videos = golden_videos(case)
    (tmp_path / "inputs").mkdir()
    for number, features in enumerate(videos.features):
        np.save(tmp_path / "inputs" / f"v{number}.npy", features)
    found = predict.predict(folder, [str(tmp_path / "inputs")], tmp_path / "out")
    for number, (answer, features) in enumerate(zip(found, videos.features, strict=True)):
        end = GRID.covered_seconds(len(features))  # of a video of which nothing else is known
        expected = np.minimum(case.arrays[f"v{number}_out_segments"], end)
        np.testing.assert_allclose(answer.segments, expected, rtol=1e-3, atol=2e-3)
    assert list((tmp_path / "out" / "predictions").iterdir())


@pytest.mark.parametrize("case", GENERATORS, ids=lambda case: case.meta["case"])
def test_the_generator_activates_as_the_original_does(case: Case, tmp_path: pathlib.Path) -> None:
    model, predictor = loaded(converted(tmp_path / "model", case.path / "weights.pth"))
    videos = Videos(list(case.arrays["x"]), Grid(stride=16, window=16, fps=25.0, align="start"))
    seen = []
    for batch in predictor.batches(videos):
        outputs = jax.device_get(predictor.predict(model, batch.arrays, jax.random.key(0)))
        for row, name in enumerate(batch.arrays["index"]):
            steps = len(videos.features[name])  # the rest is padding
            fustal_student.close(case, outputs["activations"][row, :steps], case.arrays["cas"][name])
            fustal_student.close(case, outputs["actionness"][row, :steps], case.arrays["actionness"][name])
            fustal_student.close(case, outputs["video_scores"][row], case.arrays["video_scores"][name])
            seen.append(int(name))
        assert all(found.scores.size for found in predictor.decode(outputs, batch.rows)["generator"])
    assert sorted(seen) == [0, 1, 2]


@pytest.mark.slow
def test_a_student_detects_what_its_network_says_at_the_published_length(tmp_path: pathlib.Path) -> None:
    """Windows need not divide the length that videos are padded to, as in TriDet's file for EPIC verbs."""
    sizes = {"features": 6, "width": 32, "neck": 32, "head": 16, "classes": 3, "hidden": 12, "bins": 4}
    state = random_state(published.tridet_shapes(windows=(5, 5), wide=(31, 31), **sizes))
    state = {key: 0.2 * array for key, array in state.items()}  # scores that differ
    source = published.student_file(tmp_path / "epoch_039.pth.tar", state)
    length = {"network__student__max_length": 64}
    folder = converted(tmp_path / "model", source, decode__per_level=40, decode__max_detections=30, **length)
    videos = Videos(
        [np.random.default_rng(i).standard_normal((rows, 6), np.float32) for i, rows in enumerate((50, 70))]
    )
    model, meta = checkpoints.load_model(folder)
    config = ConfigDict(meta["config"])
    detector = settings.detector_sizes(config, 3)
    net = jax.jit(settings.detector_network(config, detector))
    test = {"pre_nms_thresh": 0.001, "pre_nms_topk": 40, "duration_thresh": 0.05, "min_score": 0.001,
            "nms_sigma": 0.5, "max_seg_num": 30}  # fmt: skip
    for features, found in zip(videos.features, detections(folder, videos), strict=True):
        x, mask = fustal_student.padded(features.T, detector)
        points = make_points(x.shape[1], detector.strides, [tuple(each) for each in config.student.ranges])
        candidates = fustal_student.candidates(net(model["params"], x, mask), points, {"test_cfg": test})
        expected = fustal_student.after_suppression(candidates, {"test_cfg": test}, META)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(found.segments, expected.segments, rtol=1e-3, atol=2e-3)


def test_the_mode_evaluate_takes_a_converted_student(tmp_path: pathlib.Path) -> None:
    sizes = {"features": 64, "width": 16, "neck": 16, "head": 16, "classes": 5, "hidden": 16, "bins": 4}
    state = random_state(published.tridet_shapes(windows=(1,), wide=(11,), **sizes))
    source = published.student_file(tmp_path / "epoch_039.pth.tar", state)
    names = tmp_path / "classes.txt"
    config = importlib.import_module("configs.tridet_thumos").get_config("demo")
    config.decode.update({"per_level": 20, "max_detections": 20})
    config.eval.timelines = 0
    config.data.max_buckets = 1
    names.write_text("\n".join(synthetic_detection.CLASSES))
    flags = ["--dataset=tridet_thumos", f"--class-names={names}", "--set=network.student.max_length=64"]
    assert command.main(["fustal", str(source), str(tmp_path / "model"), *flags]) == 0
    metrics = evaluate.evaluate(config, tmp_path / "out", checkpoint=tmp_path / "model")
    assert 0 <= metrics["student"]["mAP"] <= 100
    assert (tmp_path / "out" / "evaluation.json").exists()
    names.write_text("\n".join(["run", "jump", "throw", "clap", "wave"]))
    assert command.main(["fustal", str(source), str(tmp_path / "other"), *flags]) == 0
    with pytest.raises(ValueError, match="was trained on other classes"):
        evaluate.evaluate(config, tmp_path / "out", checkpoint=tmp_path / "other")
