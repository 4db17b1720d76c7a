"""Video files: every frame, at other rates and sizes, from any place; files that are damaged say so."""

from __future__ import annotations

import fractions
import hashlib
import os
import pathlib
import re

import numpy as np
import pytest

from actloc_jax.data import constant_rate
from actloc_jax.data.video_files import VideoFile, VideoIndex, read_index, sample_frames_at
from tests.data.video_writing import pictures, turn, write_video

av = pytest.importorskip("av", reason="PyAV is an optional dependency")

CLIPS = pathlib.Path(os.environ.get("ACTLOC_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")) / "clips"


@pytest.fixture
def video(tmp_path: pathlib.Path) -> pathlib.Path:
    """60 frames, the second half at half the rate."""
    write_video(tmp_path / "moves.mkv", pictures(60), [*range(30), *range(30, 90, 2)])
    return tmp_path / "moves.mkv"


def test_frames_are_the_same_from_wherever_they_are_read(video: pathlib.Path) -> None:
    opened = VideoFile(video)
    everything = opened.read(0, 60)
    assert len(opened) == 60
    assert np.abs(everything.astype(int) - pictures(60)).mean() < 8
    for first, count in ((0, 1), (11, 3), (25, 20), (59, 1), (30, 0)):
        np.testing.assert_array_equal(opened.read(first, count), everything[first : first + count])


@pytest.mark.parametrize("fps", [7, 10, 15, 24, 30, 60])
def test_rates_are_reached_as_ffmpeg_reaches_them(video: pathlib.Path, fps: int) -> None:
    """The reference is ffmpeg's own `fps` filter, on the same frames."""
    graph = av.filter.Graph()
    expected = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        source = graph.add_buffer(template=stream, time_base=stream.time_base)
        rate, sink = graph.add("fps", str(fps)), graph.add("buffersink")
        source.link_to(rate)
        rate.link_to(sink)
        graph.configure()

        def pull() -> None:
            while True:
                try:
                    expected.append(sink.pull().to_ndarray(format="rgb24"))
                except (av.error.BlockingIOError, av.error.EOFError):
                    return

        for frame in container.decode(stream):
            source.push(frame)
            pull()
        source.push(None)
        pull()
    found = VideoFile(video, fps=fps)
    assert abs(len(found) - len(expected)) <= fps / 15  # ffmpeg guesses otherwise how long the last frame lasts
    count = min(len(found), len(expected))
    np.testing.assert_array_equal(found.read(0, count), expected[:count])


def test_size_and_largest_number_of_frames(video: pathlib.Path) -> None:
    opened = VideoFile(video, size=(20, 24), max_frames=30)
    assert opened.read(3, 2).shape == (2, 20, 24, 3)
    assert 29 <= len(opened) <= 31
    assert VideoFile(video, max_frames=100).fps == VideoFile(video).fps


def test_halves_are_rounded_up_exactly() -> None:
    index = VideoIndex(np.arange(0, 8, dtype=np.int64), fractions.Fraction(1, 30), 0, 4, 4)
    assert sample_frames_at(index, 15).tolist() == [0, 2, 4, 6]
    assert sample_frames_at(index, 60).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]


def test_damaged_and_other_files_say_what_they_are(video: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a video file"):
        VideoFile(tmp_path / "absent.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(ValueError, match=r"text.mp4 cannot be read as a video"):
        VideoFile(text)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut.mkv .*(truncated|damaged)"):
        VideoFile(cut)
    with pytest.raises(ValueError, match=r"has 60 frames .* asked for 5 from 58"):
        VideoFile(video).read(58, 5)


def test_a_stream_without_times_says_how_to_add_them(tmp_path: pathlib.Path) -> None:
    with av.open(str(tmp_path / "raw.m4v"), "w", format="m4v") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for picture in pictures(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"frame rate is unknown. .*ffmpeg -r"):
        read_index(tmp_path / "raw.m4v")


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_real_clips_decode_bit_for_bit() -> None:
    table = re.findall(r"\| (\S+) \| ([0-9a-f]{32}) \|", (CLIPS / "README.md").read_text())
    assert len(table) == 6
    for name, md5 in table:
        opened = VideoFile(CLIPS / name)
        frames = opened.read(0, len(opened))
        assert hashlib.md5(frames.tobytes()).hexdigest() == md5, name
        middle = len(opened) // 2
        np.testing.assert_array_equal(opened.read(middle, 3), frames[middle : middle + 3], err_msg=name)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_turned_as_the_file_says(tmp_path: pathlib.Path, degrees: int) -> None:
    path = tmp_path / "phone.mp4"
    write_video(path, pictures(6), [*range(6)])
    lying = VideoFile(path).read(0, 6)
    turn(path, degrees)
    upright = VideoFile(path)
    expected = np.rot90(lying, -degrees // 90, axes=(1, 2))
    assert upright.shape == expected.shape[1:]
    np.testing.assert_array_equal(upright.read(0, 6), expected)
    assert VideoFile(path, size=(20, 24)).read(0, 1).shape == (1, 20, 24, 3)


def test_all_frames_come_one_after_another(video: pathlib.Path) -> None:
    for fps in (None, 7, 45):
        opened = VideoFile(video, fps=fps)
        np.testing.assert_array_equal(list(opened.frames()), opened.read(0, len(opened)))


def test_videos_without_a_constant_rate_are_known(video: pathlib.Path) -> None:
    assert constant_rate.varies(read_index(video).times)
    assert not constant_rate.varies(np.array([0, 33, 67, 100, 133, 167, 200]))
    assert not constant_rate.varies(np.array([0, 7]))
