"""Batches of whole videos for prediction, as all systems make them: similar lengths together, padded to a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from actloc_jax.data import batching
from actloc_jax.data.samples import Record, Sample
from actloc_jax.systems.api import EvalBatch


def video_batches(
    source: Any,
    rows_of: Callable[[Record], Sequence[tuple[Sample, Any]]],
    *,
    buckets: Sequence[int],
    batch_size: int,
    threads: int,
    rows_per_video: int = 1,
) -> Iterator[EvalBatch]:
    """Every video once, shortest first; fillers make the rows of a batch a multiple of the devices.

    Args:
        source: `lengths` and `record(position)`.
        rows_of: the samples of a video, each with what its row is; they stay together.
        buckets: padded lengths.
        batch_size: videos per batch.
        threads: that read ahead.
        rows_per_video: samples that `rows_of` gives.
    """
    order = np.argsort(np.asarray(source.lengths), kind="stable")
    size = min(max(batch_size, 1), len(order))
    plan = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    devices = jax.local_device_count()
    rows_per_batch = -(-size * rows_per_video // devices) * devices

    def load(positions: list[int]) -> EvalBatch:
        pairs = [pair for position in positions for pair in rows_of(source.record(position))]
        samples = [sample for sample, _ in pairs]
        longest = max(batching.num_frames(sample) for sample in samples)
        samples += [batching.empty_sample(samples[0])] * (rows_per_batch - len(samples))
        arrays = batching.pad_and_stack(samples, batching.bucket_for(longest, buckets))
        return EvalBatch(arrays, [row for _, row in pairs])

    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, 1))
    return iter(grain.MapDataset.source(plan).map(load).to_iter_dataset(read))
