"""The training stage of ASOT: pseudo-labels from transport, cross-entropy against them, clusters set by k-means before.

Source: `mingu6/action_seg_ot:src/train.py`.
"""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from ott.tools import k_means

from actloc_jax.data import batching
from actloc_jax.data.frame_sampling import SampledFrames
from actloc_jax.layers.functional import Network
from actloc_jax.ops import transport
from actloc_jax.systems.api import Dataset, TrainStage
from actloc_jax.systems.asot import losses, network, predictor, settings
from actloc_jax.training import checkpoints, optimizers, state
from actloc_jax.training.state import Batch, LossOutput, TrainState

log = logging.getLogger(__name__)

Params = dict[str, Any]
ALL_ROWS = batching.Shard()


def asot_stage(config: ConfigDict, dataset: Dataset) -> TrainStage:
    """Trains encoder and clusters on the videos of one activity.

    Raises:
        ValueError: a field of the config is outside its range, or fields do not fit each other.
    """
    options = config.asot
    training, decoding = settings.training_settings(config), settings.decoding_settings(config)
    for name in ("epochs", "batch_size", "frames"):
        if options[name] < 1:
            raise ValueError(f"config.asot.{name} is {options[name]}; it must be at least 1.")
    if options.evaluate_every < 0:
        raise ValueError(f"config.asot.evaluate_every is {options.evaluate_every}; 0 evaluates at the end alone.")
    source = dataset.source(config.data.train_split)
    for group, problem, frames in (("transport", training, options.frames), ("decode", decoding, min(source.lengths))):
        for doubt in problem.doubts(frames):
            log.warning("config.%s: %s", group, doubt)
    net = network.encoder_network(config, num_clusters(config))
    tx = _optimizer(config)
    steps_per_epoch = -(-len(source) // options.batch_size)

    def loss(params: Params, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        del key
        total = batch_loss(config, net, params, batch)
        return LossOutput(total, {}, state.batch_stats, state.extra)

    def warm_start(fresh: TrainState) -> TrainState:
        if options.checkpoint:
            return fresh._replace(params=_converted(options.checkpoint, fresh.params))
        if not options.kmeans:
            return fresh
        every_row = training_batches(config, source, epochs=1, shard=ALL_ROWS)  # same in every process
        centres = kmeans_clusters(config, net, fresh.params, every_row)
        log.info("clusters start at the centres of k-means")
        return fresh._replace(params={**fresh.params, "clusters": centres})

    return TrainStage(
        name="asot",
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
        scratch=lambda key: state.create(net.init(key), tx),
        warm_start=warm_start,
        batches=lambda: iter(
            training_batches(config, source, shard=batching.Shard(jax.process_index(), jax.process_count()))
        ),
        train_step=state.gradient_step(loss, tx, project=with_unit_clusters),
        predictor=predictor.encoder_predictor(config, net, with_loss=True),
        evaluate_at=lambda epoch: options.evaluate_every > 0 and (epoch + 1) % options.evaluate_every == 0,
        select=config.eval.select,
        rates=lambda step: {"all": options.learning_rate},
    )


def num_clusters(config: ConfigDict) -> int:
    """Clusters of the config's activity.

    Raises:
        ValueError: `config.clusters` has no number for it.
    """
    if config.data.split not in config.clusters:
        raise ValueError(
            f"config.clusters has no number of clusters for {config.data.split!r} (it has "
            f"{', '.join(config.clusters)}); pass --config.clusters.{config.data.split}=<number>."
        )
    return config.clusters[config.data.split]


def batch_loss(config: ConfigDict, net: Network, params: Params, batch: Batch) -> jax.Array:
    """The training loss of a batch: `features` [batch, time, channels], `mask` [batch, time], `index` [batch]."""
    mask = batch["mask"]
    embedding = net(params, batch["features"])
    affinity = losses.affinities(embedding, params["clusters"])
    lengths = sampled_lengths(config, mask)
    cost = losses.assignment_cost(affinity, lengths, config.transport.rho)
    # Filler rows take no part in the choice of a common step.
    rows = batch["index"] >= 0
    cost = jnp.where(rows[:, None, None], cost, cost[:1])
    pseudo = transport.solve(
        cost, mask | ~rows[:, None], settings.training_settings(config), trace=False,
        lengths=None if config.quirks.window_of_padded_length else lengths,
    )  # fmt: skip
    codes = losses.soft_codes(affinity, config.network.temperature)
    return losses.training_loss(pseudo.plan, codes, mask, rows)


def sampled_lengths(config: ConfigDict, mask: jax.Array) -> jax.Array:
    """[batch] frames that prior and window are a part of: the published code counts the repeats of short videos."""
    batch, time = mask.shape
    if config.quirks.window_of_padded_length:
        return jnp.full(batch, time)
    return jnp.maximum(jnp.sum(mask, axis=1), 1)


def with_unit_clusters(params: Params) -> Params:
    """The clusters scaled to length 1: what every training step begins with, outside of the gradient."""
    return {**params, "clusters": network.unit_rows(params["clusters"])}


def training_batches(
    config: ConfigDict, source: Any, *, epochs: int | None = None, shard: batching.Shard = ALL_ROWS
) -> Any:
    """Batches of sampled frames, endless by default; of a process's rows where `shard` says so."""
    options, quirks = config.asot, config.quirks
    transform = SampledFrames(
        options.frames,
        jitter=True,
        standardise=config.data.standardise,
        of_whole_video=not quirks.standardise_after_sampling,
        draw_last=not quirks.last_frame_never_drawn,
    )
    return batching.training_batches(
        source,
        transform,
        batch_size=options.batch_size,
        buckets=(options.frames,),
        seed=config.train.seed,
        epochs=epochs,
        num_threads=config.train.threads,
        shard=shard,
    )


def kmeans_clusters(config: ConfigDict, net: Network, params: Params, batches: Any) -> jax.Array:
    """Centres [clusters, width] of the untrained encoder's embeddings of one epoch; they are shorter than 1.

    Raises:
        ValueError: there are fewer frames than clusters.
    """
    embed = jax.jit(net)
    clusters = num_clusters(config)
    frames = np.concatenate(
        [
            np.asarray(embed(params, batch["features"]))[batch["index"] >= 0].reshape(-1, config.network.layers[-1])
            for batch in batches
        ]
    )
    if len(frames) < clusters:
        raise ValueError(
            f"config.clusters.{config.data.split} is {clusters}, but there are only {len(frames)} sampled frames; "
            "set fewer clusters, or config.asot.frames higher."
        )
    found = k_means.k_means(jnp.asarray(frames), clusters, n_init=1, rng=jax.random.key(config.train.seed))
    return found.centroids


def _optimizer(config: ConfigDict) -> Any:
    adam = optimizers.adam(config.asot.learning_rate, weight_decay=config.asot.weight_decay)
    if config.network.learn_clusters:
        return adam
    return optimizers.grouped({"all": adam}, lambda path: "frozen" if path == "clusters" else "all")


def _converted(checkpoint: str, fresh: Params) -> Params:
    """Parameters of a checkpoint that has the network of the config.

    Raises:
        FileNotFoundError: there is none.
        ValueError: names or shapes differ.
    """
    folder = checkpoints.find_model(epath.Path(checkpoint))
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != "asot":
        raise ValueError(f"{folder} is a checkpoint of system {meta['system']!r}, not of 'asot'.")
    advice = "set config.network.layers and config.clusters to those of the checkpoint."
    return checkpoints.fitted(model["params"], fresh, folder, advice)
