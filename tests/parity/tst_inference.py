"""Parity of DiffAct + TST end to end with the original: all inference modes, post-processing, votes, written files."""

from __future__ import annotations

import re
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from actloc_jax.layers.functional import Network, Params
from actloc_jax.ops import labels as label_ops
from actloc_jax.results import segmentation
from actloc_jax.results.types import FrameLabels
from actloc_jax.systems.tst import inference
from actloc_jax.systems.tst.capacity import segment_capacities
from actloc_jax.systems.tst.inference import FramePrediction
from actloc_jax.systems.tst.refiner import Refiner, RefinerOutput, RefinerSizes
from tests.parity import params
from tests.parity.harness import Case, parity
from tests.parity.tst_diffact import network_of, sizes_of
from tests.parity.tst_refiner import refiner_sizes


class Outputs(NamedTuple):
    """All that the combined model gives for a batch of videos."""

    encoder_logits: jax.Array
    frame_features: jax.Array
    frame_predictions: jax.Array
    refined: RefinerOutput
    hardmax: FramePrediction
    soft: FramePrediction
    hybrid: dict[int, FramePrediction]


class Model:
    """Backbone and refiner of a case, compiled once for videos padded to a common length."""

    def __init__(self, case: Case, sizes: RefinerSizes, margins: list[int], capacity: int) -> None:
        self.weights = params.tst_params(case.weights())
        backbone = network_of(sizes_of(case.config, sizes.num_classes))
        refiner = Network(lambda rngs: Refiner(sizes, rngs=rngs))

        @jax.jit
        def run(weights: Params, features: jax.Array, mask: jax.Array, noise: jax.Array) -> Outputs:
            logits, frames = backbone(weights["backbone"], features, mask, method="encode")
            sampled = backbone(
                weights["backbone"], features, mask, None, condition=frames, noise=noise, method="sample"
            )
            refined = refiner(weights["refiner"], frames, sampled, mask, capacity)
            hybrid = {margin: inference.hybrid(refined, margin) for margin in margins}
            hardmax, soft = inference.hardmax(refined), inference.soft(refined)
            return Outputs(logits, frames, sampled, refined, hardmax, soft, hybrid)

        self._run = run

    def __call__(self, features: list[np.ndarray], noise: list[np.ndarray]) -> Outputs:
        """Runs videos as one batch: features [channels, time_i], noise [steps, 1, classes, time_i] each."""
        length = max(video.shape[1] for video in features)
        batch = jnp.stack([_padded(video, length) for video in features])
        draws = jnp.concatenate([_padded(draw, length) for draw in noise], axis=1)
        mask = jnp.arange(length) < jnp.array([[video.shape[1]] for video in features])
        outputs = self._run(self.weights, jnp.swapaxes(batch, 1, 2), mask, jnp.swapaxes(draws, 2, 3))
        return jax.tree.map(np.asarray, outputs)


@parity("tst", "tst_full")
def check_full(case: Case) -> None:
    """Backbone outputs, segments, labels of every mode and post-processing, votes over several noise draws."""
    arrays = case.arrays
    videos = sorted({name.split("/")[0] for name in arrays})
    own = [{name.split("/")[1]: arrays[name] for name in arrays if name.startswith(f"{video}/")} for video in videos]
    margins = sorted({int(name.removeprefix("pred_hybrid_margin")) for name in own[0] if "hybrid_margin" in name})
    capacity = max(segment_capacities(max(video["labels"].size for video in own)))
    model = Model(case, refiner_sizes(case.config["refiner"]), margins, capacity)

    features = [video["x"][0] for video in own]
    outputs = model(features, [video["noise"] for video in own])
    for index, expected in enumerate(own):
        _check_outputs(case, outputs, index, expected)
        _check_labels(outputs, index, expected)

    draws = [model(features, [video["ms_noise"][draw] for video in own]) for draw in range(len(own[0]["ms_noise"]))]
    runs = jnp.stack([draw.hardmax.labels for draw in draws])
    votes = inference.count_votes(runs, case.config["n_classes"])
    majority = inference.vote(runs, case.config["n_classes"])
    for index, expected in enumerate(own):
        frames = expected["labels"].size
        np.testing.assert_array_equal(runs[:, index, :frames], expected["ms_runs"])
        np.testing.assert_array_equal(votes[index, :frames].T, expected["ms_votes"])
        np.testing.assert_array_equal(majority[index, :frames], expected["ms_pred"])


