"""Parity of the segmentation metrics and of DiffAct's data pipeline and inference with the originals."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import numpy as np
import pytest

from actloc_jax.data import batching, boundaries, class_weights
from actloc_jax.metrics import segmentation as metrics
from actloc_jax.ops import labels as label_ops
from tests.parity import params
from tests.parity.harness import Case, parity
from tests.parity.tst_diffact import network_of, sizes_of


@parity("tst", "metrics")
def check_metrics(case: Case) -> None:
    """Segments, edit scores, counts, aggregates and the ASRF score meter, in both variants of the segment end."""
    sequences = {}
    for video in case.meta["cases"]:
        predicted, truth = video["pred"].split(), video["gt"].split()
        sequences[video["tag"]] = (predicted, truth)
        for name, segment_end in (("end_exclusive", "exclusive"), ("end_minus_one", "minus_one")):
            expected = next(value for key, value in video.items() if key.startswith(name))
            _check_video(predicted, truth, segment_end, expected)
    for aggregate, expected in case.meta["aggregates"].items():
        chosen = {tag: sequences[tag] for tag in expected["tags"]}
        if aggregate == "pred_longer_than_gt":  # the case's notes: five frames repeat the last prediction
            chosen = {tag: (predicted + predicted[-1:] * 5, truth) for tag, (predicted, truth) in chosen.items()}
        _check_aggregate(chosen, expected)
    _check_score_meter(case, sequences)


def _check_video(predicted: list[str], truth: list[str], segment_end: str, expected: dict) -> None:
    """Compares one video's segments, edit score and match counts."""
    found = []
    for labels, key in ((predicted, "segments_pred"), (truth, "segments_gt")):
        segments = metrics.segments(labels, segment_end=segment_end)
        assert [segments.labels.tolist(), segments.starts.tolist(), segments.ends.tolist()] == expected[key]
        found.append(segments)
    edit = metrics.edit_score(*found)
    assert np.isnan(edit) == expected["edit_is_nan"]
    if not expected["edit_is_nan"]:
        np.testing.assert_allclose(edit, expected["edit"], atol=1e-6)
    for key, counts in expected.items():
        if not key.startswith("tp_fp_fn@"):
            continue
        overlap = float(key.removeprefix("tp_fp_fn@"))
        if isinstance(counts, str):
            assert counts == "raises ValueError"
            with pytest.raises(ValueError, match="no action"):
                metrics.match_counts(*found, overlap)
        else:
            assert list(metrics.match_counts(*found, overlap)) == counts


def _check_aggregate(chosen: dict[str, tuple[list[str], list[str]]], expected: dict) -> None:
    """Compares the scores of several videos together."""
    predictions = {tag: predicted for tag, (predicted, _) in chosen.items()}
    truths = {tag: truth for tag, (_, truth) in chosen.items()}
    exclusive = next((value for key, value in expected.items() if key.startswith("end_exclusive")), None)
    if exclusive is not None:
        scores = metrics.evaluate(predictions, truths)
        names = {"accu": "Acc", "edit": "Edit", "F1@0.10": "F1@10", "F1@0.25": "F1@25", "F1@0.50": "F1@50"}
        for key, name in names.items():
            np.testing.assert_allclose(round(scores[name], 3), exclusive[key], atol=1e-6)
    if "end_minus_one" in expected:
        scores = metrics.evaluate(predictions, truths, segment_end="minus_one")
        _check_scores(scores, expected["end_minus_one"])


def _check_score_meter(case: Case, sequences: dict[str, tuple[list[str], list[str]]]) -> None:
    """Compares the ASRF meter: F1 with its epsilon, and the confusion matrix."""
    chosen = {tag: sequences[tag] for tag in case.meta["aggregates"]["random_only"]["tags"]}
    names = sorted({name for pair in chosen.values() for labels in pair for name in labels})
    index = {name: position for position, name in enumerate(names)}
    predictions = {tag: np.array([index[name] for name in predicted]) for tag, (predicted, _) in chosen.items()}
    truths = {tag: np.array([index[name] for name in truth]) for tag, (_, truth) in chosen.items()}
    scores = metrics.evaluate(
        predictions, truths, background=[index["background"]], segment_end="minus_one", f1_epsilon=1e-7
    )
    _check_scores(scores, case.meta["score_meter_random"])
    matrix = metrics.confusion_matrix(predictions, truths, len(names))
    np.testing.assert_array_equal(_sorted_classes(matrix), _sorted_classes(case.arrays["confusion_matrix_random"]))


def _sorted_classes(matrix: np.ndarray) -> np.ndarray:
    """Orders the classes by what a renumbering keeps: the case does not say which class has which index."""
    signatures = [(matrix[c, c], tuple(np.sort(matrix[c])), tuple(np.sort(matrix[:, c]))) for c in range(len(matrix))]
    order = sorted(range(len(matrix)), key=signatures.__getitem__)
    return matrix[np.ix_(order, order)]


def _check_scores(scores: dict[str, float], expected: dict) -> None:
    """Compares named scores with the originals' acc, edit and list of F1."""
    np.testing.assert_allclose([scores["Acc"], scores["Edit"]], [expected["acc"], expected["edit"]], atol=1e-6)
    np.testing.assert_allclose([scores["F1@10"], scores["F1@25"], scores["F1@50"]], expected["f1"], atol=1e-6)


@parity("tst", "diffact_data_infer")
def check_diffact_data_infer(case: Case) -> None:
    """DiffAct's data pipeline, label restoration, boundary sequences, and inference with every mode and filter."""
    _check_boundaries(case)
    _check_restore(case)
    _check_samples(case)
    _check_inference(case)


