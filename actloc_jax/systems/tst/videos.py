"""The videos of a TST experiment: its data set, a user's own feature files, and batches of rows to predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import batching, feature_files, problems, recipe_problems, synthetic, tfds_builders
from actloc_jax.data.frame_cache import CachedSource, FrameFiles
from actloc_jax.data.samples import Record, Sample
from actloc_jax.data.segmentation import SegmentationFolder, SegmentationSource
from actloc_jax.metrics import segmentation as metrics
from actloc_jax.systems.api import Dataset, EvalBatch
from actloc_jax.systems.video_batches import video_batches

FILES = "files"  # the backbone that has run before: frame features and predictions lie in config.cache.folder
HELD_OUT_EVERY = 8  # of the training videos, where validation is asked for and the data set has no val bundle


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a batch to predict.

    Attributes:
        video: its name.
        offset: first frame of the sub-sequence.
        frames: frames of the row that are not padding.
        total_frames: frames of the video at the full rate.
    """

    video: str
    offset: int
    frames: int
    total_frames: int


def open_dataset(config: ConfigDict, workdir: epath.Path) -> Dataset:
    """The data set that `config.data` describes; the demo's is generated into the workdir first.

    Raises:
        FileNotFoundError, ValueError: it is not there, or its classes are not the config's.
    """
    data = config.data
    if data.source not in _OPENERS:
        raise ValueError(f"config.data.source={data.source!r} is unknown; use {', '.join(_OPENERS)}.")
    videos = _OPENERS[data.source](config, workdir)
    if len(videos.class_names) != data.num_classes:
        raise ValueError(
            f"{videos.place} has {len(videos.class_names)} classes, but config.data.num_classes is {data.num_classes}. "
            f"Pass --config.data.num_classes={len(videos.class_names)} to use this data set."
        )

    def truth(split: str) -> dict[str, np.ndarray]:
        source = videos.source(split)
        if config.backbone.kind == FILES:
            return {video: source.labels(i) for i, video in enumerate(source.videos)}
        # As in training, what has no features is cut away.
        return {video: source.labels(i)[: source.lengths[i]] for i, video in enumerate(source.videos)}

    def chance(split: str) -> dict[str, float]:
        training = list(truth(config.data.train_split).values())
        return metrics.chance(
            training, truth(split), videos.class_names, background=tuple(config.eval.background),
            segment_end=config.eval.segment_end,
        )  # fmt: skip

    return Dataset(
        class_names=videos.class_names,
        source=videos.source,
        truth=truth,
        problems=videos.problems,
        frame_rate=data.frame_rate,
        chance=chance,
    )


@dataclasses.dataclass(frozen=True)
class _Videos:
    """Videos by split, from wherever they are."""

    place: str
    class_names: tuple[str, ...]
    source: Callable[[str], Any]
    problems: Callable[[str], Sequence[Any]]


def _open_folder(config: ConfigDict, workdir: epath.Path) -> _Videos:
    del workdir
    data = config.data
    folder = SegmentationFolder(
        data.root, layout=data.layout, feature_dim=data.feature_dim, sample_rate=data.sample_rate
    )
    hold_out = not config.quirks.test_set_selection

    def names(split: str) -> list[str]:
        subset, number = _subset(split)
        if hold_out and not folder.bundle_path("val", number).exists():
            return _held_out(subset, lambda subset: folder.videos(subset, number))
        return folder.videos(subset, number)

    def found(split: str) -> list[problems.Problem]:
        subset, number = _subset(split)
        if subset == "val" and not folder.bundle_path(subset, number).exists():
            return []  # videos of the training split, which is checked
        need_features = config.backbone.kind != FILES
        others = (
            recipe_problems.find_problems(folder.features_dir, data.recipe)
            if need_features and subset == "train"
            else []
        )
        return others + problems.find_problems(folder, subset, number, need_features=need_features)

    def source(split: str) -> Any:
        videos = SegmentationSource(folder, names(split), name=split)
        return CachedSource(config.cache.folder, videos) if config.backbone.kind == FILES else videos

    return _Videos(place=str(data.root), class_names=folder.class_names, source=source, problems=found)


def _open_demo(config: ConfigDict, workdir: epath.Path) -> _Videos:
    """Generates the demo's folder where it is missing, and opens it."""
    config = config.copy_and_resolve_references()
    config.data.root = str(synthetic.write_folder(workdir / "demo_data", synthetic.Settings()))
    return _open_folder(config, workdir)


def _open_prepared(config: ConfigDict, workdir: epath.Path) -> _Videos:
    """Records that `python -m actloc_jax.data.tfds_builders` has checked and prepared."""
    del workdir
    folder = config.data.tfds_dir
    class_names = tfds_builders.prepared_classes(folder)
    bundles = tfds_builders.prepared_bundles(folder)
    hold_out = not config.quirks.test_set_selection

    def names(split: str) -> Sequence[str]:
        subset, number = _subset(split)
        if hold_out and f"val.split{number}" not in bundles:
            return _held_out(subset, lambda subset: tfds_builders.prepared_videos(folder, f"{subset}.split{number}"))
        return tfds_builders.prepared_videos(folder, split)

    return _Videos(
        place=folder,
        class_names=class_names,
        source=lambda split: tfds_builders.TfdsSource(
            folder, class_names, names(split), feature_dim=config.data.feature_dim
        ),
        problems=lambda split: [],
    )


