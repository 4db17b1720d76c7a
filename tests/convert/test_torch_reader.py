"""The reader of `.pth` files: what it reads, and what it refuses."""

from __future__ import annotations

import collections
import os
import pathlib
import pickle
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convert import torch_reader
from tests.convert.torch_files import Built, Call, Global, Storage, dumps, tensor, write_stream, write_zip

WRITERS = [write_zip, write_stream]
KINDS = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}


def floats(numel: int, key: str = "0") -> Storage:
    return Storage("torch.FloatStorage", key, numel)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_type(write, kind, tmp_path):
    data = np.array([0, 1, 2, 0, 1, 3]).astype(KINDS[kind])
    path = write(tmp_path / "w.pth", {"w": tensor(Storage(f"torch.{kind}", "0", 6), (2, 3), (3, 1))}, {"0": data})
    read = torch_reader.read(path)["w"]
    assert read.dtype == data.dtype
    np.testing.assert_array_equal(read, data.reshape(2, 3))


@pytest.mark.parametrize("write", WRITERS)
def test_containers_and_inert_values(write, tmp_path):
    value = {
        "state": collections.OrderedDict(a=1, b=[2.5, None, True]),
        "size": Call(Global("torch", "Size"), ((3, 4),)),
        "dtype": Global("torch", "float32"),
        "device": Call(Global("torch", "device"), ("cuda", 1)),
        "set": Call(Global("__builtin__", "set"), ([1, 2],)),
        "scalar": Call(
            Global("numpy.core.multiarray", "scalar"),
            (Built(Call(Global("numpy", "dtype"), ("f8", 0, 1)), (3, "<", None, None, None, -1, -1, 0)), b"\0" * 8),
        ),
        "big": 2**70,
        "text": "naïve",
    }
    read = torch_reader.read(write(tmp_path / "w.pth", value))
    assert isinstance(read["state"], collections.OrderedDict)
    assert read == {
        "state": {"a": 1, "b": [2.5, None, True]},
        "size": (3, 4),
        "dtype": "torch.float32",
        "device": "cuda:1",
        "set": {1, 2},
        "scalar": 0.0,
        "big": 2**70,
        "text": "naïve",
    }


def test_numpy_array_inside(tmp_path):
    data = np.arange(6, dtype=np.int16).reshape(2, 3)
    dtype = Built(Call(Global("numpy", "dtype"), ("i2", 0, 1)), (3, "<", None, None, None, -1, -1, 0))
    empty = Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b"))
    path = write_zip(tmp_path / "w.pth", Built(empty, (1, (2, 3), dtype, False, data.tobytes())))
    np.testing.assert_array_equal(torch_reader.read(path), data)


@pytest.mark.parametrize("write", WRITERS)
def test_views_of_one_storage(write, tmp_path):
    data = np.arange(24, dtype=np.float32)
    value = {
        "whole": tensor(floats(24), (4, 6), (6, 1)),
        "transposed": tensor(floats(24), (6, 4), (1, 6)),
        "part": tensor(floats(24), (2, 3), (6, 2), offset=7),
        "expanded": tensor(floats(24), (5, 2), (0, 1), offset=22),
        "scalar": tensor(floats(24), (), (), offset=5),
        "empty": tensor(floats(24), (0, 3), (3, 1)),
    }
    read = torch_reader.read(write(tmp_path / "w.pth", value, {"0": data}))
    whole = data.reshape(4, 6)
    np.testing.assert_array_equal(read["whole"], whole)
    np.testing.assert_array_equal(read["transposed"], whole.T)
    np.testing.assert_array_equal(read["part"], whole[1:3, 1:6:2])
    np.testing.assert_array_equal(read["expanded"], [[22, 23]] * 5)
    assert read["scalar"].shape == ()
    assert read["scalar"] == 5
    assert read["empty"].shape == (0, 3)
    assert np.shares_memory(read["whole"], read["transposed"])


def test_view_of_a_storage_in_the_older_layout(tmp_path):
    storage = Storage("torch.FloatStorage", "0", 10, view=("1", 4, 3))
    path = write_stream(tmp_path / "w.pth", tensor(storage, (3,), (1,)), {"0": np.arange(10, dtype=np.float32)})
    np.testing.assert_array_equal(torch_reader.read(path), [4, 5, 6])
    outside = Storage("torch.FloatStorage", "0", 10, view=("1", 8, 3))
    path = write_stream(tmp_path / "w.pth", tensor(outside, (3,), (1,)), {"0": np.arange(10, dtype=np.float32)})
    with pytest.raises(ValueError, match="outside storage 0"):
        torch_reader.read(path)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(-5, 5, width=32)), st.data())
def test_any_axis_order(tmp_path_factory, array, data):
    order = data.draw(st.permutations(range(array.ndim)))
    strides = tuple(step // 4 for step in array.transpose(order).strides)
    size = tuple(array.shape[axis] for axis in order)
    path = write_zip(
        tmp_path_factory.mktemp("w") / "w.pth", tensor(floats(array.size), size, strides), {"0": array.ravel()}
    )
    np.testing.assert_array_equal(torch_reader.read(path), array.transpose(order))


def test_big_endian(tmp_path):
    for kind, dtype in (("FloatStorage", ">f4"), ("LongStorage", ">i8"), ("ComplexFloatStorage", ">c8")):
        data = np.array([1, -2, 3]).astype(dtype)
        value = tensor(Storage(f"torch.{kind}", "0", 3), (3,), (1,))
        np.testing.assert_array_equal(torch_reader.read(write_zip(tmp_path / "z", value, {"0": data}, "big")), data)
        older = write_stream(tmp_path / "s", value, {"0": data}, little_endian=False)
        np.testing.assert_array_equal(torch_reader.read(older), data)


def test_files_from_before_the_byteorder_entry(tmp_path):
    path = write_zip(tmp_path / "w", tensor(floats(2), (2,), (1,)), {"0": np.float32([1, 2])}, byteorder=None)
    np.testing.assert_array_equal(torch_reader.read(path), [1, 2])


def test_parameters_and_tensors_that_name_their_type(tmp_path):
    untyped = Storage("torch.storage.UntypedStorage", "0", 8)
    typed = Call(
        Global("torch._utils", "_rebuild_tensor_v3"),
        (untyped, 1, (3,), (1,), False, collections.OrderedDict(), Global("torch", "uint16")),
    )
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (typed, True, collections.OrderedDict()))
    path = write_zip(tmp_path / "w", {"p": parameter}, {"0": np.array([9, 1, 2, 3], np.uint16).view(np.uint8)})
    read = torch_reader.read(path)["p"]
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, [1, 2, 3])


