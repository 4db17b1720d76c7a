"""Reads files written by `torch.save` without PyTorch, and without running anything that they contain.

A `.pth` file is a pickle plus raw storages. The pickle is read with an allow-list: tensors, plain containers and
numbers come back; a file that names anything else is refused before that thing is even looked up.
Both layouts are read: the zip archive (PyTorch 1.6 and later) and the older stream of several pickles and storages.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

import ml_dtypes
import numpy as np
from etils import epath

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
_LEGACY_PROTOCOL = 1001  # second pickle

_DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",  # the tensor that uses it names its own dtype
}
_BAD_FILE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    UnicodeError,
    ValueError,
)


class _Unreadable(ValueError):
    """An error whose message is already meant for the user."""


class _Storage(NamedTuple):
    """A run of raw bytes that tensors are views of."""

    data: np.ndarray  # uint8 [bytes]
    dtype: np.dtype


def read(path: str | os.PathLike[str], allow: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Reads a PyTorch checkpoint into plain Python containers and NumPy arrays.

    Args:
        path: a file written by `torch.save`, zip or older layout.
        allow: further globals, `"module.name"` -> what to use in its place, for files that hold more than tensors,
            e.g. `{"argparse.Namespace": types.SimpleNamespace}`. What is given here is called with what the file says.

    Returns:
        What was saved. A tensor or parameter of shape [d0, d1, ...] is a read-only array of that shape (bfloat16
        through `ml_dtypes`); tensors that shared a storage share memory. `torch.Size` is a tuple; `torch.dtype` and
        `torch.device` are strings such as `"torch.float32"` and `"cuda:0"`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupt or not a PyTorch checkpoint; or it names something outside the
            allow-list, which loading would have run.
    """
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    with path.open("rb") as file:
        try:
            head = file.read(4)
            file.seek(0)
            source = _read_zip if head == b"PK\x03\x04" else _read_stream
            return source(file, str(path), dict(allow or {}))
        except _Unreadable:
            raise
        except _BAD_FILE as err:
            raise ValueError(
                f"{path} cannot be read as a PyTorch checkpoint ({type(err).__name__}: {err}). The file is truncated, "
                "damaged or of another kind: compare its size with the published one and download it again."
            ) from err


