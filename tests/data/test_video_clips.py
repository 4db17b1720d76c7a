"""Clips of videos: what is read, which frames and segments count, batches that resume, and problems of a folder."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from actloc_jax.data import video_batches
from actloc_jax.data.annotations import video_annotation
from actloc_jax.data.batching import Shard
from actloc_jax.data.video_augmentation import Augmentation
from actloc_jax.data.video_chunks import choose, windows
from actloc_jax.data.video_clips import ClipSize, ShiftedVideo, TrainingClip, evaluation_clip, read_chunks
from actloc_jax.data.video_frames import FrameArray, FrameFolder, open_frames
from actloc_jax.data.video_source import AnnotatedVideos
from actloc_jax.data.video_windows import random_window, segments_inside
from tests.data.video_writing import pictures, write_images

SIZE = ClipSize(frames=24, chunk=4, crop=(16, 16))
CHOICE = video_batches.ChunkChoice("random", SIZE.chunks, 0.4)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> AnnotatedVideos:
    """A folder of images and two arrays, of 40, 30 and 18 frames at 5 per second."""
    write_images(tmp_path / "first", pictures(40))
    np.save(tmp_path / "second.npy", pictures(30))
    np.save(tmp_path / "third.npy", pictures(18))
    videos = [video_annotation(name, "val", 8.0, None, [(0.4, 2.0, 1)]) for name in ("first", "second", "third")]
    return AnnotatedVideos(tmp_path, videos, fps=5)


def test_images_and_arrays_are_read_alike(folder: AnnotatedVideos) -> None:
    images, array, _ = folder.frames
    assert (type(images), type(array)) == (FrameFolder, FrameArray)
    assert folder.lengths == (40, 30, 18)
    np.testing.assert_array_equal(images.read(3, 20), array.read(3, 20))
    with pytest.raises(ValueError, match="has 30 frames; asked for 5 from 28 on"):
        array.read(28, 5)


def test_only_kept_chunks_are_read_and_frames_beyond_the_window_are_zero_and_masked(folder: AnnotatedVideos) -> None:
    frames = folder.frames[2]
    read, mask = read_chunks(frames, np.array([1, 4, 5, -1]), SIZE, (2, 3), 0, 18)
    np.testing.assert_array_equal(read[0], pictures(18)[4:8, 2:18, 3:19])
    np.testing.assert_array_equal(mask, [[True] * 4, [True, True, False, False], [False] * 4, [False] * 4])
    assert not read[~mask].any()
    assert read[mask].any(axis=(1, 2, 3)).all()
    with pytest.raises(ValueError, match="smaller than the crop 64x16"):
        read_chunks(frames, np.array([0]), ClipSize(24, 4, (64, 16)), (0, 0), 0, 18)


def test_a_training_clip_has_the_same_shape_for_every_video(folder: AnnotatedVideos) -> None:
    sample = TrainingClip(SIZE, Augmentation(), max_segments=3)
    keep, drop = CHOICE.draw(np.random.default_rng(0))
    clips = [sample(folder.record(number), np.random.default_rng(number), keep, drop) for number in range(3)]
    assert len({str({name: np.shape(value) for name, value in clip.items()}) for clip in clips}) == 1
    assert clips[0]["frames"].shape == (2, 4, 16, 16, 3)
    assert clips[0]["frames"].dtype == np.uint8
    assert [clip["num_frames"] for clip in clips] == [24, 24, 18]
    np.testing.assert_array_equal(clips[2]["segments"][0], [2, 10])
    assert clips[2]["segment_labels"].tolist() == [1, -1, -1]


def test_even_starts_lie_on_rows_of_the_bank(folder: AnnotatedVideos) -> None:
    keep, drop = CHOICE.draw(np.random.default_rng(0))
    for seed in range(10):
        published = TrainingClip(SIZE, Augmentation(), 3)(folder.record(0), np.random.default_rng(seed), keep, drop)
        even = TrainingClip(SIZE, Augmentation(), 3, even_starts=True)
        moved = even(folder.record(0), np.random.default_rng(seed), keep, drop)
        assert moved["first_row"] == published["first_row"]
        inside = moved["segments"][0].any() and published["segments"][0].any()
        assert not inside or moved["segments"][0, 1] - published["segments"][0, 1] in (0, 1)


def test_without_a_memory_all_chunks_are_read_those_to_train_first(folder: AnnotatedVideos) -> None:
    keep, drop = np.array([1, 4]), np.array([0, 2, 3, 5])
    draws = [np.random.default_rng(5) for _ in range(4)]
    with_memory = TrainingClip(SIZE, Augmentation(), 3)(folder.record(0), draws[0], keep, drop)
    clip = TrainingClip(SIZE, Augmentation(), 3, with_memory=False)(folder.record(0), draws[1], keep, drop)
    np.testing.assert_array_equal(np.concatenate([clip["keep"], clip["drop"]]), [1, 4, 0, 2, 3, 5])
    assert clip["trained"].all()
    assert clip["frames"].shape[0] == SIZE.chunks
    np.testing.assert_array_equal(clip["frames"][:2], with_memory["frames"])

    size, chosen = ClipSize(32, 4, (16, 16)), np.array([3, 5])  # of nine chunks; one repeat was left out
    whole = {"max_segments": 2, "kept": 3}
    with_memory = ShiftedVideo(size, Augmentation(), **whole)(folder.record(0), draws[2], chosen, np.zeros(0, int))
    video = ShiftedVideo(size, Augmentation(), with_memory=False, **whole)(folder.record(0), draws[3], chosen, chosen)
    np.testing.assert_array_equal(np.concatenate([video["keep"], video["drop"]]), [3, 5, 0, 1, 2, 4, 6, 7, 8])
    assert video["trained"].tolist() == [True, True, False]
    np.testing.assert_array_equal(video["frames"][:2], with_memory["frames"][:2])


def test_a_shifted_video_begins_with_padding_and_tells_both_rows(folder: AnnotatedVideos) -> None:
    size = ClipSize(32, 4, (16, 16))
    sample = ShiftedVideo(size, Augmentation(), max_segments=2, kept=9, same_rows=False)
    shifts = set()
    for seed in range(8):
        clip = sample(folder.record(1), np.random.default_rng(seed), np.arange(9), np.zeros(0, int))
        shift = int(clip["shift"])
        shifts.add(shift)
        mask = clip["frame_mask"].reshape(-1)
        assert mask.tolist() == [False] * shift + [True] * 32 + [False] * (4 - shift)
        frames = clip["frames"].reshape(36, -1)
        assert frames[shift : shift + 30].any(axis=1).all()
        assert not frames[shift + 30 :].any()
        assert (clip["first_row"], clip["first_row_read"]) == (-(shift // 2), -shift // 2)
        np.testing.assert_array_equal(clip["segments"][0], [2, 10])
    assert len(shifts) > 2


def test_evaluation_windows_cover_the_video(folder: AnnotatedVideos) -> None:
    found = [evaluation_clip(folder.frames[0], *window, SIZE) for window in windows(40, length=24, overlap=0.25)]
    assert [(clip["start"], clip["num_frames"]) for clip in found] == [(0, 24), (18, 22)]
    np.testing.assert_array_equal(found[1]["frames"].reshape(24, 16, 16, 3)[:22], pictures(40)[18:, 8:24, 16:32])
    assert found[1]["frame_mask"].sum() == 22


def test_segments_count_by_share_of_themselves_or_of_the_window() -> None:
    window = segments_inside(np.array([[0, 10], [8, 12], [0, 100], [30, 31]]), 10, 20)
    assert window.kept.tolist() == [False, False, True, False]
    np.testing.assert_array_equal(window.segments, [[0, 20]])
    seldom = np.array([[90.0, 95.0]])
    tries = [random_window(100, seldom, np.random.default_rng(seed), length=10, trials=200) for seed in range(5)]
    assert all(len(window.segments) for window in tries)


def test_batches_share_their_chunks_visit_every_video_resume_and_divide(folder: AnnotatedVideos) -> None:
    def batches(shard: Shard | None = None):
        sample = TrainingClip(SIZE, Augmentation(), max_segments=3)
        return iter(
            video_batches.training_clips(folder, sample, CHOICE, batch_size=2, seed=5, num_threads=2, shard=shard)
        )

    iterator = batches()
    first = [next(iterator) for _ in range(4)]
    state = iterator.get_state()
    after = next(iterator)
    assert all((batch["keep"] == batch["keep"][0]).all() for batch in first)
    assert len({tuple(batch["keep"][0]) for batch in first}) > 1
    for epoch in (first[:2], first[2:]):
        assert set(np.concatenate([batch["index"] for batch in epoch])) == {0, 1, 2}
    again = batches()
    again.set_state(state)
    resumed = next(again)
    parts = [next(batches(Shard(index, 2))) for index in range(2)]
    for name, value in after.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
        together = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(together, first[0][name], err_msg=name)


def test_all_problems_of_a_folder_are_told_at_once(folder: AnnotatedVideos, tmp_path: pathlib.Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"no array")
    np.save(tmp_path / "float.npy", np.zeros([3, 4, 4, 3]))
    rows = {"first": [(0, 9.0, 0)], "broken": [], "float": [], "absent": [], "second": [(1, 6.4, 0)]}
    videos = [video_annotation(name, "val", 8.0, None, segments) for name, segments in rows.items()]
    found = AnnotatedVideos(tmp_path, videos, fps=5)
    messages = "\n".join(map(str, found.problems()))
    for part in (
        "first is 8.00 seconds long, annotated as 8.00, but 1 of its segments end later, e.g. 0.00 to 9.00",
        "broken.npy cannot be read",
        "float.npy is float64 [3, 4, 4, 3]; expected uint8",
        "has no video absent; expected absent.mp4",
    ):
        assert part in messages
    assert len(found.problems()) == 4
    with pytest.raises(ValueError, match="absent"):
        found.record(0)
    clipped = AnnotatedVideos(tmp_path, videos[:1], fps=5, open_ended=True)
    np.testing.assert_array_equal(clipped.record(0)["segments"], [[0, 8]])


def test_frames_of_another_size_and_other_files_are_refused(folder: AnnotatedVideos, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="frames of 32x48, expected 64x64"):
        open_frames(tmp_path / "second.npy", fps=5, size=(64, 64))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="is no video"):
        open_frames(tmp_path / "notes.txt", fps=5)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_frames(tmp_path / "absent", fps=5)
    with pytest.raises(ValueError, match="whole chunks"):
        ClipSize(30, 4, (16, 16))
    with pytest.raises(ValueError, match=r"share of 0 to 1; got 'random' and 1\.5"):
        choose("random", 3, 1.5, np.random.default_rng(0))
