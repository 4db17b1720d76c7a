"""From the network to detections: candidates on device, suppression on the host, a batch of videos at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.data.samples import Record, Sample
from actloc_jax.data.spot_files import VideoScore
from actloc_jax.layers.functional import Network
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems.api import EvalBatch, Input, Inputs, Predictor
from actloc_jax.systems.spot import decode, settings
from actloc_jax.systems.video_batches import video_batches
from actloc_jax.training.state import Batch

IN_CACHE = 4  # videos of the published size, in a processor's cache


class Row(NamedTuple):
    """A video to detect in: its name and its seconds."""

    video: str
    duration: float


def spot_predictor(config: ConfigDict, net: Network, scores: Mapping[str, VideoScore] | None = None) -> Predictor:
    """Features of fixed length to detections.

    Args:
        config: of the experiment.
        net: the network.
        scores: another model's class and score of every video, which then stand in for the network's.
    """
    chosen, steps = settings.decode(config), config.data.steps

    def rows_of(record: Record) -> list[tuple[Sample, Row]]:
        sample = {"features": record["features"], "index": np.int32(record["index"])}
        return [(sample, Row(record["video"], record["duration"]))]

    def batches(source: Any) -> Iterator[EvalBatch]:
        return video_batches(
            source, rows_of, buckets=(steps,), batch_size=config.decode.batch_size, threads=config.train.threads
        )

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        del key
        output = net(model["params"], batch["features"], part=_part())
        return decode.candidates(output.logits, output.masks, chosen)._asdict()

    def decoded(outputs: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, list[ScoredSegments]]:
        found = decode.Candidates(**{name: values[: len(rows)] for name, values in outputs.items()})
        names, durations = [row.video for row in rows], np.array([row.duration for row in rows])
        external = None if scores is None else _scores_of(names, scores)
        return {"SPOT": decode.detections(names, durations, found, steps, chosen, external)}

    features = Input({"batch": None, "time": steps, "channels": config.data.feature_dim}, "float32")
    return Predictor(batches, predict, decoded, Inputs({"features": features}))


def _part() -> int | None:
    """Videos computed at a time: on one processor few, whose arrays stay in its cache; else all."""
    alone = jax.default_backend() == "cpu" and jax.local_device_count() == 1
    return IN_CACHE if alone else None


def _scores_of(names: Sequence[str], scores: Mapping[str, VideoScore]) -> decode.VideoScores:
    """The scores of these videos; -1 for videos that have none, whose class is then the network's."""
    nothing = VideoScore(-1, 0.0)
    rows = [scores.get(name, nothing) for name in names]
    return decode.VideoScores(np.array([row.label for row in rows]), np.array([row.score for row in rows]))
