"""ASOT's Lightning checkpoints: sizes, hyper-parameters, differences, the way back, the command line."""

from __future__ import annotations

import collections
import itertools
import json

import jax
import numpy as np
import pytest
from etils import epath

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.systems.asot.network import Encoder
from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import asot, asot_config, checked
from tests.convert.torch_files import Storage, state_dict_file, tensor, write_zip
from tests.parity import harness, params

HYPER_PARAMETERS = {
    "lr": 3e-4,
    "weight_decay": 2e-5,
    "layer_sizes": [6, 5, 4],
    "n_clusters": 3,
    "alpha_train": 0.35,
    "alpha_eval": 0.65,
    "n_ot_train": [20, 2],
    "n_ot_eval": [30, 4],
    "step_size": None,
    "train_eps": 0.08,
    "eval_eps": 0.03,
    "ub_frames": True,
    "ub_actions": False,
    "lambda_frames_train": 0.06,
    "lambda_actions_train": 0.12,
    "lambda_frames_eval": 0.07,
    "lambda_actions_eval": 0.02,
    "temp": 0.2,
    "radius_gw": 0.03,
    "learn_clusters": False,
    "n_frames": 128,
    "rho": 0.15,
    "exclude_cls": 1,
    "visualize": False,
}
EXPECTED_FIELDS = {
    "network": {"layers": [6, 5, 4], "temperature": 0.2, "learn_clusters": False},
    "clusters": {"videos": 3},
    "transport": {
        "epsilon": 0.08, "alpha": 0.35, "radius": 0.03, "rho": 0.15, "relax_frames": True, "relax_actions": False,
        "lambda_frames": 0.06, "lambda_actions": 0.12, "iterations": 20, "inner_iterations": 2, "step": 0.0,
    },
    "decode": {
        "epsilon": 0.03, "alpha": 0.65, "radius": 0.03, "rho": 0.15, "relax_frames": True, "relax_actions": False,
        "lambda_frames": 0.07, "lambda_actions": 0.02, "iterations": 30, "inner_iterations": 4, "step": 0.0,
    },
    "asot": {"frames": 128, "learning_rate": 3e-4, "weight_decay": 2e-5},
    "data": {"feature_dim": 6, "exclude_id": 1, "split": "videos", "sample_rate": 1},
}  # fmt: skip


def model_state(*widths, clusters=3, dtype=np.float32):
    """A state dict with layers of these widths; the last layer has no activation beside it."""
    rng = np.random.default_rng(0)
    state = {"clusters": rng.standard_normal((clusters, widths[-1])).astype(dtype)}
    for layer, (before, after) in enumerate(itertools.pairwise(widths)):
        name = f"mlp.{layer}" if layer == len(widths) - 2 else f"mlp.{layer}.0"
        state[f"{name}.weight"] = rng.standard_normal((after, before)).astype(dtype)
        state[f"{name}.bias"] = rng.standard_normal(after).astype(dtype)
    return state


def lightning_file(path, state, hyper=None):
    """A checkpoint as Lightning's trainer writes it, its optimizer and callbacks included."""
    moments = np.arange(4, dtype=np.float32)

    def wrap(entries):
        moment = tensor(Storage("torch.FloatStorage", "0", 4), (4,), (1,))
        return {
            "epoch": 9,
            "global_step": 60,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": entries,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 10}}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "a.ckpt", "best_k_models": {}}},
            "optimizer_states": [{"state": {0: {"step": 60.0, "exp_avg": moment}}, "param_groups": [{"params": [0]}]}],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": HYPER_PARAMETERS if hyper is None else hyper,
        }

    entries, storages = collections.OrderedDict(), {"0": moments}
    for number, (key, array) in enumerate(state.items(), start=1):
        strides = tuple(step // array.itemsize for step in array.strides)
        entries[key] = tensor(Storage("torch.FloatStorage", str(number), array.size), array.shape, strides)
        storages[str(number)] = array
    return epath.Path(write_zip(path, wrap(entries), storages))


def assert_same_state(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.fixture
def small_file(tmp_path):
    return lightning_file(tmp_path / "small.ckpt", model_state(6, 5, 4))


@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4), (6, 5, 7, 9, 4)], ids=["1 layer", "2 layers", "4 layers"])
def test_sizes_are_inferred_and_the_way_back_is_exact(widths, tmp_path):
    state = model_state(*widths, clusters=5)
    source = lightning_file(tmp_path / "w.ckpt", state, {})
    converted = asot.convert(source)
    assert converted.meta["config"]["network"]["layers"] == list(widths)
    assert converted.meta["config"]["clusters"] == {"videos": 5}
    assert sum(path.endswith("/kernel") for path in converted.params) == len(widths) - 1
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert_same_state(asot.back(epath.Path(tmp_path / "model")), state)


