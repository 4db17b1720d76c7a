"""How a window gets the features of all its chunks, of which a training step sends only some through the backbone.

`Memory` reads the others from the bank and writes the new ones back; with a momentum, a slower backbone writes them.
`Computed` keeps no memory: the others are computed as well, without gradient. Both are functions
`(params of the backbone, state.extra, batch, step, key) -> Completed`; `memory_training.py` says what a batch holds.

Paper: sections 3.2 and 3.3, algorithm 1. Source: `klauscc/TALLFormer`, `vedatad/models/backbones/temp_graddrop.py`,
`vedatad/models/detectors/mem_single_stage_detector.py`, `AFSD/anet_video_cls/membank`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.layers.functional import Network
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer import chunk_training
from actloc_jax.systems.tallformer.bank import BankAccess, BankRead, MemoryBank
from actloc_jax.training.state import Batch

FRAMES_PER_FEATURE = 2  # of every Video Swin
BANK, SLOW_BACKBONE = "bank", "slow_backbone"  # entries of `state.extra`


class Completed(NamedTuple):
    """Features of whole windows, and what the step leaves for the next one.

    Attributes:
        features: [batch, num_chunks * rows_per_chunk, channels]; gradient flows into trained chunks only.
        extra: `state.extra` after the step.
        metrics: float32 scalars for the log.
    """

    features: jax.Array
    extra: dict[str, Any]
    metrics: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Windows are completed from the memory bank.

    Attributes:
        backbone: a `VideoSwin`.
        access: reads and writes the bank.
        num_chunks: chunks of a window.
        frozen: the bank is read and never written.
        momentum: None, or how much of the slower backbone's parameters a step keeps; then that backbone gives the
            features that are written (the momentum variant of the original).
        reads_round_down: the first row to read is the start's half rounded down, as published, while the first row to
            write is rounded towards zero: where a window begins with an odd number of zeros (ActivityNet), reads are
            one row before writes. False: both are rounded towards zero.
    """

    backbone: Network
    access: BankAccess
    num_chunks: int
    frozen: bool = False
    momentum: float | None = None
    reads_round_down: bool = True

    def __call__(
        self, params: Any, extra: dict[str, Any], batch: Batch, step: jax.Array, key: jax.Array | None = None
    ) -> Completed:
        """Computes, reads, joins and writes back.

        Args:
            params: of the backbone.
            extra: `bank`, and with a momentum `slow_backbone`.
            batch: see `memory_training.py`; without a chunk to compute, all come from the bank, which stays as it is.
            step: scalar int32.
            key: makes the backbone's stochastic depth active.
        """
        bank: MemoryBank = extra[BANK]
        first = first_row(batch["starts"])
        first_read = batch["starts"] // FRAMES_PER_FEATURE if self.reads_round_down else first
        read = self.access.read(bank, self.access.row_numbers(bank, batch["videos"], batch["drop"], first_read), step)
        kept = self._computed(params, bank, batch, key)
        features = banks.compose(kept, read.features, batch["keep"], batch["drop"], self.num_chunks)
        metrics = banks.staleness(read.ages)
        if self.momentum is None:
            return Completed(features, {**extra, BANK: self._written(bank, kept, batch, step, read)}, metrics)
        slower = chunk_training.momentum_update(extra[SLOW_BACKBONE], params, self.momentum, step)
        other_key = None if key is None else jax.random.fold_in(key, 1)
        bank = self._written(bank, self._computed(slower, bank, batch, other_key), batch, step, read)
        return Completed(features, {**extra, BANK: bank, SLOW_BACKBONE: slower}, metrics)

    def _computed(self, params: Any, bank: MemoryBank, batch: Batch, key: jax.Array | None) -> jax.Array:
        """Features of the chunks of the batch: float32 [batch, kept, rows_per_chunk, channels]."""
        chunks = batch["chunks"]
        if chunks.shape[1] == 0:
            return jnp.zeros([len(chunks), 0, self.access.rows_per_chunk, bank.rows.shape[1]])
        return chunk_features(self.backbone, params, chunks, key)

    def _written(self, bank: MemoryBank, kept: jax.Array, batch: Batch, step: jax.Array, read: BankRead) -> MemoryBank:
        if self.frozen or kept.shape[1] == 0:
            return bank
        rows = self.access.row_numbers(bank, batch["videos"], batch["keep"], first_row(batch["starts"]))
        return self.access.write(bank, rows, kept, step, after=read)


@dataclasses.dataclass(frozen=True)
class Computed:
    """All chunks are computed and some have gradient (the gradient-drop variants of the original).

    Attributes:
        backbone: a `VideoSwin`.
        num_chunks: chunks of a window.
        recompute: for the gradient compute trained chunks again instead of storing what is between (V1); else V2.
    """

    backbone: Network
    num_chunks: int
    recompute: bool = False

    def __call__(
        self, params: Any, extra: dict[str, Any], batch: Batch, step: jax.Array, key: jax.Array | None = None
    ) -> Completed:
        """Computes and joins; the chunks of the batch are those in `keep`, then those in `drop`.

        `batch["trained"]`, bool [batch, kept], is False for chunks in `keep` that are to have no gradient: a choice
        with fewer chunks is filled up. `extra` is left as it is.
        """
        del step
        chunks, kept = batch["chunks"], batch["keep"].shape[1]
        own, others = (None, None) if key is None else jax.random.split(key)

        def with_gradient(params: Any, chunks: jax.Array) -> jax.Array:
            return chunk_features(self.backbone, params, chunks, own)

        def without_gradient(params: Any, chunks: jax.Array) -> jax.Array:
            """One chunk of all windows after the other, so that they need no more memory than one."""
            numbers = jnp.arange(chunks.shape[1])

            def one(number: jax.Array) -> jax.Array:
                of_chunk = None if others is None else jax.random.fold_in(others, number)
                return chunk_features(self.backbone, params, chunks[:, number][:, None], of_chunk)[:, 0]

            return jax.lax.map(one, numbers).swapaxes(0, 1)

        slots = jnp.arange(self.num_chunks)
        features = chunk_training.dropped_gradient(
            with_gradient, params, chunks, slots[:kept], slots[kept:],
            of_dropped=without_gradient, recompute=self.recompute,
        )  # fmt: skip
        trained = batch["trained"][:, :, None, None]
        first = jnp.where(trained, features[:, :kept], jax.lax.stop_gradient(features[:, :kept]))
        features = banks.compose(first, features[:, kept:], batch["keep"], batch["drop"], self.num_chunks)
        return Completed(features, extra, {})


Completion = Memory | Computed


def chunk_features(backbone: Network, params: Any, chunks: jax.Array, key: jax.Array | None) -> jax.Array:
    """Features of chunks, all at once.

    Args:
        backbone: a `VideoSwin`.
        params: its parameters.
        chunks: [batch, chunks, frames, height, width, 3] normalised.
        key: makes its stochastic depth active.

    Returns:
        float32 [batch, chunks, rows_per_chunk, channels].
    """
    rngs = None if key is None else nnx.Rngs(dropout=key)
    return backbone(params, chunks.swapaxes(0, 1), rngs, method="chunk_features").swapaxes(0, 1)


def first_row(starts: jax.Array) -> jax.Array:
    """The row of the memory that windows begin with, rounded towards zero; int32 [batch], negative before the video."""
    return jax.lax.div(starts, jnp.int32(FRAMES_PER_FEATURE))
