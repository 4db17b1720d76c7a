"""The plug-in interface between TST and a backbone: anything that gives frame features and frame predictions.

An adapter is a frozen set of functions. Three are here: DiffAct, ASFormer with the ASRF branches, and features from
files, for which the backbone is whatever wrote them. `docs/backbones.md` shows how to add one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.backbones.asformer import ASFormer, ASFormerSizes
from actloc_jax.backbones.asrf import ASFormerASRF, ASRFSizes
from actloc_jax.backbones.diffact import DiffAct, DiffActSizes
from actloc_jax.data import boundaries
from actloc_jax.data.class_weights import boundary_positive_weight, median_frequency_weights
from actloc_jax.layers.functional import Network, Params
from actloc_jax.losses.asrf import asrf_loss
from actloc_jax.systems.tst import adapter_losses
from actloc_jax.systems.tst.refiner import Refiner, RefinerSizes
from actloc_jax.training.state import Batch


class FrameOutput(NamedTuple):
    """What a backbone says of every frame.

    Attributes:
        features: [batch, time, feature_dim].
        predictions: [batch, time, classes], probabilities or logits; TST uses the class of the first maximum.
        raw: what the backbone's own loss needs.
    """

    features: jax.Array
    predictions: jax.Array
    raw: Any


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A backbone for TST.

    Attributes:
        feature_dim: channels of its frame features.
        network: makes and shapes its parameters; None for a backbone without any.
        apply: `(params, batch, noise_keys, dropout_rngs) -> FrameOutput`; `noise_keys` [batch] decide what a stochastic
            backbone samples for each video, dropout is active iff `dropout_rngs` is given.
        loss: `(FrameOutput, batch) -> scalar`, the backbone's own loss in stage 3; None where it has none.
        stochastic: whether several noise keys give several answers.
    """

    feature_dim: int
    network: Network | None
    apply: Callable[[Params, Batch, jax.Array, nnx.Rngs | None], FrameOutput]
    loss: Callable[[FrameOutput, Batch], jax.Array] | None
    stochastic: bool

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters from a scalar key; an empty dict for a backbone without any."""
        return {} if self.network is None else self.network.init(key)


def diffact_sizes(config: ConfigDict) -> DiffActSizes:
    """The sizes that `config.backbone` and `config.data` describe."""
    encoder, decoder, diffusion = config.backbone.encoder, config.backbone.decoder, config.backbone.diffusion
    return DiffActSizes(
        num_classes=config.data.num_classes,
        input_dim=config.data.feature_dim,
        encoder_layers=encoder.num_layers,
        encoder_width=encoder.width,
        encoder_kernel_size=encoder.kernel_size,
        encoder_dropout=encoder.dropout,
        channel_dropout=encoder.channel_dropout,
        temporal_dropout=encoder.temporal_dropout,
        feature_layers=tuple(encoder.feature_layers),
        use_instance_norm=encoder.use_instance_norm,
        decoder_layers=decoder.num_layers,
        decoder_width=decoder.width,
        decoder_kernel_size=decoder.kernel_size,
        decoder_dropout=decoder.dropout,
        time_dim=decoder.time_dim,
        timesteps=diffusion.timesteps,
        sampling_steps=diffusion.sampling_steps,
        eta=diffusion.eta,
        scale=diffusion.scale,
        detach_decoder=diffusion.detach_decoder,
    )


def diffact_adapter(config: ConfigDict, training_labels: Sequence[np.ndarray] | None = None) -> Adapter:
    """DiffAct: encoder features and sampled probabilities; its loss needs no labels counted.

    In eval mode one pass of the encoder serves both; in train mode, as in the original, features and sampling see
    different dropout masks. `training_labels`, [time] of each video, are those of `asformer_adapter`; not looked at.
    """
    sizes = diffact_sizes(config)
    network = Network(lambda rngs: DiffAct(sizes, dtype=config.train.dtype, rngs=rngs))

    def apply(params: Params, batch: Batch, noise_keys: jax.Array, rngs: nnx.Rngs | None) -> FrameOutput:
        x, mask = batch["features"], batch["mask"]
        logits, features = network(params, x, mask, rngs=rngs, method="encode")
        probabilities = jax.lax.stop_gradient(
            network(
                params, x, mask, noise_keys, condition=features if rngs is None else None, rngs=rngs, method="sample"
            )
        )
        return FrameOutput(features, probabilities, {"encoder_logits": logits})

    def loss(frames: FrameOutput, batch: Batch) -> jax.Array:
        return _mean_over_videos(
            adapter_losses.diffact_loss(frames.raw["encoder_logits"], batch["labels"], batch["mask"]), batch
        )

    return Adapter(sizes.feature_dim, network, apply, loss, stochastic=True)


def asformer_adapter(config: ConfigDict, training_labels: Sequence[np.ndarray] | None = None) -> Adapter:
    """ASFormer with the ASRF branches: features and logits of the last class stage.

    Args:
        config: `backbone`, `data` and `quirks` are read.
        training_labels: int32 [time] per video at the full rate, which the loss's class and boundary weights are
            counted on; None where no loss is asked for.
    """
    backbone = config.backbone
    sizes = ASRFSizes(
        num_classes=config.data.num_classes,
        input_dim=config.data.feature_dim,
        num_layers=backbone.num_layers,
        width=backbone.width,
        class_stages=backbone.class_stages,
        boundary_stages=backbone.boundary_stages,
        channel_dropout=backbone.channel_dropout,
        window_pattern="published" if config.quirks.asformer_window_pattern else "band",
    )
    network = Network(lambda rngs: ASFormerASRF(sizes, dtype=config.train.dtype, rngs=rngs))

    def apply(params: Params, batch: Batch, noise_keys: jax.Array, rngs: nnx.Rngs | None) -> FrameOutput:
        del noise_keys
        output = network(params, batch["features"], batch["mask"], rngs=rngs)
        return FrameOutput(output.features, output.class_logits[-1], output)

    if training_labels is None:
        return Adapter(sizes.width, network, apply, None, stochastic=False)
    class_weights = jnp.asarray(median_frequency_weights(training_labels, config.data.num_classes))
    starts = (boundaries.start_sequence(labels) for labels in training_labels)
    boundary_weight = boundary_positive_weight(starts)

    def loss(frames: FrameOutput, batch: Batch) -> jax.Array:
        raw, features = frames.raw, batch["features"]
        losses = asrf_loss(
            raw.class_logits, raw.boundary_logits, features, batch["labels"], batch["boundary"], batch["mask"],
            class_weights=class_weights, positive_weight=boundary_weight,
            softmax_axis="time" if config.quirks.asrf_softmax_over_time else "classes",
        )  # fmt: skip
        return _mean_over_videos(losses, batch)

    return Adapter(sizes.width, network, apply, loss, stochastic=False)


def asformer_plain_adapter(config: ConfigDict) -> Adapter:
    """ASFormer as it was published by itself (converted `epoch-N.model` files): features and logits of the last."""
    backbone = config.backbone
    sizes = ASFormerSizes(
        num_classes=config.data.num_classes,
        input_dim=config.data.feature_dim,
        num_layers=backbone.num_layers,
        width=backbone.width,
        num_decoders=backbone.num_decoders,
        channel_dropout=backbone.channel_dropout,
        window_pattern="published" if config.quirks.asformer_window_pattern else "band",
    )
    network = Network(lambda rngs: ASFormer(sizes, dtype=config.train.dtype, rngs=rngs))

    def apply(params: Params, batch: Batch, noise_keys: jax.Array, rngs: nnx.Rngs | None) -> FrameOutput:
        del noise_keys
        output = network(params, batch["features"], batch["mask"], rngs=rngs)
        return FrameOutput(output.features, output.logits[-1], output)

    return Adapter(sizes.width, network, apply, None, stochastic=False)


def files_adapter(config: ConfigDict, feature_dim: int) -> Adapter:
    """A backbone that has run before: its frame features and predictions are in the batch."""

    def apply(params: Params, batch: Batch, noise_keys: jax.Array, rngs: nnx.Rngs | None) -> FrameOutput:
        del params, noise_keys, rngs
        return FrameOutput(batch["frame_features"], batch["frame_predictions"], None)

    return Adapter(feature_dim, None, apply, None, stochastic=False)


ADAPTERS: dict[str, Callable[..., Adapter]] = {
    "diffact": diffact_adapter,
    "asformer": asformer_adapter,
    "asformer_plain": lambda config, training_labels=None: asformer_plain_adapter(config),
    "files": lambda config, training_labels=None: files_adapter(config, config.backbone.feature_dim),
}


def make(config: ConfigDict, training_labels: Sequence[np.ndarray] | None = None) -> Adapter:
    """The adapter that `config.backbone.kind` names; with `training_labels` (int32 [time] per video) also its loss.

    Raises:
        ValueError: there is none of that name.
    """
    if config.backbone.kind not in ADAPTERS:
        raise ValueError(f"config.backbone.kind={config.backbone.kind!r} is unknown; there are {', '.join(ADAPTERS)}.")
    return ADAPTERS[config.backbone.kind](config, training_labels)


def _mean_over_videos(losses: jax.Array, batch: Batch) -> jax.Array:
    """Mean of [batch] losses over the rows that hold a video."""
    present = jnp.any(batch["mask"], axis=1)
    return jnp.sum(jnp.where(present, losses, 0)) / jnp.maximum(jnp.sum(present), 1)


def refiner_network(config: ConfigDict, feature_dim: int) -> Network:
    """TST's refiner for frame features of that width."""
    sizes = RefinerSizes(num_classes=config.data.num_classes, feature_dim=feature_dim, **config.refiner)
    return Network(lambda rngs: Refiner(sizes, dtype=config.train.dtype, rngs=rngs))
