"""From samples to padded batches: length buckets, padding, and grain pipelines that resume exactly (numpy only)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import grain
import numpy as np

from actloc_jax.data.samples import Record, Sample, Transform

Batch = dict[str, np.ndarray]

IGNORE = -1
"""Label of padded and ignored frames."""

PADDING = {"labels": IGNORE}
"""Values of padded frames by the name of the array; zero for all others."""

PER_VIDEO = ("segments", "segment_labels", "video_labels")
"""Arrays without a time axis (see `detection_samples.py`), of the same size in every sample: stacked as they are."""


class Source(Protocol):
    """Random access to records; `lengths` holds their frames at the full rate."""

    lengths: Sequence[int]

    def __len__(self) -> int: ...

    def record(self, position: int, epoch: int = 0) -> Record:
        """The record at `position` as seen in `epoch`."""


def length_buckets(lengths: Sequence[int], *, max_buckets: int = 6, multiple: int = 64) -> tuple[int, ...]:
    """Chooses padded lengths so that the padding of all videos together is least.

    Every bucket is a shape to compile. The choice is exact: the best end of the last bucket for every prefix of the
    sorted lengths and every number of buckets, by dynamic programming.

    Args:
        lengths: frames of the samples.
        max_buckets: most buckets.
        multiple: buckets are multiples of this.

    Returns:
        Increasing padded lengths; the last one holds the longest sample.
    """
    if not len(lengths):
        raise ValueError("no lengths to make buckets for")
    rounded, counts = np.unique(
        [-(-max(int(length), 1) // multiple) * multiple for length in lengths], return_counts=True
    )
    below = np.concatenate([[0], np.cumsum(counts)])  # samples in the first i candidate lengths
    frames = np.concatenate([[0], np.cumsum(counts * rounded)])
    # padding[i, j]: frames added when candidates i..j-1 are padded to candidate j-1
    padding = np.full([len(rounded) + 1, len(rounded) + 1], np.inf)
    for end in range(1, len(rounded) + 1):
        padding[:end, end] = rounded[end - 1] * (below[end] - below[:end]) - (frames[end] - frames[:end])
    cost = np.full(len(rounded) + 1, np.inf)
    cost[0] = 0
    previous = []
    for _ in range(min(max_buckets, len(rounded))):
        total = cost[:, None] + padding
        previous.append(total.argmin(axis=0))
        cost = total.min(axis=0)
    chosen, end = [], len(rounded)
    for starts in reversed(previous):
        chosen.append(int(rounded[end - 1]))
        end = int(starts[end])
    return tuple(reversed(chosen))


def buckets_of(
    sources: Sequence[Source], transform: Transform, *, max_buckets: int = 6, multiple: int = 64
) -> tuple[int, ...]:
    """`length_buckets` for the samples that `transform` makes of all records of several sources (train and test)."""
    lengths = [transform.length(frames) for source in sources for frames in source.lengths]
    return length_buckets(lengths, max_buckets=max_buckets, multiple=multiple)


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length` frames.

    Raises:
        ValueError: the sample is longer than every bucket.
    """
    for bucket in sorted(buckets):
        if length <= bucket:
            return bucket
    raise ValueError(
        f"a sample of {length} frames does not fit the buckets {tuple(buckets)}; make them from all splits"
    )


def pad_and_stack(samples: Sequence[Sample], length: int) -> Batch:
    """Pads samples along time and stacks them.

    Args:
        samples: arrays with time first, arrays named in `PER_VIDEO`, and scalars. All samples have the same names.
        length: frames after padding.

    Returns:
        The same names with axes [batch, time, ...], and `mask` [batch, time] bool, True on frames of a video.
    """
    frames = [num_frames(sample) for sample in samples]
    batch: Batch = {"mask": np.arange(length) < np.array(frames)[:, None]}
    for name, first in samples[0].items():
        if np.ndim(first) == 0 or name in PER_VIDEO:
            batch[name] = np.stack([sample[name] for sample in samples])
            continue
        stacked = np.full([len(samples), length, *first.shape[1:]], PADDING.get(name, 0), first.dtype)
        for row, sample in zip(stacked, samples, strict=True):
            row[: len(sample[name])] = sample[name]
        batch[name] = stacked
    return batch


def num_frames(sample: Sample) -> int:
    """Frames of a sample, which all its arrays must have."""
    lengths = {name: len(value) for name, value in sample.items() if np.ndim(value) > 0 and name not in PER_VIDEO}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the arrays of sample {sample.get('index')} have different lengths: {lengths}")
    return next(iter(lengths.values()))


