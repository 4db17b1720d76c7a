"""Exported models: what they compute where the package is not, what is written, and what is refused."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax import export, exported, splits, systems
from actloc_jax.layers.functional import Network
from actloc_jax.systems.asot import network as asot
from actloc_jax.systems.fustal import settings as fustal
from actloc_jax.systems.spot import settings as spot
from actloc_jax.systems.tallformer import settings as tallformer
from actloc_jax.systems.tst import adapters
from actloc_jax.training import checkpoints
from tests.tiny import tiny_asot, tiny_config, tiny_fustal, tiny_spot, tiny_tallformer

CLASSES = tuple(f"class {number}" for number in range(8))
FRAMES, LENGTH = 70, 128  # of the video, and of the exported program

# What a machine without this package, flax, optax or orbax sees.
CLEAN_PROCESS = """
import runpy, sys
for name in ("actloc_jax", "flax", "optax", "orbax", "ml_collections", "etils"):
    sys.modules[name] = None
for script, video, output in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    sys.argv = [script, video, "--output=" + output]
    runpy.run_path(script, run_name="__main__")
"""


def _random(network: Network, seed: int) -> dict[str, Any]:
    """Parameters of which none is zero, as some are before a training."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype), network.shapes())


def _save(folder: pathlib.Path, config: ConfigDict, stage: str, model: dict[str, Any]) -> pathlib.Path:
    meta = {
        "system": config.system, "stage": stage, "stage_index": 0, "config": json.loads(config.to_json_best_effort()),
        "sample_rate": 1, "class_names": list(CLASSES), "frame_rate": 15.0,
    }  # fmt: skip
    checkpoints.save_model(folder, {"batch_stats": {}, **model}, meta)
    return folder


def _tst(folder: pathlib.Path) -> pathlib.Path:
    config = splits.of_split(tiny_config(), "1")
    adapter = adapters.make(config)
    refiner = adapters.refiner_network(config, adapter.feature_dim)
    params = {"backbone": _random(adapter.network, 0), "refiner": _random(refiner, 1)}
    return _save(folder, config, "tst", {"params": params})


def _asot(folder: pathlib.Path) -> pathlib.Path:
    config = splits.of_split(tiny_asot(), "tea")
    return _save(folder, config, "asot", {"params": _random(asot.encoder_network(config, 6), 0)})


def _student(folder: pathlib.Path) -> pathlib.Path:
    config = splits.of_split(tiny_fustal(decode__fps=25.0), "1")
    net = fustal.detector_network(config, fustal.detector_sizes(config, len(CLASSES)))
    return _save(folder, config, "student", {"params": _random(net, 0)})


def _tallformer(folder: pathlib.Path, stage: str = "train", name: str = "tallformer_thumos") -> pathlib.Path:
    config = splits.of_split(tiny_tallformer(name), "1")
    net = tallformer.detector_network(config, tallformer.detector_sizes(config, len(CLASSES)))
    params = {"backbone": _random(tallformer.backbone_network(config), 0), "detector": _random(net, 1)}
    return _save(folder, config, stage, {"params": params, "batch_stats": net.init_statistics()})


def _backbone(folder: pathlib.Path, stage: str) -> pathlib.Path:
    config = splits.of_split(tiny_config({"diffact": "tst_gtea", "asformer": "tst_asformer_50salads"}[stage]), "1")
    return _save(folder, config, stage, {"params": {"backbone": _random(adapters.make(config).network, 0)}})


def _generator(folder: pathlib.Path) -> pathlib.Path:
    config = splits.of_split(tiny_fustal(), "1")
    net = fustal.generator_network(config, len(CLASSES))
    return _save(folder, config, "generator", {"params": _random(net, 0)})


def _spot(folder: pathlib.Path) -> pathlib.Path:
    config = splits.of_split(tiny_spot(), "1")
    return _save(folder, config, "finetune", {"params": _random(spot.spot_network(config, len(CLASSES)), 0)})


CHECKPOINTS = {"tst": _tst, "asot": _asot, "student": _student, "tallformer": _tallformer}


