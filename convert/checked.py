"""What every conversion does alike: find the state dict, compare, keep types, save, print the mapping."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from actloc_jax.layers.functional import Params, flatten, unflatten
from actloc_jax.training import checkpoints
from convert.files import write_npz
from convert.mapping import Report, shape_text

BUFFER_FILE = "buffers.npz"

COMMANDS = {
    "tst": "TST, DiffAct and ASFormer",
    "asot": "ASOT",
    "fustal": "FuSTAL, TriDet and ActionFormer",
    "spot": "SPOT",
    "tallformer": "TALLFormer and Video Swin",
    "i3d": "I3D",
    "raft": "RAFT",
}
"""Command -> whose files it converts."""


class Converted(NamedTuple):
    """A published file in our terms.

    Attributes:
        kind: what kind of file it is, for people.
        params: our flat path -> float32 array.
        meta: the JSON of the model checkpoint.
        report: how the arrays were mapped.
        notes: assumptions made and differences allowed, for the user to read.
        buffers: arrays of the file that are no parameters, by PyTorch key; kept to write them back as they were.
        beside: what else the model checkpoint holds, name -> our flat path -> array: `batch_stats`, the running
            statistics of batch norms, and what the system keeps by names of its own.
        computed: number of further arrays of the file, which `--back` computes again.
    """

    kind: str
    params: dict[str, np.ndarray]
    meta: dict[str, Any]
    report: Report
    notes: list[str]
    buffers: Mapping[str, np.ndarray] = {}
    beside: Mapping[str, Mapping[str, np.ndarray]] = {}
    computed: int = 0

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that the model checkpoint gets, as `--to-npz` names it."""
        return self.params | flatten(self.beside)


def other_commands(own: str) -> str:
    """A sentence that names the commands for the files of other systems than that of the command `own`."""
    others = [f"python -m convert {command} ({systems})" for command, systems in COMMANDS.items() if command != own]
    return f"For files of other systems use: {', '.join(others)}"


def state_dict(read: Any, source: epath.Path) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    """The state dict of what a file holds, and the wrapper it stands in under `model` or `state_dict` (else empty).

    Raises:
        ValueError: there is no state dict.
    """
    wrapper: Mapping[str, Any] = {}
    if isinstance(read, Mapping) and isinstance(read.get("model", read.get("state_dict")), Mapping):
        wrapper, read = read, read.get("model", read.get("state_dict"))
    if not isinstance(read, Mapping) or not read or not all(isinstance(value, np.ndarray) for value in read.values()):
        raise ValueError(
            f"{source} holds a {type(read).__name__} that is neither a state dict (names -> tensors) nor a wrapper "
            "with one under 'model' or 'state_dict'"
        )
    return dict(read), wrapper


def counters(wrapper: Mapping[str, Any], *names: str) -> dict[str, int]:
    """Those of the wrapper's entries that are whole numbers, such as its epoch."""
    return {name: int(wrapper[name]) for name in names if isinstance(wrapper.get(name), int)}


def sorted_problems(report: Report, allow_missing: str | None, allow_extra: str | None) -> tuple[list[str], list[str]]:
    """Differences that stop the conversion, and notes of those that the user allowed."""
    problems, allowed = [], []
    for line in report.problems():
        kind, key, *_ = line.split()
        regex = {"missing": allow_missing, "unexpected": allow_extra}.get(kind)
        (allowed if regex and re.fullmatch(regex, key) else problems).append(line)
    return problems, [f"allowed: {line}" for line in allowed]


def float32(report: Report) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The parameters as float32, and the types of those that had another: PyTorch key -> name."""
    types = {}
    for entry in report.entries:
        dtype = report.params[entry.path].dtype
        if dtype != np.float32:
            if dtype.name not in ("float16", "bfloat16"):  # float32 holds these exactly
                raise ValueError(f"{entry.key} is {dtype.name}; expected float32, float16 or bfloat16")
            types[entry.key] = dtype.name
    return {path: np.asarray(array, np.float32, order="C") for path, array in report.params.items()}, types


def with_types(state: dict[str, np.ndarray], meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state dict in the types that the converted file had."""
    types = meta.get("source", {}).get("types", {})
    return {key: array.astype(types[key]) if key in types else array for key, array in state.items()}


def fresh(init: Callable[[jax.Array], Params], paths: Iterable[str]) -> dict[str, np.ndarray]:
    """Initial values of the parameters at `paths`; the compiler leaves out all others."""
    wanted = list(paths)

    def initial(key: jax.Array) -> dict[str, jax.Array]:
        every = flatten(init(key))
        return {path: every[path] for path in wanted}

    return {path: np.asarray(value) for path, value in jax.jit(initial)(jax.random.key(0)).items()} if wanted else {}


def save(converted: Converted, folder: epath.Path) -> None:
    """Writes the model checkpoint, and beside it the file's buffers as they were.

    Raises:
        ValueError: `folder` holds a model already.
    """
    if checkpoints.has_model(folder):
        raise ValueError(f"{folder} holds a model already; choose another folder or delete it")
    if converted.buffers:
        write_npz(folder / BUFFER_FILE, converted.buffers)
    parts = {"batch_stats": {}, **converted.beside, "params": converted.params}
    checkpoints.save_model(folder, {name: unflatten(arrays) for name, arrays in parts.items()}, converted.meta)


def stored_buffers(folder: epath.Path) -> dict[str, np.ndarray]:
    """The buffers that `save` wrote beside a model, by PyTorch key; empty where there are none."""
    if not (folder / BUFFER_FILE).exists():
        return {}
    with (folder / BUFFER_FILE).open("rb") as file, np.load(file) as stored:
        return dict(stored)


def mapping_text(converted: Converted) -> str:
    """The table that `--dry-run` prints: every array, where it goes, and what was assumed."""
    shapes = {path: array.shape for path, array in converted.report.params.items()}
    rows = [
        (entry.key, shape_text(entry.torch_shape(shapes[entry.path])), entry.path, shape_text(shapes[entry.path]),
         entry.layout)
        for entry in converted.report.entries
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{key:{widths[0]}}  {old:{widths[1]}}  ->  {path:{widths[2]}}  {new:{widths[3]}}  {layout}"
        for key, old, path, new, layout in rows
    ]
    return "\n".join([*lines, *converted.notes, summary(converted)])


def summary(converted: Converted) -> str:
    """One line: kind, entries, parameters."""
    scalars = sum(array.size for array in converted.params.values())
    entries = len(converted.report.entries) + len(converted.buffers) + converted.computed
    return f"{converted.kind}: {entries:,} entries, {scalars:,} parameters"
