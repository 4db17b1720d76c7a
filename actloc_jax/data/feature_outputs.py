"""Files of extracted features: in the layout of their recipe, with a manifest that appears once they are complete.

```
<video>.npy                                        [channels, time] or [time, channels], see feature_files.py
<video>_rgb.npy, _flow.npy, _fps.npy, _timestamps_ms.npy    of the layout video_features
<video>.json                                       see feature_manifests.py
```
numpy only.
"""

from __future__ import annotations

import numpy as np
from etils import epath

from actloc_jax.data.feature_files import TRANSPOSITIONS
from actloc_jax.data.feature_manifests import Manifest, read_manifest
from actloc_jax.data.feature_recipes import Recipe


def files_of(video: epath.Path, recipe: Recipe) -> list[epath.Path]:
    """The `.npy` files of a video.

    Args:
        video: folder and name, without suffix.
        recipe: of the features.
    """
    ends = [""]
    if recipe.files == "video_features":
        ends = [*(f"_{stream}" for stream in recipe.streams.split("+")), "_fps", "_timestamps_ms"]
    return [video.parent / f"{video.name}{end}.npy" for end in ends]


def is_complete(video: epath.Path, recipe: Recipe, manifest: Manifest) -> bool:
    """Whether the files of a video are there, and were made of this content with this recipe and these networks."""
    try:
        there = read_manifest(_manifest_file(video))
    except ValueError:
        return False
    return there is not None and there.made_as(manifest) and all(path.exists() for path in files_of(video, recipe))


def write(video: epath.Path, recipe: Recipe, features: np.ndarray, manifest: Manifest) -> None:
    """Writes the files of a video, the manifest last.

    Args:
        video: folder and name, without suffix.
        recipe: of the features.
        features: [rows, crops, channels] float32, of the rows that were computed; the streams one after another.
        manifest: how they were made.
    """
    video.parent.mkdir(parents=True, exist_ok=True)
    if recipe.per_frame and recipe.stride > 1:
        features = interpolated(features, recipe.computed_rows(manifest.frames), manifest.frames)
    arrays = [features]
    layout = recipe.files
    if layout == "video_features":
        arrays, layout = np.split(features, len(recipe.streams.split("+")), axis=-1), "time_first"
    arrays = [_on_disk(array, layout) for array in arrays]
    if recipe.files == "video_features":
        last_read = np.arange(manifest.rows) * recipe.stride + recipe.window
        arrays += [np.array(manifest.fps), last_read / manifest.fps * 1000]
    for path, array in zip(files_of(video, recipe), arrays, strict=True):
        _save(path, array)
    manifest.write(_manifest_file(video))


def interpolated(features: np.ndarray, computed: np.ndarray, rows: int) -> np.ndarray:
    """All rows of features of which some were computed; those between are linear.

    Args:
        features: [computed rows, ...].
        computed: their numbers, the first and the last row among them.
        rows: how many there are to be.
    """
    wanted = np.arange(rows)
    right = np.clip(np.searchsorted(computed, wanted), min(1, len(computed) - 1), None)
    left = np.maximum(right - 1, 0)
    share = (wanted - computed[left]) / np.maximum(computed[right] - computed[left], 1)
    share = share.astype(np.float32).reshape(-1, *[1] * (features.ndim - 1))
    return features[left] * (1 - share) + features[right] * share


def _on_disk(features: np.ndarray, layout: str) -> np.ndarray:
    """[rows, crops, channels] in the order of the axes of a layout; a single crop has no axis."""
    in_memory = features[:, 0] if features.shape[1] == 1 else features.swapaxes(0, 1)
    return np.ascontiguousarray(in_memory.transpose(np.argsort(TRANSPOSITIONS[layout, in_memory.ndim])))


def _manifest_file(video: epath.Path) -> epath.Path:
    return video.parent / f"{video.name}.json"


def _save(path: epath.Path, array: np.ndarray) -> None:
    unfinished = path.parent / f".{path.name}.unfinished"
    with unfinished.open("wb") as file:
        np.save(file, array)
    unfinished.replace(path)
