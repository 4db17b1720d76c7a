"""Published checkpoints of TST, DiffAct and ASFormer become model checkpoints of the system `tst`, and back.

The family of a file is told by its keys and its sizes by its shapes. What shapes cannot tell (which encoder layers are the
condition, how to sample, the sample rate) comes from the experiment file of the data set whose sizes these are, and is
reported as an assumption.
"""

from __future__ import annotations

import dataclasses
import importlib
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
from convert.mapping import Report, Table, shape_text

DATASETS = ("gtea", "50salads", "breakfast")
BUFFER_FILE = "diffusion_buffers.npz"
_ASSUMED = (  # what a network needs and its shapes do not tell
    "backbone.encoder.feature_layers",
    "backbone.encoder.use_instance_norm",
    "backbone.diffusion.sampling_steps",
    "backbone.diffusion.eta",
    "backbone.diffusion.scale",
    "data.sample_rate",
    "decode.postprocess",
    "decode.postprocess_size",
)


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of published file.

    Attributes:
        name: for people.
        mark: start of a key that only this family has.
        backbone: `config.backbone.kind`.
        prefix: what stands before the backbone's keys.
        table: names of all its arrays.
        refined: whether the TST refiner is in the file.
    """

    name: str
    mark: str
    backbone: str
    prefix: str
    table: Table
    refined: bool


FAMILIES = (
    Family("TST on DiffAct", "adapter.backbone.decoder.module.", "diffact", "adapter.backbone.",
           tst_tables.combined(tst_tables.DIFFACT), True),
    Family("TST on ASFormer", "adapter.backbone.shared_layers.", "asformer", "adapter.backbone.",
           tst_tables.combined(tst_tables.ASRF), True),
    Family("DiffAct", "decoder.module.", "diffact", "", tst_tables.alone(tst_tables.DIFFACT), False),
    Family("ASFormer with ASRF", "shared_layers.", "asformer", "", tst_tables.alone(tst_tables.ASRF), False),
    Family("ASFormer", "decoders.", "asformer_plain", "", tst_tables.alone(tst_tables.ASFORMER), False),
)  # fmt: skip


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
    family = _family(state, source)
    buffers = {key: value for key, value in state.items() if _is_buffer(key, family)}
    weights = {key: value for key, value in state.items() if key not in buffers}
    config, notes = _config_for(family, _sizes(family, state), dataset, settings or {}, source)
    network = _networks(family, config)
    shapes = {path: leaf.shape for path, leaf in flatten({k: n.shapes() for k, n in network.items()}).items()}
    report = family.table.to_ours(weights, shapes)
    problems, allowed = _sorted_problems(report, allow_missing, allow_extra)
    problems += _buffer_problems(family, buffers, config)
    if problems:
        raise ValueError(f"{source} ({family.name}) does not fit its network:\n  " + "\n  ".join(problems))
    params, types = _float32(report)
    if report.missing:
        fresh = flatten({name: n.init(jax.random.key(0)) for name, n in network.items()})
        params |= {path: np.asarray(fresh[path]) for path in shapes if path not in params}
    meta = {
        "system": "tst",
        "stage": "tst" if family.refined else family.backbone,
        "stage_index": 0,
        "config": json.loads(config.to_json_best_effort()),
        "class_names": _class_names(family, config.data.num_classes, class_names, notes),
        "frame_rate": config.data.frame_rate,
        "sample_rate": config.data.sample_rate,
        "source": {"file": source.name, "sha256": sha256(source), "family": family.name, "types": types, **wrapper},
    }
    return Converted(family, {path: params[path] for path in shapes}, meta, buffers, report, notes + allowed)


def save(converted: Converted, folder: epath.Path) -> None:
    """Writes the model checkpoint, and beside it the diffusion buffers as they were."""
    model = {"params": unflatten(converted.params), "batch_stats": {}}
    checkpoints.save_model(folder, model, converted.meta)
    if converted.buffers:
        write_npz(folder / BUFFER_FILE, converted.buffers)


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
        schedule = _schedule(meta["config"]["backbone"]["diffusion"]["timesteps"])
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
            f"{source} holds a {type(read).__name__} that is not a state dict (names -> tensors), nor a wrapper with one "
            "under 'model' or 'state_dict'"
        )
    return dict(read), counters


def _family(state: Mapping[str, Any], source: epath.Path) -> Family:
    for family in FAMILIES:
        if any(key.startswith(family.mark) for key in state):
            return family
    known = "; ".join(f"{family.name} ({family.mark}...)" for family in FAMILIES)
    raise ValueError(f"{source} is of no known family; its keys begin {sorted(state)[:4]}. Known: {known}")


def _family_of_checkpoint(params: Mapping[str, Any], meta: Mapping[str, Any], folder: epath.Path) -> Family:
    kind, refined = meta["config"]["backbone"]["kind"], "refiner" in params
    for family in FAMILIES:
        if (family.backbone, family.refined) == (kind, refined) and meta["system"] == "tst":
            return family
    raise ValueError(f"{folder} holds system {meta['system']!r} with backbone {kind!r}: there is no PyTorch layout for it")


def _is_buffer(key: str, family: Family) -> bool:
    return family.backbone == "diffact" and key.removeprefix(family.prefix) in tst_tables.BUFFERS


def _schedule(timesteps: int) -> dict[str, np.ndarray]:
    """The buffers of a cosine schedule by their PyTorch names, float64 [timesteps]."""
    schedule = diffusion.cosine_schedule(timesteps)
    return {name: np.asarray(getattr(schedule, name)) for name in tst_tables.BUFFERS}


def _buffer_problems(family: Family, buffers: Mapping[str, np.ndarray], config: ConfigDict) -> list[str]:
    """Buffers that are missing or are not those of a cosine schedule: such a file was trained with another diffusion."""
    if family.backbone != "diffact":
        return []
    problems = []
    for name, expected in _schedule(config.backbone.diffusion.timesteps).items():
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


def _sizes(family: Family, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Config field -> value, for all that the shapes in a file tell; a key that is absent tells nothing."""
    found: dict[str, Any] = {}

    def take(field: str, key: str, axis: int, less: int = 0) -> None:
        shape = np.shape(state.get(key, ()))
        if axis < len(shape):
            found[field] = shape[axis] - less

    def count(field: str, pattern: str, more: int = 0) -> None:
        numbers = [int(match[1]) for key in state if (match := re.match(pattern, key))]
        if numbers:
            found[field] = max(numbers) + 1 + more

    prefix, escaped = family.prefix, re.escape(family.prefix)
    if family.backbone == "diffact":
        take("data.num_classes", f"{prefix}encoder.conv_out.weight", 0)
        take("data.feature_dim", f"{prefix}encoder.conv_in.weight", 1)
        for part, layers in (("encoder", "encoder.encoder.layers"), ("decoder", "decoder.module.layers")):
            take(f"backbone.{part}.width", f"{prefix}{part}.conv_in.weight", 0)
            take(f"backbone.{part}.kernel_size", f"{prefix}{layers}.0.conv_block.0.weight", 2)
            count(f"backbone.{part}.num_layers", rf"{escaped}{re.escape(layers)}\.(\d+)\.")
        take("backbone.decoder.time_dim", f"{prefix}decoder.time_in.0.weight", 1)
        take("backbone.diffusion.timesteps", f"{prefix}betas", 0)
    elif family.backbone == "asformer":
        take("data.num_classes", f"{prefix}conv_cls.weight", 0)
        take("data.feature_dim", f"{prefix}shared_layers.conv_1x1.weight", 1)
        take("backbone.width", f"{prefix}shared_layers.conv_1x1.weight", 0)
        count("backbone.num_layers", rf"{escaped}shared_layers\.layers\.(\d+)\.")
        count("backbone.class_stages", rf"{escaped}asb\.(\d+)\.", more=1)
        count("backbone.boundary_stages", rf"{escaped}brb\.(\d+)\.", more=1)
    else:
        take("data.num_classes", f"{prefix}encoder.conv_out.weight", 0)
        take("data.feature_dim", f"{prefix}encoder.conv_1x1.weight", 1)
        take("backbone.width", f"{prefix}encoder.conv_1x1.weight", 0)
        count("backbone.num_layers", rf"{escaped}encoder\.layers\.(\d+)\.")
        count("backbone.num_decoders", rf"{escaped}decoders\.(\d+)\.")
    if family.refined:
        take("refiner.inner_dim", "refiner.feat_down.weight", 0)
        take("refiner.segment_dim", "refiner.feat_proj.weight", 0)
        count("refiner.num_layers", r"refiner\.pixel_decoder\.layers\.(\d+)\.")
    return found