def test_arrays_are_laid_out_for_our_network(small_file):
    converted = asot.convert(small_file)
    state = model_state(6, 5, 4)
    network = Network(lambda rngs: Encoder((6, 5, 4), 3, rngs=rngs))
    assert {path: array.shape for path, array in converted.params.items()} == {
        path: leaf.shape for path, leaf in flatten(network.shapes()).items()
    }
    np.testing.assert_array_equal(converted.params["layers/00/kernel"], state["mlp.0.0.weight"].T)
    np.testing.assert_array_equal(converted.params["layers/01/kernel"], state["mlp.1.weight"].T)
    np.testing.assert_array_equal(converted.params["clusters"], state["clusters"])


def golden_cases():
    return [case for case in harness.all_cases() if case.system == "asot" and (case.path / "weights.pth").exists()]


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case.id)
def test_golden_weights(case, tmp_path):
    converted = asot.convert(epath.Path(case.path / "weights.pth"))
    checked.save(converted, epath.Path(tmp_path / "model"))
    state, _ = checked.state_dict(case.weights(), case.path)
    assert_same_state(asot.back(epath.Path(tmp_path / "model")), state)
    nested = params.asot_params(state)
    jax.tree.map(np.testing.assert_array_equal, nested, checkpoints.load_model(tmp_path / "model")[0]["params"])


def test_hyper_parameters_land_in_the_config(small_file):
    config = asot.convert(small_file).meta["config"]
    for group, fields in EXPECTED_FIELDS.items():
        assert {name: config[group][name] for name in fields} == fields, group


def test_a_step_size_is_kept(tmp_path):
    source = lightning_file(tmp_path / "w.ckpt", model_state(6, 5, 4), HYPER_PARAMETERS | {"step_size": 1.5})
    config = asot.convert(source).meta["config"]
    assert config["transport"]["step"] == config["decode"]["step"] == 1.5


def test_decoding_follows_training_where_the_original_has_one_value_for_both(small_file):
    settings = {"transport.radius": 0.5, "decode.rho": 0.75, "transport.lambda_frames": 0.9}
    config = asot.convert(small_file, settings=settings).meta["config"]
    assert config["decode"]["radius"] == config["transport"]["radius"] == 0.5
    assert config["decode"]["rho"] == 0.75
    assert config["transport"]["rho"] == 0.15
    assert config["decode"]["lambda_frames"] == 0.07


def test_what_the_file_lacks_is_said(tmp_path):
    told = {name: value for name, value in HYPER_PARAMETERS.items() if name not in ("radius_gw", "n_ot_train")}
    source = lightning_file(tmp_path / "w.ckpt", model_state(6, 5, 4), told | {"beta": 1})
    converted = asot.convert(source, settings={"transport.radius": 0.25})
    assert converted.notes[0].startswith("no experiment has 6 channels and 3 clusters")
    assert converted.notes[1:5] == [
        "hyper-parameters that the file lacks, from the experiment unless set:",
        "  radius_gw: transport.radius = 0.25",
        "  n_ot_train: transport.iterations = 25, transport.inner_iterations = 1",
        "not used: hyper-parameter beta = 1",
    ]
    assert not any(
        "lacks" in line or "beta" in line
        for line in asot.convert(lightning_file(tmp_path / "v.ckpt", model_state(6, 5, 4))).notes
    )


@pytest.mark.parametrize(
    ("widths", "clusters", "hyper", "name", "split"),
    [
        ((512, 128, 40), 22, {}, "asot_desktop_assembly", "videos"),
        ((512, 64, 16), 22, {}, "asot_desktop_assembly", "videos"),
        ((64, 128, 40), 19, {}, "asot_50salads_mid", "videos"),
        ((64, 128, 40), 12, {"alpha_train": 0.3, "rho": 0.15}, "asot_50salads_eval", "videos"),
        ((64, 128, 40), 12, {"alpha_train": 0.4, "rho": 0.2}, "asot_breakfast", "scrambledegg"),
        ((3000, 32, 32), 7, {"exclude_cls": -1}, "asot_yti", "cpr"),
    ],
)
def test_the_experiment_with_these_sizes_is_found(widths, clusters, hyper, name, split, tmp_path):
    source = lightning_file(tmp_path / "w.ckpt", model_state(*widths, clusters=clusters), hyper)
    converted = asot.convert(source)
    config = converted.meta["config"]
    assert (config["name"], config["data"]["split"]) == (name, split)
    assert config["clusters"][split] == clusters
    assert f"starting from the experiment {name}, split {split}" in converted.notes


