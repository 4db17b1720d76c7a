"""Whole conversions: families, sizes, differences, buffers, the way back, the command line."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from etils import epath

from actloc_jax.backbones.asrf import ASFormerASRF, ASRFSizes
from actloc_jax.data import frame_cache
from actloc_jax.layers.functional import Network, flatten
from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import checked, torch_reader, tst, tst_tables
from tests.convert import published
from tests.convert.torch_files import Storage, state_dict_file, tensor, write_zip
from tests.parity import harness

SMALL = published.Sizes(
    classes=5, encoder_layers=4, encoder_width=6, decoder_width=4, decoder_kernel=3, inner=6, entries=0, parameters=0,
    features=10, encoder_kernel=3, decoder_layers=2, conditions=2, time=8, segment=7, pixel_layers=3,
)  # fmt: skip
SMALL_OPTIONS = {"dataset": "gtea", "settings": {"backbone.encoder.feature_layers": [1, 3]}}


@pytest.fixture(scope="module")
def small_state():
    return published.buffers("adapter.backbone.", 50) | published.random_state(published.tst_shapes(SMALL))


@pytest.fixture(scope="module")
def small_file(tmp_path_factory, small_state):
    return epath.Path(state_dict_file(tmp_path_factory.mktemp("small") / "small.pth", small_state))


@pytest.fixture(scope="module")
def small_converted(small_file):
    return tst.convert(small_file, **SMALL_OPTIONS)


def assert_same_state(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_round_trip_is_exact(tmp_path, small_converted, small_state):
    checked.save(small_converted, epath.Path(tmp_path / "model"))
    assert_same_state(tst.back(epath.Path(tmp_path / "model")), small_state)


def test_buffers_come_back_as_they_were(tmp_path, small_state):
    """The schedule of another machine may differ in the last bit."""
    state = dict(small_state)
    key = "adapter.backbone.posterior_variance"
    state[key] = np.nextafter(state[key], 1)
    source = epath.Path(state_dict_file(tmp_path / "w.pth", state))
    checked.save(tst.convert(source, **SMALL_OPTIONS), epath.Path(tmp_path / "model"))
    assert_same_state(tst.back(epath.Path(tmp_path / "model")), state)


def test_a_model_trained_here_gets_the_buffers_of_its_schedule(tmp_path, small_converted, small_state):
    folder = epath.Path(tmp_path / "model")
    checked.save(small_converted, folder)
    (folder / checked.BUFFER_FILE).unlink()
    assert_same_state(tst.back(folder), small_state)


@pytest.mark.parametrize(
    ("case", "dataset"),
    [("tst_full", "gtea"), ("diffact_model", "50salads"), ("asformer", "breakfast")],
)
def test_every_family_of_golden_weights(case, dataset, tmp_path):
    golden = next(golden for golden in harness.cases("tst", case) if (golden.path / "weights.pth").exists())
    layers = golden.config.get("encoder_params", {}).get("feature_layer_indices")
    settings = {"backbone.encoder.feature_layers": layers} if layers else {}
    folder = epath.Path(tmp_path)
    checked.save(tst.convert(epath.Path(golden.path / "weights.pth"), settings=settings, dataset=dataset), folder)
    assert_same_state(tst.back(folder), golden.weights())


def test_asformer_with_boundary_branches(tmp_path):
    """There is no published file of this family; its keys are those that the code of TST gives such a model."""
    sizes = ASRFSizes(num_classes=5, input_dim=7, num_layers=2, width=4, class_stages=2, boundary_stages=3)
    shapes = flatten(Network(lambda rngs: ASFormerASRF(sizes, rngs=rngs)).shapes())
    rng = np.random.default_rng(0)
    params = {"backbone/" + path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in shapes.items()}
    state = tst_tables.alone(tst_tables.ASRF).to_torch(params)
    assert state["brb.1.layers.0.conv_dilated.weight"].shape == (4, 4, 3)
    source = epath.Path(state_dict_file(tmp_path / "epoch-50.model", state))
    converted = tst.convert(source, dataset="50salads")
    assert converted.meta["stage"] == "asformer"
    assert converted.meta["config"]["backbone"]["boundary_stages"] == 3
    folder = epath.Path(tmp_path / "model")
    checked.save(converted, folder)
    assert_same_state(tst.back(folder), state)


def test_published_sizes_are_recognised(tmp_path):
    shapes = published.diffact_shapes(published.SIZES["50salads"])
    state = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()} | published.buffers()
    converted = tst.convert(epath.Path(state_dict_file(tmp_path / "release.model", state)))
    assert converted.kind == "DiffAct"
    assert converted.meta["stage"] == "diffact"
    config = converted.meta["config"]
    assert config["name"] == "tst_50salads"
    assert config["backbone"]["diffusion"]["scale"] == 1.0
    assert converted.meta["sample_rate"] == 8
    assert "  backbone.diffusion.scale = 1.0" in converted.notes
    assert sum(array.size for array in converted.params.values()) == 1_214_566


def test_wrapper_of_a_training_run(tmp_path):
    sizes = SMALL._replace(classes=4)
    state = published.buffers("", 50) | published.random_state(published.diffact_shapes(sizes))
    source = state_dict_file(
        tmp_path / "latest.pt", state, wrap=lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 7, "step": 99}
    )
    converted = tst.convert(epath.Path(source), **SMALL_OPTIONS)
    assert converted.meta["source"]["epoch"] == 7
    assert converted.meta["source"]["step"] == 99
    assert converted.meta["config"]["data"]["num_classes"] == 4


def test_meta_and_class_names(tmp_path, small_file):
    (tmp_path / "mapping.txt").write_text("1 open\n0 take\n2 pour\n3 close\n4 background\n")
    converted = tst.convert(small_file, class_names=tmp_path / "mapping.txt", **SMALL_OPTIONS)
    checked.save(converted, epath.Path(tmp_path / "model"))
    model, meta = checkpoints.load_model(tmp_path / "model")
    assert set(model["params"]) == {"backbone", "refiner"}
    assert meta["system"] == "tst"
    assert meta["stage"] == "tst"
    assert meta["class_names"] == ["take", "open", "pour", "close", "background"]
    assert meta["source"]["file"] == "small.pth"
    assert len(meta["source"]["sha256"]) == 64
    assert meta["config"]["backbone"]["encoder"]["width"] == 6
    (tmp_path / "mapping.txt").write_text("0 take\n1 open\n")
    with pytest.raises(ValueError, match="names 2 classes, the file has 5"):
        tst.convert(small_file, class_names=tmp_path / "mapping.txt", **SMALL_OPTIONS)


def test_half_precision_comes_back_in_half_precision(tmp_path, small_state):
    state = dict(small_state)
    state["refiner.feat_down.weight"] = state["refiner.feat_down.weight"].astype(np.float16)
    source = epath.Path(state_dict_file(tmp_path / "w.pth", state))
    converted = tst.convert(source, **SMALL_OPTIONS)
    assert converted.params["refiner/feat_down/kernel"].dtype == np.float32
    checked.save(converted, epath.Path(tmp_path / "model"))
    assert_same_state(tst.back(epath.Path(tmp_path / "model")), state)


def test_bfloat16_is_read_exactly(tmp_path, small_state):
    bias = np.arange(6).astype(ml_dtypes.bfloat16)
    entries = {"b": tensor(Storage("torch.BFloat16Storage", "0", 6), (6,), (1,))}
    read = torch_reader.read(write_zip(tmp_path / "b", entries, {"0": bias}))["b"]
    np.testing.assert_array_equal(read.astype(np.float32), np.arange(6))


def test_all_differences_in_one_error(tmp_path, small_state):
    state = dict(small_state)
    del state["adapter.backbone.encoder.conv_in.bias"]
    del state["adapter.backbone.betas"]
    state["refiner.surplus.weight"] = np.zeros(3, np.float32)
    state["refiner.mask_head.bias"] = np.zeros(9, np.float32)
    source = epath.Path(state_dict_file(tmp_path / "w.pth", state))
    settings = SMALL_OPTIONS["settings"] | {"backbone.diffusion.timesteps": 50}
    with pytest.raises(ValueError, match="does not fit its network") as raised:
        tst.convert(source, dataset="gtea", settings=settings)
    assert [line.split()[0:2] for line in str(raised.value).splitlines()[1:]] == [
        ["missing", "adapter.backbone.encoder.conv_in.bias"],
        ["unexpected", "refiner.surplus.weight"],
        ["misshapen", "refiner.mask_head.bias"],
        ["missing", "adapter.backbone.betas"],
    ]
    assert "[9], expected [6]" in str(raised.value)


def test_differences_allowed_by_name(tmp_path, small_state):
    state = dict(small_state)
    del state["refiner.mask_head.bias"]
    state["refiner.surplus.weight"] = np.zeros(3, np.float32)
    source = epath.Path(state_dict_file(tmp_path / "w.pth", state))
    with pytest.raises(ValueError, match=r"unexpected refiner\.surplus"):
        tst.convert(source, allow_missing=r"refiner\.mask_head\..*", **SMALL_OPTIONS)
    converted = tst.convert(
        source, allow_missing=r"refiner\.mask_head\..*", allow_extra=r"refiner\.surplus\.weight", **SMALL_OPTIONS
    )
    assert converted.params["refiner/mask_head/bias"].shape == (6,)
    assert "allowed: missing    refiner.mask_head.bias [6]" in converted.notes
    assert "allowed: unexpected refiner.surplus.weight [3]" in converted.notes


def test_another_diffusion_schedule_is_noticed(tmp_path, small_state):
    state = dict(small_state)
    state["adapter.backbone.alphas_cumprod"] = np.linspace(1, 0, 50)
    source = epath.Path(state_dict_file(tmp_path / "w.pth", state))
    with pytest.raises(ValueError, match=r"alphas_cumprod is .* the cosine schedule of 50 steps has"):
        tst.convert(source, **SMALL_OPTIONS)


def test_what_shapes_do_not_tell_must_be_told(small_file):
    with pytest.raises(ValueError, match=r"the sizes of none of gtea, 50salads, breakfast: data\.num_classes=5"):
        tst.convert(small_file)
    with pytest.raises(ValueError, match=r"condition has 12 channels, which the feature layers \(5, 7, 9\)"):
        tst.convert(small_file, dataset="gtea")
    with pytest.raises(ValueError, match="no such field"):
        tst.convert(small_file, dataset="gtea", settings={"backbone.diffusion.scal": 1})
    with pytest.raises(ValueError, match="cub is unknown"):
        tst.convert(small_file, dataset="cub")


def test_other_contents(tmp_path):
    for value, message in (({"a": 1}, "neither a state dict"), ([1, 2], "holds a list"), ({}, "neither a state dict")):
        with pytest.raises(ValueError, match=message):
            tst.convert(epath.Path(write_zip(tmp_path / "w", value)))
    source = state_dict_file(tmp_path / "x", {"conv1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r"no known family; its keys begin \['conv1\.weight'\]"):
        tst.convert(epath.Path(source))


def test_a_model_is_not_overwritten(tmp_path, small_converted):
    checked.save(small_converted, epath.Path(tmp_path / "model"))
    with pytest.raises(ValueError, match="holds a model already"):
        checked.save(small_converted, epath.Path(tmp_path / "model"))


FLAGS = ["--dataset", "gtea", "--set", "backbone.encoder.feature_layers=[1,3]"]


def test_command_line(tmp_path, small_file, small_state, capsys):
    model, flat, state = (str(tmp_path / name) for name in ("model", "flat.npz", "state.npz"))
    assert command.main(["tst", str(small_file), model, "--to-npz", flat, *FLAGS]) == 0
    assert "wrote the model checkpoint" in capsys.readouterr().out
    with np.load(flat) as arrays:
        np.testing.assert_array_equal(
            arrays["backbone/encoder/conv_in/kernel"], small_state["adapter.backbone.encoder.conv_in.weight"][:, :, 0].T
        )
    assert command.main(["tst", "--back", model, state]) == 0
    with np.load(state) as arrays:
        assert_same_state(dict(arrays), small_state)


def test_dry_run_prints_the_mapping_and_writes_nothing(tmp_path, small_file, capsys):
    before = sorted(tmp_path.iterdir())
    assert command.main(["tst", str(small_file), str(tmp_path / "model"), "--dry-run", *FLAGS]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if "->" in line]
    assert len(rows) == len(published.tst_shapes(SMALL))
    row = next(row for row in rows if row[0] == "adapter.backbone.encoder.encoder.layers.2.conv_block.0.weight")
    assert " ".join(row[1:]) == "[6, 6, 3] -> backbone/encoder/layers/02/conv/kernel [3, 6, 6] conv"
    assert "12 buffers of a cosine schedule of 50 steps" in printed
    assert "backbone.diffusion.scale = 0.5" in printed
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tst", "absent.pth", "out"], "no file at absent.pth"),
        (["tst", "absent.pth"], "a target is needed"),
        (["tst", "--back", "absent"], "a target is needed"),
        (["tst", "hf://owner/repository", "out"], "is not an address like"),
        (["tst", "--back", "absent", "out.npz"], "absent"),
        (["tst-cache", "absent", "out"], "has no meta.json"),
    ],
)
def test_errors_of_users(arguments, message, capsys):
    assert command.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_settings_must_be_json(capsys):
    with pytest.raises(SystemExit):
        command.main(["tst", "x.pth", "out", "--set", "backbone.kind=diff act"])
    assert "must be JSON" in capsys.readouterr().err


def write_cache(folder, seeds=("seed_000", "seed_001"), videos=("a", "b")):
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps({"n_seeds": 2, "n_videos": 2, "sample_rate": 4, "feat_dim": 3}))
    arrays = {}
    for seed, name in enumerate(seeds):
        (folder / name).mkdir()
        for video in videos:
            content = {
                "frame_features": rng.normal(size=(3, 7)).astype(np.float16),
                "frame_predictions": rng.normal(size=(2, 7)).astype(np.float16),
            }
            state_dict_file(folder / name / f"{video}.pt", content)
            arrays[seed, video] = content
    return arrays


def test_cache(tmp_path, capsys):
    arrays = write_cache(tmp_path / "old")
    assert command.main(["tst-cache", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert "4 files" in capsys.readouterr().out
    assert frame_cache.read_meta(tmp_path / "new")["sample_rate"] == 4
    for (seed, video), content in arrays.items():
        features, predictions = frame_cache.read_video(tmp_path / "new", seed, video)
        np.testing.assert_array_equal(features, content["frame_features"].T)
        np.testing.assert_array_equal(predictions, content["frame_predictions"].T)


def test_incomplete_caches(tmp_path, capsys):
    write_cache(tmp_path / "old")
    (tmp_path / "old" / "seed_001" / "b.pt").unlink()
    assert command.main(["tst-cache", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    assert "seed_001 is incomplete: 1 videos, 2 in seed_000; missing b.pt" in capsys.readouterr().err
    (tmp_path / "old" / "seed_001" / "b.pt").write_bytes(b"PK\x03\x04 cut")
    state_dict_file(tmp_path / "old" / "seed_000" / "a.pt", {"features": np.zeros((3, 7), np.float32)})
    assert command.main(["tst-cache", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    error = capsys.readouterr().err
    assert "2 of 4 cache files cannot be converted" in error
    assert "lacks frame_features" in error
    assert not (tmp_path / "new" / "meta.json").exists()
