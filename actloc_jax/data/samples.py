"""From the record of a video to one training or evaluation sample (numpy only).

A record holds a video at its full frame rate: `features` [time, channels] or [crops, time, channels] float32, `labels`
[time] int32, `index` (position in its subset). A sample is what a row of a batch is made from: arrays with time first,
and the scalar `index`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np

from actloc_jax.data import boundaries
from actloc_jax.data.subsampling import align_and_downsample

Record = dict[str, Any]
Sample = dict[str, np.ndarray]


class Transform(Protocol):
    """Makes a sample (arrays with time first, and the scalar `index`) from a record."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample: ...

    def length(self, frames: int) -> int:
        """Upper bound of a sample's frames, from the frames of its record."""


@dataclasses.dataclass(frozen=True)
class FixedOffsetSample:
    """Every `sample_rate`-th frame from a fixed offset on: evaluation, and training of TST and ASFormer (spec: TST).

    Attributes:
        sample_rate: frames per kept frame.
        offset: first kept frame. With an offset of 0 no boundary is lost by sub-sampling.
        crop: which spatial crop is used where features have several.
    """

    sample_rate: int = 1
    offset: int = 0
    crop: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        del rng
        features, labels, boundary = align_and_downsample(
            _crop(record["features"], self.crop)[self.offset :],
            record["labels"][self.offset :],
            boundaries.start_sequence(record["labels"])[self.offset :],
            self.sample_rate,
        )
        return {"features": features, "labels": labels, "boundary": boundary, "index": np.int32(record["index"])}

    def length(self, frames: int) -> int:
        """Frames of a sample."""
        return -(-max(frames - self.offset, 0) // self.sample_rate)


@dataclasses.dataclass(frozen=True)
class DiffActSample:
    """DiffAct's training sample: one of the offsets 0..rate-1 and one spatial crop, drawn uniformly.

    Source: `Finspire13/DiffAct:dataset.py`.

    Attributes:
        sample_rate: frames per kept frame.
        temporal_aug: draw the offset; otherwise it is 0.
        boundary_sigma: smoothing of the boundary sequence in frames, before sub-sampling; None for none.
        soft_label_sigma: blur of the labels in sub-sampled frames; None leaves soft labels out.
        num_classes: needed for soft labels.
    """

    sample_rate: int = 1
    temporal_aug: bool = True
    boundary_sigma: float | None = None
    soft_label_sigma: float | None = None
    num_classes: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        features = record["features"]
        offset = int(rng.integers(self.sample_rate)) if self.temporal_aug else 0
        crop = int(rng.integers(len(features))) if features.ndim == 3 else 0
        boundary = boundaries.boundary_sequence(record["labels"], self.boundary_sigma)[offset :: self.sample_rate]
        labels = record["labels"][offset :: self.sample_rate]
        sample = {
            "features": _crop(features, crop)[offset :: self.sample_rate],
            "labels": labels,
            "boundary": boundaries.renormalise_boundary(boundary).astype(np.float32),
            "index": np.int32(record["index"]),
        }
        if self.soft_label_sigma is not None:
            sample["soft_labels"] = boundaries.soft_labels(labels, self.num_classes, self.soft_label_sigma)
        return sample

    def length(self, frames: int) -> int:
        """Frames of a sample with offset 0, the longest one."""
        return -(-frames // self.sample_rate)


def _crop(features: np.ndarray, crop: int) -> np.ndarray:
    """One spatial crop of [crops, time, channels]; [time, channels] has only itself."""
    return features[crop] if features.ndim == 3 else features
