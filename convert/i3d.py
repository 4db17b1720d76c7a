"""Published I3D files become model checkpoints of the network `i3d`, and back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from actloc_jax.backbones.i3d import PORTS, STREAMS, SYSTEM, I3DSizes, i3d_network
from actloc_jax.data.annotations import read_class_names
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
from convert.i3d_tables import TABLES
from convert.mapping import Table

State = dict[str, np.ndarray]

PREFIX = "module."  # of networks that were saved inside PyTorch's DataParallel
COUNTER = "num_batches_tracked"  # of batch norms, in files of PyTorch 0.4.1 and later
RUNNING = ("mean", "var")  # last words of our paths of running statistics
FIRST, LOGITS = "conv3d_1a_7x7/kernel", "logits/kernel"
FIRST_WIDTH = 64  # published channels of the first convolution
KINETICS = 400  # classes of the published files


def convert(
    source: epath.Path,
    *,
    class_names: epath.PathLike | None = None,
    allow_missing: str | None = None,
    allow_extra: str | None = None,
) -> Converted:
    """Reads a published file of one stream and maps it completely.

    Args:
        source: `rgb_imagenet.pt`, `flow_imagenet.pt` (port pytorch-i3d), `i3d_rgb.pt`, `i3d_flow.pt` (port
            video_features), or a file that a network of these was fine-tuned to.
        class_names: a file of class names, in the order of the logits.
        allow_missing: regular expression of PyTorch keys that may be absent; they get fresh initial values.
        allow_extra: regular expression of PyTorch keys that may be left out.

    Raises:
        ValueError: unreadable, of another network, or with keys that differ from the network's: all are listed.
    """
    state, _ = state_dict(torch_reader.read(source), source)
    prefix = PREFIX if all(key.startswith(PREFIX) for key in state) else ""
    port = _port(state, prefix, source)
    table = _table(port, prefix)
    sizes, notes = _sizes(port, table, state, source)
    names = _class_names(class_names, sizes.num_classes, source, notes)
    kind = f"I3D, {STREAMS[sizes.in_channels]} stream, port {port}"

    network = i3d_network(sizes)
    abstract = jax.eval_shape(lambda: _initial(network, jax.random.key(0)))
    shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}
    counters = {key: array for key, array in state.items() if _is_counter(key, table)}
    report = table.to_ours({key: array for key, array in state.items() if key not in counters}, shapes)
    problems, allowed = sorted_problems(report, allow_missing, allow_extra)
    if problems:
        raise ValueError(f"{source} ({kind}) does not fit its network:\n  " + "\n  ".join(problems))
    arrays, types = float32(report)
    arrays |= fresh(functools.partial(_initial, network), [path for path in shapes if path not in arrays])
    if counters:
        notes.append(f"{len(counters)} counters of batch norms: no parameters, kept for --back")
    meta = {
        "system": SYSTEM,
        "stage": FEATURE_STAGE,
        "stage_index": 0,
        "config": {"system": SYSTEM, "name": SYSTEM},
        "class_names": names,
        "frame_rate": 0.0,
        "sample_rate": 1,
        "i3d": {"port": port, "stream": STREAMS[sizes.in_channels], **dataclasses.asdict(sizes)},
        "source": {
            "file": source.name, "md5": md5(source), "sha256": sha256(source), "types": types, "prefix": prefix,
            "absent": list(report.missing),
        },
    }  # fmt: skip
    running = {path: arrays[path] for path in shapes if path.rpartition("/")[2] in RUNNING}
    params = {path: arrays[path] for path in shapes if path not in running}
    return Converted(kind, params, meta, report, notes + allowed, counters, {"batch_stats": running})


def back(folder: epath.Path) -> State:
    """The PyTorch state dict of a model checkpoint, as the file had it: names, types, prefix, counters.

    Raises:
        ValueError: it is a checkpoint of something else.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != SYSTEM:
        raise ValueError(
            f"{folder} holds a model of system {meta['system']!r}; this command writes those of {SYSTEM!r}"
        )
    source = meta["source"]
    table = _table(meta["i3d"]["port"], source["prefix"])
    state = table.to_torch(flatten(united(model["params"], model["batch_stats"])))
    state = {key: array for key, array in state.items() if key not in source["absent"]}
    return with_types(state | stored_buffers(folder), meta)


def _table(port: str, prefix: str) -> Table:
    return Table(TABLES[port].under(prefix, ""))


def _port(state: Mapping[str, Any], prefix: str, source: epath.Path) -> str:
    """The port whose names most keys have.

    Raises:
        ValueError: no key is one of an I3D.
    """
    known = {port: sum(map(bool, map(_table(port, prefix).entry_of_key, state))) for port in PORTS}
    port = max(known, key=known.get)
    if not known[port]:
        begin = ", ".join(list(state)[:3])
        raise ValueError(
            f"{source} is no I3D of the ports {' and '.join(PORTS)}: its keys begin {begin}. {other_commands(SYSTEM)}"
        )
    return port


def _sizes(port: str, table: Table, state: State, source: epath.Path) -> tuple[I3DSizes, list[str]]:
    """Stream, logits and widths, from shapes; what is missing is taken for the published, and notes.

    Raises:
        ValueError: there is no stream with the channels of the first convolution.
    """
    found = {}
    for path in (FIRST, LOGITS):
        entry = table.entry_of_path(path)
        array = state.get(entry.key)
        if array is not None and array.ndim == 5 and array.size:
            found[path] = entry.leaf.to_ours(array).shape[-2:]
    channels = found[FIRST][0] if FIRST in found else 3
    classes = found[LOGITS][1] if LOGITS in found else KINETICS
    if channels not in STREAMS:
        known = " or ".join(f"{number} ({name})" for number, name in STREAMS.items())
        raise ValueError(f"{source}: the first convolution takes {channels} channels; expected {known}")
    divisors = [FIRST_WIDTH // found[FIRST][1]] if FIRST in found else []
    divisors += [I3DSizes().features // found[LOGITS][0]] if LOGITS in found else []
    divisor = max(next(iter(divisors), 1), 1)
    notes = [
        f"the names are those of port {port}: padding {PORTS[port].padding}, batch norm epsilon "
        f"{PORTS[port].norm_epsilon:g}; {channels} input channels: the {STREAMS[channels]} stream"
    ]
    if classes != KINETICS:
        notes.append(f"{classes} logits, not the {KINETICS} of Kinetics: a fine-tuned network")
    if divisor != 1:
        notes.append(f"all widths are the published ones divided by {divisor}")
    return I3DSizes(channels, classes, *PORTS[port], divisor=divisor), notes


def _initial(network: Network, key: jax.Array) -> Params:
    """Initial values of parameters and running statistics, one nested dict."""
    return united(network.init(key), network.init_statistics())


def _is_counter(key: str, table: Table) -> bool:
    """Whether the key is the counter of a batch norm that the table knows."""
    norm, _, name = key.rpartition(".")
    return name == COUNTER and table.entry_of_key(f"{norm}.running_var") is not None


def _class_names(given: epath.PathLike | None, classes: int, source: epath.Path, notes: list[str]) -> list[str]:
    """Names of the logits from the file given; none otherwise, with a note."""
    if given is None:
        notes.append("class names are not in the file: features need none; --class-names gives the logits names")
        return []
    names = list(read_class_names(given))
    if len(names) != classes:
        raise ValueError(f"{given} names {len(names)} classes, {source} has {classes}")
    return names
