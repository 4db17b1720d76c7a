"""The training of TALLFormer: chunks of clips, the memory of all others, and a detector on both.

Source: `klauscc/TALLFormer:tools/trainval.py` (THUMOS14), `AFSD/anet_video_cls/train.py` (ActivityNet, HACS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import batching, video_batches
from actloc_jax.data.detection_samples import most_segments
from actloc_jax.data.video_chunks import kept_chunks
from actloc_jax.data.video_clips import ShiftedVideo, TrainingClip
from actloc_jax.data.video_source import AnnotatedVideos
from actloc_jax.layers.functional import Network
from actloc_jax.ops import video_frames
from actloc_jax.systems.api import Dataset, TrainStage
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer import filling, settings
from actloc_jax.systems.tallformer.completion import (
    BANK,
    FRAMES_PER_FEATURE,
    SLOW_BACKBONE,
    Completion,
    Computed,
    Memory,
)
from actloc_jax.systems.tallformer.memory_training import afsd_loss_fn, anchor_loss_fn, parameter_group
from actloc_jax.systems.tallformer.predictor import tallformer_predictor
from actloc_jax.systems.tallformer.videos import AFSD
from actloc_jax.training import ema, optimizers, sharding, state
from actloc_jax.training.optimizers import Schedule
from actloc_jax.training.state import Batch, LossFn, LossOutput, TrainState


def train_stage(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> TrainStage:
    """Trains backbone and detector; the memory, where there is one, lies in the state.

    Raises:
        ValueError: a field of the config is outside its range.
    """
    options, source = config.train, dataset.source(config.data.train_split)
    if options.batch_size < 1:
        raise ValueError(f"config.train.batch_size={options.batch_size} must be at least 1.")
    steps_per_epoch = video_batches.steps_per_epoch(len(source), options.batch_size)
    devices = sharding.make_mesh(model=options.model_parallel).shape[banks.AXIS]
    if options.batch_size % devices:  # said before the bank is filled, which may take hours
        raise ValueError(
            f"config.train.batch_size={options.batch_size} does not divide over {devices} devices; set "
            "--config.train.batch_size to a multiple of them."
        )
    backbone = settings.backbone_network(config)
    sizes = settings.detector_sizes(config, len(dataset.class_names))
    detector = settings.detector_network(config, sizes)
    remember = _remembering if settings.has_bank(config) else _computing
    memory = remember(config, source, workdir, backbone)
    rates = _rates(config, steps_per_epoch)
    tx = _optimizer(config, rates)

    def scratch(key: jax.Array) -> TrainState:
        params = {"backbone": backbone.init(settings.backbone_key(config)), "detector": detector.init(key)}
        extra = memory.empty(params["backbone"])
        return state.create(params, tx, batch_stats=detector.init_statistics(), extra=extra)

    def model(current: TrainState) -> dict[str, Any]:
        slow = {name: value for name, value in current.extra.items() if name == SLOW_BACKBONE}
        return {**current.model, **slow}

    def warm_start(fresh: TrainState) -> TrainState:
        params = {**fresh.params, "backbone": filling.first_parameters(config, backbone)}
        return fresh._replace(params=params, extra=memory.filled(fresh.extra))

    return TrainStage(
        name="train",
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
        scratch=scratch,
        warm_start=warm_start,
        batches=lambda: iter(training_batches(config, source)),
        train_step=state.gradient_step(_loss(config, memory.complete, detector, sizes), tx),
        predictor=tallformer_predictor(config, backbone, detector, sizes, dataset.class_names),
        evaluate_at=_evaluate_at(options),
        select=config.eval.select,
        rates=lambda step: optimizers.learning_rates(rates, step),
        model=model,
        shardings=memory.shardings,
    )


class _Kept(NamedTuple):
    """What a step keeps for the next one in `state.extra`, and what completes windows with it.

    Attributes:
        complete: gives windows the features of all their chunks.
        empty: `parameters of the backbone -> extra` before the filling; traceable.
        filled: `extra -> extra`, runs once on the host; the old one is given up.
        shardings: of `extra`.
    """

    complete: Completion
    empty: Callable[[Any], dict[str, Any]]
    filled: Callable[[dict[str, Any]], dict[str, Any]]
    shardings: Sequence[tuple[str, Any]]


def _computing(config: ConfigDict, source: AnnotatedVideos, workdir: epath.Path, backbone: Network) -> _Kept:
    """No memory: all chunks are computed."""
    del source, workdir
    complete = Computed(backbone, settings.chunk_choice(config).num_chunks, config.memory.recompute)
    return _Kept(complete, lambda params: {}, lambda extra: extra, ())


def _remembering(config: ConfigDict, source: AnnotatedVideos, workdir: epath.Path, backbone: Network) -> _Kept:
    """The memory bank on the mesh of the training, and the slower backbone if that writes it."""
    mesh = sharding.make_mesh(model=config.train.model_parallel)
    plan = settings.bank_plan(config, filling.row_counts(config, source), mesh.shape[banks.AXIS])
    momentum = settings.momentum(config)
    complete = Memory(
        backbone,
        banks.BankAccess(mesh, plan.layout, settings.rows_per_chunk(config)),
        settings.chunk_choice(config).num_chunks,
        frozen=config.memory.frozen,
        momentum=momentum,
        reads_round_down=config.quirks.reads_one_row_early,
    )

    def empty(params: Any) -> dict[str, Any]:
        slow = {} if momentum is None else {SLOW_BACKBONE: ema.init(params)}
        return {BANK: banks.empty(plan), **slow}

    def filled(extra: dict[str, Any]) -> dict[str, Any]:
        extra[BANK].rows.delete()  # makes room for the filled one
        return {**extra, BANK: banks.fill(plan, mesh, filling.stored_features(config, source, workdir))}

    return _Kept(complete, empty, filled, banks.shardings(plan.layout))


def training_batches(config: ConfigDict, source: AnnotatedVideos) -> Any:
    """Endless batches of clips, see `data.video_clips`; `video_classes` are of the first segment of each video."""
    choice, size = settings.chunk_choice(config), settings.clip_size(config)
    room = most_segments(len(video.labels) for video in source.videos)
    changes, quirks = settings.augmentation(config), config.quirks
    if config.network.kind == AFSD:
        transform = ShiftedVideo(
            size,
            changes,
            room,
            kept_chunks(choice.num_chunks, choice.keep_ratio),
            same_rows=not quirks.reads_one_row_early,
            with_memory=settings.has_bank(config),
        )
    else:
        transform = TrainingClip(
            size, changes, room, config.clip.threshold,
            trials=1 if quirks.windows_without_segments else settings.TRIALS,
            even_starts=not quirks.odd_starts, with_memory=settings.has_bank(config),
        )  # fmt: skip
    return video_batches.training_clips(
        source,
        transform,
        choice,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        num_threads=config.train.threads,
        shard=batching.Shard(jax.process_index(), jax.process_count()),
    )


def network_batch(config: ConfigDict, batch: Batch) -> Batch:
    """What `memory_training` reads, of a batch of clips: frames become what the network sees, on the device."""
    changes = video_frames.Changes(**{name: batch[name] for name in video_frames.Changes._fields})
    of_clip = jax.vmap(video_frames.prepare, in_axes=(0, 0, None))
    if _changes_pixels(config):
        chunks = jax.vmap(of_clip)(batch["frames"], batch["frame_mask"], changes)
    else:
        flipped = jnp.where(_like(batch["flip"], batch["frames"]), batch["frames"][..., ::-1, :], batch["frames"])
        chunks = jax.vmap(jax.vmap(video_frames.prepare))(flipped, batch["frame_mask"])
    starts = -batch["shift"] if "shift" in batch else batch["first_row"] * FRAMES_PER_FEATURE
    labels = batch["segment_labels"]
    parts = {"trained": batch["trained"]} if "trained" in batch else {}
    return {
        **parts,
        "chunks": chunks,
        "keep": batch["keep"],
        "drop": batch["drop"],
        "videos": batch["index"],
        "starts": starts,
        "segments": batch["segments"],
        "labels": labels,
        "video_classes": labels[:, 0] + 1,
    }


def _changes_pixels(config: ConfigDict) -> bool:
    return config.augmentation.distort > 0 or config.augmentation.rotate > 0


def _like(rows: jax.Array, array: jax.Array) -> jax.Array:
    """[batch] with as many axes as `array`."""
    return rows.reshape(-1, *(1,) * (array.ndim - 1))


def _loss(config: ConfigDict, complete: Completion, detector: Network, sizes: Any) -> LossFn:
    """The loss of a batch of clips."""
    if config.network.kind == AFSD:
        of_batch = afsd_loss_fn(complete, detector, sizes, settings.afsd_loss(config))
    else:
        of_batch = anchor_loss_fn(
            complete, detector, settings.window_anchors(config, sizes), settings.anchor_loss(config)
        )

    def loss(params: Any, current: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        return of_batch(params, current, network_batch(config, batch), key)

    return loss


def _rates(config: ConfigDict, steps_per_epoch: int) -> dict[str, Schedule]:
    """Learning rate by step, of the detector and of the backbone.

    Raises:
        ValueError: `config.train.schedule` names none.
    """
    options = config.train

    def schedule(rate: float) -> Schedule:
        if options.schedule == "cosine_restarts":
            return optimizers.warmup_cosine_restarts(
                rate, period_epochs=options.period, steps_per_epoch=steps_per_epoch, warmup_steps=options.warmup_steps
            )
        if options.schedule == "multistep":
            milestones = [epoch * steps_per_epoch for epoch in options.milestones]
            return optimizers.warmup_multistep(rate, options.warmup_steps, milestones)
        raise ValueError(f"config.train.schedule={options.schedule!r} is unknown; use cosine_restarts or multistep.")

    return {"detector": schedule(options.learning_rate), "backbone": schedule(options.learning_rate_backbone)}


def _optimizer(config: ConfigDict, rates: dict[str, Schedule]) -> optax.GradientTransformation:
    """One optimizer with two rates; frozen parts of the backbone have none."""
    options = {"weight_decay": config.train.weight_decay}
    if config.train.optimizer == "sgd":
        options["momentum"] = config.train.momentum
    made = {group: optimizers.make_optimizer(config.train.optimizer, rate, **options) for group, rate in rates.items()}
    sizes, is_read_only = settings.backbone_sizes(config), config.memory.keep_ratio == 0

    def is_frozen(path: str) -> bool:
        return is_read_only or sizes.is_frozen(path)

    return optimizers.grouped(made, lambda path: parameter_group(path, is_frozen))


def _evaluate_at(options: ConfigDict) -> Callable[[int], bool]:
    """After so many epochs for the first time, and again every so many."""
    if options.evaluate_every == 0:
        return lambda epoch: False
    return lambda epoch: (
        epoch + 1 >= options.evaluate_from and (epoch + 1 - options.evaluate_from) % options.evaluate_every == 0
    )
