"""From the groups of a config to the settings of networks, clips, memory and losses."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from actloc_jax.backbones.afsd import Afsd, AfsdSizes
from actloc_jax.backbones.daotad import AnchorDetector, AnchorDetectorSizes
from actloc_jax.backbones.video_swin import PRESETS, VideoSwin, VideoSwinSizes
from actloc_jax.data.video_augmentation import Augmentation
from actloc_jax.data.video_batches import ChunkChoice
from actloc_jax.data.video_chunks import kept_chunks
from actloc_jax.data.video_clips import ClipSize
from actloc_jax.layers.functional import Network
from actloc_jax.ops import nms
from actloc_jax.ops.anchors import Anchors, AnchorShapes, Assignment, make_anchors
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer.afsd_decode import AfsdDecodeSettings
from actloc_jax.systems.tallformer.afsd_losses import AfsdLossSettings
from actloc_jax.systems.tallformer.anchor_decode import AnchorDecodeSettings
from actloc_jax.systems.tallformer.anchor_losses import AnchorLossSettings
from actloc_jax.systems.tallformer.videos import AFSD

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
FINEST_STRIDE = 8  # frames per row of the finest level: 2 of the backbone, 4 of the reduction
BANK, MOMENTUM, COMPUTED = MEMORIES = ("bank", "momentum", "computed")  # kinds of memory
TRAINED, SLOW, BOTH = EVALUATED = ("trained", "slow", "both")  # backbones in evaluation
SUPPRESSIONS = {
    "nmw": None,  # non-maximum weighting
    "nms": nms.TALLFORMER_HARD,
    "soft_linear": nms.TALLFORMER_LINEAR,
    "soft_gaussian": nms.TALLFORMER_GAUSSIAN,
}
TRIALS = 20  # windows drawn until one has a segment, where that is asked for


# ------------------------------------------------------------------------------------------------------ networks


def compute_dtype(config: ConfigDict) -> Any:
    """The type that networks compute in.

    Raises:
        ValueError: `config.train.dtype` names none.
    """
    if config.train.dtype not in DTYPES:
        raise ValueError(f"config.train.dtype={config.train.dtype!r} is unknown; use {' or '.join(DTYPES)}.")
    return DTYPES[config.train.dtype]


def backbone_sizes(config: ConfigDict) -> VideoSwinSizes:
    """The backbone: a published size, and what the config changes in it.

    Raises:
        ValueError: no such size, or a field that it does not have.
    """
    options = dict(config.network.backbone)
    name = options.pop("size")
    if name not in PRESETS:
        raise ValueError(f"config.network.backbone.size={name!r} is unknown; use {', '.join(PRESETS)}.")
    return _fields(VideoSwinSizes, options, "config.network.backbone", PRESETS[name])


def backbone_network(config: ConfigDict) -> Network:
    """The backbone's network."""
    sizes, dtype = backbone_sizes(config), compute_dtype(config)
    return Network(lambda rngs: VideoSwin(sizes, dtype=dtype, rngs=rngs))


def backbone_key(config: ConfigDict) -> jax.Array:
    """Scalar key of the backbone's first parameters: the bank is filled by those that the training begins with."""
    return jax.random.fold_in(jax.random.key(config.train.seed), 2**31 - 3)


