"""From the student to detections: candidates on device, suppression on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.backbones.detector import DetectorSizes
from actloc_jax.data import batching
from actloc_jax.data.detection_samples import padded_length
from actloc_jax.data.grid import Grid
from actloc_jax.data.json_files import read_json
from actloc_jax.data.samples import Record, Sample
from actloc_jax.layers.functional import Network
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems.api import EvalBatch, Inputs, Predictor, feature_inputs
from actloc_jax.systems.fustal import postprocess, settings
from actloc_jax.systems.fustal.decode import Candidates, decode
from actloc_jax.systems.fustal.points import make_points
from actloc_jax.systems.video_batches import video_batches
from actloc_jax.training.state import Batch

LONGER = 4  # lengths of exported programs: that of the training, and of videos that are as much longer


@dataclasses.dataclass(frozen=True)
class Row:
    """A video to detect in.

    Attributes:
        video: its name.
        grid: which second a row of its features stands for.
        duration: seconds; `inf` if unknown.
    """

    video: str
    grid: Grid
    duration: float


def student_predictor(config: ConfigDict, net: Network, sizes: DetectorSizes) -> Predictor:
    """Features to detections.

    The published code pads each video to a length of its own, which its norms see. Here videos are padded to a few
    lengths, and `seen` says how much of the padding counts.
    """
    ranges = [tuple(each) for each in config.student.ranges]
    kept, rule = settings.decode_settings(config), settings.suppression(config)
    video_scores = _video_scores(config.decode.video_scores, sizes.num_classes)

    def published_length(rows: int) -> int:
        return padded_length(rows, minimum=sizes.max_length, multiple=sizes.length_multiple)

    def rows_of(record: Record) -> list[tuple[Sample, Row]]:
        features = record["features"]
        seen = published_length(len(features)) if config.quirks.padding_is_seen else len(features)
        sample = {"features": features, "index": np.int32(record["index"]), "seen": np.int32(seen)}
        return [(sample, Row(record["video"], record["grid"], record["duration"]))]

    def batches(source: Any) -> Iterator[EvalBatch]:
        lengths = [published_length(rows) if config.quirks.padding_is_seen else rows for rows in source.lengths]
        return video_batches(
            source,
            rows_of,
            buckets=batching.length_buckets(
                lengths, max_buckets=config.data.max_buckets, multiple=sizes.length_multiple
            ),
            batch_size=config.decode.batch_size,
            threads=config.train.threads,
        )

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        del key
        time = batch["mask"].shape[1]
        seen = jnp.arange(time) < batch["seen"][:, None]
        output = net(model["params"], batch["features"], batch["mask"], seen=seen)
        return decode(output, make_points(time, sizes.strides, ranges), kept)._asdict()

    def decoded(outputs: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, list[ScoredSegments]]:
        found = []
        for index, row in enumerate(rows):
            candidates = Candidates(**{name: values[index] for name, values in outputs.items()})
            segments, scores, labels = (values[candidates.valid] for values in candidates[:3])
            found.append(
                postprocess.detections(
                    row.video, segments, scores, labels, grid=row.grid, duration=row.duration, rule=rule,
                    class_aware=config.decode.class_aware, vote=config.decode.vote,
                    most=config.decode.max_detections,
                )
            )  # fmt: skip
            if video_scores is not None:
                found[-1] = postprocess.with_video_scores(
                    found[-1], _scores_of(row.video, video_scores, config.decode.video_scores),
                    segments=config.decode.video_score_segments, classes=config.decode.video_score_classes,
                )  # fmt: skip
        return {"student": found}

    def complete(arrays: Batch) -> Batch:
        seen = jnp.sum(arrays["mask"], axis=1, dtype=jnp.int32)
        if config.quirks.padding_is_seen:  # as `published_length`
            multiple = sizes.length_multiple
            seen = jnp.where(seen <= sizes.max_length, sizes.max_length, -(-seen // multiple) * multiple)
        return {**arrays, "seen": seen}

    inputs = Inputs(
        feature_inputs(sizes.input_dim, "mask"),
        lengths=(sizes.max_length, LONGER * sizes.max_length),
        least=sizes.max_length if config.quirks.padding_is_seen else 1,
        multiple=sizes.length_multiple,
        complete=complete,
    )
    return Predictor(batches, predict, decoded, inputs)


def _video_scores(path: str, num_classes: int) -> Mapping[str, Any] | None:
    """Another model's scores of whole videos: `{video: [score of each class]}`; None without a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else.
    """
    if not path:
        return None
    what = f"scores of whole videos: {{video: [{num_classes} numbers]}}"
    content = read_json(path, what=what)
    if not isinstance(content, dict) or not all(
        isinstance(row, list) and len(row) == num_classes for row in content.values()
    ):
        raise ValueError(f"{path} does not hold {what}.")
    return content


def _scores_of(video: str, scores: Mapping[str, Any], path: str) -> np.ndarray:
    """Scores [classes] of a video. Raises ValueError if the file has none."""
    if video not in scores:
        raise ValueError(f"{path} has no scores of {video}; it needs all videos that are predicted.")
    return np.asarray(scores[video], np.float32)
