"""Converted checkpoints of TALLFormer compute what the original computed, and train or refuse as they should."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import predict, systems
from actloc_jax.layers.functional import Params, flatten
from actloc_jax.ops import video_frames
from actloc_jax.systems.api import Predictor
from actloc_jax.systems.tallformer import filling, settings
from actloc_jax.systems.tallformer.anchor_decode import Window
from actloc_jax.systems.tallformer.predictor import Row
from actloc_jax.training import checkpoints
from convert import __main__ as command
from convert import tallformer
from tests.convert.published_tallformer import filled, swin_shapes
from tests.convert.test_tallformer import assert_same_state
from tests.convert.torch_files import state_dict_file
from tests.parity import harness
from tests.parity.harness import Case
from tests.parity.tallformer_afsd import check_outputs
from tests.parity.tallformer_anchors import channels_of, close
from tests.parity.tallformer_swin import channels_last

# Their weights lie in files as the original wrote them; a clone alone has none of these cases.
DETECTORS = harness.cases("tallformer", "detector_eval")
AFSD = harness.cases("tallformer", "anet_detector")
BACKBONES = harness.cases("tallformer", "swin_small_full")


def converted(folder: pathlib.Path, source: pathlib.Path, *flags: str) -> pathlib.Path:
    """The model folder that the command makes of a file."""
    assert command.main(["tallformer", str(source), str(folder), *flags]) == 0
    return folder


def loaded(folder: pathlib.Path) -> tuple[Any, ConfigDict, dict[str, Any]]:
    """Model, config and meta of a folder."""
    model, meta = checkpoints.load_model(folder)
    return model, ConfigDict(meta["config"]), meta


def backbone_file(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """A Kinetics file of a small backbone, and its state dict."""
    state = filled(swin_shapes(prefix="backbone.", dummies=False))
    return state_dict_file(folder / "swin.pth", state, lambda entries: {"state_dict": entries}), state


@pytest.mark.parametrize("case", DETECTORS, ids=lambda case: case.meta["case"])
def test_a_converted_snapshot_detects_what_the_original_detects(case: Case, tmp_path: pathlib.Path) -> None:
    config, arrays = case.config, case.arrays
    model_config = config["model"]
    pyramid, frames = model_config["neck"][2], arrays["imgs0_int8"].shape[2]
    fields = {
        "network.detector.windows": pyramid["kernel_sizes"],
        "network.detector.window_heads": pyramid["num_heads"],
        "clip.chunk": model_config["chunk_size"],
        "clip.crop": list(arrays["imgs0_int8"].shape[3:]),
        "decode.min_score": config["test_cfg"]["score_thr"],
        "decode.max_detections": config["test_cfg"]["max_per_video"],
    }
    flags = [f"--set={field}={value}" for field, value in fields.items()]
    folder = converted(tmp_path / "model", case.path / "weights.pth", *flags)
    assert_same_state(tallformer.back(epath.Path(folder)), case.weights())
    model, settings_of, meta = loaded(folder)
    assert (settings_of.clip.frames, len(meta["class_names"])) == (frames, model_config["head"]["num_classes"])
    predictor = systems.of(settings_of).predictor(settings_of, meta["class_names"], meta["stage"])
    outputs = _outputs(case, predictor, model)
    for number in range(len(config["windows"])):
        begin = 0
        for level in range(1 + len(pyramid["kernel_sizes"])):
            anchors = model_config["head"]["num_anchors"]
            end = begin + arrays[f"w{number}/cls{level}"].shape[2] * anchors
            for head, name in (("cls", "classes"), ("reg", "deltas")):
                found = outputs[name][number : number + 1, begin:end]
                close(case, channels_of(found, anchors), f"w{number}/{head}{level}")
            begin = end
    places = [Window(window["tshift"], window["tsize"]) for window in config["windows"]]
    rows = [
        Row("video", place, place is places[0], place is places[-1], 1.0, 194.0) for place in places
    ]  # at one frame per second
    (found,) = next(iter(predictor.decode(outputs, rows).values()))
    for label in range(model_config["head"]["num_classes"]):
        of_class, expected = found.labels == label, arrays[f"result_class{label}"]
        detected = np.column_stack([found.segments[of_class], found.scores[of_class]])
        order = [np.lexsort(np.round(part[:, [1, 0, 2]], 3).T) for part in (detected, expected)]  # near-equal scores
        close_rows = {key: case.meta["tolerance"][key] for key in ("rtol", "atol")}
        np.testing.assert_allclose(detected[order[0]], expected[order[1]], err_msg=str(label), **close_rows)


def _outputs(case: Case, predictor: Predictor, model: Any) -> dict[str, np.ndarray]:
    """What the network says of the case's windows, whose pixels are normalised already: that is undone first."""
    chunk = case.config["model"]["chunk_size"]
    windows = [np.asarray(channels_last(case.arrays[f"imgs{number}_int8"])[0]) for number in range(3)]
    pixels = np.stack(windows) * np.float32(video_frames.STD) + np.float32(video_frames.MEAN)
    frames = pixels.reshape(len(windows), -1, chunk, *pixels.shape[2:])
    batch = {"frames": jnp.asarray(frames), "frame_mask": jnp.ones(frames.shape[:3], bool)}
    return jax.tree.map(np.asarray, jax.jit(predictor.predict)(model, batch, jax.random.key(0)))