def test_an_activity_that_sizes_do_not_tell(tmp_path):
    source = lightning_file(tmp_path / "w.ckpt", model_state(64, 128, 40, clusters=7), {})
    assert any("just as near: asot_breakfast tea; choose with" in line for line in asot.convert(source).notes)
    converted = asot.convert(source, settings={"data.split": "tea"})
    assert converted.meta["config"]["data"]["split"] == "tea"
    assert not any("just as near" in line for line in converted.notes)


def test_a_data_set_of_other_sizes(tmp_path, small_file):
    converted = asot.convert(small_file, dataset="breakfast", settings={"data.split": "milk"})
    assert converted.meta["config"]["data"]["standardise"] is True
    assert converted.meta["config"]["clusters"]["milk"] == 3
    assert converted.meta["config"]["data"]["feature_dim"] == 6
    assert any("clusters, the file 6 and 3" in line for line in converted.notes)
    with pytest.raises(ValueError, match="cub is unknown"):
        asot.convert(small_file, dataset="cub")
    with pytest.raises(ValueError, match=r"--set transport\.radios: the config has no such field"):
        asot.convert(small_file, settings={"transport.radios": 1})


def test_a_bare_state_dict(tmp_path):
    state = model_state(512, 128, 40, clusters=22)
    converted = asot.convert(epath.Path(state_dict_file(tmp_path / "w.pth", state)))
    assert converted.meta["config"]["transport"]["radius"] == 0.02
    assert "  radius_gw: transport.radius = 0.02" in converted.notes
    lacking = [line.split(":")[0].strip() for line in converted.notes if line.startswith("  ") and ": " in line]
    assert set(lacking) == {*asot_config.FIELDS, "n_ot_train", "n_ot_eval"}


def test_half_precision_comes_back_in_half_precision(tmp_path):
    state = model_state(6, 5, 4, dtype=np.float16)
    converted = asot.convert(epath.Path(state_dict_file(tmp_path / "w.pth", state)))
    assert {array.dtype.name for array in converted.params.values()} == {"float32"}
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert_same_state(asot.back(epath.Path(tmp_path / "model")), state)


def test_all_differences_in_one_error(tmp_path):
    state = model_state(6, 5, 7, 4)
    del state["mlp.1.0.bias"]
    state["head.weight"] = np.zeros((2, 2), np.float32)
    state["mlp.2.bias"] = np.zeros(9, np.float32)
    hyper = HYPER_PARAMETERS | {"layer_sizes": [6, 5, 7, 8], "n_clusters": 10}
    with pytest.raises(ValueError, match="does not fit its network") as raised:
        asot.convert(lightning_file(tmp_path / "w.ckpt", state, hyper))
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "missing    mlp.1.0.bias [7]",
        "unexpected head.weight [2, 2]",
        "misshapen  mlp.2.bias [9], expected [4]",
        "contradictory layer_sizes is [6, 5, 7, 8] in hyper_parameters; the arrays have [6, 5, 7, 4]",
        "contradictory n_clusters is 10 in hyper_parameters; the arrays have 3",
    ]


@pytest.mark.parametrize("key", sorted(model_state(6, 5, 4)))
def test_any_missing_key_is_named_and_can_be_allowed(key, tmp_path):
    state = model_state(6, 5, 4)
    shape = state.pop(key).shape
    source = lightning_file(tmp_path / "w.ckpt", state)
    with pytest.raises(ValueError, match=f"missing    {key}"):
        asot.convert(source)
    converted = asot.convert(source, allow_missing=key)
    assert f"allowed: missing    {key} {list(shape)}" in converted.notes
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert asot.back(epath.Path(tmp_path / "model"))[key].shape == shape


