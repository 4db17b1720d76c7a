"""The benchmark of video input runs, on videos too small to measure anything."""

from __future__ import annotations

import pathlib

import pytest

from actloc_jax.data.video_clips import ClipSize
from benchmarks import video_input
from tests.data.video_writing import pictures, write_video

pytest.importorskip("av", reason="PyAV is an optional dependency")


def test_wait_is_measured(tmp_path: pathlib.Path) -> None:
    for name in ("one", "two"):
        write_video(tmp_path / f"{name}.mkv", pictures(40), list(range(40)))
    videos = video_input.videos_of(tmp_path, size=(32, 48))
    assert videos.lengths == (20, 20)
    size = ClipSize(frames=16, chunk=4, crop=(16, 16))
    wait = video_input.measure(videos, threads=1, step=0.05, batch=2, keep=0.5, batches=3, size=size)
    assert wait.loading > 0
    assert wait.waiting < 1
