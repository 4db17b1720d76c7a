"""Checkpoints of SPOT become model checkpoints of the system `spot`, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data.spot_files import read_class_table
from actloc_jax.layers.functional import Network, flatten
from actloc_jax.systems.spot.settings import spot_network
from actloc_jax.training import checkpoints
from convert import spot_tables, torch_reader
from convert.checked import Converted, counters, float32, fresh, sorted_problems, state_dict, with_types
from convert.files import sha256
from convert.mapping import Report, Table, shape_text
from convert.spot_config import config_for, prefix_of, refuse_others, stage_of

KINDS = {"pretrain": "SPOT, pretrained", "finetune": "SPOT, fine-tuned"}
CLASS_TABLES = "class_index.json or the original's config/dataset_class.py"
FIRST_CLASS = "Beer pong"  # of ActivityNet, in the original's order


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

    What detection does not need may be absent without being allowed: the branch for the order of halves and the
    position tables. It gets fresh initial values, and is left out again on the way back.

    Args:
        source: `SPOT_pretrain_*.pth.tar`, `SPOT_*_semi.pth.tar`, `SPOT_checkpoint.pth.tar` or `SPOT_best.pth.tar`.
        dataset: name of the experiment file that gives what shapes do not tell, such as `spot_anet:labels=60`; None:
            the one with the nearest sizes.
        settings: config fields to use instead, such as `{"decode.row_seconds": 0.5}`.
        class_names: the class table, in a format of `read_class_table`; without it classes are numbered.
        allow_missing: regular expression of further PyTorch keys that may be absent.
        allow_extra: regular expression of PyTorch keys that may be left out.

    Raises:
        ValueError: unreadable, of another system, or with keys or sizes that contradict each other: all are listed.
    """
    state, wrapper = state_dict(torch_reader.read(source), source)
    prefix = prefix_of(state)
    named = {key.removeprefix(prefix): array for key, array in state.items()}
    refuse_others(named, source)
    stage, because = stage_of(wrapper, source)
    sizes, positions = _sizes(named, source), spot_tables.num_positions(named)
    config, notes = config_for(sizes, positions, stage, dataset, settings or {})
    network = spot_network(config, sizes.num_classes)
    names = _class_names(sizes.num_classes, class_names, source, notes)
    found = _compared(state, prefix, network, config.network.positions)
    problems, allowed = sorted_problems(found.report, allow_missing, allow_extra)
    problems += found.wrong_buffers
    if problems:
        raise ValueError(f"{source} ({KINDS[stage]}) does not fit its network:\n  " + "\n  ".join(problems))
    params, types = float32(found.report)
    paths = list(flatten(network.shapes()))
    params |= fresh(network.init, [path for path in paths if path not in params])
    buffers = [name for name in spot_tables.BUFFERS if prefix + name in state]
    notes += [f"{len(buffers)} buffers position_ids: checked, not parameters"] if buffers else []
    meta = {
        **_meta(config, stage, names),
        "source": {
            "file": source.name, "sha256": sha256(source), "family": KINDS[stage], "types": types | found.types,
            "prefix": prefix, "absent": [*found.optional, *found.report.missing], **counters(wrapper, "epoch"),
        },
    }  # fmt: skip
    notes = [*_notes_on_file(stage, because, wrapper), *notes, *_notes_on_optional(found.optional), *allowed]
    return Converted(KINDS[stage], {path: params[path] for path in paths}, meta, found.report, notes)


def back(folder: epath.Path) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a model checkpoint: key -> array in PyTorch's layout, buffers included.

    A converted file comes back bit by bit: with its prefix, and without the keys that it lacked. A model trained here
    gets the published prefix and every key.

    Raises:
        ValueError: it is a checkpoint of another system.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != "spot":
        raise ValueError(f"{folder} holds a model of system {meta['system']!r}; this command writes those of 'spot'")
    source, params = meta.get("source", {}), flatten(model["params"])
    prefix, absent = source.get("prefix", spot_tables.PREFIX), source.get("absent", ())
    rows = len(params["embedding/positions/embedding"])
    buffers = {prefix + name: _numbers(rows) for name in spot_tables.BUFFERS}
    state = buffers | _table(prefix).to_torch(params)
    return with_types({key: array for key, array in state.items() if key not in absent}, meta)


