"""What a training step computes: windows are completed, see `completion.py`, and a detector gives their losses.

Paper: section 3.2 and algorithm 1. Source: `klauscc/TALLFormer:vedatad/engines/`, `AFSD/anet_video_cls/train.py`.

A batch is a dict of arrays, all split over the devices along their first axis:
    chunks: [batch, kept, frames, height, width, 3] normalised, the chunks that are computed.
    keep: [batch, kept] int32, their numbers in the window; -1 for places that are not used.
    drop: [batch, dropped] int32, the chunks that are read from the memory; -1 likewise.
    trained: [batch, kept] bool, without a memory only: which of `keep` have gradient; `chunks` are all then.
    videos: [batch] int32, row of the memory's offset table.
    starts: [batch] int32, first frame of the window in its video; negative where zeros stand before the video.
    segments: float32 [batch, slots, 2], frames of the window.
    labels: int32 [batch, slots], -1 for empty slots.
    video_classes: int32 [batch], ActivityNet and HACS only.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.backbones.afsd import AfsdSizes
from actloc_jax.layers.functional import Network
from actloc_jax.ops.anchors import Anchors
from actloc_jax.systems.tallformer.afsd_losses import AfsdLossSettings, afsd_loss, afsd_targets
from actloc_jax.systems.tallformer.anchor_losses import AnchorLossSettings, anchor_loss, anchor_targets
from actloc_jax.systems.tallformer.completion import FRAMES_PER_FEATURE, Completion, first_row
from actloc_jax.training.state import Batch, LossFn, LossOutput, TrainState


def anchor_loss_fn(complete: Completion, detector: Network, anchors: Anchors, settings: AnchorLossSettings) -> LossFn:
    """The loss of a step on THUMOS14.

    Args:
        complete: gives windows the features of all their chunks; what it keeps lies in `state.extra`.
        detector: an `AnchorDetector`; its running statistics are `state.batch_stats`.
        anchors: of a window.
        settings: of the losses.

    Returns:
        A loss of `{"backbone": ..., "detector": ...}`.
    """

    def loss_fn(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        of_backbone, of_detector = jax.random.split(key)
        known = complete(params["backbone"], state.extra, batch, state.step, of_backbone)
        output, statistics = detector.with_statistics(
            params["detector"], state.batch_stats, known.features, train=True, rngs=nnx.Rngs(dropout=of_detector)
        )
        classes = output.classes[0].shape[2]
        targets = anchor_targets(anchors, batch["segments"], batch["labels"], classes, settings.assignment)
        loss = anchor_loss(output, anchors, targets, settings)
        metrics = {
            "classification": loss.classification,
            "segment": loss.segment,
            "count/positive_anchors": targets.positive.sum().astype(jnp.float32),
            **known.metrics,
        }
        return LossOutput(loss.total, metrics, statistics, known.extra)

    return loss_fn


def afsd_loss_fn(complete: Completion, detector: Network, sizes: AfsdSizes, settings: AfsdLossSettings) -> LossFn:
    """The loss of a step on ActivityNet and HACS.

    Windows have one more chunk than the video: zeros before and behind it, a whole chunk together.

    Args:
        complete: gives windows the features of all their chunks; what it keeps lies in `state.extra`.
        detector: an `Afsd`.
        sizes: of the detector.
        settings: of the losses.

    Returns:
        A loss of `{"backbone": ..., "detector": ...}`.
    """
    rows = sizes.frames // FRAMES_PER_FEATURE

    def loss_fn(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        of_backbone, of_detector = jax.random.split(key)
        known = complete(params["backbone"], state.extra, batch, state.step, of_backbone)
        features = jax.vmap(lambda x, first: jax.lax.dynamic_slice_in_dim(x, first, rows))(
            known.features, -first_row(batch["starts"])
        )
        output = detector(params["detector"], features, rngs=nnx.Rngs(dropout=of_detector))
        valid = batch["labels"] >= 0
        targets = afsd_targets(sizes, batch["segments"], valid, batch["video_classes"], settings)
        loss = afsd_loss(output, targets, settings)
        metrics = {name: value for name, value in loss._asdict().items() if name != "total"}
        return LossOutput(loss.total, {**metrics, **known.metrics}, state.batch_stats, known.extra)

    return loss_fn


def parameter_group(path: str, is_frozen: Any) -> str:
    """Optimizer group of a parameter: "detector", "backbone", or "frozen" where the backbone is not trained.

    Args:
        path: "/"-joined, such as `backbone/layers/00/blocks/01/norm1/scale`.
        is_frozen: `VideoSwinSizes.is_frozen`.
    """
    room, rest = path.split("/", 1)
    if room != "backbone":
        return "detector"
    return "frozen" if is_frozen(rest) else "backbone"
