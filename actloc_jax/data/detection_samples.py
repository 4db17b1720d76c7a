"""From the record of an untrimmed video to one sample for detection (numpy only).

A record holds `features` [time, channels], `segments` [n, 2] and `labels` [n] of the same video; see `detection.py`. A
sample holds `features`, `index`, and what targets are made from, at a size that does not depend on the video:

* `segments` [max_segments, 2] float32 and `segment_labels` [max_segments] int32, -1 where there is no segment;
* `video_labels` [classes] float32, 1 for the classes that occur: all that weak supervision sees.

`batching.py` pads `features` with zeros to the bucket and adds the `mask`.
Sources: `dingfengshi/TriDet:libs/datasets/data_utils.py`, `fqhank/FuSTAL`, `zhang-can/CoLA`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from actloc_jax.data.batching import IGNORE
from actloc_jax.data.samples import Record, Sample

TRIALS = 200
"""Windows drawn until one holds a segment."""

Draw = Callable[[int, int], int]
"""Draws an integer uniformly; both ends are included."""


@dataclasses.dataclass(frozen=True)
class Crop:
    """The part of a video that `truncate` chose.

    Attributes:
        start: first row.
        length: rows.
        kept: [n] bool, the segments that survive.
        segments: [kept, 2] float32, those segments relative to `start`.
    """

    start: int
    length: int
    kept: np.ndarray
    segments: np.ndarray


def truncate(
    rows: int,
    segments: np.ndarray,
    draw: Draw,
    *,
    max_length: int,
    threshold: float = 0.5,
    crop_ratio: tuple[float, float] | None = None,
    margin: float = 0.0,
) -> Crop:
    """Draws a window of a video that holds at least one segment, if one is found in `TRIALS` trials.

    A video that fits is cut to a random share of its length (or left alone without `crop_ratio`); a longer one to
    `max_length` rows. The last window is used if none holds a segment, also if there are no segments at all.

    Args:
        rows: length of the video.
        segments: [n, 2] grid positions.
        draw: the random numbers.
        max_length: most rows of a crop.
        threshold: least share of a segment inside the window for the segment to survive.
        crop_ratio: least and largest share of a video that fits.
        margin: grid steps by which the window reaches further at both ends when segments are compared with it and
            clipped to it: 0 in TriDet and FuSTAL, `Grid.margin` in ActionFormer.

    Returns:
        The crop; its segments are clipped to the window. A video left alone keeps its segments as they are.
    """
    segments = np.asarray(segments, np.float32).reshape(-1, 2)
    length = max_length
    if rows <= max_length:
        length = rows
        if crop_ratio is not None:
            # Python's `round`: halves go to the even neighbour, as published.
            length = draw(max(round(crop_ratio[0] * rows), 1), min(round(crop_ratio[1] * rows), rows))
        if length == rows:
            return Crop(0, rows, np.ones(len(segments), bool), segments)
    for _ in range(TRIALS):
        start = draw(0, rows - length)
        window = np.array([start - margin, start + length + margin], np.float32)
        inside = np.stack([np.maximum(segments[:, 0], window[0]), np.minimum(segments[:, 1], window[1])], axis=1)
        overlap = np.maximum(inside[:, 1] - inside[:, 0], 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # a segment of length 0 never survives
            kept = overlap / np.abs(segments[:, 1] - segments[:, 0]) >= threshold
        if kept.any():
            break
    return Crop(start, length, kept, inside[kept] - np.float32(start))


@dataclasses.dataclass(frozen=True)
class CroppedVideo:
    """Training sample of ActionFormer, TriDet and FuSTAL's student: a crop of the video and its segments.

    Attributes:
        max_length: rows of a sample; pad batches to it (`buckets=(max_length,)`).
        max_segments: room for segments, see `most_segments`.
        threshold, crop_ratio, margin: see `truncate`.
    """

    max_length: int
    max_segments: int
    threshold: float = 0.5
    crop_ratio: tuple[float, float] | None = (0.9, 1.0)
    margin: float = 0.0

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        crop = truncate(
            len(record["features"]),
            record["segments"],
            lambda low, high: int(rng.integers(low, high + 1)),
            max_length=self.max_length,
            threshold=self.threshold,
            crop_ratio=self.crop_ratio,
            margin=self.margin,
        )
        return {
            "features": record["features"][crop.start : crop.start + crop.length],
            **pad_segments(crop.segments, record["labels"][crop.kept], self.max_segments),
            "index": np.int32(record["index"]),
        }

    def length(self, frames: int) -> int:
        """Upper bound of a sample's rows."""
        return min(frames, self.max_length)


