"""Segmentation data prepared with tensorflow-datasets (ArrayRecord files, no TensorFlow): the form for Cloud TPU jobs.

    python -m actloc_jax.data.tfds_builders data/gtea gs://bucket/prepared --split=1

writes the records of an MS-TCN folder; `TfdsSource` reads them back equal to those of the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from actloc_jax.data.samples import Record
from actloc_jax.data.segmentation import SegmentationFolder, SegmentationSource


class SegmentationFolderBuilder(tfds.core.GeneratorBasedBuilder):
    """Copies the records of an MS-TCN folder. The order of the bundles is kept, hence no shuffling.

    Args:
        sources: subset ("train", "test", ...) -> records.
        config_name: sub-folder of the prepared data, e.g. `gtea_split1`.
        data_dir: where prepared data are kept.
    """

    VERSION = tfds.core.Version("1.0.0")

    # Else tfds looks for download checksums beside the code, by way of importlib_resources, which it does not declare.
    code_path = None

    def __init__(self, sources: dict[str, SegmentationSource], config_name: str, data_dir: epath.PathLike) -> None:
        self._sources = sources
        super().__init__(
            data_dir=data_dir,
            config=tfds.core.BuilderConfig(name=config_name),
            file_format="array_record",
        )

    def _info(self) -> tfds.core.DatasetInfo:
        first = next(iter(self._sources.values()))
        features = first.record(0)["features"]
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
                class_names=list(first.class_names),
                videos={subset: list(source.videos) for subset, source in self._sources.items()},
                lengths={subset: list(source.lengths) for subset, source in self._sources.items()},
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Record]]]:
        del dl_manager
        return {subset: self._generate_examples(source) for subset, source in self._sources.items()}

    def _generate_examples(self, source: SegmentationSource) -> Iterator[tuple[int, Record]]:
        for position in range(len(source)):
            record = source.record(position)
            yield position, {"features": np.ascontiguousarray(record["features"]), "labels": record["labels"]}


class TfdsSource:
    """Random access to prepared records, equal to those that `SegmentationSource` reads from the folder.

    Args:
        directory: folder of the prepared data, as returned by `prepare`.
        class_names: the classes expected, by index.
        videos: which of the prepared videos, in this order; a record's `index` is the position here.

    Raises:
        FileNotFoundError: no prepared data there.
        ValueError: prepared with other classes, or without some of the videos.
    """

    def __init__(self, directory: epath.PathLike, class_names: Sequence[str], videos: Sequence[str]) -> None:
        builder = _open(directory)
        metadata = builder.info.metadata
        if tuple(metadata["class_names"]) != tuple(class_names):
            raise ValueError(
                f"{directory} was prepared with the classes {', '.join(metadata['class_names'])}, expected "
                f"{', '.join(class_names)}; prepare the data again"
            )
        places = {
            video: (subset, position, metadata["lengths"][subset][position])
            for subset, names in metadata["videos"].items()
            for position, video in enumerate(names)
        }
        missing = [video for video in videos if video not in places]
        if missing or not videos:
            raise ValueError(
                f"{directory} lacks {len(missing)} of {len(videos)} videos, e.g. {', '.join(missing[:3])}; "
                "prepare the data again for this split"
            )
        self._places = [places[video] for video in videos]
        self._records = {subset: builder.as_data_source(split=subset) for subset, _, _ in self._places}
        self._labels: dict[int, np.ndarray] = {}
        self.class_names = tuple(class_names)
        self.videos = tuple(videos)
        self.lengths = tuple(length for _, _, length in self._places)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, position: int) -> Record:
        return self.record(position)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video, as `SegmentationSource.record` gives it."""
        del epoch
        subset, place, _ = self._places[position]
        stored = self._records[subset][place]
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


def prepared_videos(directory: epath.PathLike, subset: str) -> tuple[str, ...]:
    """Videos of a prepared subset, in the order of its bundle.

    Raises:
        ValueError: the prepared data have no such subset.
    """
    videos = _open(directory).info.metadata["videos"]
    if subset not in videos:
        raise ValueError(f"{directory} has the subsets {', '.join(videos)}, not {subset!r}")
    return tuple(videos[subset])


def _open(directory: epath.PathLike) -> tfds.core.DatasetBuilder:
    """The reader of prepared data."""
    if not (epath.Path(directory) / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"{directory} holds no prepared data (no dataset_info.json); prepare them with "
            "python -m actloc_jax.data.tfds_builders <data folder> <output folder> --split=<k>"
        )
    return tfds.builder_from_directory(directory)


def prepare(folder: SegmentationFolder, split: int, data_dir: epath.PathLike) -> epath.Path:
    """Writes the subsets of a split that have a bundle; does nothing if they are prepared already.

    Returns:
        The folder of the prepared data, for `TfdsSource`.
    """
    sources = {
        subset: folder.source(subset, split)
        for subset in ("train", "val", "test")
        if folder.bundle_path(subset, split).exists()
    }
    if not sources:
        folder.videos("train", split)  # raises the error that says which bundles exist
    builder = SegmentationFolderBuilder(sources, f"{folder.root.name}_split{split}", data_dir)
    builder.download_and_prepare()
    return epath.Path(builder.data_dir)


def main() -> None:
    """Prepares a data folder from the command line."""
    parser = argparse.ArgumentParser(description="Prepare an MS-TCN data folder as ArrayRecord files.")
    parser.add_argument("folder", help="data folder with features/, groundTruth/, mapping.txt and splits/")
    parser.add_argument("data_dir", help="where prepared data are kept")
    parser.add_argument("--split", type=int, default=1, help="number of the split")
    parser.add_argument("--layout", default="auto", help="axes of the feature files; see feature_files.py")
    parser.add_argument("--feature_dim", type=int, default=None, help="expected number of channels")
    parser.add_argument("--class_index", default="written_id", choices=["written_id", "line_number"])
    arguments = parser.parse_args()
    folder = SegmentationFolder(
        arguments.folder,
        layout=arguments.layout,
        feature_dim=arguments.feature_dim,
        class_index=arguments.class_index,
    )
    print(prepare(folder, arguments.split, arguments.data_dir))


if __name__ == "__main__":
    main()