class Trap:
    """Unpickled by Python's own pickle, this runs a command."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [(os.system, ("touch {}",), f"{os.name}.system"), (eval, ("open('{}', 'w')",), "builtins.eval")],
)
@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_file_that_would_run_code_is_refused(function, args, name, layout, tmp_path):
    mark = tmp_path / "ran"
    bad = pickle.dumps({"w": [Trap(function, *(arg.format(mark) for arg in args))]}, protocol=4)
    path = tmp_path / "bad.pth"
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", bad)
    else:
        head = write_stream(tmp_path / "head", 0).read_bytes()
        path.write_bytes(head[: head.index(dumps(0))] + bad)
    with pytest.raises(ValueError, match=f"refuses to load '{name}'"):
        torch_reader.read(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        Call(Global("posix", "system"), ("true",)),
        Call(Global("torch._utils", "_rebuild_tensor_v2.__globals__"), ()),
        Call(Global("collections", "OrderedDict.__init__.__globals__"), ()),
        Call(Global("torch.serialization", "load"), ("x",)),
        Call(Global("builtins", "getattr"), (Global("torch", "Size"), "__class__")),
        {"key": tensor(Storage("torch.nn.Module", "0", 2), (2,), (1,))},
        Built(Call(Global("argparse", "Namespace"), ()), {"lr": 1}),
    ],
)
def test_names_outside_the_allow_list(value, tmp_path):
    with pytest.raises(ValueError, match="refuses to load"):
        torch_reader.read(write_zip(tmp_path / "w", value))


def test_a_persistent_id_with_a_trap_inside(tmp_path):
    pid = ("storage", Call(Global("posix", "system"), ("true",)), "0", "cpu", 2)
    raw = b"\x80\x02" + dumps(pid)[2:-1] + b"Q."
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("archive/data.pkl", raw)
    with pytest.raises(ValueError, match=r"refuses to load 'posix\.system'"):
        torch_reader.read(tmp_path / "w")


def test_the_allow_list_can_be_extended(tmp_path):
    path = write_zip(tmp_path / "w", Built(Call(Global("argparse", "Namespace"), ()), {"lr": 1}))
    read = torch_reader.read(path, allow={"argparse.Namespace": types.SimpleNamespace})
    assert read.lr == 1


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((7,), (1,), 0), ((2, 3), (4, 1), 0), ((1,), (1,), 6), ((2,), (2**62,), 0), ((2,), (-1,), 1), ((3,), (1,), -1)],
)
def test_tensors_that_reach_outside_their_storage(write, size, stride, offset, tmp_path):
    path = write(tmp_path / "w", tensor(floats(6), size, stride, offset), {"0": np.arange(6, dtype=np.float32)})
    with pytest.raises(ValueError, match="is damaged: a tensor of size"):
        torch_reader.read(path)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("numel", [5, 7, 10**12])
def test_storages_of_another_length(write, numel, tmp_path):
    path = write(tmp_path / "w", tensor(floats(numel), (5,), (1,)), {"0": np.arange(6, dtype=np.float32)})
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        torch_reader.read(path)


@pytest.mark.parametrize("write", WRITERS)
def test_truncated_anywhere(write, tmp_path):
    data = np.arange(50, dtype=np.float32)
    whole = write(tmp_path / "w", {"a": tensor(floats(50), (50,), (1,))}, {"0": data}).read_bytes()
    for length in [0, 1, 3, 4, *range(5, len(whole), 17), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated"):
            torch_reader.read(tmp_path / "cut")


def test_flipped_bytes_are_noticed(tmp_path):
    path = write_zip(tmp_path / "w", {"a": tensor(floats(3), (3,), (1,))}, {"0": np.float32([1, 2, 3])})
    content = bytearray(path.read_bytes())
    content[content.index(np.float32([1, 2, 3]).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="CRC"):
        torch_reader.read(path)


def test_other_files(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(ValueError, match="not a PyTorch checkpoint"):
        torch_reader.read(tmp_path / "page.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"torch\.save did not write"):
        torch_reader.read(tmp_path / "plain.pkl")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"without a data\.pkl"):
        torch_reader.read(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/data.pkl", dumps({}))
        archive.writestr("m/constants.pkl", dumps(()))
    with pytest.raises(ValueError, match="TorchScript"):
        torch_reader.read(tmp_path / "script.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        torch_reader.read(tmp_path / "absent.pth")


def test_arrays_are_read_only(tmp_path):
    for write in WRITERS:
        read = torch_reader.read(write(tmp_path / "w", tensor(floats(2), (2,), (1,)), {"0": np.float32([1, 2])}))
        with pytest.raises(ValueError, match="read-only"):
            read[0] = 3


def test_reading_needs_no_torch():
    source = pathlib.Path(torch_reader.__file__).read_text()
    assert "import torch" not in source
