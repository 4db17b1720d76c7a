"""Videos in ArrayRecord files give the same frames and batches as the folder that they were written from."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest

from actloc_jax.data import video_batches, video_records
from actloc_jax.data.annotations import video_annotation
from actloc_jax.data.recorded_videos import RecordedVideos
from actloc_jax.data.video_augmentation import Augmentation
from actloc_jax.data.video_clips import ClipSize, TrainingClip
from actloc_jax.data.video_folder import VideoFolder
from actloc_jax.data.video_records import write_records
from actloc_jax.data.video_source import AnnotatedVideos, open_store
from tests.data.video_writing import pictures, write_images, write_video

pytest.importorskip("array_record", reason="ArrayRecord is not built for every platform")

FRAMES = {"film": 60, "images": 40, "numbers": 30}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A video file, a folder of images and an array."""
    root = tmp_path / "videos"
    root.mkdir()
    write_images(root / "images", pictures(40))
    np.save(root / "numbers.npy", pictures(30))
    write_video(root / "film.mkv", pictures(60), [*range(30), *range(30, 90, 2)])
    return root


def test_what_is_copied_is_read_back_at_any_place(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    out = write_records(folder, tmp_path / "records", shard_bytes=100_000)
    shards = sorted(path.name for path in out.glob("*.array_record"))
    assert len(shards) > 1
    assert shards[0] == f"videos-00000-of-{len(shards):05d}.array_record"
    assert json.loads((out / "videos.json").read_text())["shards"] == shards
    stored, plain = open_store(out), open_store(folder)
    assert (type(stored), type(plain)) == (RecordedVideos, VideoFolder)
    assert stored.names == plain.names == tuple(FRAMES)
    for name, count in FRAMES.items():
        options = {"fps": 10.0, "size": (20, 24)} if name == "film" else {"fps": 5.0, "size": (32, 48)}
        here, there = (store.open(name, **options) for store in (stored, plain))
        assert (len(here), here.shape, here.fps) == (len(there), there.shape, there.fps)
        assert name == "film" or len(here) == count
        for first, length in ((0, len(here)), (11, 7), (len(here) - 1, 1), (3, 0)):
            np.testing.assert_array_equal(here.read(first, length), there.read(first, length), err_msg=name)
        with pytest.raises(ValueError, match="asked for 5 from"):
            here.read(len(here) - 2, 5)


def test_videos_are_decoded_once_into_images(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    options = {"fps": 10.0, "size": (32, 48)}
    stored = RecordedVideos(write_records(folder, tmp_path / "png", images="png", **options))
    lossy = RecordedVideos(write_records(folder, tmp_path / "jpg", images="jpg", **options))
    for name in FRAMES:
        expected = VideoFolder(folder).open(name, **options)
        everything = expected.read(0, len(expected))
        for fps in (10.0, None):  # the rate is known, as it was written
            frames = stored.open(name, fps=fps)
            assert frames.fps == 10
            np.testing.assert_array_equal(frames.read(0, len(frames)), everything)
        near = lossy.open(name).read(0, len(expected)).astype(int)
        assert np.abs(near - everything).mean() < 4
    with pytest.raises(ValueError, match=r"written at 10 frames per second, but 15 are asked for"):
        stored.open("film", fps=15.0)
    with pytest.raises(ValueError, match=r"frames of 32x48, expected 64x64"):
        stored.open("film", size=(64, 64))


def test_batches_are_those_of_the_folder_and_resume(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "videos"
    write_images(root / "v_images", pictures(40))
    np.save(root / "numbers.npy", pictures(30))
    out = write_records(root, tmp_path / "records")
    videos = [video_annotation(name, "val", 8.0, None, [(0.4, 2.0, 1)]) for name in ("images", "numbers")]
    size, choice = ClipSize(24, 4, (16, 16)), video_batches.ChunkChoice("random", 6, 0.4)

    def batches(folder: pathlib.Path):
        source = AnnotatedVideos(folder, videos, fps=5)
        sample = TrainingClip(size, Augmentation(), max_segments=3)
        return iter(video_batches.training_clips(source, sample, choice, batch_size=2, seed=5, num_threads=2))

    plain, recorded = batches(root), batches(out)
    for _ in range(2):
        expected, found = next(plain), next(recorded)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    state, expected = recorded.get_state(), next(recorded)
    again = batches(out)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["frames"], expected["frames"])


def test_nothing_is_left_of_a_failed_writing(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    (folder / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"1 of 4 videos cannot be read:\n.*text.mp4"):
        write_records(folder, tmp_path / "records")
    assert not (tmp_path / "records").exists()
    (folder / "text.mp4").unlink()
    encoded, pictures_left = video_records._encoded, iter(range(70))

    def ends(picture: np.ndarray, images: str) -> bytes:
        if next(pictures_left) == 69:  # the second video
            raise OSError("no space left")
        return encoded(picture, images)

    monkeypatch.setattr(video_records, "_encoded", ends)
    with pytest.raises(OSError, match="no space left"):
        write_records(folder, tmp_path / "records", images="png", shard_bytes=10_000)
    assert not list((tmp_path / "records").iterdir())


def test_records_that_are_incomplete_or_others_say_so(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "film.mkv").unlink()
    out = write_records(folder, tmp_path / "records")
    with pytest.raises(ValueError, match="holds videos already"):
        write_records(folder, out)
    with pytest.raises(FileNotFoundError, match="holds no videos"):
        write_records(tmp_path / "videos" / "images", tmp_path / "other")
    with pytest.raises(ValueError, match="what is copied keeps its own"):
        write_records(folder, tmp_path / "other", size=(20, 20))
    with pytest.raises(FileNotFoundError, match="has no video absent among its 2"):
        RecordedVideos(out).open("absent", fps=5.0)
    with pytest.raises(ValueError, match="how many of them are a second"):
        RecordedVideos(out).open("images")
    (shard,) = out.glob("*.array_record")
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of its 1 ArrayRecord files, e.g. videos-00000-of-00001"):
        RecordedVideos(out)
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"videos-00000-of-00001.array_record cannot be read .* truncated or damaged"):
        RecordedVideos(out)
    middle = len(content) // 2
    shard.write_bytes(content[: middle - 500] + bytes(1000) + content[middle + 500 :])
    damaged = RecordedVideos(out)
    with pytest.raises(ValueError, match=r"records \d+ to \d+ of .*records cannot be read .*a file is damaged"):
        [damaged.open(name, fps=5.0).read(0, count) for name, count in FRAMES.items() if name != "film"]
    shard.write_bytes(content)
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_data_source", None)
    with pytest.raises(ValueError, match=r"need the package array-record .*name a folder of videos"):
        RecordedVideos(out)


def test_the_command_line_writes_and_explains(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (folder / "film.mkv").unlink()
    command = ["video_records", str(folder), str(tmp_path / "records"), "--images=png", "--fps=5"]
    monkeypatch.setattr(sys, "argv", command)
    video_records.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "records")
    assert RecordedVideos(tmp_path / "records").open("numbers").fps == 5
    with pytest.raises(SystemExit, match="1"):
        video_records.main()
    assert "holds videos already" in capsys.readouterr().err