@dataclasses.dataclass(frozen=True)
class UncroppedVideo:
    """All rows and segments of a video: evaluation and prediction.

    Attributes:
        max_segments: room for segments; 0 leaves them out.
    """

    max_segments: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        del rng
        sample = {"features": record["features"], "index": np.int32(record["index"])}
        if self.max_segments:
            sample |= pad_segments(record["segments"], record["labels"], self.max_segments)
        return sample

    def length(self, frames: int) -> int:
        """Rows of a sample."""
        return frames


@dataclasses.dataclass(frozen=True)
class SampledSnippets:
    """Sample of CoLA and FuSTAL's generator: rows spread over the video, and the labels of the video.

    Besides `features` and `video_labels` the sample has `num_rows`, the rows of the whole video.

    Attributes:
        snippets: rows of a sample (training), most rows (evaluation).
        num_classes: width of `video_labels`.
        jitter: draw every row from its own interval (training); otherwise fixed ones, and all rows of a short video.
    """

    snippets: int
    num_classes: int
    jitter: bool

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        rows = len(record["features"])
        chosen = random_snippets(rows, self.snippets, rng) if self.jitter else uniform_snippets(rows, self.snippets)
        return {
            "features": record["features"][chosen],
            "video_labels": video_labels(record["labels"], self.num_classes),
            "num_rows": np.int32(rows),
            "index": np.int32(record["index"]),
        }

    def length(self, frames: int) -> int:
        """Rows of a sample."""
        return self.snippets if self.jitter else min(frames, self.snippets)


def uniform_snippets(rows: int, snippets: int) -> np.ndarray:
    """Indices of evenly spread rows, floor(i * rows / snippets), or of all rows if there are no more than `snippets`.

    Returns:
        [min(rows, snippets)] int32.
    """
    if rows <= snippets:
        return np.arange(rows, dtype=np.int32)
    return (np.arange(snippets) * rows // snippets).astype(np.int32)


def random_snippets(rows: int, snippets: int, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """Indices of randomly perturbed rows, [snippets] int32; rows repeat where the video is shorter.

    Row i is drawn uniformly from the rows between floor(i * rows / snippets) and floor((i + 1) * rows / snippets), both
    included, the last one from those up to the end of the video. A video of `snippets` rows is left as it is.
    """
    if rows == snippets:
        return np.arange(snippets, dtype=np.int32)
    edges = np.arange(snippets + 1) * rows // snippets
    lowest, highest = edges[:-1], np.minimum(edges[1:], rows - 1)
    integers = rng.randint if isinstance(rng, np.random.RandomState) else rng.integers
    return integers(lowest, highest + 1).astype(np.int32)


def video_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[classes] float32, 1 for the classes among `labels` [n]."""
    present = np.zeros(num_classes, np.float32)
    present[labels] = 1.0
    return present


def pad_segments(segments: np.ndarray, labels: np.ndarray, max_segments: int) -> Sample:
    """`segments` [max_segments, 2] float32, zero behind the last one, and `segment_labels` [max_segments], -1 there.

    Raises:
        ValueError: there are more segments.
    """
    count = len(labels)
    if count > max_segments:
        raise ValueError(
            f"a video has {count} segments, room is for {max_segments}; raise max_segments (see most_segments)"
        )
    padded = np.zeros([max_segments, 2], np.float32)
    padded[:count] = segments
    numbers = np.full(max_segments, IGNORE, np.int32)
    numbers[:count] = labels
    return {"segments": padded, "segment_labels": numbers}


def most_segments(counts: Iterable[int], *, multiple: int = 8) -> int:
    """Room for the video with most segments, rounded up so that similar data sets compile to the same shape."""
    return max(-(-max(counts, default=0) // multiple) * multiple, multiple)


def padded_length(rows: int, *, minimum: int, multiple: int) -> int:
    """Length to which a video is padded for inference: `minimum`, or beyond it the next multiple (as TriDet)."""
    return minimum if rows <= minimum else -(-rows // multiple) * multiple


def pad_features(features: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Zero rows behind the last one.

    Args:
        features: [time, channels].
        length: rows after padding.

    Returns:
        [length, channels], and the mask [length] bool, True on rows of the video.

    Raises:
        ValueError: there are more rows.
    """
    if len(features) > length:
        raise ValueError(f"{len(features)} rows do not fit into {length}")
    padded = np.zeros([length, features.shape[1]], features.dtype)
    padded[: len(features)] = features
    return padded, np.arange(length) < len(features)
