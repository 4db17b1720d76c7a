"""The pass of SPOT's inference over a validation list runs, and counts what it found."""

from __future__ import annotations

import json

import pytest

from benchmarks import spot_inference
from tests.data.spot_folder import ENTRIES, ORDER, entry, write_spot_folder
from tests.tiny import tiny_spot


def test_every_video_is_predicted_and_scored_by_both_protocols(tmp_path) -> None:
    more = {f"v_{number}": entry(40.0, 1000, 1008, (0, 30 if number else 5, "Archery")) for number in range(4)}
    root = write_spot_folder(tmp_path / "spot", entries=ENTRIES | more, order=ORDER | dict.fromkeys(more, "validation"))
    videos = ["v_e", *more]
    scores = {video: {"class": "Archery", "score": 0.5 + number / 10} for number, video in enumerate(videos)}
    (root / "spot_best_score.json").write_text(json.dumps(scores))
    config = tiny_spot(data__root=str(root), data__labels=50.0, decode__video_scores=str(root / "spot_best_score.json"))
    measured = spot_inference.run(config)
    assert measured.videos == len(videos)
    assert len(videos) < measured.detections <= 100 * len(videos)
    assert measured.memory > 2**20
    assert list(measured.metrics) == [
        f"{source}{protocol}"
        for source in ("SPOT", "whole videos")
        for protocol in ("", ", as published, videos with long actions")
    ]
    # Three of the five show the action for three quarters of their length, and only these are long enough to count.
    assert measured.metrics["whole videos"]["mAP@0.7"] == pytest.approx(60)
    assert measured.metrics["whole videos, as published, videos with long actions"]["mAP@0.7"] == pytest.approx(100)
