"""Video Swin and TALLFormer checkpoints become model checkpoints of the system `tallformer`, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.backbones.video_swin import VideoSwinSizes
from actloc_jax.layers.functional import Network, Params, flatten, united
from actloc_jax.systems.tallformer import settings as networks
from actloc_jax.systems.tallformer.completion import SLOW_BACKBONE
from actloc_jax.systems.tallformer.system import BACKBONE_STAGE
from actloc_jax.training import checkpoints
from convert import tallformer_buffers, tallformer_tables, torch_reader
from convert.checked import (
    Converted,
    counters,
    float32,
    fresh,
    sorted_problems,
    state_dict,
    stored_buffers,
    with_types,
)
from convert.class_names import class_names_of
from convert.files import sha256
from convert.mapping import Report, shape_text
from convert.tallformer_config import KINDS, PATCH, PREFIX, WINDOW, Kind, config_for, kind_of, num_classes
from convert.tallformer_head_tables import SLOW_PREFIX, split_statistics

State = dict[str, np.ndarray]

TRAINED, MOMENTUM = "backbone", "momentum"  # what --weights chooses from
DETECTOR = "detector/"


def convert(
    source: epath.Path,
    *,
    dataset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    class_names: epath.PathLike | None = None,
    allow_missing: str | None = None,
    allow_extra: str | None = None,
    weights: str = TRAINED,
) -> Converted:
    """Reads a published file and maps it completely.

    Args:
        source: a Kinetics file of Video Swin, an ImageNet file of Swin (two-dimensional), or a detector's
            `epoch_<e>_weights.pth` (THUMOS14) or `checkpoint-<e>.ckpt` (ActivityNet, HACS).
        dataset: name of the experiment file that gives what shapes do not tell; None: the usual one of such files.
        settings: config fields to use instead, such as `{"network.detector.window_heads": 2}`.
        class_names: a file of class names; without it 20 classes are those of THUMOS14.
        allow_missing: regular expression of PyTorch keys that may be absent; they get fresh initial values.
        allow_extra: regular expression of PyTorch keys that may be left out.
        weights: with which of two backbones the model predicts, where the file has two: "backbone" for the trained
            one, "momentum" for its slow average. The model gets both.

    Raises:
        ValueError: unreadable, of another system, or with keys that differ from the network's: all are listed.
    """
    settings = dict(settings or {})
    state, wrapper = state_dict(torch_reader.read(source), source)
    kind, prefix = kind_of(state, source)
    state, notes = _own_part(state, kind)
    is_slow, more = _two_backbones(state, kind, prefix, weights, source)
    notes += more
    if is_flat := state.get(f"{kind.backbone_prefix(prefix)}patch_embed.proj.weight", np.zeros(())).ndim == 4:
        state, more = _inflated(state, kind.backbone_prefix(prefix), settings)
        notes += more
    shapes = {key.removeprefix(prefix): np.shape(array) for key, array in state.items()}
    config, more = config_for(kind, shapes, dataset, _of_backbones(kind, is_slow, weights) | settings)
    notes += more
    names = class_names_of(num_classes(kind, shapes), class_names, source, notes) if kind.detector else ()
    parts = Parts(kind, config, len(names), is_slow)
    report, buffers = compared(state, prefix, parts)
    problems, allowed = sorted_problems(report, allow_missing, allow_extra)
    problems += buffers.problems
    if problems:
        raise ValueError(f"{source} ({kind.name}) does not fit its network:\n  " + "\n  ".join(problems))
    arrays, types = float32(report)
    arrays |= fresh(parts.init, [path for path in parts.shapes if path not in arrays])
    params, beside = _divided({path: arrays[path] for path in parts.shapes})
    if buffers.found:
        notes.append(f"{len(buffers.found)} buffers: checked, not parameters")
    if unused := [name for name in wrapper if name not in ("epoch", "model", "state_dict")]:
        notes.append(f"not used: {', '.join(unused)}")
    meta = {
        **_meta(kind, config, names),
        "source": {
            "file": source.name, "sha256": sha256(source), "family": kind.name, "types": types | buffers.types,
            "prefix": prefix, "weights": weights, "inflated": is_flat,
            "absent": [*buffers.absent, *report.missing], **counters(wrapper, "epoch"),
        },
    }  # fmt: skip
    computed = len(buffers.found) - len(buffers.kept)
    return Converted(kind.name, params, meta, report, notes + allowed, buffers.kept, beside, computed)


def back(folder: epath.Path) -> State:
    """The PyTorch state dict of a model checkpoint: key -> array in PyTorch's layout, buffers included.

    A converted file comes back bit by bit: with its prefix, and without the keys that it lacked; a two-dimensional
    backbone as the video network that it became. A model trained here gets the keys of a published snapshot.

    Raises:
        ValueError: it is a checkpoint of another system.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != "tallformer":
        raise ValueError(
            f"{folder} holds a model of system {meta['system']!r}; this command writes those of 'tallformer'"
        )
    config, source = ConfigDict(meta["config"]), meta.get("source", {})
    detector = "" if meta["stage"] == BACKBONE_STAGE else config.network.kind
    (kind,) = (kind for kind in KINDS if kind.detector == detector)
    prefix = source.get("prefix", "")
    slow = flatten(model.get(SLOW_BACKBONE, {}), f"{SLOW_BACKBONE}/")
    flat = flatten(model["params"]) | slow | flatten(model["batch_stats"], DETECTOR)
    state = kind.table(prefix).to_torch(flat)
    shapes = {key: array.shape for key, array in state.items()}
    window = networks.backbone_sizes(config).window
    state |= tallformer_buffers.published(kind, prefix, shapes, window) | stored_buffers(folder)
    absent = set(source.get("absent", ()))
    return with_types({key: array for key, array in state.items() if key not in absent}, meta)


