"""Labelled and unlabelled videos side by side in every batch (numpy only)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from actloc_jax.data import batching
from actloc_jax.data.batching import Batch, Shard, Source
from actloc_jax.data.samples import Transform

UNLABELLED = "unlabelled/"
"""Begins the names of the arrays of unlabelled videos in a batch."""

STREAMS = ("labelled", "unlabelled")


class ResumableIterator(Protocol):
    """Endless batches whose position can be kept and restored, as grain's iterators."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


class PairedBatches(Iterator[Batch]):
    """Takes one batch of each stream and joins them: arrays of the unlabelled one are called `unlabelled/<name>`.

    Streams advance together, one batch each, so their batch sizes are the ratio in which their videos are seen.
    """

    def __init__(self, labelled: ResumableIterator, unlabelled: ResumableIterator) -> None:
        self._streams = dict(zip(STREAMS, (labelled, unlabelled), strict=True))

    def __next__(self) -> Batch:
        labelled, unlabelled = (next(self._streams[name]) for name in STREAMS)
        return labelled | {f"{UNLABELLED}{name}": array for name, array in unlabelled.items()}

    def get_state(self) -> dict[str, Any]:
        """Positions of both streams; JSON if theirs are."""
        return {name: stream.get_state() for name, stream in self._streams.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on behind the batches of `get_state`.

        Raises:
            ValueError: a state of something else.
        """
        if set(state) != set(STREAMS):
            raise ValueError(
                f"the saved state holds the streams {sorted(state)}, expected {sorted(STREAMS)}: it was saved by a run "
                "with other data settings; use a new workdir"
            )
        for name, stream in self._streams.items():
            stream.set_state(state[name])


def paired_batches(
    labelled: Source,
    unlabelled: Source,
    *,
    transforms: tuple[Transform, Transform],
    batch_sizes: tuple[int, int],
    steps: int,
    seed: int,
    num_threads: int = 4,
    shard: Shard | None = None,
) -> PairedBatches:
    """Endless batches of videos at T steps.

    An epoch of labelled videos ends with a batch that is filled up (`mask`, `index`); one of unlabelled videos leaves
    out those that do not fill a batch. Both are shuffled anew in every epoch, each by its own seed.

    Args:
        labelled, unlabelled: the records.
        transforms: make samples of labelled and unlabelled records.
        batch_sizes: labelled and unlabelled videos in a global batch, multiples of the number of processes.
        steps: T.
        seed: of everything.
        num_threads: threads that load ahead, for each stream.
        shard: which rows this process loads; None: all.

    Raises:
        ValueError: fewer unlabelled videos than one batch takes.
    """
    common = {"buckets": (steps,), "num_threads": num_threads, "shard": shard or Shard()}
    seeds = np.random.SeedSequence(seed).generate_state(2)
    first = batching.training_batches(labelled, transforms[0], batch_size=batch_sizes[0], seed=int(seeds[0]), **common)
    second = batching.training_batches(
        unlabelled, transforms[1], batch_size=batch_sizes[1], seed=int(seeds[1]), drop_remainder=True, **common
    )
    return PairedBatches(iter(first), iter(second))


def published_unlabelled_batch(labelled_batch: int, labels: float) -> int:
    """SPOT's number of unlabelled videos per batch: a multiple of 4 from 4 to 24.

    Args:
        labelled_batch: labelled videos per batch.
        labels: share of labelled videos in per cent, below 100.

    Raises:
        ValueError: a share outside 0..100.
    """
    if not 0 < labels < 100:
        raise ValueError(f"labels={labels} per cent leaves no unlabelled videos, or no labelled ones")
    unlabelled = 1 - labels / 100
    return min(max(4 * round(labelled_batch * unlabelled / (4 * (1 - unlabelled))), 4), 24)
