"""From frames to detections: windows of videos on the device, stitched and thinned out on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.backbones.afsd import AfsdOutput, AfsdSizes
from actloc_jax.backbones.daotad import AnchorDetectorSizes
from actloc_jax.data.video_chunks import kept_chunks, windows
from actloc_jax.data.video_clips import evaluation_clip
from actloc_jax.layers.functional import Network, united
from actloc_jax.ops import video_frames
from actloc_jax.results.types import ScoredSegments
from actloc_jax.systems.api import EvalBatch, Input, Inputs, Predictor
from actloc_jax.systems.tallformer import afsd_decode, anchor_decode, chunk_training, settings
from actloc_jax.systems.tallformer.anchor_decode import Candidates, Window
from actloc_jax.systems.tallformer.completion import SLOW_BACKBONE
from actloc_jax.systems.tallformer.video_classes import VideoClasses, best_classes
from actloc_jax.systems.tallformer.videos import AFSD
from actloc_jax.training.state import Batch

NAME = "TALLFormer"


class Row(NamedTuple):
    """A window of a video.

    Attributes:
        video: its name.
        window: the place of the window.
        is_first, is_last: of its video.
        fps: frames per second.
        duration: of the video, seconds.
        labels: of its annotated segments; none for a user's own videos.
    """

    video: str
    window: Window
    is_first: bool
    is_last: bool
    fps: float
    duration: float
    labels: Sequence[int] = ()


def tallformer_predictor(
    config: ConfigDict,
    backbone: Network,
    detector: Network,
    sizes: AnchorDetectorSizes | AfsdSizes,
    class_names: Sequence[str],
) -> Predictor:
    """All chunks of every window are computed; nothing is read from the memory.

    Raises:
        FileNotFoundError, ValueError: `config.decode.backbone` is unknown, or asks for a backbone that there is not; or
            nobody can say the classes of videos as asked for, see `VideoClasses`.
    """
    options, size, classes = config.decode, settings.clip_size(config), VideoClasses(config, class_names)

    def windows_of(frames: int) -> list[tuple[int, int]]:
        if config.network.kind == AFSD:
            return [(0, size.frames)]  # black frames behind the video count, as in training
        return windows(frames, length=size.frames, overlap=options.overlap)

    def batches(source: Any) -> Iterator[EvalBatch]:
        classes.require(source)
        order = np.argsort(np.asarray(source.lengths), kind="stable").tolist()
        of_video = {position: windows_of(source.lengths[position]) for position in order}
        flat = [(position, number) for position in order for number in range(len(of_video[position]))]
        # The first batch holds the shortest video whole, so that the rehearsal of an evaluation has a result.
        count = max(options.batch_size, len(of_video[order[0]]))
        rows = -(-count // jax.local_device_count()) * jax.local_device_count()

        def load(plan: list[tuple[int, int]]) -> EvalBatch:
            samples, found = [], []
            for position, number in plan:
                record, places = source.record(position), of_video[position]
                frames, window = record["frames"], Window(*places[number])
                samples.append(evaluation_clip(frames, *window, size))
                ends = number == 0, number == len(places) - 1
                labels = tuple(record.get("labels", ()))
                found.append(Row(record["video"], window, *ends, frames.fps, len(frames) / frames.fps, labels))
            samples += [jax.tree.map(np.zeros_like, samples[0])] * (rows - len(samples))
            names = ("frames", "frame_mask")
            return EvalBatch({name: np.stack([sample[name] for sample in samples]) for name in names}, found)

        plans = [flat[start : start + count] for start in range(0, len(flat), count)]
        read = grain.ReadOptions(num_threads=config.train.threads, prefetch_buffer_size=max(config.train.threads, 1))
        return iter(grain.MapDataset.source(plans).map(load).to_iter_dataset(read))

    def predict(model: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        params = model["params"]
        chunks = jax.vmap(jax.vmap(video_frames.prepare))(batch["frames"], batch["frame_mask"])
        features = chunk_training.joined(features_of(model, chunks, key))
        output = detector(united(params["detector"], model["batch_stats"]), features)
        if config.network.kind == AFSD:
            return {name: value for name, value in output._asdict().items() if "boundaries" not in name}
        return {name: jnp.concatenate(levels, axis=1) for name, levels in output._asdict().items()}

    features_of = _features(config, backbone)
    decoder = (_AfsdDecoder if config.network.kind == AFSD else _AnchorDecoder)(config, sizes, classes)

    def decode(outputs: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, list[ScoredSegments]]:
        found = [
            decoder(row, {name: values[place] for name, values in outputs.items()}) for place, row in enumerate(rows)
        ]
        return {NAME: [result for result in found if result is not None]}

    picture = {"height": size.crop[0], "width": size.crop[1], "colours": 3}
    chunks = {"batch": None, "chunks": size.chunks, "frames": size.chunk}
    inputs = Inputs({"frames": Input({**chunks, **picture}, "uint8"), "frame_mask": Input(chunks, "bool")})
    return Predictor(batches, predict, decode, inputs)


def _features(config: ConfigDict, backbone: Network) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """`(model, chunks, key) -> features` by the trained backbone, by the slower one, or by both."""
    settings.check_evaluated_backbone(config)
    which, at_once = config.decode.backbone, config.decode.chunks_at_once or None

    def run(params: Any, chunks: jax.Array) -> jax.Array:
        return backbone(params, chunks.swapaxes(0, 1), method="chunk_features", at_once=at_once).swapaxes(0, 1)

    def features(model: Any, chunks: jax.Array, key: jax.Array) -> jax.Array:
        trained = model["params"]["backbone"]
        if which == settings.TRAINED:
            return run(trained, chunks)
        if which == settings.SLOW:
            return run(model[SLOW_BACKBONE], chunks)
        count = chunks.shape[1]
        order = jax.random.permutation(key, count)
        kept = kept_chunks(count, config.memory.keep_ratio)
        return chunk_training.combined(run, trained, model[SLOW_BACKBONE], chunks, order[:kept], order[kept:])

    return features


class _AnchorDecoder:
    """Collects the candidates of a video, whose windows come one after another, and merges them with its last one."""

    def __init__(self, config: ConfigDict, sizes: AnchorDetectorSizes, classes: VideoClasses) -> None:
        self._anchors, self._settings = settings.window_anchors(config, sizes), settings.anchor_decode(config)
        self._classes, self._most_classes = classes, config.decode.classes_per_video
        self._waiting: list[Candidates] = []

    def __call__(self, row: Row, output: dict[str, np.ndarray]) -> ScoredSegments | None:
        """The detections of the row's video if this is its last window."""
        if row.is_first:
            self._waiting = []
        found = anchor_decode.window_candidates(
            output["classes"], output["deltas"], self._anchors, row.window, self._settings
        )
        self._waiting.append(found)
        if not row.is_last:
            return None
        merged = anchor_decode.merge(self._waiting, self._settings)
        scores = self._classes.scores(row.video, row.labels)
        if scores is not None:
            kept = np.isin(merged.labels, best_classes(scores, self._most_classes))
            merged = anchor_decode.Merged(*(values[kept] for values in merged))
        seconds = merged.segments / np.float32(round(row.fps))  # as segments became frames
        return ScoredSegments(row.video, seconds, merged.labels.astype(np.int32), merged.scores)


class _AfsdDecoder:
    """A window is a whole video."""

    def __init__(self, config: ConfigDict, sizes: AfsdSizes, classes: VideoClasses) -> None:
        self._sizes, self._settings, self._classes = sizes, settings.afsd_decode(config), classes

    def __call__(self, row: Row, output: dict[str, np.ndarray]) -> ScoredSegments:
        """The detections of the row's video, of the classes that the network or another one gives it."""
        nothing = dict.fromkeys(AfsdOutput._fields)
        found = afsd_decode.candidates(AfsdOutput(**{**nothing, **output}), self._sizes, row.fps, self._settings)
        found = afsd_decode.suppressed(found, self._settings)
        scores = self._classes.scores(row.video, row.labels)
        if scores is None:
            logits = output["video_classes"].astype(np.float64)
            scores = np.exp(logits - logits.max())
            scores = (scores / scores.sum())[1:]  # without background
        named = afsd_decode.with_video_classes(found, scores, row.duration, self._settings)
        return ScoredSegments(row.video, named.segments, named.labels.astype(np.int32), named.scores)
