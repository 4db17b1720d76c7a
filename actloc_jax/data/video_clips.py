"""From a video with annotated segments to the clips that a step trains or predicts on (numpy only).

A clip is a window of the video, cut into chunks of which only those that the step computes are read: frames travel to
the device as uint8, already cropped, and all else that is done to them happens there (`ops/video_frames.py`).
Sources: `klauscc/TALLFormer:vedatad/datasets` (THUMOS14), `AFSD/anet_video_cls/membank` (ActivityNet, HACS).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from actloc_jax.data import video_augmentation as augmentation
from actloc_jax.data.detection_samples import pad_segments
from actloc_jax.data.samples import Record, Sample
from actloc_jax.data.video_chunks import fill_up, pad_chunks
from actloc_jax.data.video_frames import Frames
from actloc_jax.data.video_windows import random_window, seconds_to_frames, segments_inside


@dataclasses.dataclass(frozen=True)
class ClipSize:
    """Sizes of a clip.

    Attributes:
        frames: of a window (480 THUMOS14, 768 ActivityNet).
        chunk: frames of a chunk (32).
        crop: (height, width) that the network sees (224, 224).
        stride: frames per row of features (2).

    Raises:
        ValueError: windows that are not whole chunks, or chunks that are not whole rows.
    """

    frames: int
    chunk: int
    crop: tuple[int, int]
    stride: int = 2

    def __post_init__(self) -> None:
        if self.frames % self.chunk or self.chunk % self.stride:
            raise ValueError(
                f"windows of {self.frames} frames must be whole chunks of {self.chunk}, and these whole rows of "
                f"{self.stride} frames"
            )

    @property
    def chunks(self) -> int:
        """Chunks of a window."""
        return self.frames // self.chunk


@dataclasses.dataclass(frozen=True)
class TrainingClip:
    """A random window of a video, its segments, and what is changed in it: THUMOS14's training sample.

    Records have `frames` (`video_frames.Frames`), `segments` [n, 2] float seconds, `labels` [n] and `index`. Samples:

    * `frames` [kept, chunk, height, width, 3] uint8 and `frame_mask` [kept, chunk], False beyond the video;
    * `keep` [kept] and `drop` [dropped] int32, which chunks are computed and which come from the memory bank; if there
      is none, `frames` are of all chunks in this order, and `trained` bool [kept] tells which have gradient;
    * `first_row` int32, rows of the bank before the window, and `num_frames` int32, frames of it that the video has;
    * `segments` [max_segments, 2] float32 in frames of the window, `segment_labels` [max_segments] int32, -1 for none;
    * `index` int32; the draws of `Augmentation` by their names.

    Attributes:
        size: of the clip.
        augmentation: what is changed.
        max_segments: room for segments, see `detection_samples.most_segments`.
        threshold: share of a segment that must be inside, see `segments_inside`.
        trials: windows drawn until one has a segment; 1 as published.
        even_starts: begin windows at whole rows; as published, half of them lie half a row beside the bank's rows.
        with_memory: the chunks in `drop` come from the memory bank, and are not read.
    """

    size: ClipSize
    augmentation: augmentation.Augmentation
    max_segments: int
    threshold: float = 0.75
    trials: int = 1
    even_starts: bool = False
    with_memory: bool = True

    def __call__(self, record: Record, rng: augmentation.Random, keep: np.ndarray, drop: np.ndarray) -> Sample:
        frames: Frames = record["frames"]
        segments = seconds_to_frames(record["segments"], frames.fps)
        window = random_window(
            len(frames), segments, rng, length=self.size.frames, threshold=self.threshold, trials=self.trials
        )
        if self.even_starts and window.start % self.size.stride:
            start = window.start - window.start % self.size.stride
            window = segments_inside(segments, start, window.length, self.threshold)
        corner = augmentation.draw_crop(*frames.shape[:2], self.size.crop, rng)
        division = {"keep": keep.astype(np.int32), "drop": drop.astype(np.int32)}
        if not self.with_memory:
            keep, division = whole_division(keep, self.size.chunks, len(keep))
        pictures, mask = read_chunks(frames, keep, self.size, corner, window.start, window.length)
        return {
            "frames": pictures,
            "frame_mask": mask,
            **division,
            "first_row": np.int32(window.start // self.size.stride),
            "num_frames": np.int32(window.length),
            **pad_segments(window.segments, record["labels"][window.kept], self.max_segments),
            "index": np.int32(record["index"]),
            **self.augmentation.draw(rng),
        }


@dataclasses.dataclass(frozen=True)
class ShiftedVideo:
    """A whole video moved by part of a chunk, so that chunks begin elsewhere each time: ActivityNet's training sample.

    `shift` frames of zeros come before the video and `chunk - shift` behind, so there is one chunk more. The sample is
    that of `TrainingClip`; further `shift` int32, and the rows before the window by both published rules, which
    differ by one row for odd shifts: `first_row` (writes) and `first_row_read`. The lists of chunks are padded with -1
    to `kept` and all chunks, as their lengths vary.

    Attributes:
        size: of the video; `frames` is what it was sampled to at most.
        augmentation: what is changed.
        max_segments: room for segments.
        kept: most chunks that are computed.
        same_rows: read by the rule of the writes.
        with_memory: as of `TrainingClip`.
    """

    size: ClipSize
    augmentation: augmentation.Augmentation
    max_segments: int
    kept: int
    same_rows: bool = True
    with_memory: bool = True

    def __call__(self, record: Record, rng: augmentation.Random, keep: np.ndarray, drop: np.ndarray) -> Sample:
        frames: Frames = record["frames"]
        shift = augmentation.draw_integer(rng, self.size.chunk)
        corner = augmentation.draw_crop(*frames.shape[:2], self.size.crop, rng)
        chunks = self.size.chunks + 1
        keep = pad_chunks(keep, self.kept)
        division = {"keep": keep, "drop": pad_chunks(drop, chunks)}
        if not self.with_memory:
            keep, division = whole_division(keep[keep >= 0], chunks, self.kept)
        # Behind a short video come black frames, which are normalised; what the shift adds is zero for the network.
        pictures, mask = read_chunks(frames, keep, self.size, corner, -shift, self.size.frames + shift)
        segments = np.asarray(record["segments"], np.float32) * np.float32(frames.fps)
        row = -(shift // self.size.stride)
        return {
            "frames": pictures,
            "frame_mask": mask,
            **division,
            "shift": np.int32(shift),
            "first_row": np.int32(row),
            "first_row_read": np.int32(row if self.same_rows else -shift // self.size.stride),
            "num_frames": np.int32(min(len(frames), self.size.frames)),
            **pad_segments(segments, record["labels"], self.max_segments),
            "index": np.int32(record["index"]),
            **self.augmentation.draw(rng),
        }


def whole_division(keep: np.ndarray, num_chunks: int, room: int) -> tuple[np.ndarray, Sample]:
    """All chunks [num_chunks] in the order of `fill_up`, and its parts as `keep`, `drop` and `trained` of a sample."""
    first, others, trained = fill_up(keep, num_chunks, room)
    return np.concatenate([first, others]), {"keep": first, "drop": others, "trained": trained}


def evaluation_clip(frames: Frames, start: int, length: int, size: ClipSize) -> Sample:
    """A window that is predicted: all its chunks, cropped in the middle.

    Returns:
        `frames` [chunks, chunk, height, width, 3] uint8, `frame_mask` [chunks, chunk], `start` and `num_frames` int32.
    """
    corner = augmentation.centre_crop(*frames.shape[:2], size.crop)
    pictures, mask = read_chunks(frames, np.arange(size.chunks), size, corner, start, length)
    return {"frames": pictures, "frame_mask": mask, "start": np.int32(start), "num_frames": np.int32(length)}


def read_chunks(
    frames: Frames, chunks: np.ndarray, size: ClipSize, corner: tuple[int, int], start: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Reads chunks of a window; neighbours in one go.

    Args:
        frames: of the video.
        chunks: [n] numbers of chunks, ascending; -1 for none.
        size: of the clip.
        corner: (y, x) of the crop.
        start: first frame of the window; may be negative.
        length: frames of the window that count, from its first on.

    Returns:
        [n, chunk, height, width, 3] uint8, zero where the video has no frame, and [n, chunk] bool, True on frames of
        the window that are not before the video.

    Raises:
        ValueError: frames smaller than the crop.
    """
    if frames.shape[0] < size.crop[0] or frames.shape[1] < size.crop[1]:
        raise ValueError(
            f"frames of {frames.shape[0]}x{frames.shape[1]} are smaller than the crop {size.crop[0]}x{size.crop[1]} "
            f"(height x width); extract them larger or lower --config.clip.crop"
        )
    numbers = start + chunks[:, None] * size.chunk + np.arange(size.chunk)
    mask = (chunks[:, None] >= 0) & (numbers >= 0) & (numbers < start + length)
    pictures = np.zeros([len(chunks), size.chunk, *size.crop, 3], np.uint8)
    exists = mask & (numbers < len(frames))
    wanted = numbers[exists]
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1) if len(wanted) else ():
        inside = exists & (numbers >= run[0]) & (numbers <= run[-1])
        pictures[inside] = augmentation.crop(frames.read(int(run[0]), len(run)), corner, size.crop)
    return pictures, mask