@pytest.mark.parametrize("case", AFSD, ids=lambda case: case.meta["case"])
def test_a_converted_activitynet_snapshot_answers_as_the_original(case: Case, tmp_path: pathlib.Path) -> None:
    groups = case.config["cfg"]["model"]["neck"][2]["norm_cfg"]["num_groups"]
    folder = converted(tmp_path / "model", case.path / "weights.pth", f"--set=network.detector.groups={groups}")
    assert_same_state(tallformer.back(epath.Path(folder)), case.weights())
    model, config, meta = loaded(folder)
    sizes = settings.detector_sizes(config, len(meta["class_names"]))
    network = settings.detector_network(config, sizes)
    features = jnp.asarray(case.arrays["backbone_feat"].swapaxes(1, 2))
    check_outputs(case, sizes, jax.jit(network)(model["params"]["detector"], features))


@pytest.mark.parametrize("case", BACKBONES, ids=lambda case: case.meta["case"])
def test_a_converted_backbone_gives_the_features_of_the_original(case: Case, tmp_path: pathlib.Path) -> None:
    folder = converted(tmp_path / "model", case.path / "weights.pth")
    state = {key: array for key, array in case.weights()["state_dict"].items() if key.startswith("backbone.")}
    assert_same_state(tallformer.back(epath.Path(folder)), state)
    _, config, _ = loaded(folder)
    features = jax.jit(settings.backbone_network(config))(first_parameters(config, folder), _video(case))
    close(case, np.moveaxis(features, -1, 1), "y")


def _video(case: Case) -> jax.Array:
    return channels_last(case.arrays["x_int8"])


def first_parameters(config: ConfigDict, weights: pathlib.Path) -> Params:
    """What a training with `config.network.backbone_weights` begins with."""
    config.network.backbone_weights = str(weights)
    return filling.first_parameters(config, settings.backbone_network(config))


def test_a_training_begins_with_a_converted_backbone(tmp_path: pathlib.Path) -> None:
    source, state = backbone_file(tmp_path)
    folder = converted(tmp_path / "model", source)
    config = loaded(folder)[1]
    params = flatten(first_parameters(config, folder))
    np.testing.assert_array_equal(params["norm/scale"], state["backbone.norm.weight"])
    kernel = state["backbone.layers.0.blocks.1.mlp.fc1.weight"]
    np.testing.assert_array_equal(params["layers/00/blocks/01/mlp/fc1/kernel"], kernel.T)
    with pytest.raises(ValueError, match=r"swin\.pth is a file; .* first: python -m convert tallformer .*swin\.pth <"):
        first_parameters(config, source)


def test_a_backbone_alone_predicts_nothing(tmp_path: pathlib.Path) -> None:
    folder = converted(tmp_path / "model", backbone_file(tmp_path)[0])
    np.save(tmp_path / "video.npy", np.zeros((1, 256, 256, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"holds a backbone without a detector: .*config\.network\.backbone_weights=<its"
    ):
        predict.predict(folder, [str(tmp_path / "video.npy")], tmp_path / "out")
