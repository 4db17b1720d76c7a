"""The report: complete, self-contained, escaped, worst videos first."""

from __future__ import annotations

import html.parser
import math
import re

import numpy as np
import pytest

from actloc_jax.plotting.confusion import confusion
from actloc_jax.plotting.report import VideoReport, html_report
from actloc_jax.plotting.timeline import Row

NAMES = ["background", "cut & <peel>", "pour", "never"]
VOID = {"meta", "img"}


class Tags(html.parser.HTMLParser):
    """Collects what a document holds and checks that its tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def video(name, accuracy, confidence=None):
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    rows = [Row("ground truth", labels), Row("TST", np.roll(labels, 3))]
    return VideoReport(name, rows, {"Acc": accuracy, "Edit": 50.0}, confidence)


VIDEOS = [video("good", 90.0), video("bad", 10.0, np.ones(60)), video("<script>x", 50.0), video("unknown", math.nan)]


@pytest.fixture(scope="module")
def report():
    counts = np.array([[40, 0, 0, 0], [20, 60, 0, 0], [0, 0, 120, 0], [0, 0, 0, 0]])
    return html_report(
        "tst_gtea & co",
        videos=VIDEOS,
        class_names=NAMES,
        frame_rate=10.0,
        scores={"TST": {"Acc": 81.43, "F1@50": 87.06}, "paper": {"F1@50": 87.1}, "chance": {"Acc": 12.0}},
        confusion_counts=counts,
        figures={"Confusion matrix": confusion(counts, NAMES)},
        facts={"checkpoint": "runs/<x>"},
    )


def test_document_is_well_formed_and_self_contained(report):
    tags = Tags(report)
    assert tags.open == []
    sources = [value for tag, name, value in tags.attributes if name in ("src", "href") and not value.startswith("#")]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,iVBOR")
    assert "http" not in re.sub(r"base64,[^\"]*", "", report)


def test_every_video_is_there_worst_first(report):
    order = re.findall(r'<article id="video-\d+"><h3>(.*?) <small>(.*?)</small>', report)
    assert [name for name, _ in order] == ["bad", "&lt;script&gt;x", "good", "unknown"]
    assert order[0][1] == "Acc 10.0  Edit 50.0"
    assert order[-1][1] == "Acc -  Edit 50.0"
    links = re.findall(r'<a href="#(video-\d+)">(.*?)</a></td><td>([\d.]+)</td>', report)
    assert links[0] == ("video-0", "bad", "6.0")
    assert len(links) == len(VIDEOS)


def test_every_segment_has_a_bar(report):
    per_video = [len(row.labels) and 1 + np.count_nonzero(np.diff(row.labels)) for row in VIDEOS[0].rows]
    assert report.count("<rect") == len(VIDEOS) * sum(per_video)
    assert report.count("<polyline") == 1


def test_text_is_escaped(report):
    assert report.count("<script>") == 1, "the report's own"
    assert "cut &amp; &lt;peel&gt;" in report
    assert "cut & <peel>" not in report
    assert "tst_gtea &amp; co" in report
    assert "runs/&lt;x&gt;" in report


def test_scores_stand_beside_the_references(report):
    (table,) = re.findall(r'<table class="scores">(.*?)</table>', report, re.DOTALL)
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in table.split("<tr>")[1:]]
    assert cells == [["", "Acc", "F1@50"], ["TST", "81.4", "87.1"], ["paper", "-", "87.1"], ["chance", "12.0", "-"]]


def test_classes_have_their_rates(report):
    rows = re.findall(r"<td><i [^>]*></i>(.*?)</td>" + r"<td>(.*?)</td>" * 5, report)
    assert rows == [
        ("background", "40", "16.7", "100.0", "66.7", "66.7"),
        ("cut &amp; &lt;peel&gt;", "80", "33.3", "75.0", "100.0", "75.0"),
        ("pour", "120", "50.0", "100.0", "100.0", "100.0"),
    ], "the class that does not occur is left out"


def test_predictions_without_ground_truth_make_a_report_too():
    videos = [VideoReport("clip", [Row("TST", np.array([0, 1, 1]))])]
    text = html_report("predictions", videos=videos, class_names=NAMES, frame_rate=1.0)
    assert "<h2>Scores</h2>" not in text
    assert text.count("<rect") == 2
    assert Tags(text).open == []


def test_sorting_by_an_unknown_metric_is_an_error():
    with pytest.raises(ValueError, match="worst_by='F1' is no metric of the videos; known: Acc, Edit"):
        html_report("x", videos=VIDEOS, class_names=NAMES, frame_rate=1.0, worst_by="F1")
