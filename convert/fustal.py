"""Checkpoints of FuSTAL, TriDet and ActionFormer become model checkpoints of the system `fustal`, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.systems.fustal.settings import detector_network, detector_sizes, generator_network
from actloc_jax.training import checkpoints
from convert import torch_reader
from convert.checked import Converted, counters, float32, fresh, sorted_problems, state_dict, with_types
from convert.class_names import class_names_of
from convert.files import sha256
from convert.fustal_config import FAMILIES, PREFIX, Family, config_for, family_of, num_classes, prefix_of

AVERAGE, RAW = "state_dict_ema", "state_dict"  # the entries of a student's file


def convert(
    source: epath.Path,
    *,
    dataset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    class_names: epath.PathLike | None = None,
    allow_missing: str | None = None,
    allow_extra: str | None = None,
    weights: str = "ema",
) -> Converted:
    """Reads a published file and maps it completely.

    Args:
        source: the generator's `model_best.pth.tar`, or an `epoch_XXX.pth.tar` of student, TriDet or ActionFormer.
        dataset: name of the experiment file that gives what shapes do not tell; None: the usual one of such files.
        settings: config fields to use instead, such as `{"network.student.windows": 9}`.
        class_names: a file of class names; without it 20 classes are those of THUMOS14.
        allow_missing: regular expression of PyTorch keys that may be absent; they get fresh initial values.
        allow_extra: regular expression of PyTorch keys that may be left out.
        weights: "ema" for the average over the training, where the file has one; "raw" for the last step.

    Raises:
        ValueError: unreadable, of another system, or with keys that differ from the network's: all are listed.
    """
    state, wrapper, chosen = _chosen(torch_reader.read(source), weights, source)
    prefix = prefix_of(state)
    shapes = {key.removeprefix(prefix): np.shape(array) for key, array in state.items()}
    family = family_of(list(shapes), source)
    config, notes = config_for(family, shapes, dataset, settings or {})
    names = class_names_of(num_classes(family, shapes), class_names, source, notes)
    network = _network(family, config, len(names))
    expected = {path: leaf.shape for path, leaf in flatten(network.shapes()).items()}
    report = family.table(prefix).to_ours(state, expected)
    problems, allowed = sorted_problems(report, allow_missing, allow_extra)
    if problems:
        raise ValueError(f"{source} ({family.name}) does not fit its network:\n  " + "\n  ".join(problems))
    params, types = float32(report)
    params |= fresh(network.init, [path for path in expected if path not in params])
    meta = {
        "system": "fustal",
        "stage": family.stage,
        "stage_index": config.stages.index(family.stage),
        "config": json.loads(config.to_json_best_effort()),
        "class_names": list(names),
        "frame_rate": 0.0,  # segments are in seconds
        "sample_rate": config.data.sample_rate,
        "source": {
            "file": source.name, "sha256": sha256(source), "family": family.name, "types": types,
            "prefix": prefix, "weights": chosen, **counters(wrapper, "epoch"),
        },
    }  # fmt: skip
    notes = _notes_on_weights(family, wrapper, weights, chosen) + notes + allowed
    return Converted(family.name, {path: params[path] for path in expected}, meta, report, notes)


def back(folder: epath.Path) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model checkpoint: key -> array in PyTorch's layout.

    A converted file comes back bit by bit, with its prefix. A student trained here gets the published prefix.

    Raises:
        ValueError: it is a checkpoint of another system.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != "fustal":
        raise ValueError(f"{folder} holds a model of system {meta['system']!r}; this command writes those of 'fustal'")
    block = meta["config"]["network"]["student"]["block"] if meta["stage"] == "student" else ""
    (family,) = (family for family in FAMILIES if family.block == block)
    prefix = meta.get("source", {}).get("prefix", PREFIX if block else "")
    return with_types(family.table(prefix).to_torch(flatten(model["params"])), meta)


def _chosen(read: Any, weights: str, source: epath.Path) -> tuple[dict[str, np.ndarray], Mapping[str, Any], str]:
    """The state dict that `weights` asks for, the wrapper around it (else empty), and its name there (else "")."""
    if not isinstance(read, Mapping) or not isinstance(read.get(AVERAGE, read.get(RAW)), Mapping):
        return *state_dict(read, source), ""
    name = AVERAGE if AVERAGE in read and (weights == "ema" or RAW not in read) else RAW
    state, _ = state_dict(read[name], source)
    return state, read, name


def _notes_on_weights(family: Family, wrapper: Mapping[str, Any], weights: str, chosen: str) -> list[str]:
    """Which of the file's weights were taken, and what of the file was not."""
    notes = []
    if family.block and (weights == "ema") != (chosen == AVERAGE):
        kind, other = ("average over the training", "raw") if weights == "ema" else ("raw weights", "averaged")
        notes.append(f"the file has no {kind}: its {other} ones are taken")
    unused = [name for name in wrapper if name not in ("epoch", chosen)]
    return notes + ([f"not used: {', '.join(unused)}"] if unused else [])


def _network(family: Family, config: ConfigDict, classes: int) -> Network:
    if not family.block:
        return generator_network(config, classes)
    return detector_network(config, detector_sizes(config, classes))
