"""From the groups of a config to the settings of network, losses and procedures."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from actloc_jax.data.rescaled import DataQuirks
from actloc_jax.layers.functional import Network
from actloc_jax.systems.spot.decode import DecodeSettings
from actloc_jax.systems.spot.finetune import FinetuneSettings, PseudoLabelSettings
from actloc_jax.systems.spot.losses import DetectionSettings
from actloc_jax.systems.spot.mining import MiningSettings
from actloc_jax.systems.spot.network import Spot
from actloc_jax.systems.spot.pretext import PretextSettings

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def spot_network(config: ConfigDict, num_classes: int) -> Network:
    """The network of both stages.

    Raises:
        ValueError: the compute type is unknown, or there are more snippets than positions.
    """
    if config.train.dtype not in DTYPES:
        raise ValueError(f"config.train.dtype={config.train.dtype!r} is unknown; use {' or '.join(DTYPES)}.")
    options, data, dtype = config.network, config.data, DTYPES[config.train.dtype]
    if data.steps > options.positions:
        raise ValueError(
            f"config.data.steps={data.steps} needs as many config.network.positions; there are {options.positions}."
        )
    return Network(
        lambda rngs: Spot(
            data.feature_dim, num_classes, data.steps, heads=options.heads, mask_width=options.mask_width,
            num_positions=options.positions, dropout=options.dropout, order_dropout=options.order_dropout,
            order_ignores_transformer=config.quirks.order_ignores_transformer, dtype=dtype, rngs=rngs,
        )
    )  # fmt: skip


def data_quirks(config: ConfigDict) -> DataQuirks:
    """What is done with the videos as published."""
    return DataQuirks(**_of(config, DataQuirks))


def detection(config: ConfigDict) -> DetectionSettings:
    """How classes and masks are trained."""
    return DetectionSettings(**config.loss, **_of(config, DetectionSettings))


def mining(config: ConfigDict) -> MiningSettings:
    """How snippets are chosen and compared. Raises ValueError if the videos are too short or too narrow for it."""
    found = MiningSettings(**config.mining, **_of(config, MiningSettings))
    found.check(config.data.steps, config.data.feature_dim)
    return found


def pretext(config: ConfigDict) -> PretextSettings:
    """How the first stage trains."""
    options = config.pretrain
    return PretextSettings(
        detection(config), options.input_dropout, options.foregrounds, options.reconstruction_weight,
        options.order_weight, **_of(config, PretextSettings),
    )  # fmt: skip


def finetune(config: ConfigDict, *, unlabelled: bool) -> FinetuneSettings:
    """How the second stage trains; supervised alone without unlabelled videos."""
    options = config.finetune
    pseudo = PseudoLabelSettings(
        options.pseudo_weight, options.min_confidence, options.min_mask, options.flexible, options.student_view,
        options.consistency_weight, options.consistency_ramp,
    )  # fmt: skip
    return FinetuneSettings(
        detection(config), mining(config), pseudo,
        options.reconstruction_weight if unlabelled else 0.0, options.contrast_weight if unlabelled else 0.0,
        **_of(config, FinetuneSettings),
    )  # fmt: skip


def decode(config: ConfigDict) -> DecodeSettings:
    """How candidates are found and suppressed."""
    options = config.decode
    return DecodeSettings(
        options.top_snippets, tuple(options.mask_thresholds), tuple(options.class_thresholds), options.min_run,
        options.nms_divisor, options.nms_sigma, options.max_detections, **_of(config, DecodeSettings),
    )  # fmt: skip


def _of(config: ConfigDict, settings: Any) -> dict[str, bool]:
    """The switches of `config.quirks` that are fields of these settings."""
    return {name: on for name, on in config.quirks.items() if name in settings.__dataclass_fields__}
