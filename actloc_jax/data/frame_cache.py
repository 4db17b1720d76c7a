"""Frame features and predictions of a frozen backbone, kept on disk for several noise seeds (numpy only).

```
<cache>/meta.json
<cache>/seed_000/<video>.npz    frame_features [time, channels] and frame_predictions [time, classes], float16
<cache>/seed_001/...
```
Time is at the sub-sampled rate. Epoch e trains on seed e mod n_seeds (`baiyang4/TST-action-segmentation:tst/train.py`).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from actloc_jax.data import boundaries
from actloc_jax.data.samples import Record, Sample
from actloc_jax.data.segmentation import SegmentationSource
from actloc_jax.data.subsampling import downsample_boundary


def cached_path(cache: epath.PathLike, seed: int, video: str) -> epath.Path:
    """File of one video and noise seed."""
    return epath.Path(cache) / f"seed_{seed:03d}" / f"{video}.npz"


def write_video(
    cache: epath.PathLike, seed: int, video: str, frame_features: np.ndarray, frame_predictions: np.ndarray
) -> None:
    """Writes one video as float16; the file appears under its name only when it is complete.

    Args:
        cache: the cache folder.
        seed: number of the noise seed.
        video: name of the video.
        frame_features: [time, channels].
        frame_predictions: [time, classes].
    """
    path = cached_path(cache, seed, video)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        frame_features=frame_features.astype(np.float16),
        frame_predictions=frame_predictions.astype(np.float16),
    )
    unfinished = path.parent / f".{path.name}.unfinished"
    unfinished.write_bytes(buffer.getvalue())
    unfinished.replace(path)


def read_video(cache: epath.PathLike, seed: int, video: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one video.

    Returns:
        `frame_features` [time, channels] and `frame_predictions` [time, classes], float32.

    Raises:
        FileNotFoundError: the video is not in the cache.
        ValueError: the file is damaged.
    """
    path = cached_path(cache, seed, video)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the stage that fills the cache to its end")
    return read_frames(path)


def read_frames(path: epath.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Reads one file: `frame_features` [time, channels] and `frame_predictions` [time, classes], float32.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    try:
        with np.load(io.BytesIO(epath.Path(path).read_bytes()), allow_pickle=False) as file:
            return file["frame_features"].astype(np.float32), file["frame_predictions"].astype(np.float32)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it and fill the cache again") from error


def write_meta(cache: epath.PathLike, meta: dict[str, Any]) -> None:
    """Writes `meta.json`; the last thing that the stage filling the cache does.

    Args:
        cache: the cache folder.
        meta: at least `n_seeds` and `sample_rate`.
    """
    epath.Path(cache).mkdir(parents=True, exist_ok=True)
    (epath.Path(cache) / "meta.json").write_text(json.dumps(meta, indent=1))


def read_meta(cache: epath.PathLike) -> dict[str, Any]:
    """Reads `meta.json`.

    Raises:
        FileNotFoundError: there is no complete cache.
    """
    path = epath.Path(cache) / "meta.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the cache is not complete; run the stage that fills it")
    return json.loads(path.read_text())


class CachedSource:
    """Random access to cached videos with their labels, the seed changing from epoch to epoch.

    Args:
        cache: folder of a complete cache.
        videos: the same videos with labels (their features are not read).

    Raises:
        FileNotFoundError: the cache is not complete.
    """

    def __init__(self, cache: epath.PathLike, videos: SegmentationSource) -> None:
        meta = read_meta(cache)
        self.cache = epath.Path(cache)
        self.n_seeds = int(meta["n_seeds"])
        self.sample_rate = int(meta["sample_rate"])
        self._videos = videos
        self.videos = videos.videos
        self.class_names = videos.class_names
        self.lengths = tuple(-(-len(videos.labels(position)) // self.sample_rate) for position in range(len(videos)))

    def __len__(self) -> int:
        return len(self.videos)

    def labels(self, position: int) -> np.ndarray:
        """Labels of one video at the full frame rate, [time] int32."""
        return self._videos.labels(position)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video with the backbone's outputs for noise seed `epoch mod n_seeds`.

        Returns:
            `video`, `index`, `frame_features` [time, channels] and `frame_predictions` [time, classes] float32,
            `labels` [time] int32 and `boundary` [time] float32, all at the sub-sampled rate; `total_frames`, frames of
            the video at the full rate.
        """
        video = self.videos[position]
        features, predictions = read_video(self.cache, epoch % self.n_seeds, video)
        full_labels = self._videos.labels(position)
        labels = full_labels[:: self.sample_rate]
        starts = downsample_boundary(boundaries.start_sequence(full_labels), self.sample_rate)
        time = min(len(features), len(labels))
        return {
            "video": video,
            "index": position,
            "total_frames": len(full_labels),
            "frame_features": features[:time],
            "frame_predictions": predictions[:time],
            "labels": labels[:time],
            "boundary": starts[:time],
        }


class CachedSample:
    """A cached record as it is, without the name and length of the video."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        del rng
        sample = {name: value for name, value in record.items() if name not in ("video", "total_frames")}
        return sample | {"index": np.int32(record["index"])}

    def length(self, frames: int) -> int:
        """Frames of a sample: cached videos are sub-sampled already."""
        return frames


class FrameFiles:
    """Files of frame features and predictions as records without labels, to predict from.

    Args:
        paths: `.npz` files as `write_video` writes them.
        sample_rate: video frames per frame of the files.
        feature_dim: expected channels of the features.
        num_classes: expected classes of the predictions.

    Raises:
        ValueError: files that do not fit; all are named.
    """

    def __init__(self, paths: Sequence[epath.Path], *, sample_rate: int, feature_dim: int, num_classes: int) -> None:
        self.paths, self._sample_rate = tuple(paths), sample_rate
        problems, lengths = [], []
        for path in self.paths:
            try:
                features, predictions = read_frames(path)
            except ValueError as error:
                problems.append(str(error))
                continue
            lengths.append(len(features))
            found, expected = (features.shape[1], predictions.shape[1]), (feature_dim, num_classes)
            if found != expected or len(features) != len(predictions):
                problems.append(
                    f"{path} has frame_features {features.shape} and frame_predictions {predictions.shape}; expected "
                    f"[time, {feature_dim}] and [time, {num_classes}]"
                )
        if problems:
            raise ValueError("the inputs cannot be used:\n  " + "\n  ".join(problems))
        self.lengths = tuple(lengths)

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video, as `CachedSource.record` without labels."""
        del epoch
        features, predictions = read_frames(self.paths[position])
        return {
            "video": self.paths[position].stem,
            "index": position,
            "total_frames": len(features) * self._sample_rate,
            "frame_features": features,
            "frame_predictions": predictions,
        }
