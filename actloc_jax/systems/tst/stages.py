"""The stages of the TST systems: train a backbone, train TST on it frozen, fine-tune both together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.data import batching
from actloc_jax.data.class_weights import smoothed_class_weights
from actloc_jax.data.frame_cache import CachedSample, CachedSource
from actloc_jax.data.samples import DiffActSample, FixedOffsetSample, Transform
from actloc_jax.systems.api import Dataset, Predictor, TrainStage
from actloc_jax.systems.tst import adapters, diffact_losses, losses, predictors
from actloc_jax.systems.tst.refiner import refiner_group
from actloc_jax.systems.tst.videos import FILES
from actloc_jax.training import checkpoints, optimizers, state
from actloc_jax.training.state import Batch, LossOutput, TrainState

AUTO_EVERY_EPOCH = 30  # the published "auto" evaluates after each of the first epochs, then after every 5th
AUTO_STRIDE = 5


def diffact_stage(config: ConfigDict, dataset: Dataset) -> TrainStage:
    """Stage 1: DiffAct (`Finspire13/DiffAct:main.py`). A batch counts as its mean, so that batch_size x accumulate is
    the number of videos per update."""
    options = config.diffact
    sizes, adapter = adapters.diffact_sizes(config), adapters.diffact_adapter(config)
    source = dataset.source(config.data.train_split)
    soft = options.soft_label_sigma or None
    transform = DiffActSample(
        sample_rate=config.data.sample_rate, temporal_aug=options.temporal_aug,
        boundary_sigma=options.boundary_sigma or None, soft_label_sigma=soft, num_classes=config.data.num_classes,
    )  # fmt: skip
    weights = jnp.asarray(smoothed_class_weights(_training_labels(source), config.data.num_classes), jnp.float32)

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        draw_key, dropout_key = jax.random.split(key)
        draws = diffact_losses.draw(sizes, batch, draw_key, options.conditions)
        total, parts = diffact_losses.diffact_loss(
            adapter.network, params["backbone"], batch, draws, sizes=sizes, weights=options.losses,
            class_weights=weights, rngs=nnx.Rngs(dropout=dropout_key),
        )  # fmt: skip
        return LossOutput(total, parts, state.batch_stats, state.extra)

    predictor = predictors.diffact_predictor(config, adapter)
    return _backbone_stage(config, "diffact", source, transform, adapter, loss, predictor)


def asformer_stage(config: ConfigDict, dataset: Dataset) -> TrainStage:
    """Stage 1 with ASFormer and the ASRF branches (`asformer_tst/train.py` of TST)."""
    source = dataset.source(config.data.train_split)
    adapter = adapters.asformer_adapter(config, _training_labels(source))

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        frames = adapter.apply(params["backbone"], batch, None, nnx.Rngs(dropout=key))
        return LossOutput(adapter.loss(frames, batch), {}, state.batch_stats, state.extra)

    predictor = predictors.frame_predictor(config, adapter, "ASFormer")
    transform = FixedOffsetSample(config.data.sample_rate)
    return _backbone_stage(config, "asformer", source, transform, adapter, loss, predictor)


def _backbone_stage(
    config: ConfigDict,
    name: str,
    source: Any,
    transform: Transform,
    adapter: adapters.Adapter,
    loss: state.LossFn,
    predictor: Predictor,
) -> TrainStage:
    """A backbone alone, at a constant learning rate; `config.<name>` has its options."""
    options = config[name]
    adam = optimizers.adam(options.learning_rate, weight_decay=options.weight_decay)
    tx = optimizers.accumulate(adam, options.accumulate)
    return _stage(
        config, name, options, lambda: source, transform, -(-len(source) // options.batch_size),
        scratch=lambda key: state.create({"backbone": adapter.init(key)}, tx),
        train_step=state.gradient_step(loss, tx),
        predictor=predictor,
        evaluate_at=lambda epoch: (epoch + 1) % options.evaluate_every == 0,
        rates=lambda step: {"backbone": options.learning_rate},
    )  # fmt: skip


def tst_stage(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> TrainStage:
    """Stage 2: the refiner on a frozen backbone, sampled in every step or read from the cached noise draws.

    The frozen backbone lies in `state.extra`, out of the optimizer's sight.
    """
    options = config.tst
    if options.inputs not in ("live", "cached"):
        raise ValueError(f"config.tst.inputs={options.inputs!r} is unknown; use live or cached.")
    adapter = adapters.make(config)
    refiner = adapters.refiner_network(config, adapter.feature_dim)
    source = dataset.source(config.data.train_split)
    from_files = config.backbone.kind == FILES
    cached = options.inputs == "cached" or from_files
    train_adapter = adapters.files_adapter(config, adapter.feature_dim) if cached else adapter
    steps_per_epoch = -(-len(source) // options.batch_size)
    schedules = _tst_schedules(options, steps_per_epoch)
    tx = _grouped(schedules, options, steps_per_epoch)

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        noise, backbone_dropout, refiner_dropout = jax.random.split(key, 3)
        keys = jax.random.split(noise, batch["mask"].shape[0])
        rngs = nnx.Rngs(dropout=backbone_dropout) if config.quirks.frozen_backbone_dropout else None
        frames = train_adapter.apply(state.extra["backbone"], batch, keys, rngs)
        features, predictions = jax.lax.stop_gradient((frames.features, frames.predictions))
        total, parts = losses.tst_loss(
            refiner, params["refiner"], features, predictions, batch["labels"], batch["mask"],
            bg_weight=options.no_action_weight, rngs=nnx.Rngs(dropout=refiner_dropout),
        )  # fmt: skip
        return LossOutput(total, parts, state.batch_stats, state.extra)

    def scratch(key: jax.Array) -> TrainState:
        backbone_key, refiner_key = jax.random.split(key)
        extra = {"backbone": adapter.init(backbone_key)}
        return state.create({"refiner": refiner.init(refiner_key)}, tx, extra=extra)

    def warm_start(fresh: TrainState) -> TrainState:
        return fresh._replace(extra={"backbone": trained_backbone(config, workdir, adapter)})

    cache = cache_folder(config, workdir)
    return _stage(
        config, "tst", options, lambda: CachedSource(cache, source) if cached and not from_files else source,
        CachedSample() if cached else FixedOffsetSample(config.data.sample_rate), steps_per_epoch,
        scratch=scratch,
        warm_start=warm_start,
        model=lambda state: {"params": {**state.extra, **state.params}, "batch_stats": {}},
        train_step=state.gradient_step(loss, tx),
        predictor=predictors.tst_predictor(config, adapter, refiner),
        evaluate_at=_evaluate_at(options),
        rates=lambda step: optimizers.learning_rates(
            schedules, optimizers.optimizer_steps(step, options.accumulate, steps_per_epoch)
        ),
    )  # fmt: skip


def finetune_stage(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> TrainStage:
    """Stage 3: backbone and refiner together at one learning rate, from the model of stage 2."""
    options = config.finetune
    source = dataset.source(config.data.train_split)
    adapter = adapters.make(config, _training_labels(source))
    refiner = adapters.refiner_network(config, adapter.feature_dim)
    if adapter.loss is None:
        raise ValueError(
            f"config.backbone.kind={config.backbone.kind!r} has no loss of its own and cannot be fine-tuned."
        )
    steps_per_epoch = -(-len(source) // options.batch_size)
    adam = optimizers.adam(options.learning_rate, weight_decay=options.weight_decay)
    tx = optimizers.grouped(
        {"all": optimizers.accumulate(adam, options.accumulate, steps_per_epoch)},
        lambda path: "frozen" if refiner_group(path.removeprefix("refiner/")) == "frozen" else "all",
    )

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        noise, backbone_dropout, refiner_dropout = jax.random.split(key, 3)
        keys = jax.random.split(noise, batch["mask"].shape[0])
        frames = adapter.apply(params["backbone"], batch, keys, nnx.Rngs(dropout=backbone_dropout))
        total, parts = losses.tst_loss(
            refiner, params["refiner"], frames.features, jax.lax.stop_gradient(frames.predictions), batch["labels"],
            batch["mask"], bg_weight=options.no_action_weight, rngs=nnx.Rngs(dropout=refiner_dropout),
        )  # fmt: skip
        own = adapter.loss(frames, batch)
        return LossOutput(total + own, {**parts, "backbone": own}, state.batch_stats, state.extra)

    def scratch(key: jax.Array) -> TrainState:
        backbone_key, refiner_key = jax.random.split(key)
        return state.create({"backbone": adapter.init(backbone_key), "refiner": refiner.init(refiner_key)}, tx)

    def warm_start(fresh: TrainState) -> TrainState:
        folder = checkpoints.find_model(options.checkpoint or workdir / "checkpoints" / "tst" / "best")
        model, _ = checkpoints.load_model(folder)
        return fresh._replace(params=checkpoints.fitted(model["params"], fresh.params, folder))

    return _stage(
        config, "finetune", options, lambda: source, FixedOffsetSample(config.data.sample_rate), steps_per_epoch,
        scratch=scratch,
        warm_start=warm_start,
        train_step=state.gradient_step(loss, tx),
        predictor=predictors.tst_predictor(config, adapter, refiner),
        evaluate_at=_evaluate_at(options),
        rates=lambda step: {"all": options.learning_rate},
    )  # fmt: skip


def cache_folder(config: ConfigDict, workdir: epath.Path) -> epath.Path:
    """Where the noise draws of the frozen backbone lie: `config.cache.folder`, or in the workdir."""
    return epath.Path(config.cache.folder or workdir / "cache")


# ------------------------------------------------------------------------------------------------------- helpers


def _stage(
    config: ConfigDict,
    name: str,
    options: ConfigDict,
    open_source: Callable[[], Any],
    transform: Transform,
    steps_per_epoch: int,
    **functions: Any,
) -> TrainStage:
    """A train stage over the samples of a source, padded to its buckets; opened when batches are asked for."""

    def batches() -> Any:
        source = open_source()
        lengths = [transform.length(length) for length in source.lengths]
        return iter(
            batching.training_batches(
                source,
                transform,
                batch_size=options.batch_size,
                buckets=batching.length_buckets(lengths, max_buckets=config.data.max_buckets),
                seed=config.train.seed,
                num_threads=config.train.threads,
                shard=batching.Shard(jax.process_index(), jax.process_count()),
            )
        )

    return TrainStage(
        name=name, epochs=options.epochs, steps_per_epoch=steps_per_epoch, batches=batches, select=config.eval.select,
        **functions,
    )  # fmt: skip


def _tst_schedules(options: ConfigDict, steps_per_epoch: int) -> dict[str, Any]:
    """Learning-rate schedules by parameter group; functions of the optimizer step."""
    updates_per_epoch = -(-steps_per_epoch // options.accumulate)
    extra = {}
    if options.schedule == "cosine":
        extra = {
            "minimum": 1e-6,
            "total_steps": options.epochs * updates_per_epoch,
            "warmup_steps": int(options.warmup_epochs * updates_per_epoch),
        }
    elif options.schedule == "halving":
        extra = {"steps": 30}
    transformer = options.learning_rate_transformer or options.learning_rate
    rates = {"pixel_decoder": options.learning_rate, "transformer": transformer, "heads": options.learning_rate}
    return {group: optimizers.make_schedule(options.schedule, rate, **extra) for group, rate in rates.items()}


def _grouped(schedules: dict[str, Any], options: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    groups = {
        name: optimizers.accumulate(
            optimizers.adam(schedule, weight_decay=options.weight_decay), options.accumulate, steps_per_epoch
        )
        for name, schedule in schedules.items()
    }
    return optimizers.grouped(groups, lambda path: refiner_group(path.removeprefix("refiner/")))


def _evaluate_at(options: ConfigDict) -> Callable[[int], bool]:
    if options.evaluate_every == 0:
        return lambda epoch: epoch <= AUTO_EVERY_EPOCH or epoch % AUTO_STRIDE == 0
    return lambda epoch: (epoch + 1) % options.evaluate_every == 0


def trained_backbone(config: ConfigDict, workdir: epath.Path, adapter: adapters.Adapter) -> Any:
    """Parameters of the backbone that stage 2 stands on: a given checkpoint, or the one that an earlier stage left.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it does not fit the config.
    """
    if adapter.network is None:
        return {}
    folder = epath.Path(config.tst.backbone_checkpoint or workdir / "checkpoints" / config.backbone.kind / "best")
    if not config.tst.backbone_checkpoint and not checkpoints.has_model(folder):
        raise FileNotFoundError(
            f"Stage tst needs a trained backbone, and {folder} has none. Train it first "
            f"(stages={config.backbone.kind}+tst), "
            f"or name a converted checkpoint with --config.tst.backbone_checkpoint=<folder>."
        )
    folder = checkpoints.find_model(folder)
    return checkpoints.fitted(checkpoints.load_model(folder)[0]["params"]["backbone"], adapter.network.shapes(), folder)


def _training_labels(source: Any) -> list[Any]:
    """Labels int32 [time] of all training videos at the full rate."""
    return [source.labels(position) for position in range(len(source))]
