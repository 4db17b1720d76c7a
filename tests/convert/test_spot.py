"""Checkpoints of SPOT: kinds of files, sizes, what may be absent, differences, the way back, the command line."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from etils import epath

from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import checked, spot
from convert.spot_config import config_for
from convert.spot_tables import Sizes
from tests.convert.published import random_state
from tests.convert.published_spot import PREFIX, spot_file, spot_shapes, with_buffers
from tests.convert.torch_files import state_dict_file

SHAPES = spot_shapes(channels=6, classes=3, time=8, heads=2, mask=5, positions=11)
SIZES = {"data.feature_dim": 6, "data.steps": 8, "network.heads": 2, "network.mask_width": 5, "network.positions": 11}
STATE = with_buffers(random_state(SHAPES))


def assert_same_state(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def with_prefix(state):
    return {PREFIX + key: array for key, array in state.items()}


def convert(path, **options):
    return spot.convert(epath.Path(path), **options)


def saved(converted, folder):
    checked.save(converted, epath.Path(folder))
    return epath.Path(folder)


def field(meta, name):
    node = json.loads(json.dumps(meta))["config"]
    for part in name.split("."):
        node = node[part]
    return node


@pytest.fixture
def small_file(tmp_path: pathlib.Path) -> pathlib.Path:
    return spot_file(tmp_path / "SPOT_best_semi.pth.tar", STATE)


@pytest.mark.parametrize(
    ("name", "optimizer", "prefix", "stage", "index"),
    [
        ("SPOT_pretrain_checkpoint.pth.tar", True, PREFIX, "pretrain", 0),
        ("SPOT_pretrain_best.pth.tar", False, PREFIX, "pretrain", 0),
        ("stage_one.pth", True, "", "pretrain", 0),
        ("SPOT_best_semi.pth.tar", False, PREFIX, "finetune", 1),
        ("SPOT_checkpoint_semi.pth.tar", False, "", "finetune", 1),
        ("SPOT_best.pth.tar", False, PREFIX, "finetune", 1),
    ],
)
def test_every_kind_of_file_and_back(name, optimizer, prefix, stage, index, tmp_path):
    converted = convert(spot_file(tmp_path / name, STATE, prefix=prefix, optimizer=optimizer))
    meta = converted.meta
    assert (meta["system"], meta["stage"], meta["stage_index"]) == ("spot", stage, index)
    assert (meta["frame_rate"], meta["sample_rate"]) == (0.0, 1)
    assert meta["source"]["epoch"] == 25
    assert {name: field(meta, name) for name in SIZES} == SIZES
    assert ("not used: optimizer" in converted.notes) == optimizer
    assert any("detections of this model mean nothing" in note for note in converted.notes) == (stage == "pretrain")
    assert not any("not needed for detection" in note for note in converted.notes)
    found = spot.back(saved(converted, tmp_path / "model"))
    assert_same_state(found, {prefix + key: array for key, array in STATE.items()})


def test_published_sizes_are_those_of_the_experiment(tmp_path):
    state = {key: np.zeros(shape, np.float16) for key, shape in spot_shapes().items()}
    converted = convert(spot_file(tmp_path / "w.pth.tar", with_buffers(state)))
    assert checked.summary(converted) == "SPOT, fine-tuned: 25 entries, 5,857,460 parameters"
    assert not any("not those of the experiment" in note for note in converted.notes)
    assert converted.meta["config"]["name"] == "spot_anet_10"
    assert converted.meta["class_names"][::199] == ["class_000", "class_199"]


def test_the_experiment_is_the_one_with_the_nearest_sizes():
    for channels, time, expected in ((400, 100, "anet"), (2048, 256, "thumos"), (2048, 100, "anet"), (64, 8, "anet")):
        sizes = Sizes(channels, 20, time, heads=4, mask_width=256, num_positions=400)
        config, notes = config_for(sizes, 400, "finetune", None, {})
        assert f"starting from the experiment spot_{expected}" in notes
        assert (config.data.feature_dim, config.data.steps) == (channels, time)


def test_half_precision_comes_back_as_it_was(tmp_path):
    state = {key: array.astype(np.float16) if array.dtype == np.float32 else array for key, array in STATE.items()}
    converted = convert(spot_file(tmp_path / "w.pth.tar", state))
    assert {array.dtype.name for array in converted.params.values()} == {"float32"}
    assert_same_state(spot.back(saved(converted, tmp_path / "model")), with_prefix(state))


def test_a_model_trained_here_gets_prefix_and_buffers(tmp_path):
    bare = {key: array for key, array in STATE.items() if "pos_enc" not in key}
    converted = convert(spot_file(tmp_path / "w.pth.tar", bare, prefix=""))
    del converted.meta["source"]
    found = spot.back(saved(converted, tmp_path / "model"))
    assert set(found) == set(with_prefix(STATE))
    for name in ("embedding", "clip_trans"):
        np.testing.assert_array_equal(found[f"module.{name}.pos_enc.position_ids"], np.arange(400)[None])


@pytest.mark.parametrize(
    ("lost", "positions"), [("clip_", 11), ("pos_enc.pe", 11), ("pos_enc", 400), ("position_ids", 11)]
)
def test_what_detection_does_not_need_may_be_absent(lost, positions, tmp_path):
    state = {key: array for key, array in STATE.items() if lost not in key}
    converted = convert(spot_file(tmp_path / "w.pth.tar", state))
    absent = set(STATE) - set(state)
    assert set(converted.meta["source"]["absent"]) == {PREFIX + key for key in absent}
    start = converted.notes.index("not in the file, and not needed for detection; they get fresh values:")
    assert {note.split()[0] for note in converted.notes[start + 1 : start + 1 + len(absent)]} == set(
        with_prefix(dict.fromkeys(absent))
    )
    assert field(converted.meta, "network.positions") == positions
    assert converted.params["clip_trans/positions/embedding"].shape == (positions, 6)
    assert np.abs(converted.params["clip_trans/w_qs/kernel"]).max() > 0
    assert_same_state(spot.back(saved(converted, tmp_path / "model")), with_prefix(state))


def test_the_buffers_must_number_the_positions(tmp_path):
    name = "embedding.pos_enc.position_ids"
    for wrong, message in (
        (np.arange(12)[None], rf"misshapen  module\.{name} \[1, 12\], expected \[1, 11\]"),
        (np.arange(11)[None, ::-1], rf"unknown    module\.{name} holds other numbers than 0, 1, \.\.\. 10"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(spot_file(tmp_path / "w.pth.tar", STATE | {name: wrong}))


def test_all_differences_in_one_error(tmp_path):
    state = dict(STATE)
    del state["global_mask.0.bias"], state["clip_order.0.bias"]
    state["classifier.1.weight"] = np.zeros((2, 2), np.float32)
    state["embedding.fc.weight"] = np.zeros((6, 18), np.float32)
    source = spot_file(tmp_path / "w.pth.tar", state)
    with pytest.raises(ValueError, match=r"\(SPOT, fine-tuned\) does not fit its network") as raised:
        convert(source)
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "missing    module.global_mask.0.bias [5]",
        "unexpected module.classifier.1.weight [2, 2]",
        "misshapen  module.embedding.fc.weight [6, 18], expected [6, 12]",
    ]
    source = spot_file(tmp_path / "w.pth.tar", state | {"embedding.fc.weight": STATE["embedding.fc.weight"]})
    converted = convert(source, allow_missing=r"module\.global_mask\..*", allow_extra=r"module\.classifier\.1.*")
    assert "allowed: missing    module.global_mask.0.bias [5]" in converted.notes
    assert "allowed: unexpected module.classifier.1.weight [2, 2]" in converted.notes
    assert converted.meta["source"]["absent"] == ["module.clip_order.0.bias", "module.global_mask.0.bias"]


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("classifier.0.weight", (4, 5, 1), r"embedding\.w_qs\.weight has 12 rows; .* channels, 5, for each head"),
        ("classifier.0.weight", (4, 12, 1), r"misshapen  module\.embedding\.w_qs\.weight \[12, 6\], expected \[12, 12"),
        ("classifier.0.weight", (4, 6), r"classifier\.0\.weight has the shape \[4, 6\]; expected 3 axes"),
        ("classifier.0.weight", (1, 6, 1), r"classifier\.0\.weight has one row; expected one for each class"),
        ("classifier.0.bias", (5,), r"misshapen  module\.classifier\.0\.bias \[5\], expected \[4\]"),
        ("embedding.w_qs.weight", (18, 6), r"misshapen  module\.embedding\.w_ks\.weight \[12, 6\], expected \[18, 6\]"),
        ("embedding.w_qs.weight", (0, 6), r"w_qs\.weight has the shape \[0, 6\]; expected 2 axes, none of them empty"),
        ("global_mask.0.weight", (7, 6, 3), r"misshapen  module\.global_mask\.2\.weight \[8, 5, 1\], expected \[8, 7"),
        ("global_mask.0.weight", (5, 6, 5), r"misshapen  module\.global_mask\.0\.weight \[5, 6, 5\], expected \[5, 6"),
        ("global_mask.2.weight", (12, 5, 1), r"global_mask\.2\.weight has 12 rows, .*; there are 11 positions"),
        ("clip_order_linear.weight", (2, 9), r"misshapen  module\.clip_order_linear\.weight \[2, 9\], expected \[2, 8"),
        ("embedding.pos_enc.pe.weight", (10, 6), r"misshapen  module\.embedding\.pos_enc\.pe\.weight \[10, 6\], exp"),
    ],
)
def test_sizes_that_contradict_each_other_are_named(key, shape, message, tmp_path):
    source = spot_file(tmp_path / "w.pth.tar", STATE | {key: np.zeros(shape, np.float32)})
    with pytest.raises(ValueError, match=message) as raised:
        convert(source)
    assert "w.pth.tar" in str(raised.value)


def test_keys_with_and_without_prefix_are_not_mixed(tmp_path):
    state = with_prefix(STATE)
    for key in ("clip_order.0.bias", "global_mask.0.bias"):
        state[key] = state.pop(PREFIX + key)
    with pytest.raises(ValueError, match=r"(?s)missing +module\.global_mask.*unexpected clip_order\.0\.bias") as raised:
        convert(state_dict_file(tmp_path / "w.pth", state))
    assert "unexpected global_mask.0.bias" in str(raised.value)


def test_files_of_others(tmp_path, small_file, capsys):
    def file(*keys):
        return state_dict_file(tmp_path / "other.pth", {key: np.zeros((2, 2), np.float32) for key in keys})

    with pytest.raises(ValueError, match=r"no model of SPOT: .* begin clusters, mlp\.0\.0\.weight\. .*convert asot"):
        convert(file("mlp.0.0.weight", "clusters"))
    with pytest.raises(ValueError, match=r"it has no classifier\.0\.weight, global_mask\.0\.weight, global_mask\.2\."):
        convert(file("module.embedding.w_qs.weight"))
    truncated = tmp_path / "truncated.pth.tar"
    truncated.write_bytes(small_file.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"truncated\.pth\.tar cannot be read as a PyTorch checkpoint"):
        convert(truncated)
    with pytest.raises(ValueError, match="holds a list that is neither a state dict"):
        convert(state_dict_file(tmp_path / "list.pth", {}, lambda entries: [1, 2]))
    for other in ("tst", "asot", "fustal"):
        assert command.main([other, str(small_file), str(tmp_path / "out")]) == 1
        assert "python -m convert spot (SPOT)" in capsys.readouterr().err


def test_the_experiment_and_settings_can_be_chosen(tmp_path, small_file):
    converted = convert(
        small_file,
        dataset="spot_anet:labels=60,fixed",
        settings={"decode.row_seconds": 0.5, "decode.video_scores": "scores.json", "decode.class_thresholds": [0.5]},
    )
    config = converted.meta["config"]
    assert (config["name"], config["data"]["labels"]) == ("spot_anet_60", 60.0)
    assert not any(config["quirks"].values())
    assert config["decode"]["row_seconds"] == 0.5
    assert config["decode"]["video_scores"] == "scores.json"
    assert json.loads(json.dumps(config["decode"]["class_thresholds"])) == [0.5]
    assert not any("row_seconds" in note or "video_scores" in note for note in converted.notes)
    assert convert(small_file).meta["config"]["decode"]["video_scores"] == ""
    assert all(convert(small_file).meta["config"]["quirks"].values())
    assert "  decode.row_seconds = 0.64" in convert(small_file).notes


def test_settings_that_cannot_be(small_file):
    for options, message in (
        ({"dataset": "tst_gtea"}, r"--dataset=tst_gtea is not for files of SPOT; use spot_anet or spot_thumos"),
        ({"dataset": "spot_anet:label=60"}, r"Unknown config argument 'label'"),
        ({"dataset": "spot_anet:stage=pretrain"}, r"has the stages pretrain, the file is of stage 'finetune'"),
        ({"settings": {"network.width": 3}}, r"--set network\.width: the config has no such field"),
        ({"settings": {"network.heads": 3}}, r"misshapen  module\.embedding\.w_qs\.weight \[12, 6\], expected \[18"),
        ({"settings": {"data.steps": 20}}, r"config\.data\.steps=20 needs as many config\.network\.positions"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(small_file, **options)


def test_class_names(tmp_path, small_file):
    assert any("class names are not in the file" in note for note in convert(small_file).notes)
    assert convert(small_file).meta["class_names"] == ["class_0", "class_1", "class_2"]
    expected = ["Kneeling", "Rafting", "Archery"]
    table = {name: index for index, name in enumerate(expected)}
    for name, content in (
        ("class_index.json", json.dumps(table)),
        ("classes.txt", "\n".join(expected)),
        ("dataset_class.py", f"activity_dict = {table}\nother_dict = {{'a': 0}}\n"),
    ):
        (tmp_path / name).write_text(content)
        converted = convert(small_file, class_names=tmp_path / name)
        assert converted.meta["class_names"] == expected
        assert not any("class names" in note for note in converted.notes)
    (tmp_path / "classes.txt").write_text("Kneeling\nRafting\n")
    with pytest.raises(ValueError, match=r"classes\.txt names 2 classes, .*SPOT_best_semi\.pth\.tar has 3"):
        convert(small_file, class_names=tmp_path / "classes.txt")


def test_names_of_activitynet_in_another_order_are_suspicious(tmp_path, small_file):
    for names, suspicious in ((["Archery", "Beer pong", "BMX"], True), (["Beer pong", "Kneeling", "Tumbling"], False)):
        (tmp_path / "action_name.csv").write_text("\n".join(["action", *names]))
        notes = convert(small_file, class_names=tmp_path / "action_name.csv").notes
        assert any("does not begin with 'Beer pong'" in note for note in notes) == suspicious


def test_command_line(tmp_path, small_file, capsys):
    model, flat, back = (str(tmp_path / name) for name in ("model", "flat.npz", "state.npz"))
    flags = ["--to-npz", flat, "--set", "decode.row_seconds=0.5", "--dataset=spot_anet:labels=60"]
    assert command.main(["spot", str(small_file), model, *flags]) == 0
    assert "SPOT, fine-tuned: 25 entries, 944 parameters" in capsys.readouterr().out
    with np.load(flat) as arrays:
        np.testing.assert_array_equal(arrays["mask_hidden/kernel"], STATE["global_mask.0.weight"].T)
    meta = checkpoints.load_model(model)[1]
    assert meta["config"]["decode"]["row_seconds"] == 0.5
    source = meta["source"]
    assert (source["file"], source["prefix"], source["absent"]) == ("SPOT_best_semi.pth.tar", PREFIX, [])
    assert len(source["sha256"]) == 64
    assert command.main(["spot", "--back", model, back]) == 0
    with np.load(back) as arrays:
        assert_same_state(dict(arrays), with_prefix(STATE))
    assert command.main(["spot", str(small_file), model]) == 1
    assert "holds a model already" in capsys.readouterr().err
    assert command.main(["fustal", "--back", model, back]) == 1
    assert "holds a model of system 'spot'" in capsys.readouterr().err
    other = epath.Path(tmp_path / "tst_model")
    meta = {"system": "tst", "stage": "tst", "config": {}, "class_names": []}
    checkpoints.save_model(other, {"params": {"a": np.zeros(1)}, "batch_stats": {}}, meta)
    assert command.main(["spot", "--back", str(other), back]) == 1
    assert "holds a model of system 'tst'; this command writes those of 'spot'" in capsys.readouterr().err


def test_dry_run_prints_the_mapping_and_writes_nothing(tmp_path, small_file, capsys):
    before = sorted(tmp_path.iterdir())
    assert command.main(["spot", str(small_file), str(tmp_path / "model"), "--dry-run"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if "->" in line]
    assert len(rows) == 25
    assert "module.embedding.w_qs.weight [12, 6] -> embedding/w_qs/kernel [6, 12] linear" in rows
    assert "module.global_mask.2.weight [8, 5, 1] -> mask_out/kernel [5, 8] pointwise" in rows
    assert sorted(tmp_path.iterdir()) == before
