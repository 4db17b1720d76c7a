"""What readers get of a video: tracks of every task, texts, figure, page, and the files of many videos."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.results import RESULTS, detection, files, pages
from actloc_jax.results.timeline import Timeline, relative_address
from actloc_jax.results.types import FrameLabels, ScoredSegments, Segment
from tests.data.video_writing import pictures, write_video

NAMES = ["background", "cut", "pour"]
OPTIONS = ConfigDict({"background": ("background",), "segment_end": "exclusive", "tiou": (0.5,), "protocol": "sane",
                      "seed": 0})  # fmt: skip
LABELS = np.repeat([0, 1, -1, 2], [10, 20, 5, 15])


def labels(rate: float = 10.0, truth=None) -> Timeline:
    results = {
        "TST": [FrameLabels("clip", LABELS, np.repeat([0.5, 1.0], 25).astype(np.float32))],
        "draw 0": [FrameLabels("clip", LABELS)],
        "DiffAct": [FrameLabels("clip", np.zeros(50, int))],
    }
    (found,) = RESULTS["segmentation"].video_timelines(results, NAMES, frame_rate=rate, options=OPTIONS, truth=truth)
    return found


def detections(truth=None) -> list[Timeline]:
    found = [
        ScoredSegments("two", np.array([[2.0, 3.0], [0.5, 1.0]]), np.array([1, 2]), np.array([0.1, 0.8])),
        ScoredSegments("none", np.zeros((0, 2)), np.zeros(0, int), np.zeros(0)),
    ]
    return list(
        RESULTS["detection"].video_timelines({"TriDet": found}, NAMES, frame_rate=0.0, options=OPTIONS, truth=truth)
    )


def test_labels_become_segments_in_seconds_with_their_mean_confidence() -> None:
    timeline = labels()
    assert [track.name for track in timeline.tracks] == ["DiffAct", "TST"], "own last, single draws left out"
    assert timeline.segments == (
        Segment(0.0, 1.0, "background", 0.5), Segment(1.0, 3.0, "cut", pytest.approx(0.625)),
        Segment(3.5, 5.0, "pour", 1.0),
    )  # fmt: skip
    assert (timeline.duration, timeline.unit, timeline.scores) == (5.0, "seconds", {})
    assert "background" not in timeline.to_srt()
    assert "background" in timeline.to_csv()


def test_ground_truth_is_the_first_track_and_gives_scores() -> None:
    timeline = labels(truth={"clip": LABELS})
    assert [(track.name, track.kind) for track in timeline.tracks] == [
        ("ground truth", "truth"), ("DiffAct", "labels"), ("TST", "labels"),
    ]  # fmt: skip
    assert timeline.scores["Acc"] == 100.0


def test_without_frame_rate_times_are_frames_and_subtitles_an_error() -> None:
    timeline = labels(rate=0.0)
    assert (timeline.unit, timeline.duration, timeline.segments[1].end) == ("frames", 50.0, 30.0)
    assert json.loads(timeline.to_json())["unit"] == "frames"
    for subtitles in (timeline.to_srt, timeline.to_vtt):
        with pytest.raises(ValueError, match=r"clip: subtitles need times in seconds.*data\.frame_rate"):
            subtitles()


def test_clusters_have_names_of_their_own_until_there_is_ground_truth() -> None:
    found = {"ASOT": [FrameLabels("clip", np.repeat([3, 1], 10))]}
    options = {"frame_rate": 1.0, "options": OPTIONS}
    (alone,) = RESULTS["unsupervised segmentation"].video_timelines(found, [], **options)
    assert [segment.label for segment in alone.segments] == ["cluster_03", "cluster_01"]
    truth = {"clip": np.repeat([2, 1], 10)}
    (matched,) = RESULTS["unsupervised segmentation"].video_timelines(found, NAMES, truth=truth, **options)
    assert [segment.label for segment in matched.segments] == ["pour", "cut"]
    assert matched.scores["MoF"] == 100.0


def test_detections_are_sorted_by_time_and_likely_from_a_third_of_the_best_on() -> None:
    two, none = detections()
    assert two.segments == (Segment(0.5, 1.0, "pour", 0.8), Segment(2.0, 3.0, "cut", 0.1))
    assert two.likely() == two.segments[:1]
    assert two.likely(0.05) == two.segments
    assert "cut" not in two.to_vtt()
    assert "cut" in two.to_vtt(min_score=0.0)
    assert (none.segments, none.duration) == ((), 1.0)
    assert "none" in none.to_html()


def test_detections_of_a_video_have_their_own_map_where_instances_are() -> None:
    instances = {"two": Instances(np.array([[0.5, 1.0]]), np.array([2])), "none": Instances(np.zeros((0, 2)), [])}
    two, none = detections(truth=instances)
    assert two.scores == {"mAP@0.5": 100.0, "mAP": 100.0}
    assert none.scores == {}
    assert two.tracks[0].segments == (Segment(0.5, 1.0, "pour"),)
    options = OPTIONS.copy_and_resolve_references()
    options.protocol = "fustal"  # refuses classes that no instance has, which one video alone may well lack
    results = {"TriDet": [ScoredSegments("two", np.array([[2.0, 3.0]]), np.array([1]), np.array([0.1]))]}
    (alone,) = detection.video_timelines(results, NAMES, frame_rate=0.0, options=options, truth=instances)
    assert alone.scores == {"mAP@0.5": 0.0, "mAP": 0.0}


@pytest.mark.parametrize("timeline", [labels(), labels(0.0), *detections()], ids=lambda timeline: timeline.video)
def test_every_timeline_has_a_figure_and_a_page(timeline: Timeline) -> None:
    assert timeline.plot().axes
    assert timeline.video in timeline.to_html()


def test_the_figure_shows_the_labels_again() -> None:
    colours = [len(part.get_facecolor()) for part in labels().plot().axes[0].collections]
    assert colours == [1, 3], "DiffAct has one segment, TST three and a gap"


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/a/run/timelines/x y.mp4", "x%20y.mp4"),
        ("/a/run/x.webm", "../x.webm"),
        ("/a/videos/b/%#?.MP4", "../../videos/b/%25%23%3F.MP4"),
        ("/b/x.mp4", None),
        ("/ab/x.mp4", None),
        ("/a/run/x.avi", None),
    ],
)
def test_videos_beside_the_page_have_a_relative_address(path: str, address: str | None) -> None:
    found = relative_address(epath.Path(path), epath.Path("/a/run/timelines"), epath.Path("/a"))
    assert found == address


def test_a_video_elsewhere_becomes_pictures_and_a_damaged_one_nothing(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "clip.mp4", pictures(60), list(range(60)), rate=6)
    (folder / "two.mp4").write_bytes(b"nothing")
    media = pages.find_videos([folder])
    assert sorted(media) == ["clip", "two"]
    clip = pages.with_media(labels(), media, config="x")
    assert clip.duration == pytest.approx(10.0)
    text = clip.to_html()
    assert text.count("data:image/jpeg;base64,") == 24
    assert len(text) < 1_000_000
    beside = clip.to_html(folder)
    assert '"video":"clip.mp4"' in beside
    assert "data:image" not in beside
    damaged = pages.with_media(detections()[0], media)
    assert '"stills":[]' in damaged.to_html()


def test_files_of_a_run(tmp_path: pathlib.Path) -> None:
    workdir = epath.Path(tmp_path)
    odd = [labels(0.0), *detections()]
    object.__setattr__(odd[1], "video", "../tw\\o é")
    pages.write_texts(odd, workdir)
    index = pages.write_pages(odd, workdir, title="x", videos=3)
    names = sorted(path.name for path in (tmp_path / "timelines").iterdir())
    assert names == ["_tw_o é.csv", "_tw_o é.html", "_tw_o é.srt", "_tw_o é.vtt", "clip.csv", "clip.html", "none.csv",
                     "none.html", "none.srt", "none.vtt"]  # fmt: skip
    assert (tmp_path / "segments.csv").read_text(encoding="utf-8").count("\n") == 1 + 3 + 2
    links = re.findall(r'href="(timelines/[^"]*)"', index.read_text())
    assert links == ["timelines/clip.html", "timelines/_tw_o%20%C3%A9.html", "timelines/none.html"]
    assert '"files":{"CSV":"clip.csv"}' in (tmp_path / "timelines" / "clip.html").read_text()


def test_an_index_of_more_videos_than_pages_says_so(tmp_path: pathlib.Path) -> None:
    index = pages.write_pages(iter(detections()), epath.Path(tmp_path), title="x", videos=2, most=1)
    assert "2 videos, the first 1 of them here" in index.read_text()
    assert [path.name for path in (tmp_path / "timelines").iterdir()] == ["two.html"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: pathlib.Path, monkeypatch) -> None:
    path = epath.Path(tmp_path) / "x.csv"
    files.write_text(path, "old é")

    def full(self, content):
        pathlib.Path(self).write_bytes(content[:2])
        raise OSError("No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert (tmp_path / "x.csv").read_bytes() == "old é".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["x.csv"]
