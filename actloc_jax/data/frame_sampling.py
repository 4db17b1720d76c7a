"""A fixed number of frames of a video for training, or all of them, optionally standardised (numpy only).

Source: `mingu6/action_seg_ot:src/video_dataset.py`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from actloc_jax.data.batching import IGNORE
from actloc_jax.data.samples import Record, Sample


@dataclasses.dataclass(frozen=True)
class SampledFrames:
    """`frames` frames spread over the video; a shorter video is filled up with repeats of its last frame.

    A sample has its own `mask`, False on the repeats, where `labels` are `IGNORE`. Batches of these samples must not be
    padded beyond `frames`: use `buckets=(frames,)`.

    Attributes:
        frames: frames of a sample.
        jitter: draw every frame from its own interval (training) instead of taking fixed ones (validation).
        standardise: see `standardise`.
        of_whole_video: standardise before sampling, by the statistics of the whole video; otherwise, as published, by
            those of the sampled frames, repeats included.
        draw_last: let the last interval hold the last frame; otherwise, as published, jitter never draws it.
    """

    frames: int
    jitter: bool
    standardise: bool
    of_whole_video: bool = False
    draw_last: bool = False

    def __call__(self, record: Record, rng: np.random.Generator | np.random.RandomState) -> Sample:
        indices, mask = sample_frames(
            len(record["labels"]), self.frames, rng if self.jitter else None, draw_last=self.draw_last
        )
        if self.standardise and self.of_whole_video:
            features = standardise(record["features"])[indices]
        else:
            features = record["features"][indices]
            features = standardise(features) if self.standardise else features.astype(np.float32)
        return {
            "features": features,
            "mask": mask,
            "labels": np.where(mask, record["labels"][indices], IGNORE).astype(np.int32),
            "index": np.int32(record["index"]),
        }

    def length(self, frames: int) -> int:
        """Frames of a sample, whatever the record has."""
        del frames
        return self.frames


@dataclasses.dataclass(frozen=True)
class WholeVideo:
    """All frames of a video: evaluation and prediction.

    Attributes:
        standardise: see `standardise`.
    """

    standardise: bool

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        del rng
        features = record["features"]
        return {
            "features": standardise(features) if self.standardise else features.astype(np.float32),
            "labels": record["labels"],
            "index": np.int32(record["index"]),
        }

    def length(self, frames: int) -> int:
        """Frames of a sample."""
        return frames


def sample_frames(
    frames: int,
    samples: int,
    rng: np.random.Generator | np.random.RandomState | None = None,
    *,
    draw_last: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Which frames a sample takes.

    Args:
        frames: frames of the video, at least 1.
        samples: frames of the sample.
        rng: draws one frame of each of `samples` intervals (the last frame of the video is in none of them); None takes
            evenly spaced frames, first and last included. A legacy `RandomState` draws what the original draws.
        draw_last: put the last frame into the last interval.

    Returns:
        indices [samples] int64, and mask [samples] bool: False on the repeats of the last frame that fill up a video
        of fewer than `samples` frames.

    Raises:
        ValueError: no frames to take.
    """
    if frames < 1 or samples < 1:
        raise ValueError(f"cannot take {samples} frames of a video of {frames}; both must be at least 1")
    if samples >= frames:
        return np.minimum(np.arange(samples), frames - 1), np.arange(samples) < frames
    if rng is None:
        return np.linspace(0, frames - 1, samples).astype(np.int64), np.ones(samples, bool)
    edges = np.linspace(0, frames if draw_last else frames - 1, samples + 1).astype(np.int64)
    draw = rng.randint if isinstance(rng, np.random.RandomState) else rng.integers
    return draw(edges[:-1], edges[1:]), np.ones(samples, bool)


def standardise(features: np.ndarray) -> np.ndarray:
    """Gives every channel mean 0 and standard deviation 1 over the video, then divides by sqrt(channels).

    Frames whose channels add up to exactly 0 carry no feature: they are left out of the statistics and become zero.
    Constant channels become zero. Computed in float64.

    Args:
        features: [time, channels].

    Returns:
        [time, channels] float32.
    """
    present = features.sum(axis=1) != 0
    standardised = np.zeros(features.shape, np.float64)
    if present.any():
        values = features[present].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = (values - values.mean(axis=0)) / values.std(axis=0)
        largest = float(np.finfo(np.float32).max)
        standardised[present] = np.nan_to_num(scaled, nan=0.0, posinf=largest, neginf=-largest)
    return (standardised / np.sqrt(features.shape[1])).astype(np.float32)