def test_extra_keys_can_be_allowed(tmp_path):
    source = lightning_file(tmp_path / "w.ckpt", model_state(6, 5, 4) | {"mof.count": np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match=r"unexpected mof\.count \[1\]"):
        asot.convert(source)
    assert "mof.count" not in asot.convert(source, allow_extra=r"mof\..*").params


def test_a_size_that_nothing_tells(tmp_path):
    state = model_state(6, 5, 4)
    del state["clusters"]
    with pytest.raises(ValueError, match="clusters None"):
        asot.convert(lightning_file(tmp_path / "w.ckpt", state, {}))


def test_iterations_are_two_numbers(tmp_path):
    source = lightning_file(tmp_path / "w.ckpt", model_state(6, 5, 4), HYPER_PARAMETERS | {"n_ot_train": 25})
    with pytest.raises(ValueError, match=r"n_ot_train is 25; expected \[outer, inner\]"):
        asot.convert(source)
    source = lightning_file(tmp_path / "v.ckpt", model_state(6, 5, 4), HYPER_PARAMETERS | {"rho": "high"})
    with pytest.raises(ValueError, match=r"v\.ckpt: transport\.rho"):
        asot.convert(source)


def test_class_names(tmp_path, small_file):
    mapping = tmp_path / "mapping.txt"
    mapping.write_text("2 pour\n0 take\n1 background\n3 close\n3 shut\n")
    converted = asot.convert(small_file, class_names=mapping)  # its excluded class is 1
    assert converted.meta["class_names"] == ["take", "pour", "close/shut"]
    assert not any("names 3 classes" in line for line in converted.notes)
    mapping.write_text("0 take\n1 background\n")
    assert any("names 1 classes, the model has 3 clusters" in line
               for line in asot.convert(small_file, class_names=mapping).notes)  # fmt: skip
    mapping.write_text("0 take\n2 pour\n")
    with pytest.raises(ValueError, match="excluded id 1 is not in"):
        asot.convert(small_file, class_names=mapping)
    assert asot.convert(small_file).meta["class_names"] == []


def test_meta(tmp_path, small_file):
    checked.save(asot.convert(small_file), epath.Path(tmp_path / "model"))
    meta = checkpoints.load_model(tmp_path / "model")[1]
    assert (meta["system"], meta["stage"], meta["stage_index"]) == ("asot", "asot", 0)
    assert (meta["frame_rate"], meta["sample_rate"]) == (0.0, 1)
    source = meta["source"]
    assert (source["file"], source["epoch"], source["global_step"]) == ("small.ckpt", 9, 60)
    assert len(source["sha256"]) == 64


def test_files_of_others(tmp_path):
    other = {"adapter.backbone.decoder.module.time_proj.weight": np.zeros((2, 2), np.float32)}
    with pytest.raises(ValueError, match=r"no ASOT model: expected .* use: python -m convert tst"):
        asot.convert(epath.Path(state_dict_file(tmp_path / "tst.pth", other)))
    below = {f"model.{key}": array for key, array in model_state(6, 5, 4).items()}
    with pytest.raises(ValueError, match=r"below 'model\.' \(model\.clusters, model\.mlp"):
        asot.convert(epath.Path(state_dict_file(tmp_path / "below.pth", below)))


def test_the_two_commands_name_each_other(tmp_path, small_file, capsys):
    assert command.main(["tst", str(small_file), str(tmp_path / "out")]) == 1
    assert "python -m convert asot" in capsys.readouterr().err
    model = str(tmp_path / "model")
    assert command.main(["asot", str(small_file), model]) == 0
    capsys.readouterr()
    assert command.main(["tst", "--back", model, str(tmp_path / "state.npz")]) == 1
    assert "holds a model of system 'asot'" in capsys.readouterr().err
    folder = epath.Path(tmp_path / "tst_model")
    meta = {"system": "tst", "stage": "tst", "config": {}, "class_names": []}
    checkpoints.save_model(folder, {"params": {"a": np.zeros(1)}, "batch_stats": {}}, meta)
    assert command.main(["asot", "--back", str(folder), str(tmp_path / "state.npz")]) == 1
    assert "holds a model of system 'tst'" in capsys.readouterr().err


def test_command_line(tmp_path, small_file, capsys):
    state = model_state(6, 5, 4)
    model, flat, back = (str(tmp_path / name) for name in ("model", "flat.npz", "state.npz"))
    flags = ["--to-npz", flat, "--set", "data.standardise=true", "--set", "data.frame_rate=25.0"]
    assert command.main(["asot", str(small_file), model, *flags]) == 0
    assert "wrote the model checkpoint" in capsys.readouterr().out
    with np.load(flat) as arrays:
        np.testing.assert_array_equal(arrays["layers/01/kernel"], state["mlp.1.weight"].T)
    meta = checkpoints.load_model(model)[1]
    assert meta["config"]["data"]["standardise"] is True
    assert meta["frame_rate"] == 25.0
    assert command.main(["asot", "--back", model, back]) == 0
    with np.load(back) as arrays:
        assert_same_state(dict(arrays), state)


def test_dry_run_prints_the_mapping_and_writes_nothing(tmp_path, small_file, capsys):
    before = sorted(tmp_path.iterdir())
    assert command.main(["asot", str(small_file), str(tmp_path / "model"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    rows = {" ".join(line.split()) for line in printed.splitlines() if "->" in line}
    assert rows == {
        "clusters [3, 4] -> clusters [3, 4] matrix",
        "mlp.0.0.weight [5, 6] -> layers/00/kernel [6, 5] linear",
        "mlp.0.0.bias [5] -> layers/00/bias [5] linear",
        "mlp.1.weight [4, 5] -> layers/01/kernel [5, 4] linear",
        "mlp.1.bias [4] -> layers/01/bias [4] linear",
    }
    assert "ASOT: 5 entries, 71 parameters" in printed
    assert sorted(tmp_path.iterdir()) == before


def test_the_whole_config_is_json(small_file):
    meta = asot.convert(small_file).meta
    assert json.loads(json.dumps(meta)) == meta
