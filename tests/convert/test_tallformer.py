"""Checkpoints of TALLFormer and Video Swin: kinds of files, sizes, buffers, differences, the way back, commands."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath

from actloc_jax.layers.functional import flatten
from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import checked, tallformer, tallformer_tables
from convert.class_names import class_names_of
from convert.tallformer_config import PREFIX, config_for, kind_of
from tests.convert.published_tallformer import (
    AFSD,
    SMALL_SWIN,
    Swin,
    anet_shapes,
    filled,
    parameter_count,
    swin_shapes,
    thumos_shapes,
)
from tests.convert.torch_files import state_dict_file

State = dict[str, np.ndarray]
SMALL_BACKBONE = {"width": 4, "depths": [2, 1], "heads": [1, 2], "window": [2, 3, 3], "drop_path": 0.2}
THUMOS, ANET = filled(thumos_shapes()), filled(anet_shapes())
KINETICS = filled(swin_shapes(prefix="backbone.", dummies=False))
CLASSIFIER = {"cls_head.fc_cls.weight": np.ones((9, 8), np.float32), "cls_head.fc_cls.bias": np.ones(9, np.float32)}
FILES = {  # state dict, what comes back, wrapper, kind
    "kinetics": (KINETICS | CLASSIFIER, KINETICS, "state_dict", "Video Swin, a backbone"),
    "kinetics without its wrapper": (KINETICS | CLASSIFIER, KINETICS, "", "Video Swin, a backbone"),
    "backbone": (filled(swin_shapes()), None, "", "Video Swin, a backbone"),
    "thumos on several devices": ({PREFIX + key: array for key, array in THUMOS.items()}, None, "",
                                  "TALLFormer with anchors"),
    "anet": (ANET, None, "", "TALLFormer without anchors"),
}  # fmt: skip


def assert_same_state(found: State, expected: State) -> None:
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def file_of(path: pathlib.Path, state: State, wrapper: str = "") -> epath.Path:
    """A file as `torch.save` writes it; in a wrapper stand an optimizer and what was trained, too."""

    def wrap(entries: Any) -> Any:
        moment = next(iter(entries.values()))
        return {"meta": {"epoch": 30, "iter": 9}, wrapper: entries, "optimizer": {"state": {0: moment}}}

    return epath.Path(state_dict_file(path, state, wrap if wrapper else lambda entries: entries))


def converted(path: pathlib.Path, state: State, **options: Any) -> checked.Converted:
    return tallformer.convert(file_of(path / "w.pth", state), **options)


def saved(model: checked.Converted, folder: pathlib.Path) -> epath.Path:
    checked.save(model, epath.Path(folder))
    return epath.Path(folder)


def config_of(model: checked.Converted) -> dict[str, Any]:
    return json.loads(json.dumps(model.meta["config"]))


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_and_back(name: str, tmp_path: pathlib.Path) -> None:
    state, expected, wrapper, kind = FILES[name]
    model = tallformer.convert(file_of(tmp_path / "w.pth", state, wrapper))
    assert (model.kind, model.meta["system"], model.meta["source"]["family"]) == (kind, "tallformer", kind)
    assert model.meta["stage"] == ("backbone" if "backbone" in kind else "train")
    assert {field: config_of(model)["network"]["backbone"][field] for field in SMALL_BACKBONE} == SMALL_BACKBONE
    assert ("not used: meta, optimizer" in model.notes) == bool(wrapper)
    left = "left out, no part of a detector, and not written by --back: cls_head.fc_cls.weight [9, 8], cls_head."
    assert any(note.startswith(left) for note in model.notes) == ("kinetics" in name)
    folder = saved(model, tmp_path / "model")
    assert_same_state(tallformer.back(folder), state if expected is None else expected)
    running = flatten(checkpoints.load_model(folder)[0]["batch_stats"])
    assert len(running) == sum("running_" in key for key in state)
    if running:
        mean = state[f"{PREFIX}head.cls_convs.1.bn.running_mean"]
        np.testing.assert_array_equal(running["head/cls_convs/01/norm/mean"], mean)


@pytest.mark.parametrize(
    ("shapes", "entries", "parameters", "classes"),
    [
        (thumos_shapes(Swin(), width=512, pyramid=256, heads=16, layers=3, length=60, classes=20, head_layers=4),
         594, 117_478_022, 20),
        (anet_shapes(Swin(), width=512, heads=16, layers=3, length=96, levels=6, classes=200), 550, 119_123_568, 200),
    ],
    ids=["thumos", "anet"],
)  # fmt: skip
def test_published_snapshots_fit_the_experiments(
    shapes: dict[str, tuple[int, ...]], entries: int, parameters: int, classes: int
) -> None:
    assert (len(shapes), parameter_count(shapes)) == (entries, parameters)
    kind, prefix = kind_of(shapes, epath.Path("w.pth"))
    config, notes = config_for(kind, shapes, None, {})
    assert not any("not those of the experiment" in note for note in notes)
    assert config.network.backbone.size == "base"
    buffers = {key: shape for key, shape in shapes.items() if key.endswith(("index", "dummy_tensor", "tracked", ".pe"))}
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    state |= filled(buffers, window=(8, 7, 7))
    report, constants = tallformer.compared(state, prefix, tallformer.Parts(kind, config, classes))
    assert (report.problems(), constants.problems, constants.absent) == ([], [], [])
    assert len(report.entries) + len(constants.found) == entries
    statistics = [entry.path for entry in report.entries if entry.path.endswith(("/mean", "/var"))]
    assert sum(array.size for path, array in report.params.items() if path not in statistics) == parameters


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ("tiny", Swin(96, (2, 2, 6, 2), (3, 6, 12, 24))),
        ("small", Swin(96, (2, 2, 18, 2), (3, 6, 12, 24))),
        ("base", Swin()),
        ("large", Swin(192, (2, 2, 18, 2), (6, 12, 24, 48))),
    ],
)
def test_published_backbones_are_known_by_name(size: str, sizes: Swin) -> None:
    shapes = swin_shapes(sizes, "backbone.", dummies=False)
    kind, prefix = kind_of([*shapes, "cls_head.fc_cls.bias"], epath.Path("w.pth"))
    config, _ = config_for(kind, {key.removeprefix(prefix): shape for key, shape in shapes.items()}, None, {})
    assert config.network.backbone.to_dict() == {
        "size": size, "drop_path": 0.2, "frozen_stages": 2, "checkpoint": True,
    }  # fmt: skip


def test_sizes_of_detectors_come_from_shapes(tmp_path: pathlib.Path) -> None:
    shapes = thumos_shapes(width=16, heads=4, layers=2, levels=3, anchors=2, classes=21, head_layers=1, length=8)
    settings = {"network.detector.windows": [5, 3], "network.backbone.frozen_stages": 0}
    model = converted(tmp_path, filled(shapes), settings=settings)
    detector = {"width": 16, "pyramid_width": 6, "heads": 4, "num_layers": 2, "anchors": 2, "head_layers": 1,
                "windows": [5, 3], "window_heads": 8, "dropout": 0.1, "drop_path": 0.1}  # fmt: skip
    assert config_of(model)["network"]["detector"] == detector
    assert (config_of(model)["clip"]["frames"], config_of(model)["network"]["backbone"]["frozen_stages"]) == (64, 0)
    assert model.meta["class_names"][::20] == ["class_00", "class_20"]
    assert "  network.detector.window_heads = 8" in model.notes
    assert not any(note.startswith("  network.detector.windows") for note in model.notes)
    model = converted(tmp_path, ANET, dataset="tallformer_hacs:fixed", settings={"network.detector.groups": 8})
    config = config_of(model)
    assert (config["name"], config["network"]["detector"]["levels"]) == ("tallformer_hacs", 3)
    assert (config["clip"]["frames"], config["network"]["detector"]["groups"]) == (64, 8)
    assert len(model.meta["class_names"]) == 3
    with pytest.raises(ValueError, match=r"2 levels above the finest one, .*network\.detector\.windows=\[7, 7\]"):
        converted(tmp_path, filled(shapes))


def test_a_two_dimensional_network_is_inflated(tmp_path: pathlib.Path) -> None:
    shapes = swin_shapes(SMALL_SWIN._replace(window=(3, 3)), dummies=False)
    state = filled(shapes, window=(3, 3)) | {"layers.0.blocks.1.attn_mask": np.zeros((4, 9, 9), np.float32)}
    head = {"head.weight": np.ones((9, 8), np.float32), "head.bias": np.ones(9, np.float32)}
    source = file_of(tmp_path / "w.pth", state | head, "model")
    model = tallformer.convert(source, settings={"network.backbone.window": [2, 3, 3]})
    assert any("repeated for 3 distances in time" in note and "resized" not in note for note in model.notes)
    kernel = model.params["patch_embed/kernel"]
    assert kernel.shape == (2, 4, 4, 3, 4)
    np.testing.assert_array_equal(kernel[0] + kernel[1], state["patch_embed.proj.weight"].transpose(2, 3, 1, 0))
    table = model.params["layers/01/blocks/00/attn/relative_position_bias_table"]
    expected = state["layers.1.blocks.0.attn.relative_position_bias_table"]
    np.testing.assert_array_equal(table.reshape(3, 25, 2), np.broadcast_to(expected, (3, 25, 2)))
    found = tallformer.back(saved(model, tmp_path / "model"))
    assert set(found) == set(shapes) - {key for key in shapes if key.endswith("index")}
    np.testing.assert_array_equal(found["norm.weight"], state["norm.weight"])

    model = tallformer.convert(source)  # to the published window
    assert any("resized from 25 rows to a window of 7 x 7 (bicubic)" in note for note in model.notes)
    table = model.params["layers/01/blocks/00/attn/relative_position_bias_table"].reshape(15, 13, 13, 2)
    matrix = tallformer_tables.bicubic(5, 13)
    resized = np.einsum("ij,kl,jlh->ikh", matrix, matrix, expected.reshape(5, 5, 2))
    np.testing.assert_allclose(table, np.broadcast_to(resized, table.shape), atol=1e-6)


def test_the_window_of_a_video_network_comes_from_its_tables(tmp_path: pathlib.Path) -> None:
    def window(sizes: Swin, **settings: Any) -> list[int]:
        state = filled(swin_shapes(sizes), window=sizes.window)
        without = {key: array for key, array in state.items() if not key.endswith("index")}
        given = {f"network.backbone.{name}": value for name, value in settings.items()}
        found = [config_of(converted(tmp_path, each, settings=given)) for each in (state, without)]
        windows = [config["network"]["backbone"].get("window", [8, 7, 7]) for config in found]
        assert windows[0] == windows[1]
        return windows[0]

    assert window(SMALL_SWIN._replace(window=(16, 7, 7))) == [16, 7, 7]
    assert window(SMALL_SWIN._replace(window=(8, 7, 7))) == [8, 7, 7]
    assert window(SMALL_SWIN._replace(window=(2, 3, 4)), window=[2, 3, 4]) == [2, 3, 4]
    with pytest.raises(ValueError, match=r"105 rows do not tell the size of the window; give its time, height and"):
        window(SMALL_SWIN._replace(window=(2, 3, 4)))
    with pytest.raises(ValueError, match=r"window=\[8, 7, 7\]: .* have 75 rows, that of a window of \[2, 3, 3\]\. Tab"):
        converted(tmp_path, KINETICS, settings={"network.backbone.window": [8, 7, 7]})


def test_a_file_with_two_backbones_gives_both(tmp_path: pathlib.Path) -> None:
    slow = {"m_" + key: array for key, array in filled(swin_shapes(prefix="backbone."), seed=1).items()}
    for weights, which in (("momentum", "slow"), ("backbone", "trained")):
        model = converted(tmp_path, THUMOS | slow, weights=weights)
        assert any(f"predicts with decode.backbone={which} (" in note for note in model.notes)
        config = config_of(model)
        assert (config["memory"]["kind"], config["decode"]["backbone"]) == ("momentum", which)
    folder = saved(model, tmp_path / "model")
    assert_same_state(tallformer.back(folder), THUMOS | slow)
    found = checkpoints.load_model(folder)[0]
    np.testing.assert_array_equal(found["slow_backbone"]["norm"]["scale"], slow["m_backbone.norm.weight"])
    np.testing.assert_array_equal(found["params"]["backbone"]["norm"]["scale"], THUMOS["backbone.norm.weight"])
    with pytest.raises(ValueError, match=r"--weights=momentum: .* has no m_backbone\.\*"):
        converted(tmp_path, THUMOS, weights="momentum")


def test_half_precision_comes_back_as_it_was(tmp_path: pathlib.Path) -> None:
    state = {key: array.astype(np.float16) if array.dtype == np.float32 else array for key, array in THUMOS.items()}
    model = converted(tmp_path, state)
    assert {array.dtype.name for array in [*model.params.values(), *model.beside["batch_stats"].values()]} == {
        "float32"
    }
    assert_same_state(tallformer.back(saved(model, tmp_path / "model")), state)


def test_a_model_trained_here_gets_the_published_keys(tmp_path: pathlib.Path) -> None:
    bare = {key: array for key, array in THUMOS.items() if not key.endswith(("index", "dummy_tensor", "tracked", "pe"))}
    model = converted(tmp_path, {PREFIX + key: array for key, array in bare.items()})
    del model.meta["source"]
    found = tallformer.back(saved(model, tmp_path / "model"))
    assert set(found) == set(THUMOS)
    for key in THUMOS.keys() - bare.keys():
        expected = np.zeros((), np.int64) if key.endswith("tracked") else THUMOS[key]
        assert (found[key].dtype, found[key].shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=1e-3 if key.endswith("pe") else 0, err_msg=key)


def test_buffers_must_be_those_of_the_network(tmp_path: pathlib.Path) -> None:
    changes = {
        "backbone.layers.0.blocks.0.dummy_tensor": (np.zeros(1, np.float32), "unknown    {} holds other numbers than"),
        "backbone.layers.0.blocks.1.attn.relative_position_index": (np.zeros((18, 18), int), "unknown    {} holds"),
        "neck.1.encoder.layers.0.attn.relative_position_index": (np.zeros((3, 3), int), "misshapen  {} [3, 3], exp"),
        "neck.2.pe.pe": (np.zeros((5000, 1, 8), np.float32), "unknown    {} holds other numbers than the published"),
        "head.cls_convs.0.bn.num_batches_tracked": (np.zeros(2, int), "misshapen  {} [2], expected []"),
        "head.retina_cls.attn_mask": (np.zeros(2, np.float32), "unexpected {} [2]"),
    }
    with pytest.raises(ValueError, match="does not fit its network") as raised:
        converted(tmp_path, THUMOS | {key: array for key, (array, _) in changes.items()})
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    assert len(lines) == len(changes)
    for key, (_, message) in changes.items():
        assert any(line.startswith(message.format(key)) for line in lines), key


def test_all_differences_in_one_error(tmp_path: pathlib.Path) -> None:
    state = dict(THUMOS)
    del state["head.cls_convs.1.bn.running_var"], state["backbone.layers.1.blocks.0.mlp.fc2.bias"]
    state["neck.4.weight"] = np.zeros((2, 2), np.float32)
    state["neck.2.trans_layers.0.linear1.weight"] = np.zeros((30, 8), np.float32)
    with pytest.raises(ValueError, match=r"w\.pth \(TALLFormer with anchors\) does not fit its network") as raised:
        converted(tmp_path, state)
    assert sorted(line.strip() for line in str(raised.value).splitlines()[1:]) == [
        "misshapen  neck.2.trans_layers.0.linear1.weight [30, 8], expected [32, 8]",
        "missing    backbone.layers.1.blocks.0.mlp.fc2.bias [8]",
        "missing    head.cls_convs.1.bn.running_var [6]",
        "unexpected neck.4.weight [2, 2]",
    ]
    state["neck.2.trans_layers.0.linear1.weight"] = THUMOS["neck.2.trans_layers.0.linear1.weight"]
    model = converted(tmp_path, state, allow_missing=r".*(running_var|fc2\.bias)", allow_extra=r"neck\.4\..*")
    assert "allowed: missing    head.cls_convs.1.bn.running_var [6]" in model.notes
    np.testing.assert_array_equal(model.beside["batch_stats"]["head/cls_convs/01/norm/var"], np.ones(6))
    np.testing.assert_array_equal(model.params["backbone/layers/01/blocks/00/mlp/fc2/bias"], np.zeros(8))
    expected = {key: array for key, array in state.items() if key != "neck.4.weight"}
    assert_same_state(tallformer.back(saved(model, tmp_path / "model")), expected)


def test_files_of_others(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    def file(*keys: str) -> State:
        return {key: np.zeros((2, 2), np.float32) for key in keys}

    with pytest.raises(ValueError, match=r"no model of TALLFormer and no Swin .* begin clusters, mlp.*convert asot"):
        converted(tmp_path, file("mlp.0.0.weight", "clusters"))
    with pytest.raises(ValueError, match=r"no Swin Transformer: .*convert fustal \(FuSTAL, TriDet"):
        converted(tmp_path, file("module.backbone.embd.0.conv.weight", "module.neck.fpn_norms.0.weight"))
    with pytest.raises(ValueError, match=r"holds no Video Swin: .* its backbone begin backbone\.conv1\.conv\.weight"):
        converted(tmp_path, file("backbone.conv1.conv.weight", "neck.0.conv1.weight"))
    with pytest.raises(ValueError, match=r"\(TALLFormer without anchors\) holds no Video Swin: .*\(there are none\)"):
        converted(tmp_path, file(f"{AFSD}action_head.cls.weight"))
    source = str(file_of(tmp_path / "w.pth", THUMOS))
    for other in ("tst", "asot", "fustal", "spot"):
        assert command.main([other, source, str(tmp_path / "out")]) == 1
        assert "python -m convert tallformer (TALLFormer and Video Swin)" in capsys.readouterr().err


def test_settings_that_cannot_be(tmp_path: pathlib.Path) -> None:
    for options, message in (
        (
            {"dataset": "tallformer_anet"},
            r"--dataset=tallformer_anet is not for files of this kind \(TALLFormer with",
        ),
        (
            {"settings": {"network.backbone.widths": 3}},
            r"--set network\.backbone\.widths: the config has no such",
        ),
        ({"settings": {"clip.chunk": 24}}, r"windows of 32 frames must be whole chunks of 24"),
        ({"settings": {"network.detector.width": 16}}, r"misshapen  neck\.0\.conv1\.weight \[8, 8, 3\], expected \[16"),
    ):
        with pytest.raises(ValueError, match=message):
            converted(tmp_path, THUMOS, **options)


def test_class_names(tmp_path: pathlib.Path) -> None:
    expected = ["Archery", "BMX", "Rafting"]
    (tmp_path / "names.txt").write_text("\n".join(expected))
    model = converted(tmp_path, ANET, class_names=tmp_path / "names.txt")
    assert model.meta["class_names"] == expected
    assert not any("class names" in note for note in model.notes)
    (tmp_path / "names.txt").write_text("Archery\nBMX\n")
    with pytest.raises(ValueError, match=r"names\.txt names 2 classes, .*w\.pth has 3"):
        converted(tmp_path, ANET, class_names=tmp_path / "names.txt")
    for classes, first, last in ((20, "BaseballPitch", "VolleyballSpiking"), (200, "class_000", "class_199")):
        notes: list[str] = []
        names = class_names_of(classes, None, epath.Path("w.pth"), notes)
        assert (names[0], names[-1], len(names), len(notes)) == (first, last, classes, 1)


def test_command_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, flat, back = (str(tmp_path / name) for name in ("model", "flat.npz", "state.npz"))
    source = str(file_of(tmp_path / "epoch_600_weights.pth", THUMOS))
    flags = ["--to-npz", flat, "--set", "network.detector.window_heads=4", "--dataset=tallformer_thumos:fixed"]
    before = sorted(tmp_path.iterdir())
    assert command.main(["tallformer", source, model, "--dry-run"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if "->" in line]
    assert "head.cls_convs.1.bn.running_var [6] -> detector/head/cls_convs/01/norm/var [6] batch_norm" in rows
    kernel = "backbone/patch_embed/kernel [2, 4, 4, 3, 4] video_conv"
    assert f"backbone.patch_embed.proj.weight [4, 3, 2, 4, 4] -> {kernel}" in rows
    assert sorted(tmp_path.iterdir()) == before

    assert command.main(["tallformer", source, model, *flags]) == 0
    assert f"{len(THUMOS)} entries, {parameter_count(thumos_shapes()):,} parameters" in capsys.readouterr().out
    with np.load(flat) as arrays:
        mean = arrays["batch_stats/head/cls_convs/01/norm/mean"]
        np.testing.assert_array_equal(mean, THUMOS["head.cls_convs.1.bn.running_mean"])
        np.testing.assert_array_equal(arrays["backbone/norm/scale"], THUMOS["backbone.norm.weight"])
    meta = checkpoints.load_meta(epath.Path(model))
    assert meta["config"]["network"]["detector"]["window_heads"] == 4
    assert (meta["source"]["file"], meta["source"]["prefix"]) == ("epoch_600_weights.pth", "")
    assert command.main(["tallformer", "--back", model, back]) == 0
    with np.load(back) as arrays:
        assert_same_state(dict(arrays), THUMOS)
    assert command.main(["tallformer", source, str(tmp_path / "slow"), "--weights=momentum"]) == 1
    assert "has no m_backbone.*" in capsys.readouterr().err
    assert command.main(["spot", "--back", model, back]) == 1
    assert "holds a model of system 'tallformer'" in capsys.readouterr().err
