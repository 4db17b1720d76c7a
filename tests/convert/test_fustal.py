"""Checkpoints of FuSTAL, TriDet and ActionFormer: sizes, which weights, differences, the way back, the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from etils import epath

from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import checked, fustal
from tests.convert import published_detectors as published
from tests.convert.published import random_state
from tests.convert.published_detectors import student_file
from tests.convert.torch_files import state_dict_file

SMALL = {"features": 6, "width": 32, "neck": 16, "head": 8, "classes": 3}
TRIDET = published.tridet_shapes(windows=(1,), wide=(11,), hidden=12, bins=4, **SMALL)
GENERATOR = published.generator_shapes(features=6, width=8, classes=3)
# What shapes tell: a file, and the fields of config.network.student that must come out of it.
VARIANTS = {
    "trident": (TRIDET, {"block": "sgp", "width": 32, "neck_width": 16, "head_width": 8, "bins": 4, "sgp_hidden": 12,
                         "branch_blocks": 1, "stem_blocks": 2, "windows": 1, "sgp_factor": 5.0, "sgp_pooling": "max",
                         "neck": "identity", "head_layers": 3, "head_kernel": 3, "drop_path": 0.1}),
    "plain head": (published.tridet_shapes(windows=(3, 3), wide=(7, 7), stem_wide=3, hidden=12, average=True,
                                           bins=None, pyramid=True, head_layers=2, kernel=5, **SMALL),
                   {"bins": 0, "windows": 3, "sgp_factor": 1.5625, "sgp_pooling": "avg", "neck": "fpn",
                    "head_layers": 2, "head_kernel": 5, "embedding_kernel": 5, "branch_blocks": 2}),
    "window per level": (published.tridet_shapes(windows=(1, 5), wide=(5, 13), stem_wide=5, hidden=12, bins=4,
                                                 paths=False, head_layers=1, **{**SMALL, "head": 16}),
                         {"windows": [1, 1, 5], "sgp_factor": pytest.approx(2.0, abs=0.25), "drop_path": 0.0,
                          "head_layers": 1}),
    "actionformer": (published.actionformer_shapes(branch=1, **SMALL),
                     {"block": "transformer", "bins": 0, "heads": 4, "windows": 19, "position_bias": False}),
    "position bias": (published.actionformer_shapes(branch=2, heads=2, **SMALL,
                                                    windows={"stem.0": 5, "stem.1": 5, "branch.0": 5}),
                      {"position_bias": True, "heads": 2, "windows": [5, 5, -1]}),
    "convolutions": (published.conv_detector_shapes(**SMALL), {"block": "conv", "branch_blocks": 1, "stem_blocks": 1}),
}  # fmt: skip


def assert_same_state(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def with_prefix(state):
    return {published.PREFIX + key: array for key, array in state.items()}


def convert(path, **options):
    return fustal.convert(epath.Path(path), **options)


@pytest.fixture
def small_file(tmp_path):
    return student_file(tmp_path / "epoch_060.pth.tar", random_state(TRIDET), random_state(TRIDET, seed=1))


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_are_inferred_and_the_way_back_is_exact(name, tmp_path):
    shapes, fields = VARIANTS[name]
    state = random_state(shapes)
    converted = convert(student_file(tmp_path / "w.pth.tar", state))
    found = json.loads(json.dumps(converted.meta))["config"]
    assert {field: found["network"]["student"][field] for field in fields} == fields
    assert found["data"]["student"]["feature_dim"] == 6
    assert len(found["student"]["ranges"]) == 1 + found["network"]["student"]["branch_blocks"]
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert_same_state(fustal.back(epath.Path(tmp_path / "model")), with_prefix(state))


def test_the_generator_and_back(tmp_path):
    state = random_state(GENERATOR)
    converted = convert(state_dict_file(tmp_path / "model_best.pth.tar", state))
    meta = converted.meta
    assert (meta["system"], meta["stage"], meta["stage_index"]) == ("fustal", "generator", 0)
    assert meta["config"]["network"]["generator"]["width"] == 8
    assert meta["config"]["data"]["generator"]["feature_dim"] == 6
    assert meta["class_names"] == ["class_00", "class_01", "class_02"]
    assert not any("average" in note for note in converted.notes)
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert_same_state(fustal.back(epath.Path(tmp_path / "model")), state)


@pytest.mark.parametrize(
    ("shapes", "dataset", "parameters"),
    [
        (published.tridet_shapes(), "fustal_thumos", 15_989_604),
        (published.actionformer_shapes(), "actionformer_thumos", 29_251_612),
        (published.generator_shapes(), "fustal_thumos", 12_625_920),
    ],
    ids=["student", "actionformer", "generator"],
)
def test_published_sizes_are_those_of_the_experiment(shapes, dataset, parameters, tmp_path):
    state = {key: np.zeros(shape, np.float16) for key, shape in shapes.items()}
    write = state_dict_file if len(state) == 3 else student_file
    converted = convert(write(tmp_path / "w.pth.tar", state), dataset=dataset)
    assert checked.summary(converted).endswith(f": {len(state)} entries, {parameters:,} parameters")
    assert not any("not those of the experiment" in note for note in converted.notes)
    meta = converted.meta
    assert meta["config"]["name"] == dataset
    if dataset == "fustal_thumos":
        assert meta["config"]["stages"][meta["stage_index"]] == meta["stage"]
    else:
        assert (meta["stage"], meta["stage_index"]) == ("student", 0)
    assert meta["class_names"][::19] == ["BaseballPitch", "VolleyballSpiking"]
    assert len(set(meta["class_names"])) == 20
    assert any("20 classes are taken for THUMOS14's" in note for note in converted.notes)


def test_which_weights(tmp_path, small_file):
    average, raw = random_state(TRIDET), random_state(TRIDET, seed=1)
    key, path = "cls_head.cls_head.conv.bias", "cls_head/cls_head/bias"
    for weights, state in (("ema", average), ("raw", raw)):
        converted = convert(small_file, weights=weights)
        np.testing.assert_array_equal(converted.params[path], state[key])
        assert not any("the file has no" in note for note in converted.notes)
    assert converted.meta["source"]["weights"] == "state_dict"
    assert "not used: scheduler, optimizer, state_dict_ema" in converted.notes
    only_raw = student_file(tmp_path / "raw.pth.tar", None, raw)
    only_average = student_file(tmp_path / "average.pth.tar", average)
    bare = state_dict_file(tmp_path / "bare.pth", with_prefix(raw))
    for source, weights, state, note in (
        (only_raw, "ema", raw, "the file has no average over the training: its raw ones are taken"),
        (bare, "ema", raw, "the file has no average over the training: its raw ones are taken"),
        (only_average, "raw", average, "the file has no raw weights: its averaged ones are taken"),
    ):
        converted = convert(source, weights=weights)
        np.testing.assert_array_equal(converted.params[path], state[key])
        assert note in converted.notes
    assert not any("the file has no" in note for note in convert(bare, weights="raw").notes)


def test_without_prefix_and_in_half_precision(tmp_path):
    state = {key: array.astype(np.float16) for key, array in random_state(TRIDET).items()}
    converted = convert(student_file(tmp_path / "w.pth.tar", state, prefix=""))
    assert {array.dtype.name for array in converted.params.values()} == {"float32"}
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert_same_state(fustal.back(epath.Path(tmp_path / "model")), state)


def test_a_model_trained_here_gets_the_published_prefix(tmp_path, small_file):
    converted = convert(small_file)
    del converted.meta["source"]
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert set(fustal.back(epath.Path(tmp_path / "model"))) == set(with_prefix(TRIDET))


def test_what_the_file_does_not_tell_is_said_and_can_be_set(tmp_path, small_file):
    notes = convert(small_file).notes
    assert "starting from the experiment fustal_thumos (another with such a network: --dataset=tridet_thumos)" in notes
    assert "  network.student.max_length = 2304" in notes
    assert "  data.student.grid.stride = 4.0" in notes
    assert any(note.startswith("student.ranges = ((0, 4), (4, 10000)): one for each of the 2 levels") for note in notes)
    assert not any("heads" in note for note in notes)
    converted = convert(
        small_file, dataset="tridet_thumos",
        settings={
            "network.student.max_length": 96, "network.student.position_encoding": True,
            "student.ranges": [[0, 8], [8, 99]],
        },
    )  # fmt: skip
    config = converted.meta["config"]
    assert (config["name"], config["student"]["labels"]) == ("tridet_thumos", "annotated")
    assert config["network"]["student"]["max_length"] == 96
    assert config["network"]["student"]["position_encoding"] is True
    assert config["student"]["ranges"] == [[0, 8], [8, 99]]
    assert converted.notes[1] == "starting from the experiment tridet_thumos"
    assert not any("max_length" in note for note in converted.notes)


def test_windows_of_attention_are_one_or_one_per_level(tmp_path):
    source = student_file(tmp_path / "w.pth.tar", random_state(VARIANTS["actionformer"][0]))
    assert {"  network.student.heads = 4", "  network.student.windows = 19"} <= set(convert(source).notes)
    for windows in (9, [9, -1]):
        converted = convert(source, settings={"network.student.windows": windows})
        found = json.loads(json.dumps(converted.meta["config"]))["network"]["student"]["windows"]
        assert found == windows


def test_an_actionformer_from_weak_labels(tmp_path):
    source = student_file(tmp_path / "w.pth.tar", random_state(VARIANTS["actionformer"][0]))
    meta = convert(source, dataset="fustal_thumos").meta
    assert meta["config"]["network"]["student"]["windows"] == 19
    assert (meta["config"]["name"], meta["stage"], meta["stage_index"]) == ("fustal_thumos", "student", 3)


def test_settings_that_cannot_be(tmp_path, small_file):
    with pytest.raises(ValueError, match=r"--dataset=actionformer_thumos is not .*\(TriDet\); use fustal_thumos or tr"):
        convert(small_file, dataset="actionformer_thumos")
    with pytest.raises(ValueError, match=r"--set network\.student\.window: the config has no such field"):
        convert(small_file, settings={"network.student.window": 3})
    with pytest.raises(ValueError, match=r"student\.ranges has 1 entries for 2 levels"):
        convert(small_file, settings={"student.ranges": [[0, 99]]})
    with pytest.raises(ValueError, match=r"max_length=97 must be a multiple of 2"):
        convert(small_file, settings={"network.student.max_length": 97})
    source = student_file(tmp_path / "w.pth.tar", random_state(VARIANTS["actionformer"][0]))
    with pytest.raises(ValueError, match="multiple of"):
        convert(source, settings={"network.student.max_length": 100})


def test_class_names(tmp_path, small_file):
    names = tmp_path / "classes.txt"
    names.write_text("run\njump\nthrow\n")
    converted = convert(small_file, class_names=names)
    assert converted.meta["class_names"] == ["run", "jump", "throw"]
    assert not any("class names" in note for note in converted.notes)
    names.write_text("run\njump\n")
    with pytest.raises(ValueError, match=r"names 2 classes, .*epoch_060\.pth\.tar has 3"):
        convert(small_file, class_names=names)
    assert any("class_00, class_01" in note for note in convert(small_file).notes)


def test_all_differences_in_one_error(tmp_path):
    state = random_state(TRIDET)
    del state["backbone.stem.0.ln.bias"]
    state["backbone.stem.0.extra.weight"] = np.zeros((2, 2), np.float32)
    state["start_head.head.1.conv.weight"] = np.zeros((8, 9, 3), np.float32)
    state["neck.fpn_norms.1.weight"] = np.zeros((1, 17, 1), np.float32)
    source = student_file(tmp_path / "w.pth.tar", state)
    with pytest.raises(ValueError, match=r"\(TriDet\) does not fit its network") as raised:
        convert(source)
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "missing    module.backbone.stem.0.ln.bias [1, 32, 1]",
        "unexpected module.backbone.stem.0.extra.weight [2, 2]",
        "misshapen  module.neck.fpn_norms.1.weight [1, 17, 1], expected [1, 16, 1]",
        "misshapen  module.start_head.head.1.conv.weight [8, 9, 3], expected [8, 8, 3]",
    ]


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("backbone.embd.0.conv.weight", (48, 6, 3)),
        ("backbone.stem.1.convkw.weight", (32, 1, 21)),
        ("cls_head.cls_head.conv.bias", (4,)),
        ("reg_head.offset_head.conv.weight", (12, 8, 3)),
        ("backbone.branch.0.psi.weight", (32,)),
        ("backbone.branch.0.psi.weight", ()),
    ],
)
def test_a_size_that_contradicts_the_others_is_named(key, shape, tmp_path):
    state = random_state(TRIDET) | {key: np.zeros(shape, np.float32)}
    with pytest.raises(ValueError, match="misshapen  module") as raised:
        convert(student_file(tmp_path / "w.pth.tar", state))
    assert "w.pth.tar (TriDet) does not fit its network" in str(raised.value)


def test_missing_and_extra_keys_can_be_allowed(tmp_path):
    state = random_state(TRIDET)
    lost = state.pop("end_head.cls_head.conv.bias")
    source = student_file(tmp_path / "w.pth.tar", state | {"cls_loss.count": np.zeros(1, np.float32)})
    converted = convert(source, allow_missing=r"module\.end_head\..*", allow_extra=r"module\.cls_loss\..*")
    assert "allowed: missing    module.end_head.cls_head.conv.bias [3]" in converted.notes
    assert "allowed: unexpected module.cls_loss.count [1]" in converted.notes
    np.testing.assert_allclose(converted.params["end_head/cls_head/bias"], np.full(lost.shape, -4.595), atol=1e-3)
    assert not any("loss" in path for path in converted.params)


def test_classes_that_nothing_tells(tmp_path):
    state = random_state({key: shape for key, shape in GENERATOR.items() if "f_cls" not in key})
    source = state_dict_file(tmp_path / "w.pth", state)
    with pytest.raises(ValueError, match=r"does not tell the number of classes: .* give --class-names"):
        convert(source)
    names = tmp_path / "classes.txt"
    names.write_text("run\njump\n")
    converted = convert(source, class_names=names, allow_missing=r".*f_cls.*")
    assert converted.params["f_cls/kernel"].shape == (8, 2)


def test_keys_with_and_without_prefix_are_not_mixed(tmp_path):
    state = with_prefix(random_state(TRIDET))
    state["neck.fpn_norms.0.bias"] = state.pop("module.neck.fpn_norms.0.bias")
    with pytest.raises(
        ValueError, match=r"(?s)missing    module\.neck\.fpn_norms\.0\.bias.*unexpected neck\.fpn_norms"
    ):
        convert(state_dict_file(tmp_path / "w.pth", state))


def test_files_of_others(tmp_path, small_file):
    def file(**arrays):
        return state_dict_file(tmp_path / "other.pth", {key: np.zeros((2, 2), np.float32) for key in arrays["keys"]})

    with pytest.raises(
        ValueError, match=r"no model of FuSTAL, TriDet or ActionFormer.* begin clusters, mlp.*convert a"
    ):
        convert(file(keys=["mlp.0.0.weight", "clusters"]))
    with pytest.raises(ValueError, match=r"layout of OpenTAD \(projection\., rpn_head\.\), which is not read"):
        convert(file(keys=["module.projection.embed.0.conv.weight", "module.rpn_head.scale.0.scale"]))
    truncated = tmp_path / "truncated.pth.tar"
    truncated.write_bytes(small_file.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"truncated\.pth\.tar cannot be read as a PyTorch checkpoint"):
        convert(truncated)
    with pytest.raises(ValueError, match="holds a list that is neither a state dict"):
        convert(state_dict_file(tmp_path / "list.pth", {}, lambda entries: [1, 2]))


def test_a_model_of_another_system_is_not_written_back(tmp_path, small_file, capsys):
    folder = epath.Path(tmp_path / "tst_model")
    meta = {"system": "tst", "stage": "tst", "config": {}, "class_names": []}
    checkpoints.save_model(folder, {"params": {"a": np.zeros(1)}, "batch_stats": {}}, meta)
    assert command.main(["fustal", "--back", str(folder), str(tmp_path / "state.npz")]) == 1
    assert "holds a model of system 'tst'" in capsys.readouterr().err
    for other in ("tst", "asot"):
        assert command.main([other, str(small_file), str(tmp_path / "out")]) == 1
        assert "python -m convert fustal" in capsys.readouterr().err


def test_command_line(tmp_path, small_file, capsys):
    raw = random_state(TRIDET, seed=1)
    model, flat, back = (str(tmp_path / name) for name in ("model", "flat.npz", "state.npz"))
    flags = ["--to-npz", flat, "--weights", "raw", "--set", "network.student.max_length=64"]
    assert command.main(["fustal", str(small_file), model, "--dataset=tridet_thumos", *flags]) == 0
    assert "TriDet: 100 entries, 11,553 parameters" in capsys.readouterr().out
    with np.load(flat) as arrays:
        np.testing.assert_array_equal(arrays["backbone/embd/00/kernel"], raw["backbone.embd.0.conv.weight"].T)
    meta = checkpoints.load_model(model)[1]
    assert (meta["system"], meta["stage"], meta["stage_index"]) == ("fustal", "student", 0)
    assert (meta["frame_rate"], meta["sample_rate"]) == (0.0, 1)
    assert meta["config"]["network"]["student"]["max_length"] == 64
    source = meta["source"]
    assert (source["file"], source["epoch"], source["weights"]) == ("epoch_060.pth.tar", 60, "state_dict")
    assert (source["prefix"], len(source["sha256"])) == ("module.", 64)
    assert command.main(["fustal", "--back", model, back]) == 0
    with np.load(back) as arrays:
        assert_same_state(dict(arrays), with_prefix(raw))
    assert command.main(["fustal", str(small_file), model]) == 1
    assert "holds a model already" in capsys.readouterr().err


def test_dry_run_prints_the_mapping_and_writes_nothing(tmp_path, capsys):
    source = state_dict_file(tmp_path / "model_best.pth.tar", random_state(GENERATOR))
    before = sorted(tmp_path.iterdir())
    assert command.main(["fustal", str(source), str(tmp_path / "model"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    rows = {" ".join(line.split()) for line in printed.splitlines() if "->" in line}
    assert rows == {
        "aness_module.f_embed.0.weight [8, 6, 3] -> f_embed/kernel [3, 6, 8] conv",
        "aness_module.f_embed.0.bias [8] -> f_embed/bias [8] conv",
        "aness_module.f_cls.0.weight [3, 8, 1] -> f_cls/kernel [8, 3] pointwise",
    }
    assert "FuSTAL's generator: 3 entries, 176 parameters" in printed
    assert sorted(tmp_path.iterdir()) == before