def _check_boundaries(case: Case) -> None:
    """Boundary sequences for several widths of the smoothing."""
    for name, sigma in case.config["boundary_smooth_used"].items():
        found = boundaries.boundary_sequence(case.arrays[f"{name}/labels"], sigma)
        np.testing.assert_allclose(found, case.arrays[f"{name}/out"], atol=1e-6)


def _check_restore(case: Case) -> None:
    """Nearest-tick restoration; the names of the arrays hold length, offsets and rate."""
    names = [name for name in case.arrays if re.fullmatch(r"restore/\d+_\d+_\d+_\d+/in", name)]
    assert names
    for name in names:
        length, left, right, rate = map(int, name.split("/")[1].split("_"))
        found = label_ops.restore_full_rate(case.arrays[name], length, rate=rate, left=left, right=right)
        np.testing.assert_array_equal(found, case.arrays[name.removesuffix("in") + "out"])


def _videos(case: Case) -> list[str]:
    return [name.removesuffix("/labels") for name in case.arrays if re.fullmatch(r"vid\d+/labels", name)]


def _check_samples(case: Case) -> None:
    """Sub-sampled labels, boundaries and feature shapes of every offset, and the class weights."""
    checked = 0
    for name, expected in case.arrays.items():
        setting = re.fullmatch(r"data_sr(\d+)_aug[01]_bs(\w+)/(vid\d+)/(\w+?)(?:_(\d+))?(_shape)?", name)
        if not setting:
            continue
        rate, sigma = int(setting[1]), None if setting[2] == "None" else float(setting[2])
        labels = case.arrays[f"{setting[3]}/labels"]
        boundary = boundaries.boundary_sequence(labels, sigma)
        offset = int(setting[5] or 0)
        if setting[4] == "boundary_raw":
            np.testing.assert_allclose(boundary, expected, atol=1e-6)
        elif setting[4] == "boundary":
            np.testing.assert_allclose(boundary[offset::rate], expected, atol=1e-6)
        elif setting[4] == "event":
            np.testing.assert_array_equal(labels[offset::rate], expected)
        else:
            assert setting[4] == "feature"
            channels, frames = case.arrays[f"{setting[3]}/features"].shape
            assert expected.tolist() == [1, len(range(offset, frames, rate)), channels]
        checked += 1
    assert checked
    found = class_weights.smoothed_class_weights(
        [case.arrays[f"{video}/labels"] for video in _videos(case)], case.config["num_classes"]
    )
    np.testing.assert_allclose(found, case.arrays["class_weights"], rtol=1e-6)


def _check_inference(case: Case) -> None:
    """Encoder and sampler on all offsets of a video in one padded batch, then averaging, filters and restoration.

    Labels are checked from our probabilities, and from the originals' stored ones so that the filters stand alone.
    """
    rate = case.config["sample_rate"]
    network = network_of(sizes_of(case.config, case.config["num_classes"]))
    weights = params.diffact_params(case.weights())

    @jax.jit
    def run(x: jax.Array, mask: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, _ = network(weights, x, mask, method="encode")
        return jax.nn.softmax(logits, axis=-1), network(weights, x, mask, None, noise=noise, method="sample")

    for video in _videos(case):
        encoded, sampled = _run_offsets(case, video, run)
        length = len(case.arrays[f"{video}/labels"])
        stored = [case.arrays[f"{video}/ddim_offset{offset}"].T for offset in range(rate)]
        atol = case.tolerance("probabilities atol")
        for ours, theirs in zip(sampled, stored, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=atol)
        np.testing.assert_allclose(label_ops.average_offsets(sampled).T, case.arrays[f"{video}/mean_prob"], atol=atol)
        _check_filters(case, f"{video}/encoder", encoded, length)
        for probabilities in (sampled, stored):
            _check_filters(case, f"{video}/decoder-agg", probabilities, length)
            _check_filters(case, f"{video}/decoder-noagg", probabilities[rate // 2 : rate // 2 + 1], length)


def _run_offsets(
    case: Case, video: str, run: Callable[..., tuple[jax.Array, jax.Array]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Encoder and sampled probabilities of every offset, each [time of the offset, classes]."""
    rate = case.config["sample_rate"]
    longest = max(case.arrays[f"{name}/features"].shape[1] for name in _videos(case))
    samples = [
        {
            "features": case.arrays[f"{video}/features"].T[offset::rate],
            "noise": np.moveaxis(case.arrays[f"{video}/noise_offset{offset}"][:, 0], 2, 0),
        }
        for offset in range(rate)
    ]
    batch = batching.pad_and_stack(samples, -(-longest // rate))
    outputs = run(batch["features"], batch["mask"], batch["noise"].transpose(2, 0, 1, 3))
    return [[np.asarray(row[: len(one["noise"])]) for row, one in zip(rows, samples, strict=True)] for rows in outputs]


def _check_filters(case: Case, prefix: str, probabilities: list[np.ndarray], length: int) -> None:
    """Compares the labels of one video and mode for every post-processing that the case holds."""
    names = [name for name in case.arrays if name.startswith(f"{prefix}/")]
    assert names
    for name in names:
        kind, value = re.fullmatch(r"(None|[a-z]+)(None|\d+)", name.split("/")[-1]).groups()
        found = label_ops.labels_from_offsets(
            probabilities,
            length,
            rate=case.config["sample_rate"],
            kind=None if kind == "None" else kind,
            value=0 if value == "None" else int(value),
        )
        np.testing.assert_array_equal(found, case.arrays[name], err_msg=name)