def detector_sizes(config: ConfigDict, num_classes: int) -> AnchorDetectorSizes | AfsdSizes:
    """The detector.

    Raises:
        ValueError: a field that it does not have, or windows that its levels do not fit.
    """
    inputs, frames = backbone_sizes(config).features, config.clip.frames
    own = {"input_dim": inputs, "max_length": frames // FINEST_STRIDE}
    if config.network.kind == AFSD:
        own |= {"num_classes": num_classes + 1, "frames": frames}  # class 0 is background
        sizes = _fields(AfsdSizes, {**config.network.detector, **own}, "config.network.detector")
        if frames % sizes.strides[-1]:
            raise ValueError(
                f"config.clip.frames={frames} must be a multiple of {sizes.strides[-1]}, the frames of a row of the "
                f"coarsest of {sizes.levels} levels."
            )
        return sizes
    own["num_classes"] = num_classes
    return _fields(AnchorDetectorSizes, {**config.network.detector, **own}, "config.network.detector")


def detector_network(config: ConfigDict, sizes: AnchorDetectorSizes | AfsdSizes) -> Network:
    """The detector's network."""
    dtype = compute_dtype(config)
    module = Afsd if isinstance(sizes, AfsdSizes) else AnchorDetector
    return Network(lambda rngs: module(sizes, dtype=dtype, rngs=rngs))


def window_anchors(config: ConfigDict, sizes: AnchorDetectorSizes) -> Anchors:
    """The anchors of a window; every level has half the rows of the finer one, rounded up."""
    lengths = [config.clip.frames // FINEST_STRIDE]
    for _ in sizes.windows:
        lengths.append(-(-lengths[-1] // 2))
    strides = tuple(FINEST_STRIDE * 2**level for level in range(sizes.levels))
    return make_anchors(lengths, AnchorShapes(strides, config.network.anchor_scale, sizes.anchors), config.clip.frames)


# --------------------------------------------------------------------------------------------- clips and the memory


def clip_size(config: ConfigDict) -> ClipSize:
    """Windows and chunks. Raises ValueError if windows are not whole chunks."""
    options = config.clip
    return ClipSize(options.frames, options.chunk, tuple(options.crop), backbone_sizes(config).frames_per_row)


def augmentation(config: ConfigDict) -> Augmentation:
    """What is changed in training clips. Raises ValueError for a field that there is not."""
    return _fields(Augmentation, dict(config.augmentation), "config.augmentation")


def rows_per_chunk(config: ConfigDict) -> int:
    """Rows of the bank that a chunk has."""
    size = clip_size(config)
    return size.chunk // size.stride


def has_bank(config: ConfigDict) -> bool:
    """Whether there is a memory bank.

    Raises:
        ValueError: `config.memory.kind` names no memory.
    """
    kind = config.memory.kind
    if kind not in MEMORIES:
        raise ValueError(f"config.memory.kind={kind!r} is unknown; use {', '.join(MEMORIES)}.")
    return kind != COMPUTED


def momentum(config: ConfigDict) -> float | None:
    """How slowly the backbone moves that writes the memory bank; None if the trained one does.

    Raises:
        ValueError: `config.memory.momentum` is outside 0..1.
    """
    if config.memory.kind != MOMENTUM:
        return None
    if not 0 <= config.memory.momentum <= 1:
        raise ValueError(f"config.memory.momentum={config.memory.momentum} must lie in 0..1.")
    return config.memory.momentum


def check_evaluated_backbone(config: ConfigDict) -> None:
    """Raises ValueError if `config.decode.backbone` is unknown, or asks for a backbone that there is not."""
    which = config.decode.backbone
    if which not in EVALUATED:
        raise ValueError(f"config.decode.backbone={which!r} is unknown; use {', '.join(EVALUATED)}.")
    if which != TRAINED and config.memory.kind != MOMENTUM:
        raise ValueError(
            f"config.decode.backbone={which} needs a model with a slower backbone, which config.memory.kind="
            f"{config.memory.kind} has not; use {TRAINED}."
        )


def chunk_choice(config: ConfigDict) -> ChunkChoice:
    """Which chunks a step trains; whole videos are shifted, which takes one chunk more, at the same cost.

    With a share of 0 the backbone is never trained and all comes from the memory bank.

    Raises:
        ValueError: no chunk would be trained, although that was asked for.
    """
    options, chunks = config.memory, clip_size(config).chunks
    ratio, number = options.keep_ratio, chunks
    if config.network.kind == AFSD:
        ratio, number = options.keep_ratio * chunks / (chunks + 1), chunks + 1
    if kept_chunks(number, ratio) < 1 and not (ratio == 0 and config.memory.kind == BANK):
        raise ValueError(
            f"config.memory.keep_ratio={options.keep_ratio} trains none of the {number} chunks of a clip; the "
            f"backbone would never change. Use at least {1 / chunks:.3f}, or 0 with config.memory.kind={BANK} to train "
            f"the detector alone, on the features that the bank was filled with."
        )
    return ChunkChoice(options.choice, number, ratio)


def bank_plan(config: ConfigDict, counts: tuple[int, ...], devices: int) -> banks.BankPlan:
    """The memory bank of videos with these rows. Raises ValueError if the devices do not divide it."""
    options, channels = config.memory, backbone_sizes(config).features
    layout = banks.best_layout(channels, devices) if options.layout == "auto" else options.layout
    return banks.BankPlan(counts, channels, options.dtype, devices, layout)


# --------------------------------------------------------------------------------------------- losses and decoding


def anchor_loss(config: ConfigDict) -> AnchorLossSettings:
    """How anchors are trained."""
    options = dict(config.loss)
    rule = Assignment(options.pop("positive"), options.pop("negative"), config.quirks.claims_without_overlap)
    return _fields(AnchorLossSettings, {**options, "assignment": rule}, "config.loss")


def afsd_loss(config: ConfigDict) -> AfsdLossSettings:
    """How the detector without anchors is trained.

    Raises:
        ValueError: not one range per level.
    """
    moves = config.quirks.overlap_moves_segments
    options = {**config.loss, "overlap_moves_segments": moves}
    options["ranges"] = tuple(tuple(pair) for pair in options["ranges"])
    found = _fields(AfsdLossSettings, options, "config.loss")
    if len(found.ranges) != config.network.detector.levels:
        raise ValueError(
            f"config.loss.ranges has {len(found.ranges)} entries for {config.network.detector.levels} levels; give one "
            "each."
        )
    return found


def anchor_decode(config: ConfigDict) -> AnchorDecodeSettings:
    """Which candidates are kept, and how they are merged or suppressed.

    Raises:
        ValueError: `config.decode.suppression` names no procedure.
    """
    options = config.decode
    if options.suppression not in SUPPRESSIONS:
        raise ValueError(
            f"config.decode.suppression={options.suppression!r} is unknown; use {', '.join(SUPPRESSIONS)}."
        )
    rule = SUPPRESSIONS[options.suppression]
    if rule is not None:
        rule = dataclasses.replace(rule, threshold=options.threshold, sigma=options.sigma)
        if rule.decay != "hard":
            rule = dataclasses.replace(rule, min_score=options.soft_min_score)
    return AnchorDecodeSettings(
        options.per_level, options.min_score, options.threshold, options.max_detections, suppression=rule
    )


def afsd_decode(config: ConfigDict) -> AfsdDecodeSettings:
    """Which candidates are kept, and how they are suppressed."""
    options = config.decode
    rule = dataclasses.replace(
        nms.AFSD_SOFT,
        sigma=options.nms_sigma,
        max_per_class=options.max_detections,
        selects_last=not config.quirks.last_candidate_lost,
    )
    return AfsdDecodeSettings(options.min_score, rule, options.classes_per_segment)


def _fields(kind: Any, options: dict[str, Any], group: str, default: Any = None) -> Any:
    """A dataclass of these options, the rest as in `default`. Raises ValueError for fields that it does not have."""
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"{group} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return kind(**values) if default is None else dataclasses.replace(default, **values)