def _check_outputs(case: Case, outputs: Outputs, index: int, expected: dict[str, np.ndarray]) -> None:
    """Compares the arrays of one video; `expected` has channels before time."""
    frames = expected["labels"].size
    atol = case.tolerance("frame_predictions atol")
    for name, ours in (
        ("encoder_out", outputs.encoder_logits),
        ("frame_features", outputs.frame_features),
        ("frame_predictions", outputs.frame_predictions),
    ):
        np.testing.assert_allclose(ours[index, :frames].T, expected[name][0], atol=atol, err_msg=name)
    refined = outputs.refined
    np.testing.assert_array_equal(refined.frame_labels[index, :frames], expected["action_idx"])
    atol, count = case.tolerance("segment_cls/segment_mask atol"), expected["segment_cls"].shape[2]
    assert refined.runs.count[index] == count
    np.testing.assert_allclose(refined.segment_logits[:, index, :count], expected["segment_cls"][:, 0], atol=atol)
    masks = refined.segment_masks[:, index, :count, :frames]
    np.testing.assert_allclose(masks, expected["segment_mask"][:, 0], atol=atol)


def _check_labels(outputs: Outputs, index: int, expected: dict[str, np.ndarray]) -> None:
    """Compares the labels of one video for every prediction that the case names."""
    frames = expected["labels"].size
    hardmax = outputs.hardmax.labels[index, :frames]
    for name in (name for name in expected if name.startswith("pred_")):
        if name == "pred_hardmax":
            found = hardmax
        elif name == "pred_soft":
            found = outputs.soft.labels[index, :frames]
        elif margin := re.fullmatch(r"pred_hybrid_margin(\d+)", name):
            found = outputs.hybrid[int(margin[1])].labels[index, :frames]
        else:
            kind, value = re.fullmatch(r"pred_hardmax_(\D+)(\d+)", name).groups()
            found = _postprocessed(hardmax, kind, int(value))
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


@parity("tst", "tst_predict_files")
def check_predicted_files(case: Case) -> None:
    """Labels written for every data set's sample rate and post-processing, in every mode."""
    arrays, config = case.arrays, case.config
    runs = [name.removesuffix("/frames") for name in arrays if name.endswith("/frames")]
    settings = [re.fullmatch(r"(\w+)_([a-z]+)/(\w+)", run).groups() for run in runs]
    rates = [config["sample_rate"][dataset] for dataset, _, _ in settings]
    features = [arrays[f"{video}/features"][:, ::rate] for (_, _, video), rate in zip(settings, rates, strict=True)]
    capacity = max(segment_capacities(max(video.shape[1] for video in features)))
    model = Model(case, _sizes_from(case.weights(), config["n_classes"]), [inference.HYBRID_MARGIN], capacity)
    outputs = model(features, [arrays[f"{run}/noise"] for run in runs])
    by_mode = {
        "hardmax": outputs.hardmax.labels,
        "soft": outputs.soft.labels,
        "hybrid": outputs.hybrid[inference.HYBRID_MARGIN].labels,
    }
    for index, (run, (dataset, mode, _), rate) in enumerate(zip(runs, settings, rates, strict=True)):
        labels = by_mode[mode][index, : features[index].shape[1]]
        if dataset in config["postprocess"]:
            labels = _postprocessed(labels, **config["postprocess"][dataset])
        found = label_ops.repeat_frames(labels, rate)
        np.testing.assert_array_equal(found, arrays[f"{run}/frames"], err_msg=run)
    _check_file(found, config["n_classes"])


def _check_file(labels: np.ndarray, num_classes: int) -> None:
    """The file that the case's notes describe: header, then the names joined by blanks, no newline at the end."""
    names = [f"action{index}" for index in range(num_classes)]
    with tempfile.TemporaryDirectory() as folder:
        segmentation.write([FrameLabels("v0", labels)], names, epath.Path(folder))
        text = (epath.Path(folder) / "v0").read_text()
    assert text == "### Frame level recognition: ###\n" + " ".join(names[label] for label in labels)


def _postprocessed(labels: np.ndarray, type: str, value: int) -> np.ndarray:
    if type == "purge":
        return label_ops.purge_short_segments(labels, value, segment_end="exclusive")
    assert type == "median", type
    return label_ops.median_filter_labels(labels, value)


def _sizes_from(weights: dict[str, np.ndarray], num_classes: int) -> RefinerSizes:
    """The refiner's sizes, which this case leaves to its weights."""
    inner, features = weights["refiner.feat_down.weight"].shape
    layers = [key for key in weights if re.fullmatch(r"refiner\.pixel_decoder\.layers\.\d+\.conv_in\.weight", key)]
    return RefinerSizes(
        num_classes=num_classes,
        feature_dim=features,
        inner_dim=inner,
        segment_dim=weights["refiner.feat_proj.weight"].shape[0],
        num_layers=len(layers),
    )


def _padded(array: Any, length: int) -> np.ndarray:
    """Zeros appended to the last axis."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, length - array.shape[-1])])
