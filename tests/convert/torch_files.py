"""Writes files in the two layouts of `torch.save`, opcode by opcode: tests need no PyTorch and can write bad files."""

from __future__ import annotations

import collections
import itertools
import pathlib
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C


class Global(NamedTuple):
    """A name that the reader has to resolve."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of a resolved name while reading."""

    function: Any
    args: tuple[Any, ...]


class Storage(NamedTuple):
    """A reference to raw bytes: `("storage", type, key, device, element count)`, and a view in the older layout."""

    kind: str
    key: str
    numel: int
    view: Any = None


class Built(NamedTuple):
    """An object that gets a state after its creation."""

    made: Any
    state: Any


def dumps(value: Any, older: bool = False) -> bytes:
    """A protocol 2 pickle of containers, numbers, texts and the classes above; `older` storages carry a view."""
    return b"\x80\x02" + _opcodes(value, older) + b"."


def _opcodes(value: Any, older: bool) -> bytes:
    def inner(*values: Any) -> bytes:
        return b"".join(_opcodes(each, older) for each in values)

    if isinstance(value, Global):
        return b"c" + f"{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return inner(value.function, tuple(value.args)) + b"R"
    if isinstance(value, Built):
        return inner(value.made, value.state) + b"b"
    if isinstance(value, Storage):
        pid = ("storage", Global(*value.kind.rsplit(".", 1)), value.key, "cpu", value.numel)
        return inner((*pid, value.view) if older else pid) + b"Q"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return inner(Call(Global("_codecs", "encode"), (value.decode("latin1"), "latin1")))
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, tuple):
        return b"(" + inner(*value) + b"t"
    if isinstance(value, list):
        return b"](" + inner(*value) + b"e"
    empty = inner(Call(Global("collections", "OrderedDict"), ())) if type(value) is collections.OrderedDict else b"}"
    return empty + b"(" + inner(*itertools.chain(*value.items())) + b"u"


def tensor(storage: Storage, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Call:
    """A tensor of `size` on a storage, as `torch.save` describes it."""
    args = (storage, offset, size, stride, False, collections.OrderedDict())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), args)


def write_zip(
    path: pathlib.Path, value: Any, storages: dict[str, np.ndarray] | None = None, byteorder: str | None = "little"
) -> pathlib.Path:
    """The archive layout; storages are written in the byte order named."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dumps(value))
        archive.writestr("archive/version", "3\n")
        if byteorder is not None:
            archive.writestr("archive/byteorder", byteorder)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data.tobytes())
    return path


def write_stream(
    path: pathlib.Path, value: Any, storages: dict[str, np.ndarray] | None = None, little_endian: bool = True
) -> pathlib.Path:
    """The older layout; the storages' own bytes are written as they are."""
    storages = storages or {}
    machine = {
        "protocol_version": 1001,
        "little_endian": little_endian,
        "type_sizes": {"short": 2, "int": 4, "long": 8},
    }
    parts = [dumps(part, older=True) for part in (MAGIC, 1001, machine, value, list(storages))]
    for data in storages.values():
        parts += [struct.pack("<q" if little_endian else ">q", data.size), data.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def state_dict_file(path: pathlib.Path, state: dict[str, np.ndarray], wrap: Any = lambda state: state) -> pathlib.Path:
    """A zip file with one storage per array of a state dict; `wrap` puts the mapping inside something else."""
    kinds = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}
    entries, storages = collections.OrderedDict(), {}
    for number, (key, array) in enumerate(state.items()):
        array = np.asarray(array, order="C")
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = Storage(f"torch.{kinds[array.dtype.name]}", str(number), array.size)
        entries[key] = tensor(storage, array.shape, strides)
        storages[str(number)] = array
    return write_zip(path, wrap(entries), storages)
