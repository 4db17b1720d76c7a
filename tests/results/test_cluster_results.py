"""Results that are cluster ids: scores, files, figures and the report of an evaluation and of a prediction."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.evaluate import table
from actloc_jax.metrics import clustering
from actloc_jax.plotting import clusters as plots
from actloc_jax.results import RESULTS, clusters
from actloc_jax.results.types import EMBEDDED_FRAMES, FrameLabels, embedded_frames

NAMES = ["SIL", "take", "pour", "never"]
OPTIONS = ConfigDict({"seed": 3, "timelines": 2})
TRUTH = {
    "one": np.repeat([0, 1, 2], [10, 30, 20]).astype(np.int32),
    "two": np.repeat([0, 2, 1], [10, 30, 300]).astype(np.int32),
    "six": np.repeat([-1, 2], [30, 30]).astype(np.int32),
}
CLUSTER_OF_CLASS = np.array([4, 0, 2, 3, 1])  # of SIL, take, pour, never, ignored (-1); cluster 1 ends unmatched


def result(video, shift=0, scores=True, embedding=True):
    labels = np.roll(CLUSTER_OF_CLASS[TRUTH[video]], shift).astype(np.int32)
    rows = np.eye(6, dtype=np.float32)[labels]
    frames = embedded_frames(len(labels))
    return FrameLabels(
        video, labels, scores=rows if scores else None, embedding=rows[frames, :5] if embedding else None,
        loss=float(len(labels)),
    )  # fmt: skip


@pytest.fixture
def results():
    return {"ASOT": [result(video) for video in TRUTH], "nearest cluster": [result(video, 4) for video in TRUTH]}


@pytest.fixture
def drawn(monkeypatch):
    """Calls of the figures, by name: list of (positional, keyword) arguments."""
    calls = {}

    def spy(name):
        original = getattr(plots, name)

        def call(*arguments, **keywords):
            calls.setdefault(name, []).append((arguments, keywords))
            return original(*arguments, **keywords)

        monkeypatch.setattr(plots, name, call)

    for name in ("segmentation_bars", "assignment_map", "assignment_before_after", "embedding_map"):
        spy(name)
    return calls


def make_report(results, workdir, **changes):
    arguments = {"title": "asot_demo, test", "frame_rate": 15.0, "workdir": workdir, "options": OPTIONS, **changes}
    scores = {source: clusters.score(rows, TRUTH, NAMES, OPTIONS) for source, rows in results.items()}
    return clusters.report(results, TRUTH, NAMES, scores, {"paper": {"MoF": 63.3}}, **arguments)


def test_task_is_registered():
    assert RESULTS["unsupervised segmentation"] is clusters


def test_embedded_frames_are_evenly_spaced():
    np.testing.assert_array_equal(embedded_frames(5), np.arange(5))
    frames = embedded_frames(5292)
    assert (len(frames), frames[0], frames[-1]) == (EMBEDDED_FRAMES, 0, 5291)
    assert set(np.diff(frames)) == {20, 21}


def test_scores_are_those_after_the_matching_with_the_seed_of_the_options(results):
    scores = clusters.score(results["nearest cluster"], {**TRUTH, "other": np.zeros(3, np.int32)}, NAMES, OPTIONS)
    predictions = {row.video: row.labels for row in results["nearest cluster"]}
    expected = clustering.evaluate(predictions, TRUTH, seed=3)
    assert scores == {**expected, "loss": pytest.approx(np.mean([60, 340, 60]))}
    assert scores["F1"] != clustering.evaluate(predictions, TRUTH, seed=4)["F1"], "the seed must matter here"
    silent = [FrameLabels(row.video, row.labels) for row in results["nearest cluster"]]
    assert clusters.score(silent, TRUTH, NAMES, OPTIONS) == expected


def test_predictions_are_written_as_named_clusters(tmp_path):
    clusters.write([FrameLabels("clip", np.array([3, 3, 12], np.int32))], NAMES, epath.Path(tmp_path) / "out")
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "clip"
    assert file.read_text() == "### Frame level recognition: ###\ncluster_03 cluster_03 cluster_12"


def swapped_one():
    """Video "one" with the clusters of take and pour exchanged, against all other videos."""
    return FrameLabels("one", CLUSTER_OF_CLASS[[0, 2, 1]][TRUTH["one"]].astype(np.int32))


def test_bars_use_the_matching_over_all_videos(results, tmp_path, drawn):
    results["ASOT"][0] = swapped_one()
    paths = clusters.timelines(results, NAMES, epath.Path(tmp_path), frame_rate=15.0, options=OPTIONS, truth=TRUTH)
    assert [path.name for path in paths] == ["timeline_one.png", "timeline_two.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    (truth, rows, matching, names), keywords = drawn["segmentation_bars"][0]
    assert matching == {4: 0, 0: 1, 2: 2}
    assert [row.name for row in rows] == ["nearest cluster", "ASOT"], "the own answer at the bottom"
    np.testing.assert_array_equal(truth, TRUTH["one"])
    assert names == NAMES
    assert list(keywords["classes"]) == [0, 1, 2], "a class keeps its colour over the videos"


def test_prediction_without_truth_shows_clusters_and_assignments(results, tmp_path, drawn):
    results = {"ASOT": [*results["ASOT"][:2], result("six", scores=False)]}
    paths = clusters.timelines(results, NAMES, epath.Path(tmp_path), frame_rate=15.0, options=OPTIONS)
    assert [path.name for path in paths] == [
        "timeline_one.png", "assignment_one.png", "timeline_two.png", "assignment_two.png", "timeline_six.png",
    ]  # fmt: skip
    assert all(path.exists() for path in paths)
    ((scores,), keywords) = drawn["assignment_map"][0]
    np.testing.assert_array_equal(scores, results["ASOT"][0].scores)
    assert keywords["cluster_names"] == [f"cluster_0{k}" for k in range(6)]


def test_prediction_at_an_unknown_rate_counts_frames(results, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(clusters, "save_figure", lambda figure, path: figures.append(figure))
    clusters.timelines(results, NAMES, epath.Path(tmp_path), frame_rate=0.0, options=OPTIONS)
    assert [figure.axes[0].get_xlim() for figure in figures[1::2]] == [(0, 60), (0, 340), (0, 60)]
    assert {figure.axes[0].get_xlabel() for figure in figures[1::2]} == {"frame"}
    assert {figure.axes[-1].get_xlabel() for figure in figures[::2]} == {"frame"}, "bars of the clusters"
    assert [figure.axes[-1].get_xlim() for figure in figures[::2]] == [(0, 60), (0, 340), (0, 60)]


def test_report_writes_every_figure(results, tmp_path, drawn):
    path = make_report(results, epath.Path(tmp_path))
    assert path == epath.Path(tmp_path) / "report.html"
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        "timeline_one.png", "timeline_two.png", "assignment_one.png", "assignment_two.png", "contingency.png",
        "clusters.png", *(f"{kind}_{video}.png" for kind in ("pairwise", "embedding") for video in TRUTH),
    }  # fmt: skip
    (before, after), keywords = drawn["assignment_before_after"][0]
    np.testing.assert_array_equal(before, results["nearest cluster"][0].scores)
    np.testing.assert_array_equal(after, results["ASOT"][0].scores)
    assert keywords["names"] == ("nearest cluster", "ASOT")
    assert keywords["cluster_names"] == ["00 take", "01", "02 pour", "03", "04 SIL", "05"]
    assert list(keywords["boundaries"]) == [10, 40]


def test_report_marks_cluster_centres_at_the_mean_of_their_frames(results, tmp_path, drawn):
    make_report(results, epath.Path(tmp_path))
    (embedding, labels, centres, _), _ = drawn["embedding_map"][1]
    assert len(embedding) == len(labels) == EMBEDDED_FRAMES
    np.testing.assert_array_equal(labels, TRUTH["two"][embedded_frames(340)])
    np.testing.assert_allclose(centres[[0, 1, 2, 4]], np.eye(5)[[0, 1, 2, 4]])
    assert np.isnan(centres[[3, 5]]).all(), "clusters without frames have no mean"


def test_report_names_clusters_by_class(results, tmp_path):
    text = make_report(results, epath.Path(tmp_path)).read_text()
    matching = json.loads((tmp_path / "clusters.json").read_text())
    assert matching == {"cluster_00": "take", "cluster_01": None, "cluster_02": "pour", "cluster_04": "SIL"}
    article = re.search(r"<article[^>]*><h3>one .*?</article>", text, re.DOTALL)[0]
    assert re.findall(r"<title>(\w+) ", article)[:3] == ["SIL", "take", "pour"], "ground truth"
    assert re.findall(r"<title>(\w+) ", article)[-3:] == ["SIL", "take", "pour"], "ASOT, renamed"
    six = re.search(r"<article[^>]*><h3>six .*?</article>", text, re.DOTALL)[0]
    assert "<title>cluster_01  0.00 to 2.00 s</title>" in six, "unmatched"
    assert "MoF 100.0  MoF video 100.0" in six, "frames that are not evaluated cost nothing"
    (row,) = re.findall(r"</i>pour</td>" + r"<td>(.*?)</td>" * 5, text)
    assert row == ("80", "18.6", "100.0", "100.0", "100.0")
    assert "63.3" in text


def test_report_judges_a_video_by_the_matching_over_all(results, tmp_path):
    _, two, six = results["ASOT"]
    text = make_report({"ASOT": [two, swapped_one(), six]}, epath.Path(tmp_path)).read_text()
    article = re.search(r"<article[^>]*><h3>one .*?</article>", text, re.DOTALL)[0]
    assert "MoF 16.7  MoF video 100.0" in article, "SIL alone agrees with the other videos"
    assert text.index("<h3>one") < text.index("<h3>two"), "worst first"


def test_report_of_plain_labels_and_a_video_that_is_not_evaluated(results, tmp_path, monkeypatch):
    monkeypatch.setitem(TRUTH, "six", np.full(60, -1, np.int32))
    plain = {"ASOT": [result(video, scores=False, embedding=False) for video in TRUTH]}
    text = make_report(plain, epath.Path(tmp_path), frame_rate=0.0).read_text()
    figures = {file.name for file in (tmp_path / "figures").iterdir()}
    assert figures == {"timeline_one.png", "timeline_two.png", "contingency.png"}
    assert "<h3>six <small></small></h3>" in text
    assert "<title>take  frames 10 to 39</title>" in text
    assert "<th>frames</th><th>MoF</th>" in text
    assert "<td>340</td>" in text
    assert ">frame</text>" in text


def test_own_scores_alone_give_a_single_assignment(results, tmp_path, drawn):
    plain = [FrameLabels(row.video, row.labels) for row in results["nearest cluster"]]
    make_report({"ASOT": results["ASOT"], "nearest cluster": plain}, epath.Path(tmp_path))
    assert len(drawn["assignment_map"]) == 2
    assert "assignment_before_after" not in drawn


def test_training_curves_are_drawn_where_logged(results, tmp_path):
    row = {"time": 0.0, "stage": "asot", "step": 1, "epoch": 1, "train/loss": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    text = make_report(results, epath.Path(tmp_path)).read_text()
    assert (tmp_path / "figures" / "training.png").exists()
    assert "<h2>Training</h2>" in text


def test_long_metric_names_do_not_run_together_in_the_table(results):
    scores = clusters.score(results["ASOT"], TRUTH, NAMES, OPTIONS)
    header, row, _ = table({"ASOT": scores, "paper": {"MoF": 63.3}}).splitlines()
    assert re.split(r"\s{2,}", header.strip()) == list(scores)
    assert len(header) == len(row)
    for name, value in zip(scores, row.split()[1:], strict=True):
        end = re.search(rf"(?<=  ){re.escape(name)}(?=  |$)", header).end()
        assert row[:end].endswith(value), "numbers stand right below their names"
