"""TST's cache of backbone outputs (`seed_000/<video>.pt`, float16) becomes ours (`seed_000/<video>.npz`)."""

from __future__ import annotations

import json

import numpy as np
from etils import epath

from actloc_jax.data import frame_cache
from convert import torch_reader

_META = ("n_seeds", "sample_rate")


def convert_cache(source: epath.Path, target: epath.Path) -> int:
    """Converts a whole cache; files that are there already are kept, so that a stopped conversion goes on.

    Args:
        source: folder with `meta.json` and `seed_xxx/<video>.pt`, each `frame_features` and `frame_predictions`
            [channels, time] float16.
        target: folder of the new cache, with [time, channels] arrays.

    Returns:
        Number of files in the new cache.

    Raises:
        FileNotFoundError: there is no cache in `source`.
        ValueError: its `meta.json` is incomplete, or a file does not hold what it should; all such files are listed.
    """
    if not (source / "meta.json").exists():
        raise FileNotFoundError(f"{source} has no meta.json; expected a cache folder that TST's precomputation wrote")
    meta = json.loads((source / "meta.json").read_text())
    if not all(isinstance(meta.get(key), int) for key in _META):
        raise ValueError(f"{source / 'meta.json'} lacks {' or '.join(_META)}; it has {', '.join(meta)}")
    files = [(seed, path) for seed in range(meta["n_seeds"]) for path in _videos(source, seed)]
    problems = []
    for seed, path in files:
        if not frame_cache.cached_path(target, seed, path.stem).exists():
            try:
                frame_cache.write_video(target, seed, path.stem, *_arrays(path))
            except ValueError as err:
                problems.append(str(err))
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(files)} cache files cannot be converted:\n  " + "\n  ".join(problems)
        )
    frame_cache.write_meta(target, meta)
    return len(files)


def _videos(source: epath.Path, seed: int) -> list[epath.Path]:
    """The files of one noise seed; every seed must hold the same videos as the first."""
    folder, first = source / f"seed_{seed:03d}", source / "seed_000"
    names = sorted(path.name for path in folder.glob("*.pt")) if folder.exists() else []
    expected = sorted(path.name for path in first.glob("*.pt"))
    if not names or names != expected:
        missing = sorted(set(expected) - set(names))
        raise ValueError(
            f"{folder} is incomplete: {len(names)} videos, {len(expected)} in {first.name}"
            + (f"; missing {', '.join(missing[:5])}" if missing else "")
        )
    return [folder / name for name in names]


def _arrays(path: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and predictions of one video, [time, channels] each."""
    content = torch_reader.read(path)
    try:
        features, predictions = content["frame_features"], content["frame_predictions"]
        if features.ndim == predictions.ndim == 2 and features.shape[1] == predictions.shape[1]:
            return features.T, predictions.T
    except (KeyError, TypeError, AttributeError, IndexError) as err:
        raise ValueError(f"{path} lacks frame_features or frame_predictions") from err
    raise ValueError(
        f"{path} has frame_features {features.shape} and frame_predictions {predictions.shape}; expected [channels, "
        "time] of equal length"
    )
