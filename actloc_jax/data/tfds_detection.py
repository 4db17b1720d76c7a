"""Detection data prepared with tensorflow-datasets (ArrayRecord files, no TensorFlow): the form for Cloud TPU jobs.

    python -m actloc_jax.data.tfds_detection data/kitchen gs://bucket/prepared --stride=4 --window=16

checks a folder, writes each of its videos once, with the splits and the feature grid beside them, and prints the folder
of the prepared data. `PreparedDetection` reads them, without the original folder, and gives equal records. For more
options than the command line has, call `prepare` with a `DetectionFolder`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from actloc_jax.data.annotations import VideoAnnotation, video_annotation
from actloc_jax.data.detection import DetectionFolder, DetectionSource, Units
from actloc_jax.data.detection_problems import find_problems
from actloc_jax.data.grid import Grid
from actloc_jax.data.problems import require_no_errors

RECORDS = "videos"  # the one split that tfds sees; the splits of the data set are in the metadata


class DetectionBuilder(tfds.core.GeneratorBasedBuilder):
    """Copies the records of a source, segments in seconds. Their order is kept, hence no shuffling.

    Args:
        source: all records, each video once, in seconds.
        splits: split -> its videos.
        config_name: sub-folder of the prepared data, e.g. `thumos14`.
        data_dir: where prepared data are kept.
    """

    VERSION = tfds.core.Version("1.1.0")

    # Else tfds looks for download checksums beside the code, by way of importlib_resources, which it does not declare.
    code_path = None

    def __init__(
        self, source: DetectionSource, splits: Mapping[str, Sequence[str]], config_name: str, data_dir: epath.PathLike
    ) -> None:
        self._source = source
        self._splits = {split: list(videos) for split, videos in splits.items()}
        super().__init__(
            data_dir=data_dir, config=tfds.core.BuilderConfig(name=config_name), file_format="array_record"
        )

    def _info(self) -> tfds.core.DatasetInfo:
        channels = self._source.folder.read_features(self._source.annotations[0]).shape[1]
        return tfds.core.DatasetInfo(
            builder=self,
            description="Features and annotated segments of untrimmed videos for temporal action detection.",
            features=tfds.features.FeaturesDict(
                {
                    "features": tfds.features.Tensor(shape=(None, channels), dtype=np.float32),
                    "segments": tfds.features.Tensor(shape=(None, 2), dtype=np.float64),
                    "labels": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                }
            ),
            metadata=tfds.core.MetadataDict(
                class_names=list(self._source.class_names),
                videos=[_to_plain(video) for video in self._source.annotations],
                lengths=list(self._source.lengths),
                grids=[dataclasses.asdict(self._source.grid(number)) for number in range(len(self._source))],
                covered=[self._source.folder.covered_seconds(video) for video in self._source.annotations],
                splits=self._splits,
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, np.ndarray]]]]:
        del dl_manager
        return {RECORDS: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for position, video in enumerate(self._source.annotations):
            features = self._source.folder.read_features(video)
            yield position, {"features": features, "segments": video.segments, "labels": video.labels}


class PreparedDetection:
    """Prepared videos; `source` gives records equal to those of the folder that they were prepared from.

    Args:
        directory: folder of the prepared data, as returned by `prepare`.
        feature_dim: expected number of channels, if known.

    Raises:
        FileNotFoundError: no prepared data there.
        ValueError: features of another width.
    """

    def __init__(self, directory: epath.PathLike, *, feature_dim: int | None = None) -> None:
        self.root = epath.Path(directory)
        if not str(directory) or not (self.root / "dataset_info.json").exists():
            raise FileNotFoundError(
                f"{str(directory)!r} holds no prepared data (no dataset_info.json). Prepare them with python -m "
                "actloc_jax.data.tfds_detection <data folder> <output folder>, and pass the folder that it prints"
            )
        builder = tfds.builder_from_directory(directory)
        channels = builder.info.features["features"].shape[-1]
        if feature_dim not in (None, channels):
            raise ValueError(f"{directory} holds features of {channels} channels, expected {feature_dim}")
        metadata = builder.info.metadata
        self.class_names = tuple(metadata["class_names"])
        self.splits = {split: tuple(videos) for split, videos in metadata["splits"].items()}
        self._annotations = {video["video"]: _from_plain(video) for video in metadata["videos"]}
        self._places = {video: place for place, video in enumerate(self._annotations)}
        self._lengths = metadata["lengths"]
        self._grids = [Grid(**grid) for grid in metadata["grids"]]
        self._covered = metadata["covered"]
        self._records = builder.as_data_source(split=RECORDS)

    def videos(self, split: str) -> list[VideoAnnotation]:
        """The videos of a split.

        Raises:
            ValueError: the prepared data have no such split.
        """
        if split not in self.splits:
            raise ValueError(f"{self.root} was prepared with the splits {', '.join(self.splits)}; it has no {split}")
        return [self._annotations[video] for video in self.splits[split]]

    def annotated(self, split: str) -> list[VideoAnnotation]:
        """The same: videos without features were not prepared."""
        return self.videos(split)

    def has_split(self, split: str) -> bool:
        """Whether the prepared data have a split."""
        return split in self.splits

    def covered_seconds(self, video: VideoAnnotation) -> float:
        """Seconds from the start of a video that its features cover, as when the data were prepared."""
        return self._covered[self._places[video.video]]

    def rows(self, video: VideoAnnotation) -> int:
        """Rows of the features of a video."""
        return self._lengths[self._places[video.video]]

    def read_features(self, video: VideoAnnotation) -> np.ndarray:
        """Features of a video, [time, channels] float32."""
        return self._records[self._places[video.video]]["features"]

    def grid(self, video: VideoAnnotation, rows: int) -> Grid:
        """Which second a row of a video stands for, as when the data were prepared."""
        del rows
        return self._grids[self._places[video.video]]

    def source(self, split: str, *, units: Units = "grid") -> DetectionSource:
        """Random access to the records of a split, with segments on the feature grid or in seconds."""
        return DetectionSource(self, self.videos(split), units=units)


def prepare(folder: DetectionFolder, data_dir: epath.PathLike) -> epath.Path:
    """Writes the videos of all splits that the annotations have; does nothing if they are prepared already.

    Args:
        folder: the data set.
        data_dir: where prepared data are kept; those of this folder get its name.

    Returns:
        The folder of the prepared data, for `PreparedDetection`.

    Raises:
        ValueError: there are errors in the data; all are listed.
    """
    present = {subset.lower() for subset in folder.annotations.subsets()}
    splits = [
        split
        for split in {**folder.subsets, **folder.lists}
        if split in folder.lists or present & {name.lower() for name in folder.subsets[split]}
    ]
    if not splits:
        raise ValueError(
            f"{folder.annotation_path} has the subsets {', '.join(sorted(present))}, none of which is a split; "
            "say which to train and test on"
        )
    found = [problem for split in splits for problem in find_problems(folder, split)]
    require_no_errors(dict.fromkeys(found))
    videos = {split: folder.videos(split) for split in splits}
    once = {video.video: video for chosen in videos.values() for video in chosen}
    builder = DetectionBuilder(
        DetectionSource(folder, list(once.values()), units="seconds"),
        {split: [video.video for video in chosen] for split, chosen in videos.items()},
        folder.root.name,
        data_dir,
    )
    builder.download_and_prepare()
    return epath.Path(builder.data_dir)


def _to_plain(video: VideoAnnotation) -> dict[str, Any]:
    """An annotation as JSON values; an unknown duration becomes None."""
    return {
        "video": video.video,
        "subset": video.subset,
        "duration": video.duration if math.isfinite(video.duration) else None,
        "fps": video.fps,
        "rows": [
            (*segment, label) for segment, label in zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        ],
        "ambiguous": video.ambiguous.tolist(),
    }


def _from_plain(plain: dict[str, Any]) -> VideoAnnotation:
    """The inverse of `_to_plain`."""
    duration = math.inf if plain["duration"] is None else plain["duration"]
    return video_annotation(**(plain | {"duration": duration}))


def main() -> None:
    """Prepares a data folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="data folder with annotations.json and features/")
    parser.add_argument("data_dir", help="where prepared data are kept")
    parser.add_argument("--annotations", default="annotations.json", help="annotation file under the folder")
    parser.add_argument("--features", default="features/{video}.npy", help="pattern of the feature files")
    parser.add_argument("--streams", nargs="*", default=[], help="values of {stream} in the pattern, e.g. rgb flow")
    parser.add_argument("--feature_dim", type=int, default=None, help="expected number of channels")
    parser.add_argument("--stride", type=float, default=None, help="frames between rows; default: rows of equal length")
    parser.add_argument("--window", type=float, default=None, help="frames behind a row; default: the stride")
    parser.add_argument("--fps", type=float, default=None, help="frame rate of all videos; default: of the annotations")
    parser.add_argument("--train", nargs="*", default=["train", "training"], help="subsets to train on")
    parser.add_argument("--test", nargs="*", default=["test", "testing"], help="subsets to test on")
    arguments = parser.parse_args()
    try:
        grid = None
        if arguments.stride is not None:
            grid = Grid(arguments.stride, arguments.window or arguments.stride, arguments.fps)
        folder = DetectionFolder(
            arguments.folder,
            annotations=arguments.annotations,
            features=arguments.features,
            streams=arguments.streams,
            feature_dim=arguments.feature_dim,
            grid=grid,
            subsets={"train": arguments.train, "test": arguments.test},
        )
        print(prepare(folder, arguments.data_dir))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
