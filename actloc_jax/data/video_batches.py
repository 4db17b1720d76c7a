"""Batches of clips for training from pixels: loaded ahead by threads, resumable at any step (numpy only)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import grain
import numpy as np

from actloc_jax.data.batching import Batch, Shard
from actloc_jax.data.samples import Record, Sample
from actloc_jax.data.video_chunks import Choice, choose, require_choice


class ClipSource(Protocol):
    """Random access to records with frames, see `AnnotatedVideos`."""

    def __len__(self) -> int: ...

    def record(self, position: int, epoch: int = 0) -> Record: ...


class ClipTransform(Protocol):
    """Makes a sample of a record and of the chunks that are computed and dropped."""

    def __call__(self, record: Record, rng: np.random.Generator, keep: np.ndarray, drop: np.ndarray) -> Sample: ...


@dataclasses.dataclass(frozen=True)
class ChunkChoice:
    """Which chunks a step computes: `choose(how, num_chunks, keep_ratio)`, once for all windows of a batch.

    Raises:
        ValueError: an unknown option, or a share outside 0..1.
    """

    how: Choice
    num_chunks: int
    keep_ratio: float

    def __post_init__(self) -> None:
        require_choice(self.how, self.keep_ratio)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The chunks to compute and the others, [kept] and [dropped] int64, as `choose` gives them."""
        return choose(self.how, self.num_chunks, self.keep_ratio, rng)


def steps_per_epoch(videos: int, batch_size: int) -> int:
    """Batches in which every video comes at least once."""
    return -(-videos // batch_size)


def training_clips(
    source: ClipSource,
    transform: ClipTransform,
    choice: ChunkChoice,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    num_threads: int = 4,
    shard: Shard | None = None,
) -> grain.IterDataset:
    """Batches of clips; every epoch visits each video once in a new order, and again the first ones to fill it up.

    The iterator has `get_state` and `set_state`; a restored one goes on with the same batches, random draws included.

    Args:
        source: the videos.
        transform: makes a sample; its arrays have the same shapes for all videos.
        choice: of the chunks; drawn once per batch, as published.
        batch_size: clips of a global batch; a multiple of the number of processes.
        seed: of order, windows and changes.
        epochs: how often to go through the videos; None for ever.
        num_threads: threads that load ahead; 0 loads in the calling thread.
        shard: which rows this process loads; None: all.

    Returns:
        Batches of what `transform` gives, stacked: [batch, ...].

    Raises:
        ValueError: no videos, or a batch that does not divide over the processes.
    """
    shard = shard or Shard()
    if not len(source) or batch_size < 1 or batch_size % shard.count:
        raise ValueError(
            f"cannot make batches of {batch_size} clips of {len(source)} videos in {shard.count} processes; there must "
            f"be videos, and the batch size a multiple of the processes"
        )
    steps = steps_per_epoch(len(source), batch_size)
    load = _LoadClips(source, transform, choice, batch_size, seed, shard)
    batches = grain.MapDataset.range(steps).seed(seed).repeat(epochs)
    batches = batches.map_with_index(lambda index, step: (index // steps, step)).random_map(load)
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads))


@dataclasses.dataclass(frozen=True)
class _LoadClips:
    """Loads this process's rows of a batch; a row is the same whichever process loads it."""

    source: ClipSource
    transform: ClipTransform
    choice: ChunkChoice
    batch_size: int
    seed: int
    shard: Shard

    def __call__(self, planned: tuple[int, int], rng: np.random.Generator) -> Batch:
        epoch, step = planned
        keep, drop = self.choice.draw(rng)
        seeds = rng.integers(2**63, size=self.batch_size)
        positions = self._positions(epoch, step)
        rows = self.batch_size // self.shard.count
        samples = [
            self.transform(
                self.source.record(int(positions[row]), epoch), np.random.default_rng(int(seeds[row])), keep, drop
            )
            for row in range(self.shard.index * rows, (self.shard.index + 1) * rows)
        ]
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

    def _positions(self, epoch: int, step: int) -> Sequence[int]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.source))
        return order[(step * self.batch_size + np.arange(self.batch_size)) % len(order)]
