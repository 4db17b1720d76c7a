"""Files of RAFT: sizes, the older layout, what is stored twice, differences, the way back, commands."""

from __future__ import annotations

import collections
import hashlib
import pathlib

import numpy as np
import pytest
from etils import epath

from actloc_jax import model as models
from actloc_jax.backbones import optical_flow
from actloc_jax.backbones.raft import PRESETS, load_raft
from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import checked, raft
from tests.convert.published_raft import raft_shapes
from tests.convert.torch_files import Storage, state_dict_file, tensor, write_stream

State = dict[str, np.ndarray]
TAKEN, TWIN = "module.cnet.layer2.0.downsample.1", "module.cnet.layer2.0.norm3"


def state_of(size: str) -> State:
    rng = np.random.default_rng(0)

    def filled(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key.endswith("num_batches_tracked"):
            return np.asarray(rng.integers(1, 9**9), np.int64)
        values = 0.05 * rng.standard_normal(shape).astype(np.float32)
        return np.exp(values) if key.endswith("running_var") else values

    state = {key: filled(key, shape) for key, shape in raft_shapes(size).items()}
    return state | {key: state[key.replace("norm3", "downsample.1")] for key in state if ".norm3." in key}


def file_of(path: pathlib.Path, state: State) -> epath.Path:
    return epath.Path(state_dict_file(path, state))


def older_file_of(path: pathlib.Path, state: State) -> epath.Path:
    """As PyTorch wrote the published files, before its zip files."""
    kinds = {"float32": "FloatStorage", "int64": "LongStorage"}
    entries, storages = collections.OrderedDict(), {}
    for number, (key, array) in enumerate(state.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        entries[key] = tensor(
            Storage(f"torch.{kinds[array.dtype.name]}", str(number), array.size), array.shape, strides
        )
        storages[str(number)] = array
    return epath.Path(write_stream(path, entries, storages))


def assert_same_state(found: State, expected: State) -> None:
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.parametrize(("size", "entries", "parameters"), [("large", 179, 5_257_536), ("small", 106, 990_162)])
def test_sizes_are_recognised_and_come_back_bit_for_bit(
    size: str, entries: int, parameters: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = state_of(size)
    source, folder, back = older_file_of(tmp_path / "raft.pth", state), tmp_path / "model", tmp_path / "back.npz"
    assert command.main(["raft", str(source), str(folder)]) == 0
    assert f"RAFT, {size}: {entries} entries, {parameters:,} parameters" in capsys.readouterr().out
    assert command.main(["raft", "--back", str(folder), str(back)]) == 0
    with np.load(back) as arrays:
        assert_same_state(dict(arrays), state)

    loaded = load_raft(folder)
    assert loaded.sizes == PRESETS[size]
    assert loaded.meta["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    flat = flatten(loaded.params)
    kernel = state["module.update_block.encoder.convf2.weight"]
    np.testing.assert_array_equal(flat["update_block/encoder/convf2/kernel"], kernel.transpose(2, 3, 1, 0))
    with pytest.raises(ValueError, match=r"model holds 'raft', a network that .* predicts nothing.*--mode=extract"):
        models.load(folder)


def test_what_is_stored_twice(tmp_path: pathlib.Path) -> None:
    state = state_of("large")
    model = raft.convert(file_of(tmp_path / "raft.pth", state))
    assert any(note.startswith("8 arrays *.norm3.* are those of *.downsample.1.*") for note in model.notes)
    assert any(note.startswith("17 counters of batch norms") for note in model.notes)
    state[f"{TWIN}.bias"] = state[f"{TWIN}.bias"] + 1
    model = raft.convert(file_of(tmp_path / "raft.pth", state))
    assert any(f"{TWIN}.bias differ from *.downsample.1.*, which is taken" in note for note in model.notes)
    path = "cnet/layer2/00/norm3/batch"
    np.testing.assert_array_equal(model.params[f"{path}/bias"], state[f"{TAKEN}.bias"])
    np.testing.assert_array_equal(model.beside["batch_stats"][f"{path}/var"], state[f"{TAKEN}.running_var"])
    checked.save(model, epath.Path(tmp_path / "model"))
    assert_same_state(raft.back(epath.Path(tmp_path / "model")), state)


def test_without_prefix_and_in_half_precision(tmp_path: pathlib.Path) -> None:
    state = {key.removeprefix("module."): array.astype(np.float16) for key, array in state_of("small").items()}
    model = raft.convert(file_of(tmp_path / "raft.pth", state))
    assert {array.dtype.name for array in model.arrays.values()} == {"float32"}
    checked.save(model, epath.Path(tmp_path / "model"))
    assert_same_state(raft.back(epath.Path(tmp_path / "model")), state)


def test_all_differences_in_one_error(tmp_path: pathlib.Path) -> None:
    state = state_of("large")
    del state[f"{TAKEN}.running_var"], state["module.fnet.conv1.weight"]
    state["module.update_block.mask.2.bias"] = np.zeros(64, np.float32)
    with pytest.raises(ValueError, match=r"raft\.pth \(RAFT, large\) does not fit its network") as raised:
        raft.convert(file_of(tmp_path / "raft.pth", state))
    assert sorted(line.strip() for line in str(raised.value).splitlines()[1:]) == [
        "misshapen  module.update_block.mask.2.bias [64], expected [576]",
        f"missing    {TAKEN}.running_var [96]",
        "missing    module.fnet.conv1.weight [64, 3, 7, 7]",
        f"unexpected {TWIN}.running_var [96]",
    ]


def test_files_of_others(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = file_of(tmp_path / "w.pt", {"Conv3d_1a_7x7.conv3d.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r"is no RAFT: its keys begin Conv3d_1a.*python -m convert i3d \(I3D\)"):
        raft.convert(other)
    source = str(file_of(tmp_path / "raft.pth", state_of("small")))
    assert command.main(["i3d", source, str(tmp_path / "out")]) == 1
    assert "python -m convert raft (RAFT)" in capsys.readouterr().err
    assert command.main(["raft", source, str(tmp_path / "model"), "--dry-run"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if "->" in line]
    kernel = "update_block/gru/convz/kernel [3, 3, 242, 96] image_conv"
    assert f"module.update_block.gru.convz.weight [96, 242, 3, 3] -> {kernel}" in rows


def test_flow_with_weights_of_another_network(tmp_path: pathlib.Path) -> None:
    meta = {"system": "i3d", "stage": "features", "class_names": []}
    checkpoints.save_model(epath.Path(tmp_path), {"params": {"a": np.zeros(1)}, "batch_stats": {}}, meta)
    with pytest.raises(ValueError, match=r"holds a model of system 'i3d', no RAFT; make one with: python -m convert r"):
        optical_flow.optical_flow("raft", weights=tmp_path)
    with pytest.raises(ValueError, match=r"flow 'raft' needs weights"):
        optical_flow.optical_flow("raft")