class Parts:
    """The networks of a model, as one.

    Attributes:
        kind: of the file.
        window: of the backbone.
        shapes: flat path -> shape of all parameters and running statistics; `backbone/`, `slow_backbone/` or
            `detector/` is in front unless it is a backbone alone.
    """

    def __init__(self, kind: Kind, config: ConfigDict, classes: int, is_slow: bool = False) -> None:
        """Makes the networks; with `is_slow` there is a slow average of the backbone, too."""
        self.kind = kind
        self.is_slow = is_slow
        self.window = networks.backbone_sizes(config).window
        self._backbone = networks.backbone_network(config)
        self._detector: Network | None = None
        if kind.detector:
            networks.clip_size(config)  # windows must be whole chunks
            self._detector = networks.detector_network(config, networks.detector_sizes(config, classes))
        abstract = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        self.shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}

    def init(self, key: jax.Array) -> Params:
        """Initial values of everything, nested."""
        if self._detector is None:
            return self._backbone.init(key)
        backbone = self._backbone.init(key)
        slow = {SLOW_BACKBONE: backbone} if self.is_slow else {}
        detector = united(self._detector.init(key), self._detector.init_statistics())
        return {"backbone": backbone, **slow, "detector": detector}


def compared(state: Mapping[str, np.ndarray], prefix: str, parts: Parts) -> tuple[Report, tallformer_buffers.Compared]:
    """A state dict beside a model: its parameters and running statistics, and its buffers.

    Args:
        state: PyTorch key with prefix -> array.
        prefix: of its keys.
        parts: of the model.
    """
    table = parts.kind.table(prefix)
    entries = {path: table.entry_of_path(path) for path in parts.shapes}
    published = tallformer_buffers.published(
        parts.kind, prefix, {entry.key: entry.torch_shape(parts.shapes[path]) for path, entry in entries.items()},
        parts.window,
    )  # fmt: skip
    report = table.to_ours({key: array for key, array in state.items() if key not in published}, parts.shapes)
    return report, tallformer_buffers.compared(state, published)


def _own_part(state: State, kind: Kind) -> tuple[State, list[str]]:
    """A file without classifiers of videos and pictures, and a note of them."""
    left = {key: array for key, array in state.items() if re.fullmatch(kind.left_out, key.removeprefix(PREFIX))}
    listed = ", ".join(f"{key} {shape_text(array.shape)}" for key, array in left.items())
    notes = [f"left out, no part of a detector, and not written by --back: {listed}"] if left else []
    return {key: array for key, array in state.items() if key not in left}, notes


