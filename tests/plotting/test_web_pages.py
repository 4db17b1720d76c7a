"""Pages for a browser: complete, small, escaped, and without any reference to the network."""

from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pytest

from actloc_jax.plotting.detections import SegmentRow
from actloc_jax.plotting.web_pages import MOST_SEGMENTS, VideoRow, index_page, json_for_script, video_page

NAMES = ["background", "cut </script><script>alert(1)</script>", 'pour "milk" & <b>', "Brühe 日本\u2028x", "never"]
HOSTILE = "a<b>'\"&@@data@@ \udcff é.mp4"
VOID = {"meta", "img", "input"}


class Document(html.parser.HTMLParser):
    """Checks that tags close in order, and collects them, their attributes and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def row(name="TriDet", count=4, scores=True):
    starts = np.arange(count)[::-1].astype(float)
    return SegmentRow(
        name,
        np.stack([starts, starts + 1.5], axis=1),
        np.arange(count) % 4,
        np.linspace(0.1, 0.9, count) if scores else None,
    )


def page(**changes):
    options = {"duration": 10.0, "minima": {"TriDet": 0.2}, "background": ["background"], "video": "../a%20b.mp4",
               "stills": [(1.0, b"\xff\xd8jpeg")], "scores": {"mAP": 12.5, "none": float("nan")},
               "facts": {"config": "<i>x</i>"}, "files": {"CSV": "x.csv"}, "home": "../index.html"}  # fmt: skip
    return video_page(HOSTILE, [row("ground truth", scores=False), row()], NAMES, **{**options, **changes})


def index():
    videos = [
        VideoRow(HOSTILE, "timelines/a%20b.html", 65.2, [row("ground truth", scores=False), row()], {"mAP": 50.0}),
        VideoRow("frames", "timelines/frames.html", None, [row("ASOT", 0)], {}),
    ]
    return index_page(
        f"All {HOSTILE}", videos, NAMES, scores={"TriDet <b>": {"mAP": 50.0}, "chance": {"mAP": 1.0}},
        facts={"config": "<i>"}, links={"All scores": "report.html"}, count="2 videos",
    )  # fmt: skip


PAGES = {"video": page, "index": index}


def content(text: str):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


@pytest.mark.parametrize("kind", PAGES)
def test_documents_are_well_formed_and_hold_two_scripts(kind: str) -> None:
    text = PAGES[kind]()
    document = Document(text)
    assert document.open == []
    assert text.count("<script") == text.count("</script>") == 2, "data and script; no name can begin or end one"
    assert "@@" not in text.replace("@@data@@", "", 4), "every mark of the template is filled"
    assert text.encode("utf-8")


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_refers_to_the_network(kind: str) -> None:
    text = PAGES[kind]()
    assert not re.search(r"https?:|wss?:|//[a-z]+\.|@import|url\(|\bfetch\(|XMLHttpRequest|import\(", text)
    addresses = [value for _, name, value in Document(text).attributes if name in ("src", "href")]
    assert all(not re.match(r"\w+:|//", address) for address in addresses)
    policy = [value for _, name, value in Document(text).attributes if name == "content" and "default-src" in value]
    assert policy[0].startswith("default-src 'none'")


@pytest.mark.parametrize("kind", PAGES)
def test_names_are_text_wherever_they_stand(kind: str) -> None:
    text = PAGES[kind]()
    assert "<b>" not in text
    assert "<i>" not in text.replace('<i class="swatch"', "")
    assert "alert(1)</script>" not in text
    assert "&lt;b&gt;&#x27;&quot;&amp;@@data@@ ? é.mp4" in text


def test_the_data_of_a_page_are_its_rows_by_time() -> None:
    data = content(page())
    assert data["title"] == HOSTILE.replace("\udcff", "?")
    assert [entry["name"] for entry in data["classes"]] == NAMES[:4], "classes that occur"
    assert [entry["background"] for entry in data["classes"]] == [True, False, False, False]
    truth, own = data["rows"]
    assert truth["segments"][0] == [0.0, 1.5, 3, None]
    assert own["segments"] == [[0.0, 1.5, 3, 0.9], [1.0, 2.5, 2, 0.6333], [2.0, 3.5, 1, 0.3667], [3.0, 4.5, 0, 0.1]]
    assert (truth["minimum"], own["minimum"]) == (None, 0.2)
    assert data["scores"] == {"mAP": 12.5, "none": None}
    assert data["stills"] == [[1.0, "data:image/jpeg;base64,/9hqcGVn"]]


def test_the_largest_page_is_below_a_megabyte() -> None:
    rng = np.random.default_rng(0)
    count = 2 * MOST_SEGMENTS
    rows = [
        SegmentRow(
            name, np.sort(rng.uniform(0, 36000, [count, 2]), axis=1), rng.integers(0, 5, count), rng.random(count)
        )
        for name in ("TriDet", "ActionFormer")
    ]
    rows.append(SegmentRow("ground truth", rows[0].segments, rows[0].labels))
    picture = rng.bytes(10_000)  # of a noisy video, 240 pixels wide
    text = page_of(rows, [(float(time), picture) for time in range(24)])
    assert len(text.encode()) < 1_000_000
    data = content(text)
    share = MOST_SEGMENTS // 3
    assert [len(row["segments"]) for row in data["rows"]] == [share] * 3
    assert data["rows"][0]["name"] == f"TriDet (best {share} of {count})"
    assert data["rows"][2]["name"] == f"ground truth (longest {share} of {count})"
    kept = np.array([segment[3] for segment in data["rows"][0]["segments"]])
    assert kept.min() >= np.sort(rows[0].scores)[-share] - 1e-4
    lengths = np.array([segment[1] - segment[0] for segment in data["rows"][2]["segments"]])
    assert lengths.min() >= np.sort(np.ptp(rows[2].segments, axis=1))[-share] - 1e-2


def page_of(rows, stills):
    return video_page("x", rows, NAMES, duration=36000.0, minima={"TriDet": 0.1, "ActionFormer": 0.1}, stills=stills)


def test_an_index_of_many_videos_is_below_a_megabyte() -> None:
    videos = [
        VideoRow(f"video_{number:04d}", f"timelines/video_{number:04d}.html", 100.0, [row(count=300)] * 3, {"mAP": 1.0})
        for number in range(200)
    ]
    assert len(index_page("x", videos, NAMES).encode()) < 1_000_000


def test_the_index_draws_the_best_segment_of_each_moment() -> None:
    segments = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 4.0]])
    own = SegmentRow("TriDet", segments, np.array([0, 1, 2]), np.array([0.5, 0.9, 0.1]))
    data = content(index_page("x", [VideoRow("v", None, 4.0, [own], {})], NAMES))
    bins = data["bins"]
    assert data["strips"] == [
        [["TriDet", [[0, bins // 4, 0], [bins // 4, bins // 2, 1], [3 * bins // 4, bins // 4, 0]]]]
    ]


def test_numbers_and_links_of_the_index() -> None:
    text = index()
    assert '<a href="timelines/a%20b.html">' in text
    assert '<td data-key="65.2">1:05</td><td>50.0</td>' in text
    assert "<td>-</td><td>-</td>" in text, "a video without known rate and scores"
    assert '<tr class="own"><td class="text">TriDet &lt;b&gt;</td><td>50.0</td>' in text
    assert '<a href="report.html">All scores</a>' in text


def test_data_of_a_script_cannot_end_it() -> None:
    hostile = {"a": "</script><!--<script>\u2028\u2029&\udcff"}
    text = json_for_script(hostile)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text)["a"] == "</script><!--<script>\u2028\u2029&?"
    with pytest.raises(ValueError, match="Out of range"):
        json_for_script([float("inf")])


def test_rows_must_be_there_and_have_different_names() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        video_page("x", [], NAMES, duration=1.0)
    with pytest.raises(ValueError, match="different names, found TriDet, TriDet"):
        video_page("x", [row(), row()], NAMES, duration=1.0)
