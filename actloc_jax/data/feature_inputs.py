"""A user's own feature files of untrimmed videos, one per video, as records without segments (numpy only)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from actloc_jax.data import feature_files
from actloc_jax.data.detection_features import FeatureFiles
from actloc_jax.data.feature_manifests import Manifest, manifest_of
from actloc_jax.data.grid import Grid


class FeatureInputs:
    """Records of feature files, as `DetectionSource` gives them.

    Attributes:
        paths: the files, [time, channels] each.
        lengths: rows of each.

    Args:
        paths: `.npy`, or another format of `detection_features.py` that holds one array.
        feature_dim: channels that the checkpoint was trained on.
        grid: rows of a video, and how they were made where that is known -> which second each stands for.

    Raises:
        ValueError: files that cannot be used; all are named.
    """

    def __init__(
        self, paths: Sequence[epath.Path], *, feature_dim: int, grid: Callable[[int, Manifest | None], Grid]
    ) -> None:
        self.paths, self._grid = tuple(paths), grid
        self.lengths: list[int] = []
        found = []
        for path in self.paths:
            try:
                features = self._read(path)
                if len(features) < 2:
                    raise ValueError(f"{path} has {len(features)} rows; expected [time, channels] with at least two.")
                if features.shape[1] != feature_dim:
                    raise ValueError(
                        f"{path} has {features.shape[1]} channels; the checkpoint was trained on {feature_dim}."
                    )
                feature_files.require_finite(features, path)
                self.lengths.append(len(features))
            except ValueError as error:
                found.append(str(error))
        if found:
            raise ValueError("The inputs cannot be used:\n  " + "\n  ".join(found))

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """One video."""
        del epoch
        path = self.paths[position]
        features = self._read(path)
        grid = self._grid(len(features), manifest_of(path))
        return {
            "video": path.stem,
            "index": position,
            "features": features,
            "segments": np.zeros([0, 2], np.float32),
            "labels": np.zeros(0, np.int32),
            "duration": grid.covered_seconds(len(features)),
            "fps": grid.fps,
            "grid": grid,
        }

    __getitem__ = record

    @staticmethod
    def _read(path: epath.Path) -> np.ndarray:
        return FeatureFiles(path.parent, f"{{video}}{path.suffix}").read_unchecked(path.stem)
