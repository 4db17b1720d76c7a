"""From a model, or from stored affinities, to the segmentation of whole videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.data import batching
from actloc_jax.data.frame_sampling import WholeVideo
from actloc_jax.data.samples import Record, Sample
from actloc_jax.layers.functional import Network
from actloc_jax.ops import transport
from actloc_jax.results.types import FrameLabels
from actloc_jax.systems.api import EvalBatch, Inputs, Predictor, feature_inputs
from actloc_jax.systems.asot import losses, network, settings
from actloc_jax.systems.video_batches import video_batches as batches_of_videos
from actloc_jax.training.state import Batch

SHOWN_FRAMES = 256  # of a video, whose embeddings are kept for figures
LENGTHS = (1024, 4096)  # frames, of exported programs
OWN, NEAREST = "ASOT", "nearest cluster"


def encoder_predictor(config: ConfigDict, net: Network, *, with_loss: bool = False) -> Predictor:
    """Features to clusters. Sources: the plan's maximum, and for comparison the nearest cluster of each frame alone.

    Args:
        config: of the experiment.
        net: the encoder.
        with_loss: also the loss of every video against its pseudo-labels, a mean over its frames.
    """

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        del key
        params, mask = model["params"], batch["mask"]
        clusters = params["clusters"]
        if not config.quirks.clusters_normalised_in_training_only:
            clusters = network.unit_rows(clusters)
        embedding = net(params, batch["features"])
        affinity = losses.affinities(embedding, clusters)
        lengths = jnp.maximum(jnp.sum(mask, axis=1), 1)
        outputs = _decode_affinities(config, affinity, mask, lengths)
        outputs["shown"] = jnp.arange(SHOWN_FRAMES) * (lengths[:, None] - 1) // (SHOWN_FRAMES - 1)
        outputs["embedding"] = jnp.take_along_axis(embedding, outputs["shown"][:, :, None], axis=1)
        if with_loss:
            cost = losses.assignment_cost(affinity, lengths, config.transport.rho)
            pseudo = transport.solve(cost, mask, settings.training_settings(config), lengths=lengths, trace=False)
            frame_losses = losses.frame_losses(pseudo.plan, outputs["codes"], mask)
            outputs["loss"] = jnp.sum(frame_losses, axis=1) / lengths
        return outputs

    inputs = Inputs(feature_inputs(config.data.feature_dim, "mask"), lengths=LENGTHS)
    return Predictor(lambda source: video_batches(config, source), predict, _results, inputs)


def affinity_predictor(config: ConfigDict) -> Predictor:
    """Stored affinities (or costs) to clusters: the transport alone, without a model."""

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        del model, key
        mask = batch["mask"]
        return _decode_affinities(config, batch["features"], mask, jnp.maximum(jnp.sum(mask, axis=1), 1))

    return Predictor(lambda source: video_batches(config, source), predict, _results)


def _decode_affinities(
    config: ConfigDict, affinity: jax.Array, mask: jax.Array, lengths: jax.Array
) -> dict[str, jax.Array]:
    cost = losses.assignment_cost(affinity, lengths, config.decode.rho)
    found = transport.solve(cost, mask, settings.decoding_settings(config), lengths=lengths, trace=False)
    return {"plan": found.plan, "codes": losses.soft_codes(affinity, config.network.temperature)}


def video_batches(config: ConfigDict, source: Any) -> Iterator[EvalBatch]:
    """Batches of whole videos of similar length, padded: `features`, `mask`, `index`. Rows are (name, frames)."""
    transform = WholeVideo(config.data.standardise)

    def rows_of(record: Record) -> list[tuple[Sample, tuple[str, int]]]:
        sample = transform(record, np.random.default_rng(0))
        return [({name: sample[name] for name in ("features", "index")}, (record["video"], len(sample["features"])))]

    return batches_of_videos(
        source,
        rows_of,
        buckets=batching.length_buckets(source.lengths, max_buckets=config.data.max_buckets),
        batch_size=config.decode.batch_size,
        threads=config.train.threads,
    )


def _results(outputs: dict[str, np.ndarray], rows: Sequence[Any]) -> dict[str, list[FrameLabels]]:
    results: dict[str, list[FrameLabels]] = {OWN: [], NEAREST: []}
    for index, (video, frames) in enumerate(rows):
        plan, codes = outputs["plan"][index, :frames], outputs["codes"][index, :frames]
        embedding = None
        if "embedding" in outputs:  # every frame once where there are fewer than are shown
            embedding = outputs["embedding"][index][np.unique(outputs["shown"][index], return_index=True)[1]]
        loss = float(outputs["loss"][index]) if "loss" in outputs else None
        mass = np.maximum(plan.sum(axis=1), np.finfo(np.float32).tiny)
        results[OWN].append(
            FrameLabels(
                video, plan.argmax(axis=1).astype(np.int32), (plan.max(axis=1) / mass).astype(np.float32),
                scores=plan, embedding=embedding, loss=loss,
            )
        )  # fmt: skip
        results[NEAREST].append(
            FrameLabels(video, codes.argmax(axis=1).astype(np.int32), codes.max(axis=1), scores=codes)
        )
    return results
