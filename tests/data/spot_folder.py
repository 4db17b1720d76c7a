"""A small data set in the files of SPOT's release, to read and to spoil."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

CLASSES = ("Kneeling", "Beer pong", "Archery")  # in the order of their index, not of the alphabet


def entry(seconds: float, frames: int, covered: int, *rows: tuple[float, float, str]) -> dict[str, Any]:
    """A video in the annotation file."""
    return {
        "duration_second": seconds,
        "duration_frame": frames,
        "feature_frame": covered,
        "annotations": [{"segment": [start, end], "label": label} for start, end, label in rows],
    }


ENTRIES = {
    "v_a": entry(20.0, 500, 480, (2, 8, "Beer pong"), (10, 19, "Kneeling")),
    "v_b": entry(40.0, 1000, 1008, (1, 30, "Archery")),
    "v_c": entry(30.0, 750, 752, (5, 25, "Kneeling"), (26, 28, "Beer pong")),  # the last segment covers 7 %
    "v_d": entry(10.0, 250, 240, (0, 10, "Beer pong")),
    "v_e": entry(50.0, 1250, 1248, (10, 30, "Archery")),
}
ORDER = {"v_d": "training", "v_a": "training", "v_b": "training", "v_c": "training", "v_e": "validation"}
HIDDEN = ("v_a", "v_c")


def write_spot_folder(
    root: pathlib.Path,
    *,
    entries: Mapping[str, dict[str, Any]] = ENTRIES,
    order: Mapping[str, str] = ORDER,
    hidden: tuple[str, ...] = HIDDEN,
    channels: int = 4,
) -> pathlib.Path:
    """Writes annotations, both csv files (`hidden` is unlabelled in the one called 0.5), classes, scores, features.

    Features are in `csv/` (with a header of column numbers) and in `npy/`; a video has a row per 16 frames.
    """
    for folder in ("csv", "npy"):
        (root / folder).mkdir(parents=True)
    (root / "anet_anno_action.json").write_text(json.dumps(entries))
    (root / "class_index.json").write_text(json.dumps({name: index for index, name in enumerate(CLASSES)}))
    (root / "spot_best_score.json").write_text(json.dumps({"v_e": {"class": "Archery", "score": 0.75}}))
    for name, unlabelled in (("video_info_new.csv", ()), ("video_info_new_0.5.csv", hidden)):
        lines = ["video,numFrame,seconds,fps,rfps,subset,featureFrame"]
        for video, subset in order.items():
            known = entries[video]
            subset = "training_unlabel" if video in unlabelled else subset
            frames, seconds, covered = (known[f] for f in ("duration_frame", "duration_second", "feature_frame"))
            lines.append(f"{video},{frames},{seconds},25.0,25.0,{subset},{covered}")
        (root / name).write_text("\n".join(lines) + "\n")
    for number, video in enumerate(order):
        rows = max(entries[video]["feature_frame"] // 16, 1)
        features = np.random.default_rng(number).standard_normal([rows, channels]).astype(np.float32)
        np.save(root / "npy" / f"{video}.npy", features)
        text = [",".join(map(str, range(channels)))] + [",".join(f"{value:.9g}" for value in row) for row in features]
        (root / "csv" / f"{video}.csv").write_text("\n".join(text) + "\n")
    return root
