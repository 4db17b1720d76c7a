"""A small MS-TCN folder to read, and to spoil."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

CLASSES = ("background", "cut", "pour")
VIDEOS = {"a": 40, "b": 57, "c": 33, "d": 48}  # the last one is the test subset


def write_msctn_folder(root: pathlib.Path, *, layout: str = "channels_first", channels: int = 8) -> pathlib.Path:
    """Writes features, ground truth, mapping and one split."""
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(CLASSES)))
    rng = np.random.default_rng(0)
    for video, frames in VIDEOS.items():
        features = rng.standard_normal([frames, channels]).astype(np.float32)
        np.save(root / "features" / f"{video}.npy", features.T if layout == "channels_first" else features)
        labels = np.sort(rng.integers(3, size=frames))
        (root / "groundTruth" / f"{video}.txt").write_text("".join(f"{CLASSES[label]}\n" for label in labels))
    *train, test = VIDEOS
    (root / "splits" / "train.split1.bundle").write_text("".join(f"{video}.txt\n" for video in train))
    (root / "splits" / "test.split1.bundle").write_text(f"{test}.txt\n")
    return root


@pytest.fixture
def make_folder(tmp_path) -> Callable[..., pathlib.Path]:
    """Writes the folder under the test's own directory; see `write_msctn_folder`."""
    return lambda **options: write_msctn_folder(tmp_path / "dataset", **options)
