"""Data and workdirs on gs://, against a bucket in memory: what docs/tpu.md says can be read there is read there."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from ml_collections import ConfigDict

from actloc_jax import splits, systems, workdirs
from actloc_jax.data.video_frames import open_frames
from actloc_jax.systems.tallformer import filling
from actloc_jax.training.logging import MetricWriter, read_metrics
from tests.tiny import tiny_asot, tiny_config, tiny_fustal, tiny_spot, tiny_tallformer_training


class Bucket(MemoryFileSystem):
    """Stands for Cloud Storage; its paths may begin with gs://."""

    protocol = ("gcs", "gs")
    store: dict[str, Any] = {}  # noqa: RUF012  of the class, as in MemoryFileSystem
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))


@pytest.fixture
def bucket() -> Iterator[epath.Path]:
    """An empty bucket."""
    known = dict(fsspec.registry)
    for protocol in Bucket.protocol:
        fsspec.register_implementation(protocol, Bucket, clobber=True)
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    yield epath.Path("gs://bucket")
    for protocol in Bucket.protocol:
        fsspec.register_implementation(protocol, known.get(protocol, "gcsfs.GCSFileSystem"), clobber=True)


def _upload(folder: pathlib.Path, to: epath.Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            target = to / str(path.relative_to(folder))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


@pytest.mark.parametrize("make", [tiny_config, tiny_asot, tiny_fustal, tiny_spot], ids=lambda make: make.__name__)
def test_features_are_read_from_a_bucket(bucket: epath.Path, tmp_path: pathlib.Path, make: Any) -> None:
    config: ConfigDict = make()
    config = splits.of_split(config, splits.chosen(config)[0])
    local = systems.of(config).dataset(config, epath.Path(tmp_path))
    _upload(tmp_path / "demo_data", bucket / "run" / "demo_data")
    remote = systems.of(config).dataset(config, bucket / "run")
    workdirs.check_splits(remote, (config.data.train_split, config.data.test_split))
    expected, found = (dataset.source(config.data.train_split).record(0) for dataset in (local, remote))
    assert found["video"] == expected["video"]
    np.testing.assert_array_equal(found["features"], expected["features"])


def test_a_bank_is_written_to_and_read_from_a_bucket(bucket: epath.Path, tmp_path: pathlib.Path) -> None:
    config = tiny_tallformer_training(tmp_path / "videos")
    source = systems.of(config).dataset(config, epath.Path(tmp_path)).source("train")
    fill = filling.fill_stage(config, source, bucket / "run")
    assert not fill.done()
    fill.run()
    assert fill.done()
    read = filling.stored_features(config, source, bucket / "run")
    counts = filling.row_counts(config, source)
    assert [read(position).shape for position in range(len(source))] == [(rows, 8) for rows in counts]
    assert sorted(path.name for path in (bucket / "run" / "bank").iterdir()) == sorted(
        ["made_with.json", *(f"{video.video}.npy" for video in source.videos)]
    )


def test_metrics_are_kept_in_a_bucket(bucket: epath.Path) -> None:
    for step in (1, 2):
        with MetricWriter(bucket / "run") as writer:
            writer.resume(step - 1, stage="train")
            writer.write(step, {"loss": 0.5}, stage="train")
    assert [row["step"] for row in read_metrics(bucket / "run")] == [1, 2]


def test_frames_are_read_from_a_bucket_as_images_only(bucket: epath.Path) -> None:
    from PIL import Image

    for number in range(2):
        path = bucket / "videos" / "v" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.fromarray(np.full([4, 5, 3], number, np.uint8)).save(file, format="png")
    assert open_frames(bucket / "videos" / "v", fps=10.0).read(0, 2)[:, 0, 0, 0].tolist() == [0, 1]
    for name in ("v.mp4", "v.npy"):
        (bucket / "videos" / name).write_bytes(b"something")
        with pytest.raises(ValueError, match=r"not a local file.*mount the bucket"):
            open_frames(bucket / "videos" / name, fps=10.0)