def _read_zip(file: BinaryIO, name: str, allow: dict[str, Callable[..., Any]]) -> Any:
    """The archive layout: `<root>/data.pkl`, `<root>/data/<key>` for each storage, `<root>/byteorder`."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [entry[: -len("data.pkl")] for entry in entries if re.fullmatch(r"([^/]+/)?data\.pkl", entry)]
        if len(roots) != 1:
            raise _Unreadable(f"{name} is a zip archive without a data.pkl: not a file written by torch.save")
        root = roots[0]
        if root + "constants.pkl" in entries:
            raise _Unreadable(f"{name} is a TorchScript archive: torch.save its state_dict() and convert that file")

        def content(entry: str) -> bytes:
            if entry not in entries:
                raise _Unreadable(f"{name} is damaged: its entry {entry!r} is missing")
            if entries[entry].compress_type != zipfile.ZIP_STORED:
                raise _Unreadable(f"{name} has a compressed entry {entry!r}, which torch.save never writes")
            return archive.read(entry)

        order = content(root + "byteorder").decode() if root + "byteorder" in entries else "little"
        if order not in ("little", "big"):
            raise _Unreadable(f"{name} has the byte order {order!r}; expected 'little' or 'big'")
        storages: dict[tuple[str, str], _Storage] = {}

        def storage(kind: str, key: str, numel: int, view: Any) -> _Storage:
            if view is not None:
                raise _Unreadable(f"{name} is damaged: a storage view in a zip archive")
            if (key, kind) not in storages:
                dtype = _storage_dtype(kind, name)
                raw = np.frombuffer(content(f"{root}data/{key}"), np.uint8)
                if raw.size != numel * dtype.itemsize:
                    raise _Unreadable(
                        f"{name} is damaged: storage {key} has {raw.size} bytes, expected {numel} x {dtype.itemsize}"
                    )
                if order == "big":
                    if kind.endswith("UntypedStorage"):
                        raise _Unreadable(f"{name} has an untyped storage from a big-endian machine: not supported")
                    raw = _byteswapped(raw, dtype)
                storages[key, kind] = _Storage(raw, dtype)
            return storages[key, kind]

        return _Unpickler(io.BytesIO(content(root + "data.pkl")), name, allow, storage).load()


def _read_stream(file: BinaryIO, name: str, allow: dict[str, Callable[..., Any]]) -> Any:
    """The older layout: pickles of magic number, protocol, machine, object, storage keys; then the storages."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)

    def no_storage(*_: Any) -> NoReturn:
        raise _Unreadable(f"{name} is damaged: a tensor before the object")

    def plain() -> Any:
        return _Unpickler(file, name, {}, no_storage).load()

    try:
        known = plain() == _LEGACY_MAGIC
    except _BAD_FILE as err:
        raise _Unreadable(
            f"{name} is not a PyTorch checkpoint, or is truncated: it starts neither like a zip archive nor like the "
            "older torch.save layout. Check that the download is complete (a page of HTML is a common cause)."
        ) from err
    if not known:
        raise _Unreadable(f"{name} is a pickle that torch.save did not write; expected a PyTorch checkpoint")
    protocol = plain()
    if protocol != _LEGACY_PROTOCOL:
        raise _Unreadable(f"{name} has the torch.save protocol {protocol!r}; expected {_LEGACY_PROTOCOL}")
    little = plain().get("little_endian", True)
    storages: dict[str, _Storage] = {}
    promised = 0

    def storage(kind: str, key: str, numel: int, view: Any) -> _Storage:
        # The bytes come after the pickle: hand out the memory now and fill it in below.
        nonlocal promised
        dtype = _storage_dtype(kind, name)
        if key not in storages:
            promised += numel * dtype.itemsize
            if promised > size:
                raise _Unreadable(f"{name} is truncated: its storages need {promised} bytes, the file has {size}")
            storages[key] = _Storage(np.zeros(numel * dtype.itemsize, np.uint8), dtype)
        whole = storages[key]
        if view is None:
            return whole
        _, start, length = view
        start, stop = start * dtype.itemsize, (start + length) * dtype.itemsize
        if not 0 <= start <= stop <= whole.data.size:
            raise _Unreadable(f"{name} is damaged: a view reaches outside storage {key}")
        return _Storage(whole.data[start:stop], dtype)

    loaded = _Unpickler(file, name, allow, storage).load()
    keys = plain()
    if sorted(keys) != sorted(storages):
        raise _Unreadable(f"{name} is damaged: its list of storages disagrees with its tensors")
    for key in keys:
        data, dtype = storages[key]
        (numel,) = struct.unpack("<q" if little else ">q", file.read(8))
        raw = np.frombuffer(file.read(data.size), np.uint8)
        if numel * dtype.itemsize != data.size or raw.size != data.size:
            raise _Unreadable(f"{name} is truncated: storage {key} has {raw.size} of {data.size} bytes")
        data[:] = raw if little else _byteswapped(raw, dtype)
    return loaded


def _storage_dtype(kind: str, name: str) -> np.dtype:
    dtype = _STORAGE_DTYPES.get(kind.rsplit(".", 1)[-1]) if isinstance(kind, str) else None
    if dtype is None:
        raise _Unreadable(f"{name} has a storage of type {kind!r}; known: {', '.join(_STORAGE_DTYPES)}")
    return _DTYPES[dtype]


