"""Segmentation data prepared with tensorflow-datasets (ArrayRecord files, no TensorFlow): the form for Cloud TPU jobs.

    python -m actloc_jax.data.tfds_builders data/gtea gs://bucket/prepared

checks an MS-TCN folder, writes each of its videos once, with the bundles of all splits beside them, and prints the
folder of the prepared data. A config reads them, without the original folder, with

    --config.data.source=tfds --config.data.tfds_dir=<that folder>

`TfdsSource` gives records equal to those of the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from actloc_jax.data import problems
from actloc_jax.data.feature_files import LAYOUTS
from actloc_jax.data.samples import Record
from actloc_jax.data.segmentation import SegmentationFolder, SegmentationSource

RECORDS = "videos"  # the one split that tfds sees; the splits of the data set are in the metadata


class SegmentationFolderBuilder(tfds.core.GeneratorBasedBuilder):
    """Copies the records of an MS-TCN folder. Their order is kept, hence no shuffling.

    Args:
        source: all records, each video once.
        bundles: split name ("train.split1", ...) -> its videos.
        config_name: sub-folder of the prepared data, e.g. `gtea`.
        data_dir: where prepared data are kept.
    """

    VERSION = tfds.core.Version("1.0.0")

    # Else tfds looks for download checksums beside the code, by way of importlib_resources, which it does not declare.
    code_path = None

    def __init__(
        self, source: SegmentationSource, bundles: dict[str, list[str]], config_name: str, data_dir: epath.PathLike
    ) -> None:
        self._source = source
        self._bundles = bundles
        super().__init__(
            data_dir=data_dir,
            config=tfds.core.BuilderConfig(name=config_name),
            file_format="array_record",
        )

    def _info(self) -> tfds.core.DatasetInfo:
        features = self._source.record(0)["features"]
        shape = (*features.shape[:-2], None, features.shape[-1])
        return tfds.core.DatasetInfo(
            builder=self,
            description="Frame features and labels of videos for temporal action segmentation.",
            features=tfds.features.FeaturesDict(
                {
                    "features": tfds.features.Tensor(shape=shape, dtype=np.float32),
                    "labels": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                }
            ),
            metadata=tfds.core.MetadataDict(
                class_names=list(self._source.class_names),
                videos=list(self._source.videos),
                lengths=list(self._source.lengths),
                bundles=self._bundles,
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Record]]]:
        del dl_manager
        return {RECORDS: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, Record]]:
        for position in range(len(self._source)):
            record = self._source.record(position)
            yield position, {"features": np.ascontiguousarray(record["features"]), "labels": record["labels"]}


class TfdsSource:
    """Random access to prepared records, equal to those that `SegmentationSource` reads from the folder.

    Args:
        directory: folder of the prepared data, as returned by `prepare`.
        class_names: the classes expected, by index.
        videos: which of the prepared videos, in this order; a record's `index` is the position here.
        feature_dim: expected number of channels, if known.

    Raises:
        FileNotFoundError: no prepared data there.
        ValueError: prepared with other classes, of another width, or without some of the videos.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        class_names: Sequence[str],
        videos: Sequence[str],
        *,
        feature_dim: int | None = None,
    ) -> None:
        builder = _open(directory)
        channels = builder.info.features["features"].shape[-1]
        if feature_dim not in (None, channels):
            raise ValueError(f"{directory} holds features of {channels} channels, expected {feature_dim}")
        metadata = builder.info.metadata
        if tuple(metadata["class_names"]) != tuple(class_names):
            raise ValueError(
                f"{directory} was prepared with the classes {', '.join(metadata['class_names'])}, expected "
                f"{', '.join(class_names)}; prepare the data again"
            )
        places = {video: position for position, video in enumerate(metadata["videos"])}
        missing = [video for video in videos if video not in places]
        if missing or not videos:
            raise ValueError(
                f"{directory} lacks {len(missing)} of {len(videos)} videos, e.g. {', '.join(missing[:3])}; "
                "prepare the data again"
            )
        self._places = [places[video] for video in videos]
        self._records = builder.as_data_source(split=RECORDS)
        self._labels: dict[int, np.ndarray] = {}
        self.class_names = tuple(class_names)
        self.videos = tuple(videos)
        self.lengths = tuple(metadata["lengths"][place] for place in self._places)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, position: int) -> Record:
        return self.record(position)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video, as `SegmentationSource.record` gives it."""
        del epoch
        stored = self._records[self._places[position]]
        return {
            "video": self.videos[position],
            "index": position,
            "features": stored["features"],
            "labels": stored["labels"],
        }

    def labels(self, position: int) -> np.ndarray:
        """Labels of one video at the full frame rate, [time] int32, kept in memory once read."""
        if position not in self._labels:
            self._labels[position] = self.record(position)["labels"]
        return self._labels[position]

    def truths(self) -> dict[str, list[str]]:
        """Class names of all frames of all videos."""
        return {
            video: [self.class_names[label] for label in self.labels(position)]
            for position, video in enumerate(self.videos)
        }


def prepared_classes(directory: epath.PathLike) -> tuple[str, ...]:
    """Class names of prepared data, by index."""
    return tuple(_open(directory).info.metadata["class_names"])


def prepared_bundles(directory: epath.PathLike) -> dict[str, tuple[str, ...]]:
    """Split name ("train.split1", ...) -> its videos, in the order of the bundle."""
    return {name: tuple(videos) for name, videos in _open(directory).info.metadata["bundles"].items()}


def prepared_videos(directory: epath.PathLike, split: str) -> tuple[str, ...]:
    """Videos of a split such as "train.split1", in the order of its bundle.

    Raises:
        FileNotFoundError: no prepared data there.
        ValueError: the prepared data have no such split.
    """
    bundles = prepared_bundles(directory)
    if split not in bundles:
        raise ValueError(f"{directory} was prepared with the splits {', '.join(bundles)}; it has no {split}")
    return bundles[split]


def _open(directory: epath.PathLike) -> tfds.core.DatasetBuilder:
    """The reader of prepared data."""
    if not str(directory) or not (epath.Path(directory) / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"{str(directory)!r} holds no prepared data (no dataset_info.json). Prepare them with python -m "
            "actloc_jax.data.tfds_builders <data folder> <output folder>, and pass the folder that it prints"
        )
    return tfds.builder_from_directory(directory)


def prepare(folder: SegmentationFolder, data_dir: epath.PathLike) -> epath.Path:
    """Writes the videos of all splits; does nothing if they are prepared already.

    Args:
        folder: the data set.
        data_dir: where prepared data are kept; those of this folder get its name.

    Returns:
        The folder of the prepared data, for `TfdsSource`.

    Raises:
        FileNotFoundError: the folder has no splits.
        ValueError: there are errors in the data; all are listed.
    """
    splits = folder.splits()
    found, bundles = [], {}
    for split in splits or [1]:
        for subset in ("train", "val", "test"):
            if subset == "val" and not folder.bundle_path(subset, split).exists():
                continue
            bundles[f"{subset}.split{split}"] = folder.videos(subset, split)
            # All splits share their videos, so that reading the values once is enough.
            found += problems.find_problems(folder, subset, split, read_values=split == splits[0])
    problems.require_no_errors(dict.fromkeys(found))
    videos = list(dict.fromkeys(video for bundle in bundles.values() for video in bundle))
    source = SegmentationSource(folder, videos, name=str(folder.root))
    builder = SegmentationFolderBuilder(source, bundles, folder.root.name, data_dir)
    builder.download_and_prepare()
    return epath.Path(builder.data_dir)


def main() -> None:
    """Prepares a data folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="data folder with features/, groundTruth/, mapping.txt and splits/")
    parser.add_argument("data_dir", help="where prepared data are kept")
    parser.add_argument("--layout", default="auto", help="axes of the feature files: " + ", ".join(LAYOUTS))
    parser.add_argument("--feature_dim", type=int, default=None, help="expected number of channels")
    parser.add_argument(
        "--class_index",
        default="written_id",
        choices=["written_id", "line_number"],
        help="what numbers the classes: the id in mapping.txt, or its line",
    )
    arguments = parser.parse_args()
    try:
        folder = SegmentationFolder(
            arguments.folder,
            layout=arguments.layout,
            feature_dim=arguments.feature_dim,
            class_index=arguments.class_index,
        )
        print(prepare(folder, arguments.data_dir))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
