"""An evaluation on other videos than the main one counts exactly these, of the same predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax.evaluate import Evaluator
from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems import api
from actloc_jax.systems.spot.system import SYSTEM

TRUTH = {
    "v_easy": Instances(np.array([[0.0, 8.0]]), np.array([0])),
    "v_hard": Instances(np.array([[1.0, 2.0]]), np.array([0])),
}
CONFIG = ConfigDict(
    {"eval": {"tiou": (0.5,), "averages": (), "protocol": "activitynet", "seed": 0, "selection_split": "val"}}
)


def _found(video: str, *segments: tuple[float, float]) -> ScoredSegments:
    """Detections of class 0, the first of them the surest."""
    scores = np.linspace(0.9, 0.5, len(segments))
    return ScoredSegments(video, np.array(segments, np.float32), np.zeros(len(segments), np.int32), scores)


def _evaluator(main: dict[str, Instances], **others: dict[str, Instances]) -> Evaluator:
    dataset = api.Dataset(
        class_names=("jump",), source=lambda split: [], truth=lambda split: main, problems=lambda split: [],
        frame_rate=0.0, chance=lambda split: {}, also_scored=lambda split: others,
    )  # fmt: skip
    predictor = api.Predictor(lambda source: iter(()), lambda model, batch, key: {}, lambda outputs, rows: {})
    return Evaluator(SYSTEM, predictor, dataset, CONFIG)


def _score(evaluator: Evaluator, *rows: ScoredSegments, **sources: Any) -> dict[str, float]:
    metrics = evaluator.score({"SPOT": list(rows)} | sources, "val")
    return {name: row["mAP"] for name, row in metrics.items()}


def test_results_of_videos_outside_a_protocol_do_not_count_in_it() -> None:
    filtered = {"v_easy": TRUTH["v_easy"]}
    right, wrong = _found("v_easy", (0, 8)), _found("v_hard", (5, 6), (6, 7), (7, 8))
    elsewhere = _found("v_elsewhere", (0, 8), (1, 2))
    surest = ScoredSegments("v_hard", wrong.segments, wrong.labels, wrong.scores + 5)  # before all true positives
    for rows in ([right], [right, wrong], [right, surest], [elsewhere, surest, right]):
        assert _score(_evaluator(filtered, all=TRUTH), *rows)["SPOT"] == 100
        assert _score(_evaluator(TRUTH, filtered=filtered), *rows)["SPOT, filtered"] == 100
    assert _score(_evaluator(TRUTH), right) == {"SPOT": 50}
    assert _score(_evaluator(filtered, all=TRUTH), right, wrong) == {"SPOT": 100, "SPOT, all": 50}
    assert _score(_evaluator(filtered, all=TRUTH), right, surest)["SPOT, all"] == pytest.approx(100 / 8)


def test_a_video_without_result_counts_and_only_the_first_source_is_scored_again() -> None:
    filtered = {"v_hard": TRUTH["v_hard"]}
    scores = _score(_evaluator(TRUTH, filtered=filtered), _found("v_easy", (0, 8)), other=[_found("v_hard", (1, 2))])
    assert scores == {"SPOT": 50, "other": 50, "SPOT, filtered": 0}
    without = ScoredSegments("v_hard", np.zeros([0, 2], np.float32), np.zeros(0, np.int32), np.zeros(0))
    assert _score(_evaluator(TRUTH, filtered=filtered), _found("v_easy", (0, 8)), without)["SPOT, filtered"] == 0
