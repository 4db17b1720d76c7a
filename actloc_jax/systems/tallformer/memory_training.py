"""What a training step computes: features of some chunks, those of the others from the memory, and the losses.

Paper: section 3.2 and algorithm 1. Source: `klauscc/TALLFormer:vedatad/engines/`,
`vedatad/models/detectors/mem_single_stage_detector.py`, `AFSD/anet_video_cls/membank`.

A batch is a dict of arrays, all split over the devices along their first axis:
    chunks: [batch, kept, frames, height, width, 3] normalised, the chunks that are computed.
    keep: [batch, kept] int32, their numbers in the window; -1 for places that are not used.
    drop: [batch, dropped] int32, the chunks that are read from the memory; -1 likewise.
    videos: [batch] int32, row of the memory's offset table.
    starts: [batch] int32, first frame of the window in its video; negative where zeros stand before the video.
    segments: float32 [batch, slots, 2], frames of the window.
    labels: int32 [batch, slots], -1 for empty slots.
    video_classes: int32 [batch], ActivityNet and HACS only.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.backbones.afsd import AfsdSizes
from actloc_jax.layers.functional import Network
from actloc_jax.ops.anchors import Anchors
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer.afsd_losses import AfsdLossSettings, afsd_loss, afsd_targets
from actloc_jax.systems.tallformer.anchor_losses import AnchorLossSettings, anchor_loss, anchor_targets
from actloc_jax.systems.tallformer.bank import BankAccess, MemoryBank
from actloc_jax.training.state import Batch, LossFn, LossOutput, TrainState

FRAMES_PER_FEATURE = 2  # of every Video Swin


class Remembered(NamedTuple):
    """Features of whole windows, and the memory after the step.

    Attributes:
        features: float32 [batch, num_chunks * rows_per_chunk, channels]; gradient flows into computed chunks only.
        bank: with the computed chunks written back.
        ages: of the rows read, see `BankRead`.
    """

    features: jax.Array
    bank: MemoryBank
    ages: jax.Array


@dataclasses.dataclass(frozen=True)
class Memory:
    """How windows are completed from the memory.

    Attributes:
        backbone: a `VideoSwin`.
        access: reads and writes the bank.
        num_chunks: chunks of a window.
        frozen: the bank is read and never written.
        reads_round_down: the first row to read is the start's half rounded down, as published, while the first row to
            write is rounded towards zero: where a window begins with an odd number of zeros (ActivityNet), reads are
            one row before writes. False: both are rounded towards zero.
    """

    backbone: Network
    access: BankAccess
    num_chunks: int
    frozen: bool = False
    reads_round_down: bool = True

    def __call__(
        self, params: Any, bank: MemoryBank, batch: Batch, step: jax.Array, rngs: nnx.Rngs | None = None
    ) -> Remembered:
        """Computes, reads, joins and writes back.

        Args:
            params: of the backbone.
            bank: the memory.
            batch: see the head of this file.
            step: scalar int32.
            rngs: makes the backbone's stochastic depth active.
        """
        chunks = batch["chunks"].swapaxes(0, 1)
        kept = self.backbone(params, chunks, rngs, method="chunk_features").swapaxes(0, 1)
        first = first_row(batch["starts"])
        first_read = batch["starts"] // FRAMES_PER_FEATURE if self.reads_round_down else first
        read = self.access.read(bank, self.access.row_numbers(bank, batch["videos"], batch["drop"], first_read), step)
        features = banks.compose(kept, read.features, batch["keep"], batch["drop"], self.num_chunks)
        if not self.frozen:
            rows = self.access.row_numbers(bank, batch["videos"], batch["keep"], first)
            bank = self.access.write(bank, rows, kept, step, after=read)
        return Remembered(features, bank, read.ages)


def anchor_loss_fn(memory: Memory, detector: Network, anchors: Anchors, settings: AnchorLossSettings) -> LossFn:
    """The loss of a step on THUMOS14.

    Args:
        memory: completes windows; the bank lies in `state.extra["bank"]`.
        detector: an `AnchorDetector`; its running statistics are `state.batch_stats`.
        anchors: of a window.
        settings: of the losses.

    Returns:
        A loss of `{"backbone": ..., "detector": ...}`.
    """

    def loss_fn(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        of_backbone, of_detector = (nnx.Rngs(dropout=part) for part in jax.random.split(key))
        known = memory(params["backbone"], state.extra["bank"], batch, state.step, of_backbone)
        output, statistics = detector.with_statistics(
            params["detector"], state.batch_stats, known.features, train=True, rngs=of_detector
        )
        classes = output.classes[0].shape[2]
        targets = anchor_targets(anchors, batch["segments"], batch["labels"], classes, settings.assignment)
        loss = anchor_loss(output, anchors, targets, settings)
        metrics = {
            "classification": loss.classification,
            "segment": loss.segment,
            "positive_anchors": targets.positive.sum().astype(jnp.float32),
            **banks.staleness(known.ages),
        }
        return LossOutput(loss.total, metrics, statistics, {**state.extra, "bank": known.bank})

    return loss_fn


def afsd_loss_fn(memory: Memory, detector: Network, sizes: AfsdSizes, settings: AfsdLossSettings) -> LossFn:
    """The loss of a step on ActivityNet and HACS.

    Windows have one more chunk than the video: zeros before and behind it, a whole chunk together.

    Args:
        memory: completes windows; the bank lies in `state.extra["bank"]`.
        detector: an `Afsd`.
        sizes: of the detector.
        settings: of the losses.

    Returns:
        A loss of `{"backbone": ..., "detector": ...}`.
    """
    rows = sizes.frames // FRAMES_PER_FEATURE

    def loss_fn(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        of_backbone, of_detector = (nnx.Rngs(dropout=part) for part in jax.random.split(key))
        known = memory(params["backbone"], state.extra["bank"], batch, state.step, of_backbone)
        features = jax.vmap(lambda x, first: jax.lax.dynamic_slice_in_dim(x, first, rows))(
            known.features, -first_row(batch["starts"])
        )
        output = detector(params["detector"], features, rngs=of_detector)
        valid = batch["labels"] >= 0
        targets = afsd_targets(sizes, batch["segments"], valid, batch["video_classes"], settings)
        loss = afsd_loss(output, targets, settings)
        metrics = {name: value for name, value in loss._asdict().items() if name != "total"}
        metrics |= banks.staleness(known.ages)
        return LossOutput(loss.total, metrics, state.batch_stats, {**state.extra, "bank": known.bank})

    return loss_fn


def first_row(starts: jax.Array) -> jax.Array:
    """The row of the memory that windows begin with, rounded towards zero; int32 [batch], negative before the video."""
    return jax.lax.div(starts, jnp.int32(FRAMES_PER_FEATURE))


def parameter_group(path: str, is_frozen: Any) -> str:
    """Optimiser group of a parameter: "detector", "backbone", or "frozen" where the backbone is not trained.

    Args:
        path: "/"-joined, such as `backbone/layers/00/blocks/01/norm1/scale`.
        is_frozen: `VideoSwinSizes.is_frozen`.
    """
    room, rest = path.split("/", 1)
    if room != "backbone":
        return "detector"
    return "frozen" if is_frozen(rest) else "backbone"
