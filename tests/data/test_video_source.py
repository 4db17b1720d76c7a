"""Annotated videos: those that are missing, the rate of decoded frames, and names with ActivityNet's prefix."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest

from actloc_jax.data.annotations import video_annotation
from actloc_jax.data.video_source import AnnotatedVideos, rate_of_frames
from tests.data.video_writing import pictures, write_images


def _annotated(*names: str, duration: float = 8.0, fps: float | None = None):
    return [video_annotation(name, "val", duration, fps, [(0.4, 2.0, 1)]) for name in names]


def test_missing_videos_are_left_out_with_one_warning_that_counts_them(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "b.npy", pictures(40))
    (tmp_path / "d.npy").write_bytes(b"no array")
    names = ("a", "b", "c", "d")
    strict = AnnotatedVideos(tmp_path, _annotated(*names), fps=5)
    assert [problem.severity for problem in strict.problems()] == ["error"] * 3
    assert len(strict.videos) == 4
    found = AnnotatedVideos(tmp_path, _annotated(*names), fps=5, missing="skip")
    (problem,) = found.problems()
    assert problem.severity == "warning"
    assert "3 of 4 videos are missing or cannot be read: a, c, d (of the first: " in problem.message
    assert "has no video a; expected a.mp4" in problem.message
    assert problem.message.endswith("; left out")
    assert [video.video for video in found.videos] == ["b"]
    assert (len(found), found.lengths, found.record(0)["video"]) == (1, (40,), "b")
    assert len(found.annotated) == 4
    (everything,) = AnnotatedVideos(tmp_path, _annotated("a", "c"), fps=5, missing="skip").problems()
    assert (everything.severity, "left out" in everything.message) == ("error", False)
    with pytest.raises(ValueError, match=r"missing_videos='ignore' is unknown; use \"error\" or \"skip\""):
        AnnotatedVideos(tmp_path, [], fps=5, missing="ignore")


def test_a_missing_folder_is_a_problem_only_when_frames_are_needed(tmp_path: pathlib.Path) -> None:
    videos = AnnotatedVideos(tmp_path / "nowhere", _annotated("a"), fps=5)
    assert len(videos.videos) == 1
    (problem,) = videos.problems()
    assert str(tmp_path / "nowhere") in problem.message
    assert videos.readable == []
    with pytest.raises(ValueError, match="nowhere does not exist"):
        videos.record(0)


def test_every_video_of_decoded_frames_has_the_rate_of_its_annotation(tmp_path: pathlib.Path) -> None:
    write_images(tmp_path / "v_whole", pictures(40))
    write_images(tmp_path / "lowered", pictures(24))
    np.save(tmp_path / "stated.npy", pictures(31))
    videos = [
        *_annotated("whole", duration=20.0),
        *_annotated("lowered", duration=16.0, fps=25.0),
        *_annotated("stated", duration=10.1, fps=3.0),
        *_annotated("lowered", duration=math.inf, fps=4.0),
    ]
    found = AnnotatedVideos(tmp_path, videos[:3], fps=None, max_frames=24)
    assert [frames.fps for frames in found.frames] == [2.0, 1.5, 3.0]
    assert found.problems() == []
    (frames,) = AnnotatedVideos(tmp_path, videos[3:], fps=None).frames
    assert frames.fps == 4
    (frames,) = AnnotatedVideos(tmp_path, videos[:1], fps=5).frames
    assert frames.fps == 5


def test_frames_that_contradict_their_annotation_are_refused() -> None:
    (video,) = _annotated("a", duration=100.0, fps=30.0)
    assert rate_of_frames(video, 2998) == 30.0
    assert rate_of_frames(video, 3050, max_frames=768) == 30.0
    assert rate_of_frames(video, 766, max_frames=768) == 7.66
    with pytest.raises(ValueError, match=r"766 decoded frames, .* 100.00 s at 30 fps, which is 3000; extract"):
        rate_of_frames(video, 766)
    with pytest.raises(ValueError, match=r"400 decoded frames, .* which is 3000, at most 768; extract them again"):
        rate_of_frames(video, 400, max_frames=768)
    (video,) = _annotated("a", duration=math.inf)
    with pytest.raises(ValueError, match=r"video a .* neither a duration nor fps, so their rate is unknown"):
        rate_of_frames(video, 766)
