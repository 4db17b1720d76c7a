"""Stage 3 of FuSTAL: trains the student, a TriDet, on the filtered proposals and then on labels of its own average.

The same stage trains TriDet and ActionFormer on annotated segments.
Source: `fqhank/FuSTAL:Student-Training`, `dingfengshi/TriDet:train.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.backbones.detector import DetectorSizes
from actloc_jax.data import batching
from actloc_jax.data.detection import DetectionSource
from actloc_jax.data.detection_samples import CroppedVideo, most_segments, video_labels
from actloc_jax.layers.dropout import keep_masks
from actloc_jax.layers.functional import Network
from actloc_jax.systems.api import Dataset, TrainStage
from actloc_jax.systems.fustal import settings, student_losses, warm_start
from actloc_jax.systems.fustal.decode import decode
from actloc_jax.systems.fustal.distillation import DistillationSettings, OwnLabels, own_labels
from actloc_jax.systems.fustal.filter_stage import read_labels
from actloc_jax.systems.fustal.points import Points, assign, make_points
from actloc_jax.systems.fustal.student_predictor import student_predictor
from actloc_jax.training import optimizers, state
from actloc_jax.training.optimizers import Schedule
from actloc_jax.training.state import Batch, LossOutput, TrainState

LABELS = ("filtered", "annotated")
NEVER = -1


class Labels(NamedTuple):
    """Segments to learn: float32 [batch, number, 2] in grid units, and int32 [batch, number] classes, -1 for none."""

    segments: jax.Array
    labels: jax.Array


def student_stage(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> TrainStage:
    """Trains the detector.

    Raises:
        ValueError: a field of the config is outside its range.
    """
    options, classes = config.student, len(dataset.class_names)
    if options.labels not in LABELS:
        raise ValueError(f"config.student.labels={options.labels!r} is unknown; use {' or '.join(LABELS)}.")
    settings.require_batch_size(config, "student")
    source = dataset.source(config.data.train_split)
    sizes = settings.detector_sizes(config, classes)
    net = settings.detector_network(config, sizes)
    steps_per_epoch = -(-len(source) // options.batch_size)
    rate = _schedule(config, steps_per_epoch)
    tx = optax.chain(optimizers.clip_by_norm(options.clip_norm), optimizers.decay_kernels(rate, options.weight_decay))
    objective = Objective(config, net, sizes, source, steps_per_epoch)
    stops = config.quirks.empty_prediction_ends_distillation and options.distil_from >= 0

    def scratch(key: jax.Array) -> TrainState:
        extra = {"normaliser": student_losses.initial_normaliser(options.initial_normaliser)}
        if stops:
            extra["epoch_without"] = jnp.asarray(NEVER, jnp.int32)
        return state.create(net.init(key), tx, extra=extra, ema=True)

    return TrainStage(
        name="student",
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
        scratch=scratch,
        warm_start=warm_start.from_checkpoint(options.checkpoint),
        batches=lambda: iter(training_batches(config, dataset, workdir)),
        train_step=state.gradient_step(objective.loss, tx, ema_decay=options.ema_decay, skippable=stops),
        predictor=student_predictor(config, net, sizes),
        evaluate_at=_evaluate_at(options),
        select=config.eval.select,
        rates=lambda step: optimizers.learning_rates({"all": rate}, step),
    )


def training_batches(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> Any:
    """Endless batches of crops: `features`, `mask`, `segments`, `segment_labels`, `video_labels`, `index`.

    Raises:
        FileNotFoundError: the filter has not run.
    """
    options = config.student
    source = dataset.source(config.data.train_split)
    if options.labels == "filtered":
        source = source.relabelled(read_labels(workdir, dataset))
    low, high = options.crop_ratio
    length = config.network.student.max_length
    transform = CroppedVideo(
        length,
        most_segments(source.segment_counts),
        threshold=options.crop_threshold,
        crop_ratio=None if low == high else (low, high),
        margin=source.grid(0).margin if options.crop_margin else 0.0,
    )
    return batching.training_batches(
        source,
        transform,
        batch_size=options.batch_size,
        buckets=(length,),
        seed=config.train.seed,
        num_threads=config.train.threads,
        shard=batching.Shard(jax.process_index(), jax.process_count()),
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of the student.

    Attributes:
        config: of the experiment.
        net: the network.
        sizes: of the network.
        source: the training videos as annotated: of these only the classes and the durations are used.
        steps_per_epoch: of the stage.
    """

    config: ConfigDict
    net: Network
    sizes: DetectorSizes
    source: DetectionSource
    steps_per_epoch: int

    def loss(self, params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        """Classes and boundaries of the labels, and the classes of the video.

        Args:
            params: of the network.
            state: `ema` makes labels from `distil_from` on, `extra` has the normaliser.
            batch: of `training_batches`; `features` [batch, time, channels], `mask` [batch, time] bool.
            key: of dropout.
        """
        options, quirks = self.config.student, self.config.quirks
        mask, present = batch["mask"], batch["index"] >= 0
        seen = None if quirks.padding_is_seen else mask
        points = self._points(mask.shape[1])
        labels, extra, metrics = self._labels(state, batch, points)

        rngs = nnx.Rngs(dropout=key)
        output = self.net(params, batch["features"], mask, seen=seen, rngs=rngs)
        targets = assign(
            points, labels.segments, labels.labels, self.sizes.num_classes, radius=options.centre_radius or None
        )
        found = student_losses.detection_loss(output, targets, extra["normaliser"], settings.loss_settings(self.config))
        metrics |= {"class": found.classification, "regression": found.regression}
        total = found.total
        if options.video_weight:
            (keep,) = keep_masks(rngs, options.video_dropout, 1, output.classes[0].shape)
            of_video = student_losses.student_video_loss(
                output, self._video_labels()[batch["index"]], keep, rate=options.video_dropout,
                of_batch=quirks.video_steps_of_batch, present=present,
            )  # fmt: skip
            metrics["video"] = of_video
            total += options.video_weight * of_video
        skipped = metrics.get("skipped", 0) > 0
        normaliser = jnp.where(skipped, extra["normaliser"], found.normaliser)
        return LossOutput(total, metrics, state.batch_stats, {**extra, "normaliser": normaliser})

    def _labels(self, state: TrainState, batch: Batch, points: Points) -> tuple[Labels, Any, dict[str, jax.Array]]:
        """The labels of this step, `extra` after it, and scalars to log.

        From `distil_from` on they are those of the average; a video without any prediction keeps the given ones. As
        published, one such video ends this for the rest of the epoch, and its batch is not trained on.
        """
        options, extra = self.config.student, dict(state.extra)
        given = Labels(batch["segments"], batch["segment_labels"])
        if options.distil_from < 0:
            return given, extra, {}
        epoch = state.step // self.steps_per_epoch
        room = max(options.distil_labels, given.labels.shape[1])
        given = _padded(given, room)
        distils = epoch >= options.distil_from
        stops = self.config.quirks.empty_prediction_ends_distillation
        if stops:
            distils &= extra["epoch_without"] != epoch
        nothing = jnp.zeros(given.labels.shape[:1], jnp.int32)
        own = jax.lax.cond(
            distils,
            lambda: self._own_labels(state.ema, batch, points, room),
            lambda: OwnLabels(*given, nothing > 0, nothing),
        )
        own = jax.lax.stop_gradient(own)
        labels = Labels(*(jnp.where(_like(own.found, a), a, b) for a, b in zip(own[:2], given, strict=True)))
        present = batch["index"] >= 0
        metrics = {
            "count/labels": (labels.labels >= 0).sum(where=present[:, None]) / jnp.maximum(present.sum(), 1),
            "count/labels_lost": own.lost.sum(),
        }
        if stops:
            empty = distils & jnp.any(present & ~own.found)
            extra["epoch_without"] = jnp.where(empty, epoch, extra["epoch_without"]).astype(jnp.int32)
            metrics["skipped"] = empty.astype(jnp.float32)
        return labels, extra, metrics

    def _own_labels(self, average: Any, batch: Batch, points: Points, room: int) -> OwnLabels:
        """What the average says of the crops."""
        mask = batch["mask"]
        seen = None if self.config.quirks.padding_is_seen else mask
        candidates = decode(
            self.net(average, batch["features"], mask, seen=seen), points, settings.decode_settings(self.config)
        )
        end = mask.sum(axis=1).astype(jnp.float32)
        if self.config.quirks.own_labels_beyond_crop:
            end = self._ends()[batch["index"]]
        own = own_labels(candidates, end, distillation_settings(self.config, self.sizes.num_classes))
        return own._replace(**_padded(Labels(own.segments, own.labels), room)._asdict())

    def _points(self, time: int) -> Points:
        return make_points(time, self.sizes.strides, [tuple(each) for each in self.config.student.ranges])

    def _video_labels(self) -> jax.Array:
        """[videos, classes] float32, 1 for the classes that a video is known to show."""
        rows = [video_labels(video.labels, self.sizes.num_classes) for video in self.source.annotations]
        return jnp.asarray(np.stack(rows))

    def _ends(self) -> jax.Array:
        """[videos] float32, the grid position of the end of every whole video."""
        ends = [self.source.grid(i).to_grid(video.duration) for i, video in enumerate(self.source.annotations)]
        return jnp.asarray(np.array(ends, np.float32))


def distillation_settings(config: ConfigDict, num_classes: int) -> DistillationSettings:
    """Which predictions of the average become labels."""
    options = config.student
    return DistillationSettings(
        num_classes,
        settings.suppression(config),
        options.distil_score,
        options.distil_candidates,
        options.distil_labels,
    )


def _padded(labels: Labels, room: int) -> Labels:
    """The same labels with room for `room`."""
    more = room - labels.labels.shape[1]
    segments = jnp.pad(labels.segments, ((0, 0), (0, more), (0, 0)))
    return Labels(segments, jnp.pad(labels.labels, ((0, 0), (0, more)), constant_values=NEVER))


def _like(rows: jax.Array, array: jax.Array) -> jax.Array:
    """[batch] with as many axes as `array`."""
    return rows.reshape(-1, *(1,) * (array.ndim - 1))


def _schedule(config: ConfigDict, steps_per_epoch: int) -> Schedule:
    """The learning rate by step: a warm-up, then what `config.student.schedule` says.

    Raises:
        ValueError: it names none, or the warm-up leaves no epoch for it.
    """
    options = config.student
    if options.schedule == "cosine" and options.warmup_epochs >= options.epochs:
        raise ValueError(
            f"config.student.warmup_epochs={options.warmup_epochs} leave no epoch of config.student.epochs="
            f"{options.epochs} for the cosine."
        )
    warmup = max(options.warmup_epochs * steps_per_epoch, 1)
    start = {"from_zero": config.quirks.first_rate_zero}
    if options.schedule == "constant":
        return optimizers.warmup_cosine(options.learning_rate, options.learning_rate, warmup, math.inf, **start)
    if options.schedule == "cosine":
        total = options.epochs * steps_per_epoch
        return optimizers.warmup_cosine(options.learning_rate, options.least_rate, warmup, total, **start)
    if options.schedule == "multistep":
        milestones = [epoch * steps_per_epoch for epoch in options.milestones]
        return optimizers.warmup_multistep(options.learning_rate, warmup, milestones, options.milestone_factor, **start)
    raise ValueError(f"config.student.schedule={options.schedule!r} is unknown; use constant, cosine or multistep.")


def _evaluate_at(options: ConfigDict) -> Any:
    """Every so many epochs, from the given one on."""
    if options.evaluate_every == 0:
        return lambda epoch: False
    return lambda epoch: (
        epoch >= options.evaluate_from and (epoch - options.evaluate_from) % options.evaluate_every == 0
    )
