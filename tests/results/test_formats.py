"""Segments as CSV, JSON, SRT and WebVTT: times, overlaps, names that a format gives a meaning."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re

import hypothesis
import hypothesis.strategies as st
import pytest
from etils import epath

from actloc_jax.data.proposals import read_proposals
from actloc_jax.results.formats import Cue, csv_text, cues, json_text, srt_text, vtt_text
from actloc_jax.results.types import Segment

HOSTILE = ['a,b "c"', "<b>x</b>", "{\\an8}y", "1\n00:00 --> 00:01", "Brühe 日本", "=1+1", "&amp;", "  "]


def test_csv_is_read_back_as_it_was() -> None:
    segments = [Segment(0.0, 1.25, name, 0.5) for name in HOSTILE] + [Segment(3661.5, 7322.125, "x")]
    rows = list(csv.DictReader(io.StringIO(csv_text({"v,1": segments, "w": []}), newline="")))
    assert [row["label"] for row in rows] == [*HOSTILE, "x"]
    assert rows[-1] == {"video": "v,1", "start": "3661.500", "end": "7322.125", "label": "x", "score": ""}
    assert rows[0]["score"] == "0.5"


def test_json_is_what_detections_are_read_from(tmp_path) -> None:
    segments = [Segment(0.5, 2.25, "Brühe </script>", 0.75), Segment(1.0, 9.5, "b", 0.125)]
    path = epath.Path(tmp_path) / "x.json"
    path.write_text(json_text("vidéo", segments), encoding="utf-8")
    found = read_proposals(path, ["b", "Brühe </script>"]).videos["vidéo"]
    assert found.segments.tolist() == [[0.5, 2.25], [1.0, 9.5]]
    assert (found.labels.tolist(), found.scores.tolist()) == ([1, 0], [0.75, 0.125])


def test_json_leaves_an_unknown_score_out_and_names_another_unit() -> None:
    content = json.loads(json_text("v", [Segment(0, 20, "a")], {"unit": "frames"}))
    assert content["results"] == {"v": [{"label": "a", "segment": [0, 20]}]}
    assert content["unit"] == "frames"
    with pytest.raises(ValueError, match="Out of range"):
        json_text("v", [Segment(0, 20, "a", float("nan"))])


def test_subtitles_have_the_formats_times() -> None:
    segments = [Segment(0, 1.0004, "a"), Segment(59.9996, 60.5, "b"), Segment(3599.9996, 360000.0, "c")]
    assert srt_text(segments) == (
        "1\n00:00:00,000 --> 00:00:01,000\na\n\n"
        "2\n00:01:00,000 --> 00:01:00,500\nb\n\n"
        "3\n01:00:00,000 --> 100:00:00,000\nc\n"
    )
    assert vtt_text(segments).startswith(
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na\n\n00:01:00.000 --> 00:01:00.500\n"
    )


def test_no_segments_make_files_without_cues() -> None:
    assert (srt_text([]), vtt_text([]), csv_text({"v": []})) == ("", "WEBVTT\n", "video,start,end,label,score\n")


def test_overlaps_become_cues_one_after_another_with_the_best_first() -> None:
    segments = [Segment(1, 4, "b", 0.25), Segment(0, 3, "a", 0.5), Segment(2, 5, "a", 0.75), Segment(2, 3, "c", 0.125),
                Segment(2, 3, "d", 0.0625)]  # fmt: skip
    assert cues(segments) == [
        Cue(0, 1000, ("a",)),
        Cue(1000, 2000, ("a", "b")),
        Cue(2000, 3000, ("a", "b", "c")),
        Cue(3000, 4000, ("a", "b")),
        Cue(4000, 5000, ("a",)),
    ]


def test_background_is_no_subtitle_and_equal_neighbours_are_one() -> None:
    segments = [Segment(0, 1, "background"), Segment(1, 2, "a"), Segment(2, 3, "a"), Segment(4, 5, "a")]
    assert cues(segments, without=["background"]) == [Cue(1000, 3000, ("a",)), Cue(4000, 5000, ("a",))]


def test_times_before_the_start_and_empty_segments_are_cut() -> None:
    assert cues([Segment(-1, 1, "a"), Segment(2, 2.0004, "b"), Segment(5, 4, "c")]) == [Cue(0, 1000, ("a",))]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside_their_cue(name: str) -> None:
    segments = [Segment(0, 1, name), Segment(1, 2, "next")]
    for text, mark in ((srt_text(segments), ","), (vtt_text(segments), ".")):
        times = rf"\d\d:\d\d:\d\d\{mark}\d\d\d --> \d\d:\d\d:\d\d\{mark}\d\d\d"
        assert len(re.findall(rf"^{times}$", text, re.MULTILINE)) == 2
        first = text.split("\n\n")[1 if mark == "." else 0].splitlines()[1 if mark == "." else 2 :]
        assert len(first) == 1
        assert not re.search("[<>]" if mark == "." else "[<>{}]", first[0])
        assert "日本" not in name or "日本" in first[0]
    assert "&amp;amp;" in vtt_text([Segment(0, 1, "&amp;")])


_times = st.floats(0, 50, allow_nan=False)
_segments = st.lists(
    st.builds(lambda a, b, label, score: Segment(min(a, b), max(a, b), label, score),
              _times, _times, st.sampled_from("abcd"), st.floats(0, 1)), max_size=12,
)  # fmt: skip


@hypothesis.given(_segments)
def test_cues_never_overlap_and_show_exactly_what_is_there(segments: list[Segment]) -> None:
    found = cues(segments)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    spans = [(round(1000 * s.start), round(1000 * s.end), s.label) for s in segments]
    for moment in range(0, 50_000, 487):
        shown = {line for cue in found if cue.start <= moment < cue.end for line in cue.lines}
        there = {label for start, end, label in spans if start <= moment < end}
        assert shown <= there
        assert len(shown) == min(len(there), 3)
