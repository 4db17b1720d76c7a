"""Published RAFT files become model checkpoints of the network `raft`, and back."""

from __future__ import annotations

import functools

import jax
import numpy as np
from etils import epath

from actloc_jax.backbones import raft
from actloc_jax.backbones.raft import SYSTEM
from actloc_jax.layers.functional import Network, Params, flatten, united
from actloc_jax.training import checkpoints
from actloc_jax.workdirs import FEATURE_STAGE
from convert import torch_reader
from convert.checked import (
    Converted,
    float32,
    fresh,
    other_commands,
    sorted_problems,
    state_dict,
    stored_buffers,
    with_types,
)
from convert.files import md5, sha256
from convert.mapping import Table
from convert.raft_tables import RAFT

State = dict[str, np.ndarray]

PREFIX = "module."  # of networks that were saved inside PyTorch's DataParallel, as all published ones
COUNTER = "num_batches_tracked"  # of batch norms
TWIN, TAKEN = ".norm3.", ".downsample.1."  # two names of one module; PyTorch reads the second one last
RUNNING = ("mean", "var")  # last words of our paths of running statistics
ONLY = {"large": "update_block.mask.0.weight", "small": "update_block.gru.convz.weight"}
"""Size -> a key that the other one has not."""


def convert(
    source: epath.Path,
    *,
    allow_missing: str | None = None,
    allow_extra: str | None = None,
) -> Converted:
    """Reads a published file and maps it completely.

    Args:
        source: `raft-sintel.pth`, `raft-things.pth`, `raft-kitti.pth`, `raft-chairs.pth` (large) or `raft-small.pth`.
        allow_missing: regular expression of PyTorch keys that may be absent; they get fresh initial values.
        allow_extra: regular expression of PyTorch keys that may be left out.

    Raises:
        ValueError: unreadable, of another network, or with keys that differ from the network's: all are listed.
    """
    state, _ = state_dict(torch_reader.read(source), source)
    prefix = PREFIX if all(key.startswith(PREFIX) for key in state) else ""
    table = _table(prefix)
    size = _size(state, prefix, table, source)
    kind = f"RAFT, {size}"

    network = raft.network(raft.PRESETS[size])
    shapes = {path: leaf.shape for path, leaf in flatten(raft.shapes(network)).items()}
    beside, notes = _beside(state, table)
    report = table.to_ours({key: array for key, array in state.items() if key not in beside}, shapes)
    problems, allowed = sorted_problems(report, allow_missing, allow_extra)
    if problems:
        raise ValueError(f"{source} ({kind}) does not fit its network:\n  " + "\n  ".join(problems))
    arrays, types = float32(report)
    arrays |= fresh(functools.partial(_initial, network), [path for path in shapes if path not in arrays])
    meta = {
        "system": SYSTEM,
        "stage": FEATURE_STAGE,
        "stage_index": 0,
        "config": {"system": SYSTEM, "name": SYSTEM},
        "class_names": [],
        "frame_rate": 0.0,
        "sample_rate": 1,
        "raft": {"size": size},
        "source": {
            "file": source.name, "md5": md5(source), "sha256": sha256(source), "types": types, "prefix": prefix,
            "absent": list(report.missing),
        },
    }  # fmt: skip
    running = {path: arrays[path] for path in shapes if path.rpartition("/")[2] in RUNNING}
    params = {path: arrays[path] for path in shapes if path not in running}
    return Converted(kind, params, meta, report, notes + allowed, beside, {"batch_stats": running})


def back(folder: epath.Path) -> State:
    """The PyTorch state dict of a model checkpoint, as the file had it: names, types, prefix, counters, twins.

    Raises:
        ValueError: it is a checkpoint of something else.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != SYSTEM:
        raise ValueError(
            f"{folder} holds a model of system {meta['system']!r}; this command writes those of {SYSTEM!r}"
        )
    source = meta["source"]
    state = _table(source["prefix"]).to_torch(flatten(united(model["params"], model["batch_stats"])))
    state = {key: array for key, array in state.items() if key not in source["absent"]}
    return with_types(state | stored_buffers(folder), meta)


def _table(prefix: str) -> Table:
    return Table(RAFT.under(prefix, ""))


def _size(state: State, prefix: str, table: Table, source: epath.Path) -> str:
    """The size that a file's keys tell.

    Raises:
        ValueError: no key is one of RAFT's.
    """
    if not any(map(table.entry_of_key, state)):
        begin = ", ".join(list(state)[:3])
        raise ValueError(f"{source} is no RAFT: its keys begin {begin}. {other_commands(SYSTEM)}")
    return "small" if prefix + ONLY["small"] in state else "large"


def _beside(state: State, table: Table) -> tuple[State, list[str]]:
    """What a file has twice, and its counters: kept to be written back; and notes of them."""
    counters = {key: array for key, array in state.items() if _is_counter(key, table)}
    twins = {
        key: array
        for key, array in state.items()
        if TWIN in key and key not in counters and key.replace(TWIN, TAKEN) in state
    }
    notes = []
    if counters:
        notes.append(f"{len(counters)} counters of batch norms: no parameters, kept for --back")
    if twins:
        notes.append(f"{len(twins)} arrays *{TWIN}* are those of *{TAKEN}* under a second name: kept for --back")
    if others := [key for key, array in twins.items() if not np.array_equal(array, state[key.replace(TWIN, TAKEN)])]:
        notes.append(f"but {', '.join(others)} differ from *{TAKEN}*, which is taken, as PyTorch does")
    return counters | twins, notes


def _initial(network: Network, key: jax.Array) -> Params:
    """Initial values of parameters and running statistics, one nested dict."""
    return united(network.init(key), network.init_statistics())


def _is_counter(key: str, table: Table) -> bool:
    """Whether the key is the counter of a batch norm that the table knows, under either name."""
    norm, _, name = key.replace(TWIN, TAKEN).rpartition(".")
    return name == COUNTER and table.entry_of_key(f"{norm}.running_var") is not None
