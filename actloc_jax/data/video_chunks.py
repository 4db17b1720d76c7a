"""Windows of a video, chunks of a window, and which chunks a training step computes (numpy only).

A window (480 frames, THUMOS14) is cut into chunks (32 frames); a step sends some of them through the backbone and takes
the features of the others from the memory bank. Sources: `klauscc/TALLFormer:vedatad/partial_feedback`,
`vedatad/models/backbones/temp_graddrop.py`, `AFSD/anet_video_cls/membank/graddrop.py`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Choice = Literal["random", "uniform", "jitter", "distinct_jitter"]
"""How chunks are chosen: without replacement; evenly spread, first and last included; evenly spread, each moved by a
random share of the spacing (a chunk may come twice); the same without repeats, which leaves fewer at times."""

CHOICES = ("random", "uniform", "jitter", "distinct_jitter")


def kept_chunks(num_chunks: int, keep_ratio: float) -> int:
    """How many chunks of a window are computed, at most: the share of them, rounded down."""
    return int(num_chunks * keep_ratio)


def choose(
    how: Choice, num_chunks: int, keep_ratio: float, rng: np.random.Generator | np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the chunks of a window that are computed.

    Args:
        how: see `Choice`; THUMOS14 is published with "random", ActivityNet with "distinct_jitter".
        num_chunks: chunks of a window.
        keep_ratio: share of them to compute, 0 to 1.
        rng: draws; a legacy `RandomState` draws what the original draws.

    Returns:
        The chunks to compute and the others, [kept] and [dropped], both ascending int64.

    Raises:
        ValueError: an unknown option, or a share outside 0..1.
    """
    require_choice(how, keep_ratio)
    count, last = kept_chunks(num_chunks, keep_ratio), num_chunks - 1
    if count == 0:
        keep = np.zeros(0, np.int64)
    elif how == "random":
        keep = np.sort(rng.choice(num_chunks, count, replace=False))
    elif how == "uniform":
        keep = np.floor(np.linspace(0, last, count)).astype(np.int64)
    elif how == "distinct_jitter" and count > last:
        keep = np.arange(count)
    else:
        spread = np.linspace(0, last, count, endpoint=False)
        moved = spread + rng.uniform(0, last / num_chunks / keep_ratio, count)
        keep = np.clip(moved.astype(np.int64), 0, last)
        keep = np.unique(keep) if how == "distinct_jitter" else keep
    return keep, np.setdiff1d(np.arange(num_chunks), keep)


def require_choice(how: str, keep_ratio: float) -> None:
    """Raises ValueError for an unknown option, or a share outside 0..1."""
    if how not in CHOICES or not 0 <= keep_ratio <= 1:
        raise ValueError(
            f"chunks are chosen by one of {', '.join(CHOICES)} and a share of 0 to 1; got {how!r} and {keep_ratio}"
        )


def pad_chunks(chunks: np.ndarray, room: int) -> np.ndarray:
    """[room] int32: `chunks`, then -1, so that a varying choice has a shape that does not vary."""
    padded = np.full(room, -1, np.int32)
    padded[: len(chunks)] = chunks
    return padded


def fill_up(keep: np.ndarray, num_chunks: int, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A division of all chunks in which the first part always has the same length.

    Args:
        keep: chunks chosen to be trained; repeats count once.
        num_chunks: chunks of a window.
        room: length of the first part, at least that of `keep`.

    Returns:
        The first part int32 [room], which begins with `keep`; the others int32 [num_chunks - room]; and which of the
        first part were chosen, bool [room].
    """
    chosen = np.unique(keep)
    order = np.concatenate([chosen, np.setdiff1d(np.arange(num_chunks), chosen)]).astype(np.int32)
    return order[:room], order[room:], np.arange(room) < len(chosen)


def windows(frames: int, *, length: int, overlap: float) -> list[tuple[int, int]]:
    """The windows in which a video is predicted.

    Args:
        frames: of the video, at least 1.
        length: frames of a window.
        overlap: share of a window that the next one covers again.

    Returns:
        (first frame, frames) of each; the last one may be short, a video that fits has one.

    Raises:
        ValueError: a video without frames, or an overlap outside 0..1.
    """
    stride = int(length * (1 - overlap))
    if frames < 1 or length < 1 or stride < 1:
        raise ValueError(
            f"cannot cut {frames} frames into windows of {length} with an overlap of {overlap}; a video needs at least "
            f"one frame, and overlap must be at least 0 and so far below 1 that windows move on"
        )
    starts = range(0, max(frames - length, 0) + stride, stride)
    return [(start, min(length, frames - start)) for start in starts]