class _Compared(NamedTuple):
    """A file beside its network: the report without what may be absent, that, and the state of the buffers."""

    report: Report
    optional: dict[str, tuple[int, ...]]
    wrong_buffers: list[str]
    types: dict[str, str]


def _compared(state: Mapping[str, np.ndarray], prefix: str, network: Network, rows: int) -> _Compared:
    """Compares a state dict with a network that has `rows` positions."""
    buffers = [prefix + name for name in spot_tables.BUFFERS]
    shapes = {path: leaf.shape for path, leaf in flatten(network.shapes()).items()}
    report = _table(prefix).to_ours({key: array for key, array in state.items() if key not in buffers}, shapes)
    optional = {key: shape for key, shape in report.missing.items() if _is_optional(key, prefix)}
    required = {key: shape for key, shape in report.missing.items() if key not in optional}
    wrong, types, expected = [], {}, _numbers(rows)
    for key in buffers:
        if key not in state:
            optional[key] = expected.shape
        elif np.shape(state[key]) != expected.shape:
            wrong.append(f"misshapen  {key} {shape_text(np.shape(state[key]))}, expected {shape_text(expected.shape)}")
        elif not np.array_equal(state[key], expected):
            wrong.append(f"unknown    {key} holds other numbers than 0, 1, ... {rows - 1}: positions in another order")
        elif state[key].dtype != expected.dtype:
            types[key] = state[key].dtype.name
    return _Compared(report._replace(missing=required), optional, wrong, types)


def _sizes(named: Mapping[str, np.ndarray], source: epath.Path) -> spot_tables.Sizes:
    try:
        return spot_tables.sizes(named)
    except ValueError as err:
        raise ValueError(f"{source}: {err}") from err


def _table(prefix: str) -> Table:
    return Table(spot_tables.SPOT.under(prefix, ""))


def _is_optional(key: str, prefix: str) -> bool:
    return key.startswith(prefix) and spot_tables.is_optional(key.removeprefix(prefix))


def _numbers(rows: int) -> np.ndarray:
    """The buffer `position_ids` of a table with so many rows: int64 [1, rows]."""
    return np.arange(rows, dtype=np.int64)[None]


def _meta(config: ConfigDict, stage: str, names: Sequence[str]) -> dict[str, Any]:
    """What every model checkpoint says of itself, as `actloc_jax.workdirs.model_meta`."""
    return {
        "system": "spot",
        "stage": stage,
        "stage_index": config.stages.index(stage),
        "config": json.loads(config.to_json_best_effort()),
        "class_names": list(names),
        "frame_rate": 0.0,  # segments are in seconds
        "sample_rate": config.data.sample_rate,
    }


def _notes_on_file(stage: str, because: str, wrapper: Mapping[str, Any]) -> list[str]:
    """Which stage a file was taken for, and what of it was not used."""
    notes = [f"taken for a model of stage {stage}: {because}"]
    if stage == "pretrain":
        notes.append("pre-training leaves the classifier as it was drawn: detections of this model mean nothing")
    unused = [name for name in wrapper if name not in ("epoch", "state_dict", "model")]
    return notes + ([f"not used: {', '.join(unused)}"] if unused else [])


def _notes_on_optional(optional: Mapping[str, tuple[int, ...]]) -> list[str]:
    if not optional:
        return []
    listed = [f"  {key} {shape_text(shape)}" for key, shape in optional.items()]
    return ["not in the file, and not needed for detection; they get fresh values:", *listed]


def _class_names(
    classes: int, given: epath.PathLike | None, source: epath.Path, notes: list[str]
) -> tuple[str, ...] | list[str]:
    """Names by class index: those of the file `given`, else numbers.

    Raises:
        ValueError: the file names another number of classes.
    """
    if given is None:
        notes.append(
            f"class names are not in the file: numbers stand for them; evaluation needs --class-names, {CLASS_TABLES}"
        )
        return [f"class_{index:0{len(str(classes - 1))}d}" for index in range(classes)]
    names = read_class_table(given)
    if len(names) != classes:
        raise ValueError(f"{given} names {len(names)} classes, {source} has {classes}")
    if FIRST_CLASS in names[1:]:  # such as action_name.csv of the release, which no code reads
        notes.append(f"{given} does not begin with {FIRST_CLASS!r}, as the original's table does; give {CLASS_TABLES}")
    return names
