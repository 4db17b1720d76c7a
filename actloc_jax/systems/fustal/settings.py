"""From the groups of a config to the settings of networks, losses and procedures."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.backbones.detector import Detector, DetectorSizes
from actloc_jax.data.grid import Grid
from actloc_jax.data.proposal_filter import Thresholds
from actloc_jax.layers.functional import Network
from actloc_jax.ops import iou, nms
from actloc_jax.ops.nms import Suppression
from actloc_jax.systems.fustal.decode import DecodeSettings
from actloc_jax.systems.fustal.generator import Generator, Mining
from actloc_jax.systems.fustal.proposals import ProposalSettings
from actloc_jax.systems.fustal.student_losses import DetectionLossSettings

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(config: ConfigDict) -> Any:
    """The type that networks compute in.

    Raises:
        ValueError: `config.train.dtype` names none.
    """
    if config.train.dtype not in DTYPES:
        raise ValueError(f"config.train.dtype={config.train.dtype!r} is unknown; use {' or '.join(DTYPES)}.")
    return DTYPES[config.train.dtype]


def require_batch_size(config: ConfigDict, group: str) -> None:
    """Refuses batches without videos.

    Raises:
        ValueError: `config.<group>.batch_size` is below 1.
    """
    if config[group].batch_size < 1:
        raise ValueError(f"config.{group}.batch_size={config[group].batch_size} must be at least 1.")


# ----------------------------------------------------------------------------------------------------- generator


def generator_network(config: ConfigDict, num_classes: int) -> Network:
    """Stage 1's network."""
    options, inputs, dtype = config.network.generator, config.data.generator.feature_dim, compute_dtype(config)
    return Network(
        lambda rngs: Generator(
            inputs, num_classes, width=options.width, dropout=options.dropout, dtype=dtype, rngs=rngs
        )
    )


def mining(config: ConfigDict) -> Mining:
    """How snippets are chosen; borders of even width are made odd, and so symmetric, where that is asked for."""
    options = config.generator
    narrow, wide = options.narrow, options.wide
    if not config.quirks.borders_off_centre:
        narrow, wide = narrow | 1, wide | 1
    return Mining(options.easy_ratio, options.hard_ratio, narrow, wide, options.mining_dropout)


def proposal_settings(config: ConfigDict, grid: Grid) -> ProposalSettings:
    """How proposals are made of a video on this grid."""
    options = config.proposals
    return ProposalSettings(
        class_threshold=options.class_threshold,
        class_thresholds=tuple(np.arange(*options.class_thresholds).tolist()),
        action_thresholds=tuple(np.arange(*options.action_thresholds).tolist()),
        upscale=options.upscale,
        surroundings=options.surroundings,
        video_weight=options.video_weight,
        extrapolate=config.quirks.tails_extrapolated,
        snippet_frames=grid.stride,
        frame_rate=grid.fps,
    )


def proposal_suppression(config: ConfigDict) -> Suppression:
    """How proposals of a class are thinned out."""
    rule = dataclasses.replace(nms.FUSTAL_GENERATOR, threshold=config.proposals.nms_threshold)
    return rule if config.quirks.nms_one_second_longer else dataclasses.replace(rule, overlap=iou.TIOU)


def filter_thresholds(config: ConfigDict) -> Thresholds:
    """What a proposal must reach to become a label."""
    return Thresholds(prior=config.filter.min_prior, score=config.filter.min_score)


# ------------------------------------------------------------------------------------------------------- student


def detector_sizes(config: ConfigDict, num_classes: int) -> DetectorSizes:
    """The network of the student.

    Raises:
        ValueError: fields that it does not have, or values that do not fit each other.
    """
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in config.network.student.items()}
    fields["bins"] = fields["bins"] or None
    known = {field.name for field in dataclasses.fields(DetectorSizes)}
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ValueError(f"config.network.student has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    sizes = DetectorSizes(input_dim=config.data.student.feature_dim, num_classes=num_classes, **fields)
    # TriDet pads longer videos to whole windows as well, but its own length need not be a number of windows.
    multiple = sizes.length_multiple if sizes.block == "transformer" else sizes.strides[-1]
    if sizes.max_length % multiple:
        raise ValueError(
            f"config.network.student.max_length={sizes.max_length} must be a multiple of {multiple}, the steps of the "
            "coarsest level, times its window where that is of attention."
        )
    if len(config.student.ranges) != sizes.levels:
        raise ValueError(
            f"config.student.ranges has {len(config.student.ranges)} entries for {sizes.levels} levels; give one each."
        )
    return sizes


def detector_network(config: ConfigDict, sizes: DetectorSizes) -> Network:
    """The student's network."""
    dtype = compute_dtype(config)
    return Network(lambda rngs: Detector(sizes, dtype=dtype, rngs=rngs))


def loss_settings(config: ConfigDict) -> DetectionLossSettings:
    """How detections are trained."""
    options = config.student
    return DetectionLossSettings(
        options.regression_weight, options.iou_power, options.label_smoothing,
        boundaries_outside=config.quirks.ends_score_zero_outside,
    )  # fmt: skip


def decode_settings(config: ConfigDict) -> DecodeSettings:
    """Which candidates are kept."""
    options = config.decode
    return DecodeSettings(
        options.min_score, options.per_level, options.min_length, config.quirks.ends_score_zero_outside
    )


def suppression(config: ConfigDict) -> Suppression | None:
    """How candidates are thinned out; None: not at all.

    Raises:
        ValueError: `config.decode.nms` names no procedure.
    """
    options = config.decode
    limits = {"max_per_class": options.max_detections, "max_total": options.max_detections}
    if options.nms == "soft":
        return dataclasses.replace(
            nms.ACTIONFORMER_SOFT, sigma=options.nms_sigma, min_score=options.nms_min_score, **limits
        )
    if options.nms == "hard":
        return dataclasses.replace(
            nms.ACTIONFORMER_HARD, threshold=options.nms_threshold, above=options.nms_min_score, **limits
        )
    if options.nms != "none":
        raise ValueError(f"config.decode.nms={options.nms!r} is unknown; use soft, hard or none.")
    return None