def _byteswapped(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Bytes [n] with the order reversed inside every number (inside each part of a complex number)."""
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return np.ascontiguousarray(raw.reshape(-1, width)[:, ::-1]).reshape(-1)


class _Unpickler(pickle.Unpickler):
    """Resolves only the names in its own table; everything else is refused by name, unseen."""

    def __init__(
        self, file: Any, name: str, allow: dict[str, Callable[..., Any]], storage: Callable[..., _Storage]
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._name = name
        self._storage = storage
        self._rebuild_functions = (self._tensor, self._tensor_with_dtype)
        self._known = _plain_globals() | {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_with_dtype,
            "torch._tensor._rebuild_from_type_v2": self._tensor_subclass,
        }
        self._known |= allow

    def find_class(self, module: str, name: str) -> Any:
        """Overrides pickle's look-up: nothing is imported."""
        full = f"{module}.{name}"
        if full not in self._known:
            raise _Unreadable(
                f"{self._name}: the reader refuses to load {full!r}. A checkpoint needs tensors and containers only; "
                "loading other objects can run code. If you trust it, save the bare state_dict() with PyTorch and "
                "convert that file."
            )
        return self._known[full]

    def persistent_load(self, pid: Any) -> _Storage:
        """Overrides pickle's hook for storages: `("storage", type, key, device, element count[, view])`."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise _Unreadable(f"{self._name} is damaged: unknown persistent object {str(pid)[:80]!r}")
        kind, key, numel = pid[1], str(pid[2]), pid[4]
        if not _is_count(numel):
            raise _Unreadable(f"{self._name} is damaged: storage {key} has {numel!r} elements")
        return self._storage(kind, key, numel, pid[5] if len(pid) == 6 else None)

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
        return self._view(storage, storage.dtype, offset, size, stride)

    def _tensor_with_dtype(
        self, storage: _Storage, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: str, *_: Any
    ) -> np.ndarray:
        known = _DTYPES.get(str(dtype).removeprefix("torch."))
        if known is None:
            raise _Unreadable(f"{self._name} has a tensor of type {dtype}; known: {', '.join(_DTYPES)}")
        return self._view(storage, known, offset, size, stride)

    def _tensor_subclass(self, function: Any, kind: Any, args: tuple[Any, ...], state: Any) -> np.ndarray:
        if function not in self._rebuild_functions:
            raise _Unreadable(f"{self._name} is damaged: a tensor of type {kind} is not rebuilt by a tensor function")
        return function(*args)

    def _view(self, storage: Any, dtype: np.dtype, offset: Any, size: Any, stride: Any) -> np.ndarray:
        """A read-only strided view, after checking that it stays inside its storage."""
        if not isinstance(storage, _Storage) or len(size) != len(stride):
            raise _Unreadable(f"{self._name} is damaged: a tensor of size {size} with strides {stride} and no storage")
        if not all(_is_count(number) for number in (offset, *size, *stride)):
            raise _Unreadable(f"{self._name} is damaged: a tensor of size {size}, strides {stride}, offset {offset}")
        if 0 in size:
            return np.zeros(size, dtype)
        elements = storage.data.size // dtype.itemsize
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= elements:
            raise _Unreadable(
                f"{self._name} is damaged: a tensor of size {tuple(size)}, strides {tuple(stride)}, offset {offset} "
                f"reaches outside its storage of {elements} elements"
            )
        flat = storage.data[: elements * dtype.itemsize].view(dtype)
        strides = [step * dtype.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat[offset:], tuple(size), strides, writeable=False)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _plain_globals() -> dict[str, Any]:
    """The allow-list: containers, tensors, and inert strings in place of PyTorch's types; new for each read."""

    def latin1_bytes(text: str, encoding: str = "latin1") -> bytes:  # how old pickles spell bytes
        if encoding not in ("latin1", "latin-1"):
            raise _Unreadable(f"the pickle encodes bytes as {encoding!r}; expected latin1")
        return text.encode("latin1")

    def device(kind: str, index: int | None = None) -> str:
        return kind if index is None else f"{kind}:{index}"

    def parameter(data: np.ndarray, *_: Any) -> np.ndarray:
        return data

    table: dict[str, Any] = {
        "collections.OrderedDict": collections.OrderedDict,
        "collections.defaultdict": collections.defaultdict,
        "collections.Counter": collections.Counter,
        "_codecs.encode": latin1_bytes,
        "torch.Size": tuple,
        "torch.device": device,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
        "numpy.dtype": _PickledDtype,
        "numpy.ndarray": "numpy.ndarray",
    }
    for builtin in (set, frozenset, dict, list, tuple, int, float, bool, str, complex):
        table["builtins." + builtin.__name__] = table["__builtin__." + builtin.__name__] = builtin
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module + "._reconstruct"] = _PickledArray.empty
        table[module + ".scalar"] = _numpy_scalar
    for inert in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.storage.UntypedStorage", *_storage_names()):
        table[inert] = inert
    return table | {"torch." + dtype: "torch." + dtype for dtype in _DTYPES}


def _storage_names() -> list[str]:
    return ["torch." + name for name in _STORAGE_DTYPES]


class _PickledDtype:
    """Stands for `numpy.dtype` while reading: plain numbers and texts only, no objects and no records."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[biuf][1248]|c8|c16|[SU]\d{1,6}", code):
            raise _Unreadable(f"the file has a NumPy array of type {code!r}; expected numbers or texts")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def resolve(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _PickledArray(np.ndarray):
    """A NumPy array whose contents arrive as raw bytes of a plain dtype."""

    @staticmethod
    def empty(*_: Any) -> _PickledArray:
        return np.ndarray.__new__(_PickledArray, (0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _PickledDtype) or not isinstance(raw, bytes):
            raise _Unreadable("the file has a NumPy array of objects; expected numbers or texts")
        super().__setstate__((version, shape, dtype.resolve(), fortran, raw))


def _numpy_scalar(dtype: Any, raw: Any = b"") -> np.generic:
    if not isinstance(dtype, _PickledDtype) or not isinstance(raw, bytes):
        raise _Unreadable("the file has a NumPy scalar of an unknown type; expected a number or a text")
    return np.frombuffer(raw, dtype.resolve(), count=1)[0]