def empty_sample(sample: Sample) -> Sample:
    """A filler row: the same arrays without frames, segments and labels, and index -1."""
    empty: Sample = {}
    for name, value in sample.items():
        if name == "index":
            empty[name] = np.int32(-1)
        elif name in PER_VIDEO:
            empty[name] = np.full_like(value, IGNORE if name == "segment_labels" else 0)
        else:
            empty[name] = value[:0] if np.ndim(value) > 0 else value
    return empty


@dataclasses.dataclass(frozen=True)
class Shard:
    """The rows of every global batch that this process loads."""

    index: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True)
class _LoadBatch:
    """Loads this process's rows of a global batch.

    Every process sees the positions and lengths of the whole batch, so that all pad to the same bucket, and draws a
    generator for every row, so that a row is the same whichever process loads it.
    """

    source: Source
    transform: Transform
    batch_size: int
    buckets: Sequence[int]
    shard: Shard

    def __call__(self, planned: tuple[int, np.ndarray], rng: np.random.Generator) -> Batch:
        epoch, positions = planned
        longest = max(self.transform.length(self.source.lengths[position]) for position in positions)
        seeds = rng.integers(2**63, size=self.batch_size)
        rows = self.batch_size // self.shard.count
        samples = [
            self._sample(positions, row, epoch, int(seeds[row]))
            for row in range(self.shard.index * rows, (self.shard.index + 1) * rows)
        ]
        return pad_and_stack(samples, bucket_for(longest, self.buckets))

    def _sample(self, positions: np.ndarray, row: int, epoch: int, seed: int) -> Sample:
        """One row; the rows behind the last video of an epoch are fillers."""
        filler = row >= len(positions)
        record = self.source.record(int(positions[0 if filler else row]), epoch)
        sample = self.transform(record, np.random.default_rng(seed))
        return empty_sample(sample) if filler else sample


def training_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    buckets: Sequence[int],
    seed: int,
    epochs: int | None = None,
    shuffle: bool = True,
    drop_remainder: bool = False,
    num_threads: int = 4,
    shard: Shard = Shard(),
) -> grain.IterDataset:
    """Batches for training; every epoch has ceil(videos / batch_size) of them, the last one filled up with filler rows.

    The iterator has `get_state` and `set_state`; a restored one goes on with the same batches, random draws included.

    Args:
        source: the records.
        transform: makes a sample of a record.
        batch_size: rows of a global batch; a multiple of the number of processes.
        buckets: padded lengths, from `length_buckets`.
        seed: of the order and of the transform, in 0..2^32-1.
        epochs: how often to go through the videos; None for ever.
        shuffle: a new order in every epoch.
        drop_remainder: leave out the videos of an epoch that do not fill a batch, instead of filling it up.
        num_threads: threads that load ahead; 0 loads in the calling thread.
        shard: which rows this process loads.

    Returns:
        Batches as described in `pad_and_stack`, with `index` [batch] int32: the video's position, -1 on filler rows.
    """
    positions = grain.MapDataset.range(len(source)).seed(seed)
    if shuffle:
        positions = positions.shuffle()
    if drop_remainder and len(source) < batch_size:
        raise ValueError(f"{len(source)} videos do not fill one batch of {batch_size}; use a smaller batch size")
    return _load(positions, source, transform, batch_size, buckets, epochs, num_threads, shard, drop_remainder)


def evaluation_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    buckets: Sequence[int],
    num_threads: int = 4,
    shard: Shard = Shard(),
) -> grain.IterDataset:
    """Every video once, ordered by length so that a batch holds similar ones. Arguments as for `training_batches`."""
    order = np.argsort(np.asarray(source.lengths), kind="stable")
    positions = grain.MapDataset.source(order.tolist()).seed(0)
    return _load(positions, source, transform, batch_size, buckets, 1, num_threads, shard)


def _load(
    positions: grain.MapDataset,
    source: Source,
    transform: Transform,
    batch_size: int,
    buckets: Sequence[int],
    epochs: int | None,
    num_threads: int,
    shard: Shard,
    drop_remainder: bool = False,
) -> grain.IterDataset:
    """Groups positions into global batches, one epoch at a time, and loads them."""
    if batch_size < 1 or batch_size % shard.count:
        raise ValueError(f"batch size {batch_size} cannot be divided over {shard.count} processes; use a multiple")
    planned = positions.batch(batch_size, drop_remainder=drop_remainder, batch_fn=np.asarray)
    steps_per_epoch = len(planned)
    load = _LoadBatch(source, transform, batch_size, tuple(buckets), shard)
    batches = (
        planned.repeat(epochs).map_with_index(lambda step, chosen: (step // steps_per_epoch, chosen)).random_map(load)
    )
    read = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    return batches.to_iter_dataset(read)
