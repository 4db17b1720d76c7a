"""The stages of SPOT: pretext training without labels, then labelled and unlabelled videos in one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.data import batching
from actloc_jax.data.paired_batches import paired_batches, published_unlabelled_batch
from actloc_jax.data.rescaled import RescaledSample
from actloc_jax.data.semi_supervised import SemiSupervised
from actloc_jax.systems.api import TrainStage
from actloc_jax.systems.spot import finetune, pretext, settings, videos
from actloc_jax.systems.spot.predictor import spot_predictor
from actloc_jax.systems.spot.videos import SpotDataset
from actloc_jax.training import checkpoints, optimizers, state
from actloc_jax.training.optimizers import Schedule
from actloc_jax.training.state import Batch, LossOutput, TrainState

BOTH, FIRST_ONLY, SECOND_ONLY = "both stages", "pretraining", "fine-tuning"


def pretrain_stage(config: ConfigDict, dataset: SpotDataset, workdir: epath.Path) -> TrainStage:
    """Stage 1: reconstruction, random foregrounds and the order of halves; needs no labels."""
    options, found = config.pretrain, dataset.videos
    source = found.source("pretraining")
    net, chosen = settings.spot_network(config, len(dataset.class_names)), settings.pretext(config)
    tx = _optimizer(options, lambda step: options.learning_rate, _groups_of_first(config))

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        of_draws, of_dropout = jax.random.split(key)
        present = batch["index"] >= 0
        draws = pretext.draw(of_draws, batch["features"].shape, present, chosen)
        output = pretext.pretext_loss(
            net, params, batch["features"], present, draws, chosen, rngs=nnx.Rngs(dropout=of_dropout)
        )
        parts = {"masks": output.masks, "reconstruction": output.reconstruction, "order": output.order}
        return LossOutput(output.total, parts, state.batch_stats, state.extra)

    def batches() -> Any:
        transform = RescaledSample(config.data.steps, len(dataset.class_names), targets=False)
        return iter(
            batching.training_batches(
                source, transform, batch_size=options.batch_size, buckets=(config.data.steps,),
                seed=config.train.seed, num_threads=config.train.threads, shard=_shard(),
            )
        )  # fmt: skip

    return TrainStage(
        name="pretrain",
        epochs=options.epochs,
        steps_per_epoch=-(-len(source) // options.batch_size),
        scratch=lambda key: state.create(net.init(key), tx),
        batches=batches,
        train_step=state.gradient_step(loss, tx),
        predictor=spot_predictor(config, net, videos.read_scores(config, dataset.class_names)),
        evaluate_at=lambda epoch: False,
        select=None,
        rates=lambda step: {"all": options.learning_rate},
    )


def finetune_stage(config: ConfigDict, dataset: SpotDataset, workdir: epath.Path) -> TrainStage:
    """Stage 2: as published, or as the paper describes it; from what stage 1 left, its optimizer included."""
    unlabelled = _unlabelled_batch(config, dataset.videos) if config.finetune.unlabelled else 0
    return _finetune(config, dataset, "finetune", unlabelled, _start(config, dataset, workdir))


def labelled_only_stage(config: ConfigDict, dataset: SpotDataset, workdir: epath.Path) -> TrainStage:
    """The labelled videos alone, for as many steps, from scratch: what unlabelled ones must be compared with."""
    return _finetune(config, dataset, "labelled_only", 0, None)


def _finetune(
    config: ConfigDict,
    dataset: SpotDataset,
    name: str,
    unlabelled: int,
    warm_start: Callable[[TrainState], TrainState] | None,
) -> TrainStage:
    """A stage that learns from labels, with `unlabelled` other videos in every batch."""
    options, classes, found = config.finetune, len(dataset.class_names), dataset.videos
    net, chosen = settings.spot_network(config, classes), settings.finetune(config, unlabelled=unlabelled > 0)
    source = found.source("labelled")
    steps_per_epoch = -(-len(source) // options.batch_size)
    rate = _schedule(options, steps_per_epoch)
    tx = _optimizer(options, rate, _group_of_second)

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        output = finetune.finetune_loss(
            net, params, batch, key, chosen, teacher=state.ema if options.teacher else None,
            trusted=state.extra["trusted"], epoch=state.step / steps_per_epoch,
        )  # fmt: skip
        return LossOutput(output.total, output.parts, state.batch_stats, {"trusted": output.trusted})

    def scratch(key: jax.Array) -> TrainState:
        extra = {"trusted": finetune.no_class_trusted(classes)}
        return state.create(net.init(key), tx, extra=extra, ema=options.teacher)

    return TrainStage(
        name=name,
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
        scratch=scratch,
        warm_start=warm_start,
        batches=lambda: _batches(config, classes, found, unlabelled),
        train_step=state.gradient_step(loss, tx, ema_decay=options.ema_decay if options.teacher else None),
        predictor=spot_predictor(config, net, videos.read_scores(config, dataset.class_names)),
        evaluate_at=lambda epoch: options.evaluate_every > 0 and (epoch + 1) % options.evaluate_every == 0,
        select=config.eval.select,
        rates=lambda step: optimizers.learning_rates({"all": rate}, step),
    )


def _unlabelled_batch(config: ConfigDict, found: SemiSupervised) -> int:
    """Unlabelled videos in a batch; 0 if there are none at all.

    Raises:
        ValueError: there are too few to fill a batch.
    """
    if not found.split.unlabelled:
        return 0
    options, videos = config.finetune, len(found.source("unlabelled"))
    number = options.unlabelled_batch or published_unlabelled_batch(options.batch_size, config.data.labels)
    if number > videos:
        raise ValueError(
            f"A batch takes {number} unlabelled videos, but there are {videos}. Set config.finetune.unlabelled_batch "
            f"to at most {videos}, or config.finetune.unlabelled=False."
        )
    return number


def _batches(config: ConfigDict, classes: int, found: SemiSupervised, unlabelled: int) -> Any:
    """Endless batches of labelled videos, with unlabelled ones beside them where they are used."""
    options, steps = config.finetune, config.data.steps
    common = {"seed": config.train.seed, "num_threads": config.train.threads, "shard": _shard()}
    labelled, plain = RescaledSample(steps, classes), RescaledSample(steps, classes, targets=False)
    if not unlabelled:
        return iter(
            batching.training_batches(
                found.source("labelled"), labelled, batch_size=options.batch_size, buckets=(steps,), **common
            )
        )
    return paired_batches(
        found.source("labelled"), found.source("unlabelled"), transforms=(labelled, plain),
        batch_sizes=(options.batch_size, unlabelled), steps=steps, **common,
    )  # fmt: skip


def _shard() -> batching.Shard:
    return batching.Shard(jax.process_index(), jax.process_count())


# ----------------------------------------------------------------------------------------- optimizer and its state


def _optimizer(options: ConfigDict, rate: Schedule, group_of: Callable[[str], str]) -> optax.GradientTransformation:
    """Adam in groups: what both stages train keeps its moments from one stage to the next.

    The rate comes after, so that its count begins anew.
    """
    groups = {
        name: optimizers.adam(1.0, weight_decay=options.weight_decay)
        for name in (BOTH, FIRST_ONLY, SECOND_ONLY)
        if name in _groups(group_of)
    }
    return optax.chain(optimizers.grouped(groups, group_of), optax.scale_by_schedule(rate))


def _groups(group_of: Callable[[str], str]) -> set[str]:
    """The groups that some parameter belongs to; each part of the network stands for its parameters."""
    parts = ("embedding/fc/kernel", "classifier/kernel", "clip_order/kernel", "clip_trans/fc/kernel")
    return {group_of(path) for path in parts}


def _groups_of_first(config: ConfigDict) -> Callable[[str], str]:
    """The group of a parameter in the first stage."""
    ignores = config.quirks.order_ignores_transformer

    def group_of(path: str) -> str:
        if not pretext.is_trained(path, order_ignores_transformer=ignores):
            return optimizers.FROZEN
        return BOTH if finetune.is_trained(path) else FIRST_ONLY

    return group_of


def _group_of_second(path: str) -> str:
    """The group of a parameter in the second stage; only the classifier was not trained before."""
    if not finetune.is_trained(path):
        return optimizers.FROZEN
    return SECOND_ONLY if path.startswith("classifier/") else BOTH


def _schedule(options: ConfigDict, steps_per_epoch: int) -> Schedule:
    """The rate, multiplied by `decay_factor` every `decay_every` epochs."""
    every = options.decay_every * steps_per_epoch
    return lambda step: options.learning_rate * options.decay_factor ** (step // every)


def _start(config: ConfigDict, dataset: SpotDataset, workdir: epath.Path) -> Callable[[TrainState], TrainState] | None:
    """What the second stage starts from: a checkpoint, the first stage of this workdir, or nothing.

    Raises:
        FileNotFoundError: there is no such checkpoint; or, once it starts, the first stage has not run.
    """
    options = config.finetune
    given = checkpoints.find_model(options.checkpoint) if options.checkpoint else None

    def from_checkpoint(fresh: TrainState) -> TrainState:
        model, _ = checkpoints.load_model(given)
        return _with_params(fresh, checkpoints.fitted(model["params"], fresh.params, given))

    def from_first_stage(fresh: TrainState) -> TrainState:
        folder = workdir / "checkpoints" / "pretrain" / "run"
        first = pretrain_stage(config, dataset, workdir)
        runs = checkpoints.RunCheckpoints(folder)
        if runs.latest_step is None:
            raise FileNotFoundError(
                f"{folder} has no pretrained network. Run the stage pretrain first, or set "
                "config.finetune.pretrained=False or config.finetune.checkpoint=<folder>."
            )
        before, _, _ = runs.restore(jax.eval_shape(first.scratch, jax.random.key(0)))
        runs.close()
        moments, rate = fresh.opt_state
        kept = {**moments.inner_states, BOTH: before.opt_state[0].inner_states[BOTH]}
        return _with_params(fresh, before.params)._replace(opt_state=(moments._replace(inner_states=kept), rate))

    if given is not None:
        return from_checkpoint
    return from_first_stage if options.pretrained else None


def _with_params(fresh: TrainState, params: Any) -> TrainState:
    return fresh._replace(params=params, ema=jax.tree.map(lambda leaf: leaf.copy(), params) if fresh.ema else {})
