"""Published checkpoints of TST, DiffAct and ASFormer become model checkpoints of the system `tst`, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data.segmentation import read_mapping
from actloc_jax.layers.functional import Network, flatten, unflatten
from actloc_jax.ops import diffusion
from actloc_jax.systems.tst import adapters
from actloc_jax.training import checkpoints
from convert import torch_reader, tst_tables
from convert.files import sha256, write_npz
from convert.mapping import Report, shape_text
from convert.tst_config import FAMILIES, Family, config_for, family_of

BUFFER_FILE = "diffusion_buffers.npz"


class Converted(NamedTuple):
    """A published file in our terms.

    Attributes:
        family: what kind of file it is.
        params: our flat path -> float32 array.
        meta: the JSON of the model checkpoint.
        buffers: the file's diffusion buffers by PyTorch key, float64 [timesteps]; kept to write them back as they were.
        report: how the arrays were mapped.
        notes: assumptions made and differences allowed, for the user to read.
    """

    family: Family
    params: dict[str, np.ndarray]
    meta: dict[str, Any]
    buffers: dict[str, np.ndarray]
    report: Report
    notes: list[str]


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
    state, wrapper = _state_dict(torch_reader.read(source), source)
    family = family_of(state, source)
    buffers = {key: value for key, value in state.items() if _is_buffer(key, family)}
    weights = {key: value for key, value in state.items() if key not in buffers}
    config, notes = config_for(family, state, dataset, settings or {}, source)
    networks = _networks(family, config)
    shapes = {path: leaf.shape for path, leaf in flatten({k: n.shapes() for k, n in networks.items()}).items()}
    report = family.table.to_ours(weights, shapes)
    problems, allowed = _sorted_problems(report, allow_missing, allow_extra)
    problems += _buffer_problems(family, buffers, config)
    if problems:
        raise ValueError(f"{source} ({family.name}) does not fit its network:\n  " + "\n  ".join(problems))
    params, types = _float32(report)
    params |= _fresh(networks, [path for path in shapes if path not in params])
    meta = {
        "system": "tst",
        "stage": family.stage,
        "stage_index": 0,
        "config": json.loads(config.to_json_best_effort()),
        "class_names": _class_names(family, config.data.num_classes, class_names, notes),
        "frame_rate": config.data.frame_rate,
        "sample_rate": config.data.sample_rate,
        "source": {"file": source.name, "sha256": sha256(source), "family": family.name, "types": types, **wrapper},
    }
    return Converted(family, {path: params[path] for path in shapes}, meta, buffers, report, notes + allowed)


def save(converted: Converted, folder: epath.Path) -> None:
    """Writes the model checkpoint, and beside it the diffusion buffers as they were.

    Raises:
        ValueError: `folder` holds a model already.
    """
    if checkpoints.has_model(folder):
        raise ValueError(f"{folder} holds a model already; choose another folder or delete it")
    if converted.buffers:
        write_npz(folder / BUFFER_FILE, converted.buffers)
    model = {"params": unflatten(converted.params), "batch_stats": {}}
    checkpoints.save_model(folder, model, converted.meta)


def back(folder: epath.Path) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model checkpoint: key -> array in PyTorch's layout, buffers included.

    A converted file comes back bit by bit; a model trained here gets the buffers of its schedule.
    """
    model, meta = checkpoints.load_model(folder)
    family = _family_of_checkpoint(model["params"], meta, folder)
    state = family.table.to_torch(flatten(model["params"]))
    for key, name in meta.get("source", {}).get("types", {}).items():
        state[key] = state[key].astype(name)
    if (folder / BUFFER_FILE).exists():
        with (folder / BUFFER_FILE).open("rb") as file, np.load(file) as stored:
            return {**stored, **state}
    if family.backbone == "diffact":
        schedule = diffusion.schedule_buffers(meta["config"]["backbone"]["diffusion"]["timesteps"])
        return {family.prefix + name: values for name, values in schedule.items()} | state
    return state


