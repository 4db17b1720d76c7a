"""From a model to frame labels: the backbone alone, or TST on top of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.layers.functional import Network
from actloc_jax.ops import labels as label_ops
from actloc_jax.ops.boundary_refinement import refine_with_boundaries
from actloc_jax.results.types import FrameLabels
from actloc_jax.systems.api import EvalBatch, Inputs, Predictor, feature_inputs
from actloc_jax.systems.tst import adapters, inference
from actloc_jax.systems.tst.capacity import CAPACITIES
from actloc_jax.systems.tst.videos import FILES, Row, prediction_batches
from actloc_jax.training.state import Batch

log = logging.getLogger(__name__)

LENGTHS = (1024, 4096)  # frames, of exported programs
PUBLISHED_SEED_STEP = 111  # the published votes are over the seeds 1, 112, 223, ...


def noise_seeds(seed: int, draws: int) -> tuple[int, ...]:
    """Seeds of the noise draws that vote: the given one for a single draw, the published ones for several."""
    return (seed,) if draws == 1 else tuple(PUBLISHED_SEED_STEP * draw + 1 for draw in range(draws))


def tst_predictor(config: ConfigDict, adapter: adapters.Adapter, refiner: Network) -> Predictor:
    """The backbone's runs, refined; with several noise draws the majority of their labels (`tst/predict.py`).

    Results by source: "TST", "backbone" (the first draw's frame labels), and "draw 1", ... where there are several.
    """
    decode_options = config.decode
    seeds = noise_seeds(decode_options.seed, decode_options.num_seeds if adapter.stochastic else 1)
    single = config.quirks.first_offset_only or config.backbone.kind == FILES
    offsets = (0,) if single else tuple(range(config.data.sample_rate))

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        del key  # the draws have seeds of their own, so that a video's labels do not depend on its place
        params = model["params"]

        def draw(noise_key: jax.Array) -> dict[str, jax.Array]:
            keys = jnp.broadcast_to(noise_key, batch["mask"].shape[:1])
            frames = adapter.apply(params.get("backbone", {}), batch, keys, None)
            refined = inference.refine(
                refiner, params["refiner"], frames.features, frames.predictions, batch["mask"], mode=decode_options.mode
            )
            backbone = jnp.where(batch["mask"], jnp.argmax(frames.predictions, axis=-1), inference.NO_LABEL)
            return {
                "labels": refined.labels,
                "confidence": refined.confidence,
                "left_out": refined.left_out,
                "backbone": backbone.astype(jnp.int32),
            }

        draws = jax.lax.map(draw, jnp.stack([jax.random.key(seed) for seed in seeds]))
        return {
            "labels": inference.vote(draws["labels"], config.data.num_classes),
            "backbone": draws["backbone"][0],
            "confidence": jnp.mean(draws["confidence"], axis=0),
            "left_out": jnp.max(draws["left_out"], axis=0),
            "draws": jnp.swapaxes(draws["labels"], 0, 1),
        }

    def decode(outputs: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, list[FrameLabels]]:
        _warn_left_out(outputs["left_out"], rows)
        results: dict[str, list[FrameLabels]] = {"TST": [], "backbone": []}
        for video, indices in _by_video(rows):
            own = [rows[index] for index in indices]
            names = {"TST": outputs["labels"][indices], "backbone": outputs["backbone"][indices]}
            if len(seeds) > 1:
                names |= {f"draw {n + 1}": outputs["draws"][indices, n] for n in range(len(seeds))}
            for name, labels in names.items():
                finish = _finisher(config, postprocess=name != "backbone")
                finished = [finish(line[: row.frames]) for line, row in zip(labels, own, strict=True)]
                result = _full_rate(config, own, finished)
                confidence = _full_rate(config, own, list(outputs["confidence"][indices])) if name == "TST" else None
                results.setdefault(name, []).append(FrameLabels(video, result.astype(np.int32), confidence))
        return results

    return Predictor(lambda source: _batches(config, source, offsets), predict, decode, _inputs(config, "mask"))


def diffact_predictor(config: ConfigDict, adapter: adapters.Adapter) -> Predictor:
    """DiffAct's own pipeline: encoder or sampled probabilities, averaged over offsets (`main.py` of DiffAct)."""
    rate, mode = config.data.sample_rate, config.decode.diffact_mode
    offsets = {"encoder": range(rate), "decoder-agg": range(rate), "decoder-noagg": (rate // 2,)}
    if mode not in offsets:
        raise ValueError(f"config.decode.diffact_mode={mode!r} is unknown; use one of {', '.join(offsets)}.")
    kind = None if config.decode.postprocess == "none" else config.decode.postprocess

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        del key
        keys = jax.vmap(jax.random.key)(jnp.maximum(batch["index"], 0))  # published: the seed is the video's position
        frames = adapter.apply(model["params"]["backbone"], batch, keys, None)
        encoder_only = jax.nn.softmax(frames.raw["encoder_logits"].astype(jnp.float32), axis=-1)
        return {"probabilities": encoder_only if mode == "encoder" else frames.predictions}

    def decode(outputs: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, list[FrameLabels]]:
        results = []
        for video, indices in _by_video(rows):
            own = [rows[index] for index in indices]
            lines = [outputs["probabilities"][index, : rows[index].frames] for index in indices]
            labels = label_ops.labels_from_offsets(
                lines,
                own[0].total_frames,
                rate=rate,
                kind=kind,
                value=config.decode.postprocess_size,
                segment_end="minus_one" if config.quirks.diffact_last_frame_uncounted else "exclusive",
            )
            confidence = np.repeat(label_ops.average_offsets(lines).max(axis=1), rate)
            results.append(FrameLabels(video, labels.astype(np.int32), _to_length(confidence, len(labels))))
        return {"DiffAct": results}

    inputs = _inputs(config, "mask", "index")
    return Predictor(lambda source: _batches(config, source, tuple(offsets[mode])), predict, decode, inputs)


def frame_predictor(config: ConfigDict, adapter: adapters.Adapter, name: str) -> Predictor:
    """The class of the highest frame score, repeated to the full rate; with boundary refinement where asked for."""

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        keys = jnp.broadcast_to(key, batch["mask"].shape[:1])
        frames = adapter.apply(model["params"]["backbone"], batch, keys, None)
        outputs = {"scores": frames.predictions}
        if config.decode.boundary_refinement:
            outputs["boundary"] = frames.raw.boundary_logits[-1]
        return outputs

    def decode(outputs: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, list[FrameLabels]]:
        results = []
        for index, row in enumerate(rows):
            scores = outputs["scores"][index, : row.frames]
            if config.decode.boundary_refinement:
                labels = refine_with_boundaries(
                    scores,
                    outputs["boundary"][index, : row.frames],
                    threshold=config.decode.boundary_threshold,
                    tie_fallback="published" if config.quirks.boundary_tie_keeps_previous else "fixed",
                )
            else:
                labels = scores.argmax(axis=1)
            exponent = np.exp(scores - scores.max(axis=1, keepdims=True))
            confidence = exponent.max(axis=1) / exponent.sum(axis=1)
            full = _full_rate(config, [row], [labels])
            results.append(FrameLabels(row.video, full.astype(np.int32), _full_rate(config, [row], [confidence])))
        return {name: results}

    return Predictor(lambda source: _batches(config, source, (0,)), predict, decode, _inputs(config, "mask"))


def _inputs(config: ConfigDict, *others: str) -> Inputs | None:
    """Features of every n-th frame; None for a backbone that has run elsewhere."""
    if config.backbone.kind == FILES:
        return None
    return Inputs(feature_inputs(config.data.feature_dim, *others), lengths=LENGTHS)


def _batches(config: ConfigDict, source: Any, offsets: tuple[int, ...]) -> Iterator[EvalBatch]:
    rate = 1 if config.backbone.kind == FILES else config.data.sample_rate
    return prediction_batches(
        source,
        sample_rate=rate,
        offsets=offsets,
        batch_size=config.decode.batch_size,
        max_buckets=config.data.max_buckets,
        threads=config.train.threads,
    )


def _by_video(rows: Sequence[Row]) -> Iterator[tuple[str, list[int]]]:
    """Videos of a batch with the positions of their rows."""
    for video, group in itertools.groupby(range(len(rows)), key=lambda index: rows[index].video):
        yield video, list(group)


def _finisher(config: ConfigDict, *, postprocess: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Post-processing at the sub-sampled rate; the published median over class indices is a mode filter if fixed."""
    kind = config.decode.postprocess
    if not postprocess or kind == "none":
        return lambda labels: labels
    if kind == "median" and not config.quirks.median_over_class_indices:
        kind = "mode"
    return lambda labels: label_ops.postprocess_labels(labels, kind, config.decode.postprocess_size)


def _full_rate(config: ConfigDict, rows: Sequence[Row], lines: Sequence[np.ndarray]) -> np.ndarray:
    """Sub-sampled values of a video's rows to its full rate, [time].

    One row is repeated by the rate, and keeps the frames beyond the end of the video that this gives if the original's
    overhang is kept. Several rows (one per offset) are interleaved: each is exact at its own frames.
    """
    rate, total = config.data.sample_rate, rows[0].total_frames
    if len(rows) == 1:
        full = label_ops.repeat_frames(lines[0][: rows[0].frames], rate)
        return full if config.quirks.keep_overhang else full[:total]
    full = np.empty(total, lines[0].dtype)
    for row, line in zip(rows, lines, strict=True):
        full[row.offset :: rate] = line[: row.frames]
    return full


def _to_length(values: np.ndarray, length: int) -> np.ndarray:
    """Cuts, or repeats the last value, so that there are `length` values."""
    return np.pad(values[:length], (0, max(length - len(values), 0)), mode="edge").astype(np.float32)


def _warn_left_out(left_out: np.ndarray, rows: Sequence[Row]) -> None:
    for count, row in zip(left_out, rows, strict=False):
        if count:
            log.warning(
                "%s has %d segments more than the refiner holds (%d); they keep the backbone's labels",
                row.video,
                count,
                CAPACITIES[-1],
            )