def _video(name: str, checkpoint: pathlib.Path, folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """A file that an exported model takes, and the first batch that the predictor makes of it."""
    model, meta = checkpoints.load_model(checkpoint)
    del model
    config = ConfigDict(meta["config"])
    system = systems.of(config)
    predictor = system.predictor(config, meta["class_names"], meta["stage"])
    if name == "tallformer":
        path, batch = folder / "clip.npz", _drawn(predictor.inputs.shapes(1, None))
        np.savez(path, **batch)
        return path, batch
    path = folder / "video.npy"
    np.save(path, np.random.default_rng(2).standard_normal([FRAMES, 64]).astype(np.float32))
    (batch,) = predictor.batches(system.inputs(config, meta, [str(path)]))
    return path, batch.arrays


def _drawn(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Random arrays; masks are True."""
    rng = np.random.default_rng(2)
    draw = {
        "float32": lambda shape: rng.standard_normal(shape).astype(np.float32),
        "uint8": lambda shape: rng.integers(0, 255, shape, np.uint8),
        "int32": lambda shape: np.arange(shape[0], dtype=np.int32),
        "bool": lambda shape: np.ones(shape, bool),
    }
    return {name: draw[str(array.dtype)](array.shape) for name, array in shapes.items()}


def _predicted(checkpoint: pathlib.Path, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `--mode=predict` computes before it goes on on the host."""
    model, meta = checkpoints.load_model(checkpoint)
    config = ConfigDict(meta["config"])
    predictor = systems.of(config).predictor(config, meta["class_names"], meta["stage"])
    return jax.device_get(jax.jit(predictor.predict)(model, batch, jax.random.key(config.eval.seed)))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[pathlib.Path, pathlib.Path, Any]]:
    """By system: the checkpoint, its exported folder, and (input file, batch of the predictor)."""
    found = {}
    for name, make in CHECKPOINTS.items():
        folder = tmp_path_factory.mktemp(name)
        checkpoint = make(folder / "model")
        lengths = () if name == "tallformer" else (LENGTH,)
        found[name] = (
            checkpoint,
            pathlib.Path(export.export(checkpoint, folder / "out", lengths=lengths)),
            _video(name, checkpoint, folder),
        )
    return found


def test_a_process_without_the_package_computes_what_predict_does(exports: Any) -> None:
    arguments = []
    for _, folder, (video, _) in exports.values():
        arguments += [str(folder / "run.py"), str(video), str(folder.parent / "results")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-I", "-c", CLEAN_PROCESS, *arguments],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-3000:]
    for name, (checkpoint, folder, (video, batch)) in exports.items():
        expected = _predicted(checkpoint, batch)
        with np.load(folder.parent / "results" / f"{video.stem}.npz") as found:
            assert set(found.files) == set(expected), name
            for key, value in expected.items():
                axes = exported.load(folder).metadata["outputs"][key]["axes"]
                value = value[tuple(slice(FRAMES if axis == "time" else None) for axis in axes)]
                assert found[key].dtype == value.dtype
                if value.dtype == np.float32:
                    np.testing.assert_allclose(found[key], value, rtol=2e-4, atol=2e-5, err_msg=f"{name} {key}")
                else:
                    np.testing.assert_array_equal(found[key], value, err_msg=f"{name} {key}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: _backbone(folder, "diffact"), id="diffact"),
        pytest.param(lambda folder: _backbone(folder, "asformer"), id="asformer"),
        pytest.param(_generator, id="generator"),
        pytest.param(_spot, id="spot"),
        pytest.param(lambda folder: _tallformer(folder, name="tallformer_anet"), id="tallformer without anchors"),
    ],
)
def test_all_other_models_can_be_exported_too(make: Callable[[Any], pathlib.Path], tmp_path: pathlib.Path) -> None:
    checkpoint = make(tmp_path / "model")
    config = ConfigDict(checkpoints.load_meta(checkpoint)["config"])
    stage = checkpoints.load_meta(checkpoint)["stage"]
    inputs = systems.of(config).predictor(config, CLASSES, stage).inputs
    lengths = (LENGTH,) if inputs.lengths else ()
    arrays = _drawn(inputs.shapes(2, *(lengths or (None,))))
    found = exported.load(export.export(checkpoint, tmp_path, lengths=lengths, batch_size=2))(arrays)
    for name, value in _predicted(checkpoint, inputs.complete(arrays)).items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_the_page_s_example_runs(exports: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder, (video, _) = exports["asot"]
    text = (pathlib.Path(__file__).parents[1] / "docs" / "export.md").read_text()
    example = text[text.index("from run import load") :].split("```")[0]
    monkeypatch.chdir(folder.parent.parent)
    monkeypatch.syspath_prepend(str(folder))
    scope = {"features": np.load(video)}
    exec(compile(example, "export.md", "exec"), scope)
    assert scope["outputs"]["plan"].shape == (1, FRAMES, 6)


def test_the_description_names_what_goes_in_and_what_comes_out(exports: Any) -> None:
    _, folder, _ = exports["tst"]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["class_names"] == list(CLASSES)
    assert metadata["frame_rate"] == 15.0
    assert metadata["platforms"] == ["cpu", "cuda", "tpu"]
    features = {"axes": ["batch", "time", "channels"], "shape": ["batch", "time", 64], "dtype": "float32"}
    assert metadata["inputs"]["features"] == features
    assert metadata["outputs"]["labels"] == {"axes": ["batch", "time"], "dtype": "int32"}
    assert metadata["versions"]["jax"] == jax.__version__
    assert [program["time"] for program in metadata["programs"]] == [LENGTH]
    assert {path.name for path in folder.iterdir()} == {
        "metadata.json", "params.npz", f"predict_{LENGTH}.jaxexport", "run.py",
    }  # fmt: skip


def test_several_videos_are_cut_into_batches_and_padding_is_cut_away(exports: Any) -> None:
    _, folder, (video, _) = exports["asot"]
    model, one = exported.load(folder), np.load(video)[None]
    alone = model({"features": one})
    both = model({"features": np.concatenate([one[:, ::-1], one])})
    assert both["plan"].shape == (2, FRAMES, 6)
    np.testing.assert_allclose(both["plan"][1], alone["plan"][0], rtol=1e-5, atol=1e-7)


def test_inputs_that_do_not_fit_end_in_a_sentence(exports: Any) -> None:
    model = exported.load(exports["student"][1])
    with pytest.raises(ValueError, match=r"features has shape \[1, 20, 32\]; the model takes \['batch', 'time', 64\]"):
        model({"features": np.zeros([1, 20, 32], np.float32)})
    with pytest.raises(ValueError, match=r"missing \['features'\], unknown \['frames'\]"):
        model({"frames": np.zeros([1, 20, 64], np.float32)})
    with pytest.raises(ValueError, match="200 steps do not fit: the longest program has 128"):
        model({"features": np.zeros([1, 200, 64], np.float32)})
    folder = exports["student"][1]
    wide = folder.parent / "wide.npy"
    np.save(wide, np.zeros([20, 32]))
    answer = subprocess.run(
        [sys.executable, str(folder / "run.py"), str(wide), f"--output={folder.parent}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: features has shape [1, 20, 32]")


def test_damaged_and_missing_files_are_named(exports: Any, tmp_path: pathlib.Path) -> None:
    for file in exports["asot"][1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "params.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"params.npz is missing or damaged"):
        exported.load(tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps({**metadata, "platforms": ["tpu"]}))
    with pytest.raises(ValueError, match="was exported for tpu, and jax runs on cpu here"):
        exported.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no metadata.json"):
        exported.load(tmp_path / "nowhere")


def test_what_cannot_be_exported_is_said_and_leaves_the_last_export(exports: Any, tmp_path: pathlib.Path) -> None:
    checkpoint, folder, _ = exports["student"]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    cases = [
        ({"platforms": ("gpu",)}, "gpu is no platform; use some of cpu, cuda, tpu"),
        ({"platforms": ()}, "nothing is no platform"),
        ({"lengths": (129,)}, "this model takes multiples of 2 from 128 on, such as 128"),
        ({"batch_size": 0}, "must be at least 1"),
    ]
    for arguments, said in cases:
        with pytest.raises(ValueError, match=said):
            export.export(checkpoint, folder.parent, **arguments)
    with pytest.raises(ValueError, match="inputs of this model have one size"):
        export.export(exports["tallformer"][0], tmp_path, lengths=(64,))
    with pytest.raises(ValueError, match="holds a backbone without a detector"):
        export.export(_tallformer(tmp_path / "backbone", "backbone"), tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no model checkpoint"):
        export.export(tmp_path / "nothing", tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert not list(tmp_path.glob("export*"))


def test_an_export_that_is_stopped_leaves_the_last_one(
    exports: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = exports["asot"][0]
    first = pathlib.Path(export.export(checkpoint, tmp_path, lengths=(64,), platforms=("cpu",)))
    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", lambda *args, **arrays: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            export.export(checkpoint, tmp_path, lengths=(32,), platforms=("cpu",))
    assert [program["time"] for program in exported.load(first).metadata["programs"]] == [64]
    second = export.export(checkpoint, tmp_path, lengths=(96, 32), platforms=("cpu",))
    assert [program["time"] for program in exported.load(second).metadata["programs"]] == [32, 96]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
