"""Fills the memory before training: features of all training videos, one file each, resumable.

```
<workdir>/bank/made_with.json   what the features were made with
<workdir>/bank/<video>.npy      float32 [rows, channels]
```
Source: `klauscc/TALLFormer:tools/data`; paper, section 3.3.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.data import video_augmentation
from actloc_jax.data.json_files import read_json, write_json
from actloc_jax.data.video_clips import read_chunks
from actloc_jax.data.video_source import AnnotatedVideos
from actloc_jax.layers.functional import Network, Params
from actloc_jax.ops import video_frames
from actloc_jax.systems.api import JobStage
from actloc_jax.systems.tallformer import settings
from actloc_jax.systems.tallformer.bank import rows_of_video
from actloc_jax.training import checkpoints, sharding

log = logging.getLogger(__name__)

MADE_WITH = "made_with.json"


def fill_stage(config: ConfigDict, source: AnnotatedVideos, workdir: epath.Path) -> JobStage:
    """Writes the features of the training videos, as the backbone gives them before it is trained."""
    folder = bank_folder(workdir)
    made_with = folder / MADE_WITH

    def is_current() -> bool:
        return made_with.exists() and read_json(made_with, what="what a bank was made with") == facts(config, source)

    def done() -> bool:
        return is_current() and all(feature_file(folder, video.video).exists() for video in source.videos)

    def run() -> None:
        with sharding.first_process_first():
            if not is_current():
                if folder.exists():
                    log.info("%s was made with other settings; it is filled anew", folder)
                    folder.rmtree()
                folder.mkdir(parents=True)
                write_json(made_with, facts(config, source))
        _write_features(config, source, folder)
        sharding.wait_for_all("the memory bank is filled")

    return JobStage("fill_bank", run, done)


def bank_folder(workdir: epath.Path) -> epath.Path:
    """Where the features lie."""
    return workdir / "bank"


def feature_file(folder: epath.Path, video: str) -> epath.Path:
    """The features of a video."""
    return folder / f"{video}.npy"


def row_counts(config: ConfigDict, source: AnnotatedVideos) -> tuple[int, ...]:
    """Rows of each video."""
    chunk, rows = config.clip.chunk, settings.rows_per_chunk(config)
    return tuple(rows_of_video(frames, chunk_frames=chunk, rows_per_chunk=rows) for frames in source.lengths)


def facts(config: ConfigDict, source: AnnotatedVideos) -> dict[str, Any]:
    """What features depend on, as JSON gives it back."""
    content = {
        "backbone": json.loads(config.network.backbone.to_json()),
        "weights": config.network.backbone_weights,
        "seed": config.train.seed,
        "dtype": config.train.dtype,
        "frames": json.loads(config.data.to_json()),
        "chunk": config.clip.chunk,
        "crop": list(config.clip.crop),
        "training_mode": config.quirks.bank_filled_in_training_mode,
        "rows": dict(zip((video.video for video in source.videos), row_counts(config, source), strict=True)),
    }
    return json.loads(json.dumps(content))


def first_parameters(config: ConfigDict, backbone: Network) -> Params:
    """Parameters of the backbone before training: those of a checkpoint, else random ones.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, or one of another backbone, or a file that is not converted.
    """
    given = config.network.backbone_weights
    if not given:
        return backbone.init(settings.backbone_key(config))
    if epath.Path(given).is_file():
        raise ValueError(
            f"config.network.backbone_weights={given} is a file; expected the folder of a model checkpoint. Convert it "
            f"first: python -m convert tallformer {given} <folder>, then give that folder."
        )
    folder = checkpoints.find_model(given)
    model, _ = checkpoints.load_model(folder)
    params = model["params"].get("backbone", model["params"])
    advice = "set config.network.backbone to the backbone of the checkpoint."
    return checkpoints.fitted(params, backbone.shapes(), folder, advice)


def stored_features(config: ConfigDict, source: AnnotatedVideos, workdir: epath.Path) -> Callable[[int], np.ndarray]:
    """The features of a video [rows, channels] by its number, as `fill_stage` left them.

    Raises:
        FileNotFoundError: the bank has not been filled, or not to the end.
        ValueError: it was filled with other settings.
    """
    folder = bank_folder(workdir)
    advice = "Add the stage fill_bank (--config.stages=\"('fill_bank','train')\")"
    if not (folder / MADE_WITH).exists():
        raise FileNotFoundError(f"{folder} has no {MADE_WITH}: the memory bank has not been filled. {advice}.")
    found, wanted = read_json(folder / MADE_WITH, what="what a bank was made with"), facts(config, source)
    changed = sorted(name for name in wanted if found.get(name) != wanted[name])
    if changed:
        raise ValueError(
            f"{folder} was filled with other settings than this config's (different: {', '.join(changed)}), so its "
            f"features are not those of this backbone on these clips. {advice}, which fills it anew, or use another "
            "--workdir."
        )

    def read(position: int) -> np.ndarray:
        path = feature_file(folder, source.videos[position].video)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: the memory bank has not been filled to the end. {advice}.")
        if "://" in os.fspath(path):
            return np.load(io.BytesIO(path.read_bytes()))
        return np.load(path, mmap_mode="r")

    return read


def _write_features(config: ConfigDict, source: AnnotatedVideos, folder: epath.Path) -> None:
    """Every process takes its share of the videos, and of those the ones that have no file yet.

    The shares do not depend on the files: what a faster process has written already must not move them.
    """
    share = range(jax.process_index(), len(source), jax.process_count())
    missing = [position for position in share if not feature_file(folder, source.videos[position].video).exists()]
    log.info("features of %d of %d videos are missing", len(missing), len(share))
    backbone = settings.backbone_network(config)
    features = _features(config, backbone) if missing else None
    for done, position in enumerate(missing, 1):
        video = source.videos[position].video
        path = feature_file(folder, video)
        unfinished = folder / f".{video}.unfinished"
        with unfinished.open("wb") as file:
            np.save(file, features(source, position))
        unfinished.rename(path)
        if done % 50 == 0 or done == len(missing):
            log.info("features of %d of %d videos are written", done, len(missing))


def _features(config: ConfigDict, backbone: Network) -> Callable[[AnnotatedVideos, int], np.ndarray]:
    """What computes the features [rows, channels] of a video, some chunks at a time, on this process's devices."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    everywhere, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    params = jax.device_put(sharding.to_host(first_parameters(config, backbone)), everywhere)
    size, devices = settings.clip_size(config), jax.local_device_count()
    at_once = -(-config.memory.fill_chunks // devices) * devices
    root = jax.random.fold_in(jax.random.key(config.train.seed), 2**31 - 4)

    def compute(params: Params, frames: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
        rngs = nnx.Rngs(dropout=key) if config.quirks.bank_filled_in_training_mode else None
        chunks = jax.vmap(video_frames.prepare)(frames, mask)
        return backbone(params, chunks[:, None], rngs, method="chunk_features")[:, 0].astype(jnp.float32)

    compiled = jax.jit(compute, in_shardings=(everywhere, rows, rows, everywhere), out_shardings=everywhere)

    def features(source: AnnotatedVideos, position: int) -> np.ndarray:
        frames = source.frames[position]
        corner = video_augmentation.centre_crop(*frames.shape[:2], size.crop)
        count, key = -(-len(frames) // size.chunk), jax.random.fold_in(root, position)
        parts = []
        for first in range(0, count, at_once):
            numbers = np.arange(first, first + at_once)
            numbers = np.where(numbers < count, numbers, -1)
            pictures, mask = read_chunks(frames, numbers, size, corner, 0, len(frames))
            parts.append(np.asarray(compiled(params, pictures, mask, jax.random.fold_in(key, first))))
        return np.concatenate(parts)[:count].reshape(-1, parts[0].shape[-1])

    return features
