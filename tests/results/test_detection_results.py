"""Results that are scored segments: scores, the prediction file, figures and the report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data.proposals import read_proposals
from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.plotting import detections as plots
from actloc_jax.results import RESULTS, detection
from actloc_jax.results.types import ScoredSegments

NAMES = ["Diving", "HighJump", "never"]
OPTIONS = ConfigDict({"tiou": (0.3, 0.5, 0.7), "protocol": "sane", "timelines": 2})
TRUTH = {
    "one": Instances(np.array([[0.0, 10.0], [20.0, 30.0]]), np.array([0, 1])),
    "two": Instances(np.array([[5.0, 15.0]]), np.array([0])),
    "six": Instances(np.zeros((0, 2)), np.zeros(0, int)),
}


def found(video, segments, labels, scores):
    return ScoredSegments(
        video,
        np.array(segments, np.float32).reshape(-1, 2),
        np.array(labels, np.int32),
        np.array(scores, np.float32),
    )


OWN = [
    found("one", [[0, 10], [22, 30]], [0, 1], [0.875, 0.5]),  # tIoU 1 and 0.8
    found("six", [[1, 2]], [0], [0.75]),  # false
    found("two", [[5, 11], [40, 44]], [0, 1], [0.25, 0.125]),  # tIoU 0.6, and false
]
NOTHING = [found(video, [], [], []) for video in TRUTH]


def test_scores_are_map_in_percent_at_every_threshold_and_their_mean():
    high = 100 * (0.5 + 0.5 * 2 / 3)  # Diving: right, wrong, right
    expected = {"mAP@0.3": (high + 100) / 2, "mAP@0.5": (high + 100) / 2, "mAP@0.7": (50 + 100) / 2}
    scores = RESULTS["detection"].score(OWN, TRUTH, NAMES, OPTIONS)
    assert scores == pytest.approx({**expected, "mAP": np.mean(list(expected.values()))})


def test_a_video_without_result_counts_as_one_without_detections():
    scores = detection.score(OWN[:1], TRUTH, NAMES, OPTIONS)
    assert scores["mAP@0.5"] == pytest.approx((50 + 100) / 2)


def test_the_protocol_is_chosen_by_name():
    options = OPTIONS.copy_and_resolve_references()
    options.protocol = "afsd"  # leaves the false detection in the video without instances out
    assert detection.score(OWN, TRUTH, NAMES, options)["mAP@0.3"] == pytest.approx(100)
    options.protocol = "anet"
    with pytest.raises(ValueError, match=r"eval\.protocol='anet' is not known; one of sane, activitynet, fustal"):
        detection.score(OWN, TRUTH, NAMES, options)


def test_the_prediction_file_reads_back_and_is_what_activitynet_evaluates(tmp_path):
    folder = epath.Path(tmp_path) / "predictions"
    detection.write([*OWN, found("ten", [], [], [])], NAMES, folder)
    assert [path.name for path in folder.iterdir()] == ["detections.json"]
    content = json.loads((folder / "detections.json").read_text())
    assert {"version", "external_data", "results"} <= set(content)
    assert content["results"]["one"][1] == {"label": "HighJump", "score": 0.5, "segment": [22.0, 30.0]}
    videos = read_proposals(folder / "detections.json", NAMES).videos
    assert list(videos) == ["one", "six", "two", "ten"]
    np.testing.assert_array_equal(videos["two"].segments, OWN[2].segments)
    np.testing.assert_array_equal(videos["two"].labels, OWN[2].labels)
    assert len(videos["ten"]) == 0


def test_timelines_are_of_the_first_videos_or_of_all_without_ground_truth(tmp_path):
    folder = epath.Path(tmp_path) / "figures"
    results = {"student": OWN, "generator": NOTHING}
    some = detection.timelines(results, NAMES, folder, frame_rate=0.0, options=OPTIONS, truth=TRUTH)
    assert [path.name for path in some] == ["timeline_one.png", "timeline_six.png"]
    every = detection.timelines(results, NAMES, folder, frame_rate=0.0, options=OPTIONS)
    assert [path.name for path in every] == ["timeline_one.png", "timeline_six.png", "timeline_two.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in every)


@pytest.fixture
def report(tmp_path):
    """Writes the report of given sources; gives the workdir."""

    def write(results):
        scores = {source: detection.score(rows, TRUTH, NAMES, OPTIONS) for source, rows in results.items()}
        path = detection.report(
            results, TRUTH, NAMES, scores, {"paper": {"mAP@0.5": 44.4}}, title="demo", frame_rate=0.0,
            workdir=epath.Path(tmp_path), options=OPTIONS,
        )  # fmt: skip
        assert path == epath.Path(tmp_path) / "report.html"
        return path.parent

    return write


@pytest.fixture
def drawn(monkeypatch):
    """The last call of every figure, by name: positional and keyword arguments."""
    calls = {}

    def spy(name):
        original = getattr(plots, name)

        def call(*arguments, **keywords):
            calls[name] = arguments, keywords
            return original(*arguments, **keywords)

        monkeypatch.setattr(plots, name, call)

    for name in ("detection_timeline", "precision_recall", "tiou_sweep", "error_profile"):
        spy(name)
    return calls


def test_report_has_figures_the_table_of_classes_and_the_references(report, drawn):
    workdir = report({"student": OWN, "generator": NOTHING})
    assert {path.name for path in (workdir / "figures").iterdir()} == {
        "tiou.png", "precision_and_recall.png", "errors.png", "timeline_one.png", "timeline_six.png",
    }  # fmt: skip
    tables = json.loads((workdir / "per_class.json").read_text())
    assert [(row["class"], row["instances"], row["predictions"]) for row in tables["student"]] == [
        ("Diving", 2, 3), ("HighJump", 1, 2),
    ]  # fmt: skip
    assert tables["student"][0]["mAP@0.7"] == pytest.approx(50)
    assert [row["mAP"] for row in tables["generator"]] == [0, 0]
    text = (workdir / "report.html").read_text()
    assert "44.4" in text
    assert "<td>HighJump</td><td>1</td><td>2</td><td>100.0</td>" in text
    assert text.count("<img") == 5
    assert "<h2>Videos" not in text

    (curves, _), options = drawn["precision_recall"]
    assert options["threshold"] == 0.5
    np.testing.assert_allclose(curves[0].recall, [0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(curves[0].precision, [1, 1, 2 / 3, 2 / 3, 0])
    mean = options["mean"]
    np.testing.assert_allclose(mean.precision[[0, 50, 51, 100]], [1, 1, 5 / 6, 5 / 6])
    assert mean.average == pytest.approx((0.5 + 0.5 * 2 / 3 + 1) / 2)
    (thresholds, sweep), _ = drawn["tiou_sweep"]
    assert thresholds == (0.3, 0.5, 0.7)
    assert list(sweep) == ["student", "generator", "paper"]
    np.testing.assert_array_equal(sweep["paper"], [np.nan, 44.4, np.nan])
    (_, profile, gains), _ = drawn["error_profile"]
    np.testing.assert_allclose(profile[:2].sum(axis=1), 1)
    assert gains["background"] > 0
    (true, rows, _), _ = drawn["detection_timeline"]
    assert (true.name, [row.name for row in rows]) == ("ground truth", ["generator", "student"])


def test_report_without_any_detection(report):
    workdir = report({"student": NOTHING})
    assert {path.name for path in (workdir / "figures").iterdir()} == {
        "tiou.png", "precision_and_recall.png", "timeline_one.png", "timeline_two.png",
    }  # fmt: skip