def _condition_width(state: Mapping[str, np.ndarray], family: Family) -> int | None:
    """Channels of the encoder features that condition DiffAct's decoder: what its attention reads beside its own."""
    key, own = (f"{family.prefix}decoder.{name}.weight" for name in ("module.layers.0.att_linear_q", "conv_in"))
    if family.backbone != "diffact" or key not in state or own not in state:
        return None
    return state[key].shape[1] - state[own].shape[0]


def _config_for(
    family: Family, sizes: Mapping[str, Any], dataset: str | None, settings: Mapping[str, Any], source: epath.Path
) -> tuple[ConfigDict, list[str]]:
    """The config of a converted model: an experiment file with the sizes of the file and the user's own settings.

    Returns:
        The config, and notes of what was taken on trust.

    Raises:
        ValueError: no experiment file has these sizes and none was named; or a setting is unknown.
    """
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"--dataset={dataset} is unknown; use one of {', '.join(DATASETS)}")
    fitting = [
        name
        for name in ([dataset] if dataset else DATASETS)
        if (config := _experiment(family, name)) and all(_field(config, field) == size for field, size in sizes.items())
    ]
    if not fitting and dataset is None:
        found = ", ".join(f"{field}={size}" for field, size in sizes.items())
        raise ValueError(
            f"{source} ({family.name}) has sizes of none of {', '.join(DATASETS)}: {found}. Name the nearest with "
            "--dataset, and say with --set what else differs from it, e.g. --set backbone.encoder.feature_layers=[5,7,9]"
        )
    name = fitting[0] if fitting else dataset
    config = _experiment(family, name)
    changes = {field: tuple(value) if isinstance(value, list) else value for field, value in settings.items()}
    try:
        config.update_from_flattened_dict({**sizes, **changes})
    except (KeyError, AttributeError, TypeError, ValueError) as err:
        raise ValueError(f"--set {' '.join(settings)}: {err}") from err
    fit = "has the sizes of" if fitting else "differs in size from"
    notes = [f"the file {fit} the {name} experiment; assumed from it, as shapes do not tell:"]
    notes += [f"  {field} = {_field(config, field)}" for field in _ASSUMED if field not in settings and _has(config, field)]
    return config, notes
