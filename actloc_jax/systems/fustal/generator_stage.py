"""Stage 1 of FuSTAL: trains the generator, and turns its activations into proposals."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.data import batching, proposals
from actloc_jax.data.detection_samples import SampledSnippets
from actloc_jax.data.grid import Grid
from actloc_jax.data.samples import Record, Sample
from actloc_jax.layers.dropout import keep_masks
from actloc_jax.layers.functional import Network
from actloc_jax.ops import nms
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems.api import (
    Dataset,
    EvalBatch,
    Inputs,
    JobStage,
    Predictor,
    TrainStage,
    feature_inputs,
)
from actloc_jax.systems.fustal import generator, generator_losses, settings, warm_start
from actloc_jax.systems.fustal.proposals import propose
from actloc_jax.systems.runner import Runner
from actloc_jax.systems.video_batches import video_batches
from actloc_jax.training import checkpoints, optimizers, sharding, state
from actloc_jax.training.state import Batch, LossOutput, TrainState

log = logging.getLogger(__name__)

METHOD = "FuSTAL generator"


@dataclasses.dataclass(frozen=True)
class Row:
    """A video to make proposals of.

    Attributes:
        video: its name.
        sampled: snippets that the generator sees.
        snippets: snippets of the whole video.
        grid: which second they stand for.
    """

    video: str
    sampled: int
    snippets: int
    grid: Grid


def generator_stage(config: ConfigDict, dataset: Dataset) -> TrainStage:
    """Trains the generator on video labels; an epoch of the loop is what lies between two evaluations.

    Raises:
        ValueError: the steps do not divide into evaluations, or a batch has no videos.
    """
    settings.require_batch_size(config, "generator")
    options, classes = config.generator, len(dataset.class_names)
    every = options.evaluate_every or options.steps
    if options.steps % every:
        raise ValueError(
            f"config.generator.steps={options.steps} is no multiple of config.generator.evaluate_every={every}."
        )
    source = dataset.source(config.data.train_split)
    net, mining = settings.generator_network(config, classes), settings.mining(config)
    tx = optimizers.adam(options.learning_rate, weight_decay=options.weight_decay)

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        rngs = nnx.Rngs(dropout=key)
        output = net(params, batch["features"], batch["mask"], rngs=rngs)
        (keep,) = keep_masks(rngs, mining.dropout, 1, output.actionness.shape)
        snippets = generator.gather(output.embeddings, generator.mine(output.actionness, mining, keep))
        scores = generator.video_scores(output.activations, batch["mask"], mining.easy_ratio)
        found = generator_losses.generator_loss(scores, batch["video_labels"], snippets, batch["index"] >= 0)
        parts = {"action": found.action, "contrast": found.contrast}
        return LossOutput(found.total, parts, state.batch_stats, state.extra)

    def batches() -> Any:
        return iter(
            batching.training_batches(
                source,
                SampledSnippets(options.snippets, classes, jitter=True),
                batch_size=options.batch_size,
                buckets=(options.snippets,),
                seed=config.train.seed,
                num_threads=config.train.threads,
                shard=batching.Shard(jax.process_index(), jax.process_count()),
            )
        )

    return TrainStage(
        name="generator",
        epochs=options.steps // every,
        steps_per_epoch=every,
        scratch=lambda key: state.create(net.init(key), tx),
        warm_start=warm_start.from_checkpoint(options.checkpoint),
        batches=batches,
        train_step=state.gradient_step(loss, tx),
        predictor=generator_predictor(config, net, classes),
        evaluate_at=lambda epoch: options.evaluate_every > 0,
        select=config.eval.select,
        rates=lambda step: {"all": options.learning_rate},
    )


def generator_predictor(config: ConfigDict, net: Network, num_classes: int) -> Predictor:
    """Features to proposals: curves of activation on device, thresholds and suppression in float64 on the host."""
    transform = SampledSnippets(config.generator.snippets, num_classes, jitter=False)
    rule = settings.proposal_suppression(config)

    def rows_of(record: Record) -> list[tuple[Sample, Row]]:
        sample = transform(record, np.random.default_rng(0))
        row = Row(record["video"], len(sample["features"]), len(record["features"]), record["grid"])
        return [({name: sample[name] for name in ("features", "index")}, row)]

    def batches(source: Any) -> Iterator[EvalBatch]:
        lengths = [transform.length(rows) for rows in source.lengths]
        return video_batches(
            source,
            rows_of,
            buckets=batching.length_buckets(lengths, max_buckets=config.data.max_buckets),
            batch_size=config.decode.batch_size,
            threads=config.train.threads,
        )

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        del key
        output = net(model["params"], batch["features"], batch["mask"])
        scores = generator.video_scores(output.activations, batch["mask"], config.generator.easy_ratio)
        return {"activations": output.activations, "actionness": output.actionness, "video_scores": scores}

    def decode(outputs: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, list[ScoredSegments]]:
        found = []
        for index, row in enumerate(rows):
            activations, actionness = (outputs[name][index, : row.sampled] for name in ("activations", "actionness"))
            made = propose(
                activations, actionness, outputs["video_scores"][index], row.snippets,
                settings.proposal_settings(config, row.grid),
            )  # fmt: skip
            kept = np.concatenate(
                [np.zeros(0, int)]
                + [
                    rows_of_class[nms.suppress(made.segments[rows_of_class], made.scores[rows_of_class], rule).index]
                    for rows_of_class in _by_class(made.labels)
                ]
            )
            segments = made.segments[kept] + seconds_before(row.grid)
            found.append(ScoredSegments(row.video, segments, made.labels[kept], made.scores[kept]))
        return {"generator": found}

    inputs = Inputs(feature_inputs(config.data.generator.feature_dim, "mask"), lengths=(config.generator.snippets,))
    return Predictor(batches, predict, decode, inputs)


def seconds_before(grid: Grid) -> float:
    """Second at which the first snippet's own share of the video begins: 0 where windows do not overlap."""
    return (grid.shift - grid.stride / 2) / grid.fps if grid.align == "centre" else 0.0


