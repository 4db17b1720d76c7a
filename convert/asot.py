"""Lightning checkpoints of ASOT become model checkpoints of the system `asot`, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data.activities import ActivityFolder
from actloc_jax.layers.functional import flatten
from actloc_jax.systems.asot.network import encoder_network
from actloc_jax.training import checkpoints
from convert import torch_reader
from convert.asot_config import config_for, contradictions, layer_key, sizes_of
from convert.checked import Converted, counters, float32, fresh, sorted_problems, state_dict, with_types
from convert.files import sha256
from convert.mapping import Rule, Table

KIND = "ASOT"


def table(layers: int) -> Table:
    """Names of an encoder with so many layers; the last has no activation beside it and so another name."""
    rules = [Rule(layer_key(layer, layers), f"layers/{layer:02d}", "linear") for layer in range(layers)]
    return Table([*rules, Rule("clusters", "clusters", "matrix")])


def convert(
    source: epath.Path,
    *,
    dataset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    class_names: epath.PathLike | None = None,
    allow_missing: str | None = None,
    allow_extra: str | None = None,
) -> Converted:
    """Reads a Lightning checkpoint, or a bare state dict, and maps it completely.

    Args:
        source: a `.ckpt` or `.pth`.
        dataset: one of `asot_config.DATASETS`, whose experiment gives what the file does not tell; None: the one with
            these sizes, or what all of them share.
        settings: config fields to use instead, such as `{"data.standardise": True}`.
        class_names: a `mapping.txt`; without it the model has no class names.
        allow_missing: regular expression of PyTorch keys that may be absent; they get fresh initial values.
        allow_extra: regular expression of PyTorch keys that may be left out.

    Raises:
        ValueError: unreadable, not of ASOT, or with keys or sizes that contradict each other: all are listed.
    """
    state, wrapper = state_dict(torch_reader.read(source), source)
    hyper = _hyper_parameters(wrapper, source)
    sizes = sizes_of(state, hyper, source)
    config, notes = config_for(sizes, hyper, dataset, settings or {}, source)
    network = encoder_network(config, sizes.clusters)
    shapes = {path: leaf.shape for path, leaf in flatten(network.shapes()).items()}
    report = table(len(config.network.layers) - 1).to_ours(state, shapes)
    problems, allowed = sorted_problems(report, allow_missing, allow_extra)
    problems += contradictions(sizes, hyper)
    if problems:
        raise ValueError(f"{source} ({KIND}) does not fit its network:\n  " + "\n  ".join(problems))
    params, types = float32(report)
    params |= fresh(network.init, [path for path in shapes if path not in params])
    meta = {
        "system": "asot",
        "stage": "asot",
        "stage_index": 0,
        "config": json.loads(config.to_json_best_effort()),
        "class_names": _class_names(config, sizes.clusters, class_names, notes),
        "frame_rate": config.data.frame_rate,
        "sample_rate": config.data.sample_rate,
        "source": {
            "file": source.name, "sha256": sha256(source), "family": KIND, "types": types,
            **counters(wrapper, "epoch", "global_step"),
        },
    }  # fmt: skip
    return Converted(KIND, {path: params[path] for path in shapes}, meta, report, notes + allowed)


def back(folder: epath.Path) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model checkpoint, converted or trained here: key -> array in PyTorch's layout.

    Raises:
        ValueError: it is a checkpoint of another system.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != "asot":
        raise ValueError(f"{folder} holds a model of system {meta['system']!r}; this command writes those of 'asot'")
    params = model["params"]
    return with_types(table(len(params["layers"])).to_torch(flatten(params)), meta)


def _hyper_parameters(wrapper: Mapping[str, Any], source: epath.Path) -> dict[str, Any]:
    """What the constructor of the model was given, as plain values; empty for a bare state dict."""
    hyper = wrapper.get("hyper_parameters", {})
    if not isinstance(hyper, Mapping):
        raise ValueError(f"{source}: hyper_parameters is a {type(hyper).__name__}; expected names -> values")
    return {name: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for name, v in hyper.items()}


def _class_names(config: ConfigDict, clusters: int, mapping: epath.PathLike | None, notes: list[str]) -> list[str]:
    """Names by class index, as the data set with this mapping has them. Classes need not be as many as clusters."""
    if mapping is None:
        notes.append("class names are not in the file; evaluation needs --class-names mapping.txt")
        return []
    path = epath.Path(mapping)
    names = ActivityFolder(path.parent, mapping=path.name, exclude_id=config.data.exclude_id).class_names
    if len(names) != clusters:
        notes.append(
            f"{path} names {len(names)} classes, the model has {clusters} clusters: right for a model of one of "
            "several activities, else check the file"
        )
    return list(names)