_OPENERS: dict[str, Callable[[ConfigDict, epath.Path], _Videos]] = {
    "folder": _open_folder,
    "tfds": _open_prepared,
    "synthetic": _open_demo,
}


def _held_out(subset: str, videos: Callable[[str], Sequence[str]]) -> list[str]:
    """Every 8th training video is for validation, the others for training; the test videos stay."""
    if subset == "test":
        return list(videos("test"))
    everything = list(videos("train"))
    held_out = everything[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    return held_out if subset == "val" else [video for video in everything if video not in held_out]


def _subset(split: str) -> tuple[str, int]:
    """`train.split1` to ("train", 1)."""
    subset, _, number = split.partition(".split")
    if not number.isdigit():
        raise ValueError(f"{split!r} is not a split; expected a name like train.split1.")
    return subset, int(number)


class FeatureFiles:
    """A user's own feature files as records without labels.

    Attributes:
        paths: the files, `.npy`.
        lengths: frames of each.
    """

    def __init__(self, paths: Sequence[epath.Path], *, feature_dim: int, layout: str) -> None:
        self.paths, self._feature_dim, self._layout = tuple(paths), feature_dim, layout
        found, self.lengths, self._layouts = [], [], []
        for path in self.paths:
            try:
                shape = feature_files.read_shape(path)
                chosen = layout
                if layout == "auto":
                    chosen = feature_files.detect_layout({str(path): shape}, {}, feature_dim=feature_dim)
                size = feature_files.shape_in_layout(shape, chosen)
                if size is None or size.channels != feature_dim:
                    raise ValueError(f"{path} has axes {shape}; the checkpoint needs {feature_dim} channels.")
                self.lengths.append(size.frames)
                self._layouts.append(chosen)
                feature_files.require_finite(feature_files.read_features(path, chosen), path)
            except ValueError as error:
                found.append(str(error))
        if found:
            raise ValueError("The inputs cannot be used:\n  " + "\n  ".join(found))

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """`video`, `index` and `features` [time, channels] or [crops, time, channels] of one file."""
        del epoch
        path = self.paths[position]
        features = feature_files.read_features(path, self._layouts[position])
        return {"video": path.stem, "index": position, "features": features}

    __getitem__ = record


def open_inputs(config: ConfigDict, meta: dict[str, Any], paths: Sequence[str]) -> FeatureFiles | FrameFiles:
    """The feature files (`.npy`; `.npz` of a backbone's outputs) that `paths` name, to predict with a checkpoint.

    Raises:
        FileNotFoundError: a path does not exist or a folder holds no such files.
        ValueError: files do not fit the checkpoint; all are named.
    """
    del meta
    from_backbone = config.backbone.kind == FILES
    suffix = ".npz" if from_backbone else ".npy"
    files = feature_files.input_files(paths, suffix)
    if from_backbone:
        return FrameFiles(
            files, sample_rate=config.data.sample_rate, feature_dim=config.backbone.feature_dim,
            num_classes=config.data.num_classes,
        )  # fmt: skip
    return FeatureFiles(files, feature_dim=config.data.feature_dim, layout=config.data.layout)


def prediction_batches(
    source: Any,
    *,
    sample_rate: int,
    offsets: Sequence[int],
    batch_size: int,
    max_buckets: int,
    threads: int,
    bucket_lengths: Sequence[int] | None = None,
) -> Iterator[EvalBatch]:
    """Batches with `features` (or `frame_features` and `frame_predictions`), `mask`, `index`.

    The rows of a video (one per offset) stay together.

    Args:
        source: `lengths` and `record(position)`; records with `frame_features` (of the backbone "files") are
            sub-sampled already, and come with `sample_rate` 1.
        sample_rate: frames per kept frame.
        offsets: first frames of the sub-sequences.
        batch_size: videos per batch.
        max_buckets: most padded lengths.
        threads: that read ahead.
        bucket_lengths: frames of the videos to make the buckets for; those of `source` by default.
    """
    padded = [-(-length // sample_rate) for length in bucket_lengths or source.lengths]

    def rows_of(record: Record) -> list[tuple[Sample, Row]]:
        index = {"index": np.int32(record["index"])}
        if "frame_features" in record:
            frames = {name: record[name] for name in ("frame_features", "frame_predictions")}
            return [(frames | index, Row(record["video"], 0, len(frames["frame_features"]), record["total_frames"]))]
        features = record["features"][0] if record["features"].ndim == 3 else record["features"]
        lines = {offset: features[offset::sample_rate] for offset in offsets}
        return [
            ({"features": line, **index}, Row(record["video"], offset, len(line), len(features)))
            for offset, line in lines.items()
        ]

    return video_batches(
        source,
        rows_of,
        buckets=batching.length_buckets(padded, max_buckets=max_buckets),
        batch_size=batch_size,
        threads=threads,
        rows_per_video=len(offsets),
    )
