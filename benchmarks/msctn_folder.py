"""Writes data folders in the MS-TCN layout, for the programs that prepare real input."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np


def create(root: pathlib.Path, class_names: Sequence[str]) -> None:
    """Makes the folders and mapping.txt.

    Raises:
        FileExistsError: `root` exists and is not empty.
    """
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty; remove it or choose another --out")
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(class_names)))


def write_video(root: pathlib.Path, video: str, features: np.ndarray, names: Iterable[str]) -> None:
    """Writes one video: `features` as they are, one class name per frame."""
    np.save(root / "features" / f"{video}.npy", features)
    (root / "groundTruth" / f"{video}.txt").write_text("".join(f"{name}\n" for name in names))


def write_splits(root: pathlib.Path, folds: Sequence[Sequence[str]]) -> None:
    """Writes one split per fold of videos: split k tests on fold k and trains on the others."""
    for k, test in enumerate(folds, start=1):
        train = [video for fold in folds if fold is not test for video in fold]
        for subset, videos in (("train", train), ("test", test)):
            text = "".join(f"{video}.txt\n" for video in videos)
            (root / "splits" / f"{subset}.split{k}.bundle").write_text(text)