def _by_class(labels: np.ndarray) -> list[np.ndarray]:
    """Rows of every class, classes in the order of their first appearance."""
    return [np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())]


# ------------------------------------------------------------------------------------------------- proposals, a job


def proposals_file(workdir: epath.Path) -> epath.Path:
    """Where the proposals of the training videos lie."""
    return workdir / "proposals" / "train.json"


def proposals_stage(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> JobStage:
    """Writes proposals of all training videos, in the format of FuSTAL's published file.

    They are made again when the generator has been trained further since, or the settings are others.
    """
    path = proposals_file(workdir)

    def folder() -> epath.Path:
        given = config.proposals.checkpoint
        trained = workdir / "checkpoints" / "generator" / "best"
        if not given and not checkpoints.has_model(trained):
            raise FileNotFoundError(
                f"{trained} has no generator. Train it first (stage=generator), or name a converted one with "
                "--config.proposals.checkpoint=<folder>."
            )
        return checkpoints.find_model(given or trained)

    def facts() -> dict[str, Any]:
        meta = checkpoints.load_meta(folder())
        return {
            "generator": str(folder()),
            "step": meta["step"],
            "split": config.data.train_split,
            "snippets": config.generator.snippets,
            "settings": json.loads(config.proposals.to_json()),
            "quirks": config.quirks.to_dict(),
        }

    def done() -> bool:
        return path.exists() and proposals.read_extra(path, "made_with") == facts()

    def run() -> None:
        model, meta = checkpoints.load_model(folder())
        warm_start.require_stage(meta, "generator", folder())
        net = settings.generator_network(config, len(dataset.class_names))
        warm_start.fitted(model["params"], net.shapes(), folder())
        source = dataset.source(config.data.train_split)
        runner = Runner(generator_predictor(config, net, len(dataset.class_names)))
        (found,) = runner.run(model, source, seed=config.eval.seed).values()
        by_video = {row.video: proposals.ScoredSegments(row.segments, row.scores, row.labels) for row in found}
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            ordered = {video: by_video[video] for video in source.videos}
            extra = {"made_with": facts()}
            proposals.write_proposals(path, ordered, dataset.class_names, method=METHOD, extra=extra)
            log.info("%d proposals of %d videos: %s", sum(map(len, ordered.values())), len(ordered), path)
        sharding.wait_for_all("proposals are written")

    return JobStage("proposals", run, done)
