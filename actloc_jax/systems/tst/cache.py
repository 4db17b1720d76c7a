"""The job between the stages: noise draws of the frozen backbone, written once and read in every epoch of TST.

As published (`tst/precompute_backbone.py` of TST): the backbone in train mode, without gradients, one folder per seed.
A video's draw depends on the seed and the video alone, so that a job that was stopped goes on to the same files.
"""

from __future__ import annotations

import logging
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.data import frame_cache
from actloc_jax.data.subset import Subset
from actloc_jax.systems.api import Dataset, JobStage
from actloc_jax.systems.tst import adapters, predictors, stages
from actloc_jax.systems.tst.videos import prediction_batches
from actloc_jax.training import sharding
from actloc_jax.training.progress import Progress
from actloc_jax.training.state import Batch

log = logging.getLogger(__name__)


def cache_stage(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> JobStage:
    """Writes `config.cache.seeds` draws of every training video, float16, videos split over processes and devices."""
    folder = stages.cache_folder(config, workdir)
    source = dataset.source(config.data.train_split)
    facts = {
        "backbone": config.backbone.kind,
        "dataset": config.name,
        "split": config.data.train_split,
        "n_seeds": config.cache.seeds,
        "n_videos": len(source),
        "sample_rate": config.data.sample_rate,
    }

    def done() -> bool:
        try:
            meta = frame_cache.read_meta(folder)
        except FileNotFoundError:
            return False
        differing = [name for name, value in facts.items() if meta.get(name) != value]
        if differing:
            raise ValueError(
                f"{folder} holds a cache of another experiment (different: {', '.join(differing)}). Delete it, or set "
                f"config.cache.folder to another folder."
            )
        return True

    def run() -> None:
        adapter = adapters.make(config)
        params = stages.trained_backbone(config, workdir, adapter)
        _fill(config, adapter, params, source, folder)
        sharding.wait_for_all("cache is complete")
        if jax.process_index() == 0:
            frame_cache.write_meta(folder, {**facts, "feat_dim": adapter.feature_dim})

    return JobStage("cache", run, done)


def _fill(config: ConfigDict, adapter: adapters.Adapter, params: Any, source: Any, folder: epath.Path) -> None:
    """Draws what is missing, seed by seed."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    everywhere, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    train_mode = config.quirks.frozen_backbone_dropout

    def draw(params: Any, batch: Batch, seed_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(lambda index: jax.random.fold_in(seed_key, index))(batch["index"])
        rngs = nnx.Rngs(dropout=jax.random.fold_in(seed_key, batch["index"][0])) if train_mode else None
        frames = adapter.apply(params, batch, keys, rngs)
        return frames.features, frames.predictions

    compiled = jax.jit(draw, in_shardings=(everywhere, rows, everywhere), out_shardings=everywhere)
    params = jax.device_put(params, everywhere)
    seeds = predictors.noise_seeds(1, config.cache.seeds) if config.cache.seeds > 1 else (1,)
    mine = range(jax.process_index(), len(source), jax.process_count())
    progress = Progress(len(seeds) * len(mine), name="cache", process_index=jax.process_index())
    count = 0
    for number, seed in enumerate(seeds):
        missing = Subset(
            source, [i for i in mine if not frame_cache.cached_path(folder, number, source.videos[i]).exists()]
        )
        count += len(mine) - len(missing)
        progress.update(count)
        if not len(missing):
            continue
        batches = prediction_batches(
            missing,
            sample_rate=config.data.sample_rate,
            offsets=(0,),
            batch_size=config.cache.batch_size,
            max_buckets=config.data.max_buckets,
            threads=config.train.threads,
            bucket_lengths=source.lengths,
        )
        for batch in batches:
            arrays = jax.device_put(batch.arrays, rows)
            features, predictions = jax.device_get(compiled(params, arrays, jax.random.key(seed)))
            for line, row in enumerate(batch.rows):
                frame_cache.write_video(
                    folder, number, row.video, np.asarray(features[line, : row.frames]), predictions[line, : row.frames]
                )
            count += len(batch.rows)
            progress.update(count)
    progress.close()