def mapping_text(converted: Converted) -> str:
    """The table that `--dry-run` prints: every array, where it goes, and what was assumed."""
    rows = [
        (entry.key, shape_text(entry.torch_shape(converted.params[entry.path].shape)), entry.path,
         shape_text(converted.params[entry.path].shape), entry.layout)
        for entry in converted.report.entries
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{key:{widths[0]}}  {old:{widths[1]}}  ->  {path:{widths[2]}}  {new:{widths[3]}}  {layout}"
        for key, old, path, new, layout in rows
    ]
    if converted.buffers:
        steps = len(next(iter(converted.buffers.values())))
        lines.append(f"{len(converted.buffers)} buffers of a cosine schedule of {steps} steps: checked, not parameters")
    return "\n".join([*lines, *converted.notes, summary(converted)])


def summary(converted: Converted) -> str:
    """One line: family, entries, parameters."""
    scalars = sum(array.size for array in converted.params.values())
    entries = len(converted.report.entries) + len(converted.buffers)
    return f"{converted.family.name}: {entries:,} entries, {scalars:,} parameters"


def _state_dict(read: Any, source: epath.Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The state dict of a file, and the counters of its wrapper (`latest.pt`: model, optimizer, epoch, step)."""
    counters = {}
    if isinstance(read, Mapping) and isinstance(read.get("model", read.get("state_dict")), Mapping):
        counters = {key: int(read[key]) for key in ("epoch", "step") if isinstance(read.get(key), int)}
        read = read.get("model", read.get("state_dict"))
    if not isinstance(read, Mapping) or not read or not all(isinstance(value, np.ndarray) for value in read.values()):
        raise ValueError(
            f"{source} holds a {type(read).__name__} that is neither a state dict (names -> tensors) nor a wrapper "
            "with one under 'model' or 'state_dict'"
        )
    return dict(read), counters


def _family_of_checkpoint(params: Mapping[str, Any], meta: Mapping[str, Any], folder: epath.Path) -> Family:
    kind, refined = meta["config"]["backbone"]["kind"], "refiner" in params
    for family in FAMILIES:
        if (family.backbone, family.refined) == (kind, refined) and meta["system"] == "tst":
            return family
    raise ValueError(
        f"{folder} holds system {meta['system']!r} with backbone {kind!r}: there is no PyTorch layout for it"
    )


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


def _fresh(networks: Mapping[str, Network], paths: list[str]) -> dict[str, np.ndarray]:
    """Initial values of the parameters at `paths`; the compiler leaves out all others."""

    def initial(key: jax.Array) -> dict[str, jax.Array]:
        every = flatten({name: network.init(key) for name, network in networks.items()})
        return {path: every[path] for path in paths}

    return {path: np.asarray(value) for path, value in jax.jit(initial)(jax.random.key(0)).items()} if paths else {}


def _sorted_problems(report: Report, allow_missing: str | None, allow_extra: str | None) -> tuple[list[str], list[str]]:
    """Differences that stop the conversion, and those that the user allowed."""
    problems, allowed = [], []
    for line in report.problems():
        kind, key, *_ = line.split()
        regex = {"missing": allow_missing, "unexpected": allow_extra}.get(kind)
        (allowed if regex and re.fullmatch(regex, key) else problems).append(line)
    return problems, [f"allowed: {line}" for line in allowed]


def _float32(report: Report) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The parameters as float32, and the types of those that had another: PyTorch key -> name."""
    types = {}
    for entry in report.entries:
        dtype = report.params[entry.path].dtype
        if dtype != np.float32:
            if dtype.name not in ("float16", "bfloat16"):  # float32 holds these exactly
                raise ValueError(f"{entry.key} is {dtype.name}; expected float32, float16 or bfloat16")
            types[entry.key] = dtype.name
    return {path: np.ascontiguousarray(array, np.float32) for path, array in report.params.items()}, types


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
