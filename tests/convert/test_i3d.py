"""Files of I3D: ports, streams, layouts of torch.save, differences, the way back, commands, what cannot be done."""

from __future__ import annotations

import collections
import hashlib
import pathlib

import jax
import numpy as np
import pytest
from etils import epath

from actloc_jax import model as models
from actloc_jax import workdirs
from actloc_jax.backbones.i3d import I3DSizes, load_i3d
from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import checked, i3d
from tests.convert.published_i3d import i3d_shapes
from tests.convert.torch_files import Storage, state_dict_file, tensor, write_stream

State = dict[str, np.ndarray]
FILES = {  # port, channels of the first convolution, padding, epsilon
    "rgb_imagenet.pt": ("pytorch-i3d", 3, "tf_same", 1e-3),
    "flow_imagenet.pt": ("pytorch-i3d", 2, "tf_same", 1e-3),
    "i3d_rgb.pt": ("video_features", 3, "static_same", 1e-5),
    "i3d_flow.pt": ("video_features", 2, "static_same", 1e-5),
}
STREAM = {3: "rgb", 2: "flow"}


def state_of(port: str = "pytorch-i3d", *, divisor: int = 16, **options: int | bool) -> State:
    rng = np.random.default_rng(0)

    def filled(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key.endswith("num_batches_tracked"):
            return np.asarray(rng.integers(1, 9**9), np.int64)
        values = rng.standard_normal(shape).astype(np.float32)
        return np.exp(values) if key.endswith("running_var") else values

    return {key: filled(key, shape) for key, shape in i3d_shapes(port, divisor=divisor, **options).items()}


def file_of(path: pathlib.Path, state: State) -> epath.Path:
    return epath.Path(state_dict_file(path, state))


def older_file_of(path: pathlib.Path, state: State) -> epath.Path:
    """As PyTorch 0.3 wrote the published files."""
    entries, storages = collections.OrderedDict(), {}
    for number, (key, array) in enumerate(state.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        entries[key] = tensor(Storage("torch.FloatStorage", str(number), array.size), array.shape, strides)
        storages[str(number)] = array
    return epath.Path(write_stream(path, entries, storages))


def saved(source: epath.Path, folder: pathlib.Path) -> epath.Path:
    checked.save(i3d.convert(source), epath.Path(folder))
    return epath.Path(folder)


def assert_same_state(found: State, expected: State) -> None:
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.parametrize("name", FILES)
def test_port_and_stream_are_recognised_and_come_back_bit_for_bit(name: str, tmp_path: pathlib.Path) -> None:
    port, channels, padding, epsilon = FILES[name]
    state = state_of(port, channels=channels)
    source = older_file_of(tmp_path / name, state)
    model = i3d.convert(source)
    assert model.kind == f"I3D, {STREAM[channels]} stream, port {port}"
    assert any(f"padding {padding}, batch norm epsilon {epsilon:g}; {channels} input" in note for note in model.notes)
    checked.save(model, epath.Path(tmp_path / "model"))
    assert_same_state(i3d.back(epath.Path(tmp_path / "model")), state)
    loaded = load_i3d(tmp_path / "model", stream=STREAM[channels])
    assert loaded.sizes == I3DSizes(channels, 400, padding, epsilon, divisor=16)
    assert (loaded.stream, loaded.meta["i3d"]["port"]) == (STREAM[channels], port)
    content = source.read_bytes()
    assert loaded.meta["source"]["md5"] == hashlib.md5(content).hexdigest()
    assert loaded.meta["source"]["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("port", ["pytorch-i3d", "video_features"])
def test_newer_files_with_counters_prefix_and_other_logits(port: str, tmp_path: pathlib.Path) -> None:
    state = {f"module.{key}": array for key, array in state_of(port, classes=157, counters=True).items()}
    model = i3d.convert(file_of(tmp_path / "rgb_charades.pt", state))
    assert any("157 logits, not the 400 of Kinetics" in note for note in model.notes)
    assert any("57 counters of batch norms" in note for note in model.notes)
    assert any("published ones divided by 16" in note for note in model.notes)
    checked.save(model, epath.Path(tmp_path / "model"))
    assert_same_state(i3d.back(epath.Path(tmp_path / "model")), state)


def test_the_published_size() -> None:
    for port, channels, parameters in (("pytorch-i3d", 3, 12_697_264), ("video_features", 2, 12_675_312)):
        shapes = i3d_shapes(port, channels=channels)
        assert len(shapes) == 287
        running = sum(int(np.prod(shape)) for key, shape in shapes.items() if "running" in key)
        assert sum(int(np.prod(shape)) for shape in shapes.values()) - running == parameters


def test_half_precision_comes_back_as_it_was(tmp_path: pathlib.Path) -> None:
    state = {key: array.astype(np.float16) for key, array in state_of().items()}
    model = i3d.convert(file_of(tmp_path / "w.pt", state))
    assert {array.dtype.name for array in model.arrays.values()} == {"float32"}
    checked.save(model, epath.Path(tmp_path / "model"))
    assert_same_state(i3d.back(epath.Path(tmp_path / "model")), state)


def test_all_differences_in_one_error(tmp_path: pathlib.Path) -> None:
    state = state_of()
    del state["Mixed_4c.b2a.bn.running_var"], state["Conv3d_1a_7x7.conv3d.weight"]
    state["Mixed_5c.b3b.conv3d.weight"] = np.zeros((3, 3), np.float32)
    state |= {"head.weight": np.zeros(2, np.float32), "head.num_batches_tracked": np.zeros((), np.int64)}
    with pytest.raises(ValueError, match=r"w\.pt \(I3D, rgb stream, port pytorch-i3d\) does not fit") as raised:
        i3d.convert(file_of(tmp_path / "w.pt", state))
    assert sorted(line.strip() for line in str(raised.value).splitlines()[1:]) == [
        "misshapen  Mixed_5c.b3b.conv3d.weight [3, 3], expected [8, 52, 1, 1, 1]",
        "missing    Conv3d_1a_7x7.conv3d.weight [4, 3, 7, 7, 7]",
        "missing    Mixed_4c.b2a.bn.running_var [1]",
        "unexpected head.num_batches_tracked []",
        "unexpected head.weight [2]",
    ]
    state["Mixed_5c.b3b.conv3d.weight"] = np.ones((8, 52, 1, 1, 1), np.float32)
    source = file_of(tmp_path / "w.pt", state)
    model = i3d.convert(source, allow_missing=r"Mixed_4c\..*|Conv3d_1a.*weight", allow_extra=r"head\..*")
    assert "allowed: missing    Mixed_4c.b2a.bn.running_var [1]" in model.notes
    np.testing.assert_array_equal(model.beside["batch_stats"]["mixed_4c/b2a/norm/var"], 1)
    checked.save(model, epath.Path(tmp_path / "model"))
    assert_same_state(i3d.back(epath.Path(tmp_path / "model")), {k: v for k, v in state.items() if "head" not in k})


def test_files_of_others(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"no I3D of the ports .*: its keys begin mlp\.0\.weight.*convert asot \(ASOT"):
        i3d.convert(file_of(tmp_path / "w.pt", {"mlp.0.weight": np.ones((2, 2), np.float32)}))
    state = state_of()
    state["Conv3d_1a_7x7.conv3d.weight"] = np.zeros((4, 1, 7, 7, 7), np.float32)
    with pytest.raises(ValueError, match=r"takes 1 channels; expected 3 \(rgb\) or 2 \(flow\)"):
        i3d.convert(file_of(tmp_path / "w.pt", state))
    source = str(file_of(tmp_path / "w.pt", state_of()))
    assert command.main(["tst", source, str(tmp_path / "out")]) == 1
    assert "python -m convert i3d (I3D)" in capsys.readouterr().err


def test_a_network_for_features_neither_predicts_nor_is_evaluated(tmp_path: pathlib.Path) -> None:
    folder = saved(file_of(tmp_path / "w.pt", state_of()), tmp_path / "model")
    with pytest.raises(ValueError, match=r"model holds 'i3d', a network that .* predicts nothing.*--mode=extract"):
        models.load(folder)
    with pytest.raises(ValueError, match=r"a network that makes features of videos and predicts nothing"):
        workdirs.check_system(checkpoints.load_meta(folder), "tst", folder)
    with pytest.raises(ValueError, match=r"holds the rgb stream of I3D \(3 channels\); expected the flow stream"):
        load_i3d(folder, stream="flow")


def test_command_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = state_of("video_features", channels=2, classes=2)
    source = str(older_file_of(tmp_path / "i3d_flow.pt", state))
    folder, flat, back, names = (str(tmp_path / name) for name in ("model", "flat.npz", "back.npz", "names.txt"))
    assert command.main(["i3d", source, "--dry-run"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if "->" in line]
    assert "mixed_3b.branch_1.1.conv3d.weight [8, 6, 3, 3, 3] -> mixed_3b/b1b/kernel [3, 3, 3, 6, 8] video_conv" in rows
    assert "mixed_3b.branch_0.batch3d.running_var [4] -> mixed_3b/b0/norm/var [4] batch_norm" in rows
    pathlib.Path(names).write_text("abseiling\nair drumming\nzumba\n")
    assert command.main(["i3d", source, folder, f"--class-names={names}"]) == 1
    assert "names.txt names 3 classes" in capsys.readouterr().err
    pathlib.Path(names).write_text("abseiling\nair drumming\n")
    assert command.main(["i3d", source, folder, f"--class-names={names}", f"--to-npz={flat}"]) == 0
    assert "I3D, flow stream, port video_features: 287 entries" in capsys.readouterr().out
    assert checkpoints.load_meta(epath.Path(folder))["class_names"] == ["abseiling", "air drumming"]
    with np.load(flat) as arrays:
        kernel = arrays["conv3d_1a_7x7/kernel"]
        np.testing.assert_array_equal(kernel.transpose(4, 3, 0, 1, 2), state["conv3d_1a_7x7.conv3d.weight"])
    assert command.main(["i3d", "--back", folder, back]) == 0
    with np.load(back) as arrays:
        assert_same_state(dict(arrays), state)
    assert command.main(["tallformer", "--back", folder, back]) == 1
    assert "holds a model of system 'i3d'" in capsys.readouterr().err
    loaded = load_i3d(folder)
    assert jax.tree.map(np.shape, loaded.params) == jax.tree.map(np.shape, loaded.network.shapes())
    assert not [path for path in flatten(loaded.params) if "norm" in path]