def _two_backbones(state: State, kind: Kind, prefix: str, weights: str, source: epath.Path) -> tuple[bool, list[str]]:
    """Whether a file has a slow average of its backbone, and a note of which one predicts.

    Raises:
        ValueError: the slow average is asked for, and the file has none.
    """
    slow = prefix + SLOW_PREFIX
    if kind.detector and any(key.startswith(slow) for key in state):
        chosen = networks.SLOW if weights == MOMENTUM else networks.TRAINED
        return True, [
            f"two backbones: the trained one, and its slow average {slow}*, with which the original evaluates unless "
            f"told otherwise; this model predicts with decode.backbone={chosen} (--weights={TRAINED} or {MOMENTUM})"
        ]
    if weights == MOMENTUM:
        raise ValueError(
            f"--weights={MOMENTUM}: {source} has no {slow}*, the slow average of a backbone; only files of the "
            "original's momentum variant have it. Leave the option out"
        )
    return False, []


def _of_backbones(kind: Kind, is_slow: bool, weights: str) -> dict[str, Any]:
    """Config fields that say which backbones a detector has."""
    if not kind.detector:
        return {}
    predicting = {"decode.backbone": networks.SLOW if weights == MOMENTUM else networks.TRAINED}
    return predicting | ({"memory.kind": networks.MOMENTUM} if is_slow else {})


def _divided(arrays: Mapping[str, np.ndarray]) -> tuple[State, dict[str, State]]:
    """Parameters, and what stands beside them in a model checkpoint: running statistics, the slow backbone."""
    params, statistics = split_statistics(arrays)
    below = f"{SLOW_BACKBONE}/"
    slow = {path.removeprefix(below): array for path, array in params.items() if path.startswith(below)}
    params = {path: array for path, array in params.items() if not path.startswith(below)}
    statistics = {path.removeprefix(DETECTOR): array for path, array in statistics.items()}
    return params, {"batch_stats": statistics} | ({SLOW_BACKBONE: slow} if slow else {})


def _inflated(state: State, below: str, settings: Mapping[str, Any]) -> tuple[State, list[str]]:
    """A video network from a two-dimensional one, as published, and a note of what was done.

    Raises:
        ValueError: a table is not that of a square window.
    """
    window = tuple(settings.get(WINDOW, VideoSwinSizes.window))
    frames = settings.get(PATCH, VideoSwinSizes.patch)[0]
    buffers = tallformer_tables.BACKBONE_BUFFERS
    kept = {key: array for key, array in state.items() if key.rsplit(".", 1)[-1] not in buffers}
    flat = {key.removeprefix(below): array.astype(np.float32) for key, array in kept.items() if key.startswith(below)}
    table = next((len(array) for key, array in flat.items() if key.endswith("bias_table")), 0)
    note = f"a two-dimensional network: its patches are spread over {frames} frames, its tables of relative positions "
    if table and table != (2 * window[1] - 1) * (2 * window[2] - 1):
        note += f"resized from {table} rows to a window of {window[1]} x {window[2]} (bicubic) and "
    note += f"repeated for {2 * window[0] - 1} distances in time, as published; --back writes the video network"
    inflated = tallformer_tables.inflated(flat, frames, window)
    return {key: array for key, array in kept.items() if not key.startswith(below)} | {
        below + key: array for key, array in inflated.items()
    }, [note]


def _meta(kind: Kind, config: ConfigDict, names: Sequence[str]) -> dict[str, Any]:
    """What every model checkpoint says of itself, as `actloc_jax.workdirs.model_meta`."""
    return {
        "system": "tallformer",
        "stage": "train" if kind.detector else BACKBONE_STAGE,
        "stage_index": config.stages.index("train"),
        "config": json.loads(config.to_json_best_effort()),
        "class_names": list(names),
        "frame_rate": 0.0,  # segments are in seconds
        "sample_rate": config.data.sample_rate,
    }
