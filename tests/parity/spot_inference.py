"""Parity of SPOT's inference: from rows of features to candidates, detections and mAP."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.data.rescaled import resize_linear
from actloc_jax.metrics import detection, detection_matching
from actloc_jax.systems.spot import decode
from actloc_jax.systems.spot.decode import DecodeSettings, Rows, VideoScores
from tests.parity.detection_shared import annotation_rows, numbered_classes
from tests.parity.harness import Case, parity
from tests.parity.spot_network import close, network_of, time_first

SCORE_RTOL = 1e-6  # of decoding stored outputs, stated in words in the case's tolerance


@parity("spot", "inference_e2e")
def check_inference(case: Case) -> None:
    """Network outputs from features; then, from the stored outputs, candidates, detections and mAP."""
    arrays = case.arrays
    _check_network(case)
    settings = settings_of(case)
    videos = arrays["video_names"].tolist()
    logits, masks = time_first(arrays["top_logits"]), time_first(arrays["masks"])
    found = jax.jit(lambda logits, masks: decode.candidates(logits, masks, settings))(logits, masks)
    found = jax.tree.map(np.asarray, found)

    assert case.config["use_external_video_label"]
    best = json.loads((case.path / "spot_best_score.json").read_text())
    names = sorted({best[video]["class"] for video in videos})
    external = VideoScores(
        np.array([names.index(best[video]["class"]) for video in videos]),
        np.array([best[video]["score"] for video in videos]),
    )
    time = logits.shape[1]
    rows = decode.joined_rows(found, time, settings, external)
    _check_rows(case, rows, videos, names)
    durations = _durations(case, videos)
    results = decode.detections(videos, durations, found, time, settings, external)
    _check_detections(case, results, names)


def settings_of(case: Case) -> DecodeSettings:
    testing = case.config["testing"]
    return DecodeSettings(
        top_snippets=testing["top_k_snip"],
        mask_thresholds=tuple(map(float, testing["mask_thresh"])),
        class_thresholds=tuple(testing["class_thresh"]),
        divisor=testing["nms_thresh"],
    )


def _check_network(case: Case) -> None:
    net, params = network_of(case)
    with np.load((case.path / case.meta["feature_rows"]).resolve() / "io.npz") as file:
        rows = [file[f"feature_file.{video}"] for video in case.arrays["video_names"].tolist()]
    features = np.stack([resize_linear(each, case.config["temporal_scale"]) for each in rows])
    output = jax.jit(net)(params, jnp.asarray(features))
    close(case, time_first(output.logits), case.arrays["top_logits"])
    close(case, time_first(output.masks), case.arrays["masks"])


def _check_rows(case: Case, rows: Rows, videos: list[str], names: list[str]) -> None:
    """The rows of the original's csv file, in the order of the case."""
    expected = {name: case.arrays[f"rows.{name}"] for name in ("xmin", "xmax", "clr_score", "reg_score")}
    assert [videos[video] for video in rows.video] == case.arrays["rows.video_name"].tolist()
    assert [names[label] for label in rows.labels] == case.arrays["rows.label"].tolist()
    np.testing.assert_array_equal(rows.segments, np.column_stack([expected["xmin"], expected["xmax"]]))
    np.testing.assert_allclose(rows.mask_scores, expected["clr_score"], rtol=SCORE_RTOL)
    np.testing.assert_allclose(rows.class_scores, expected["reg_score"], rtol=SCORE_RTOL)


def _durations(case: Case, videos: list[str]) -> np.ndarray:
    annotations = json.loads((case.path / "anet_anno_action.json").read_text())
    return np.array([annotations[video]["duration_second"] for video in videos])


def _check_detections(case: Case, results: list[Any], names: list[str]) -> None:
    """Detections in the order of the case, and their mAP over the videos that have any."""
    arrays = case.arrays
    assert [result.video.removeprefix("v_") for result in results] == arrays["det.video"].tolist()
    assert [len(result.scores) for result in results] == arrays["det.count"].tolist()
    assert [names[label] for result in results for label in result.labels] == arrays["det.label"].tolist()
    close(case, np.concatenate([result.scores for result in results]), arrays["det.score"])
    close(case, np.concatenate([result.segments for result in results]), arrays["det.segment"])

    truths = annotation_rows(json.loads((case.path / "ground_truth.json").read_text())["database"], "validation")
    predictions = {
        result.video.removeprefix("v_"): [
            (*segment, names[label], score)
            for segment, label, score in zip(result.segments, result.labels, result.scores, strict=True)
        ]
        for result in results
    }
    truths = {video: rows for video, rows in truths.items() if video in predictions}
    scores = detection.evaluate(
        *numbered_classes(truths, predictions), detection.ACTIVITYNET_TIOU, detection_matching.ACTIVITYNET
    )
    close(case, scores.average_precision, arrays["ap_by_threshold_class"])
    close(case, scores.average_precision.mean(axis=1), arrays["mAP"])
    close(case, scores.mean(), arrays["average_mAP"])
