"""Published checkpoints of TST, DiffAct and ASFormer become model checkpoints of the system `tst`, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data.segmentation import read_mapping
from actloc_jax.layers.functional import Network, flatten
from actloc_jax.ops import diffusion
from actloc_jax.systems.tst import adapters
from actloc_jax.training import checkpoints
from convert import torch_reader, tst_tables
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
from convert.files import sha256
from convert.mapping import shape_text
from convert.tst_config import FAMILIES, Family, config_for, family_of


def convert(
    source: epath.Path,
    *,
    dataset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    class_names: epath.PathLike | None = None,
    allow_missing: str | None = None,
    allow_extra: str | None = None,
) -> Converted:
    """Reads a published file and maps it completely.

    Args:
        source: a `.pth`, `release.model`, `latest.pt` or `epoch-N.model`.
        dataset: one of `DATASETS`, whose experiment file gives what shapes do not tell; None: the one with these sizes.
        settings: config fields to use instead, such as `{"backbone.diffusion.scale": 0.5}`.
        class_names: a `mapping.txt`; without it classes are called class_00, class_01, ...
        allow_missing: regular expression of PyTorch keys that may be absent; they get fresh initial values.
        allow_extra: regular expression of PyTorch keys that may be left out.

    Raises:
        ValueError: unreadable, of an unknown family, or with keys that differ from the network's: all are listed.
    """
    state, wrapper = state_dict(torch_reader.read(source), source)
    family = family_of(state, source)
    buffers = {key: value for key, value in state.items() if _is_buffer(key, family)}
    weights = {key: value for key, value in state.items() if key not in buffers}
    config, notes = config_for(family, state, dataset, settings or {}, source)
    networks = _networks(family, config)
    shapes = {path: leaf.shape for path, leaf in flatten({k: n.shapes() for k, n in networks.items()}).items()}
    report = family.table.to_ours(weights, shapes)
    problems, allowed = sorted_problems(report, allow_missing, allow_extra)
    problems += _buffer_problems(family, buffers, config)
    if problems:
        raise ValueError(f"{source} ({family.name}) does not fit its network:\n  " + "\n  ".join(problems))
    params, types = float32(report)
    params |= fresh(
        lambda key: {name: network.init(key) for name, network in networks.items()},
        [path for path in shapes if path not in params],
    )
    meta = {
        "system": "tst",
        "stage": family.stage,
        "stage_index": 0,
        "config": json.loads(config.to_json_best_effort()),
        "class_names": _class_names(family, config.data.num_classes, class_names, notes),
        "frame_rate": config.data.frame_rate,
        "sample_rate": config.data.sample_rate,
        "source": {
            "file": source.name, "sha256": sha256(source), "family": family.name, "types": types,
            **counters(wrapper, "epoch", "step"),
        },
    }  # fmt: skip
    if buffers:
        steps = config.backbone.diffusion.timesteps
        notes.append(f"{len(buffers)} buffers of a cosine schedule of {steps} steps: checked, not parameters")
    return Converted(family.name, {path: params[path] for path in shapes}, meta, report, notes + allowed, buffers)


def back(folder: epath.Path) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model checkpoint: key -> array in PyTorch's layout, buffers included.

    A converted file comes back bit by bit; a model trained here gets the buffers of its schedule.
    """
    model, meta = checkpoints.load_model(folder)
    family = _family_of_checkpoint(model["params"], meta, folder)
    state = with_types(family.table.to_torch(flatten(model["params"])), meta)
    if stored := stored_buffers(folder):
        return stored | state
    if family.backbone == "diffact":
        schedule = diffusion.schedule_buffers(meta["config"]["backbone"]["diffusion"]["timesteps"])
        return {family.prefix + name: values for name, values in schedule.items()} | state
    return state


def _family_of_checkpoint(params: Mapping[str, Any], meta: Mapping[str, Any], folder: epath.Path) -> Family:
    if meta["system"] != "tst":
        raise ValueError(f"{folder} holds a model of system {meta['system']!r}; this command writes those of 'tst'")
    kind, refined = meta["config"]["backbone"]["kind"], "refiner" in params
    for family in FAMILIES:
        if (family.backbone, family.refined) == (kind, refined):
            return family
    raise ValueError(f"{folder} holds a model with backbone {kind!r}: there is no PyTorch layout for it")


def _is_buffer(key: str, family: Family) -> bool:
    return family.backbone == "diffact" and key.removeprefix(family.prefix) in tst_tables.BUFFERS


def _buffer_problems(family: Family, buffers: Mapping[str, np.ndarray], config: ConfigDict) -> list[str]:
    """Buffers that are missing or not those of a cosine schedule: such a file was trained with another diffusion."""
    if family.backbone != "diffact":
        return []
    problems = []
    for name, expected in diffusion.schedule_buffers(config.backbone.diffusion.timesteps).items():
        found = buffers.get(family.prefix + name)
        if found is None:
            problems.append(f"missing    {family.prefix}{name} {shape_text(expected.shape)}")
        elif found.shape != expected.shape:
            problems.append(
                f"misshapen  {family.prefix}{name} {shape_text(found.shape)}, expected {shape_text(expected.shape)}"
            )
        elif not np.allclose(found, expected, rtol=1e-6, atol=1e-9):
            step = int(np.argmax(np.abs(found - expected)))
            problems.append(
                f"unknown    {family.prefix}{name} is {found[step]:.6g} at step {step}; the cosine schedule of "
                f"{len(expected)} steps has {expected[step]:.6g}"
            )
    return problems


def _networks(family: Family, config: ConfigDict) -> dict[str, Network]:
    """The networks whose parameters the file should hold, by their place in the model."""
    adapter = adapters.make(config)
    networks = {"backbone": adapter.network}
    if family.refined:
        networks["refiner"] = adapters.refiner_network(config, adapter.feature_dim)
    return networks


def _class_names(family: Family, count: int, mapping: epath.PathLike | None, notes: list[str]) -> list[str]:
    """Names by class index: DiffAct counts the lines of mapping.txt, TST reads the ids written there."""
    if mapping is None:
        notes.append(
            "class names are not in the file: class_00, class_01, ...; evaluation needs --class-names mapping.txt"
        )
        return [f"class_{index:02d}" for index in range(count)]
    names = read_mapping(mapping, class_index="written_id" if family.refined else "line_number")
    if len(names) != count:
        raise ValueError(f"{mapping} names {len(names)} classes, the file has {count}")
    return list(names)
