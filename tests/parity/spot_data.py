"""Parity of SPOT's data: which videos survive, their features at T steps, and their targets."""

from __future__ import annotations

import csv
import pathlib
import tempfile
import warnings

import numpy as np
import pytest

from actloc_jax.data.detection_samples import video_labels
from actloc_jax.data.rescaled import RescaledSample, RescaledSource, rescale, resize_linear, span_labels
from actloc_jax.data.semi_supervised import SemiSupervised
from actloc_jax.data.spot_files import SpotFolder
from actloc_jax.systems.spot.pretext import foreground_spans, only_spans, scaled_to_unit, span_masks
from tests.parity.detection_shared import DATA
from tests.parity.harness import Case, parity


@parity("spot", "dataset")
def check_dataset(case: Case) -> None:
    """Labelled, unlabelled and validation videos from the csv and json files, with features in csv files."""
    with tempfile.TemporaryDirectory() as features, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one video has no features, on purpose
        for name, rows in case.arrays.items():
            if name.startswith("feature_file."):
                _write_csv(pathlib.Path(features) / f"{name.removeprefix('feature_file.')}.csv", rows)
        data = _open(case, features)
        _check_part(case, "labelled", data.source("labelled"))
        _check_part(case, "unlabelled", data.source("unlabelled"))
        counted = set(data.evaluated(filtered=True))
        validation = [video for video in data.folder.videos("val") if video.video in counted]
        rescaled = rescale(validation, data.folder.covered_seconds, data.steps)
        source = RescaledSource(data.folder, rescaled, steps=data.steps)
        _check_part(case, "validation", source)
        small = case.arrays["validation.features_small"]
        for expected, video in zip(small, validation, strict=False):
            found = resize_linear(data.folder.read_features(video), expected.shape[-1]).T
            _close(case, found, expected, f"{video.video} small")


def _write_csv(path: pathlib.Path, rows: np.ndarray) -> None:
    """Features as the original reads them: a header line, then one line per row."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(range(rows.shape[1]))
        writer.writerows(rows.tolist())


def _open(case: Case, features: str) -> SemiSupervised:
    """The data set of the case, whose annotation files lie in the folder that it names."""
    classes = DATA / "activitynet" / "class_index.json"
    if not classes.exists():
        pytest.skip(f"{classes} is not there; it numbers the classes of the case")
    labels = 100 * (1 - case.config["unlabel_percent"])
    folder = SpotFolder(
        (case.path / case.meta["annotation_files"]).resolve(),
        labels=labels,
        classes=str(classes),
        features=f"{features}/{{video}}.csv",
        feature_dim=case.config["feat_dim"],
        missing_features="skip",
    )
    return SemiSupervised(folder, steps=case.config["temporal_scale"], labels=labels)


def _check_part(case: Case, part: str, source: RescaledSource) -> None:
    """Names in order, indices, features and every target of one data set of the case."""
    expected = {name.split(".", 1)[1]: array for name, array in case.arrays.items() if name.startswith(f"{part}.")}
    classes, steps = case.config["num_classes"], case.config["temporal_scale"]
    assert list(source.videos) == expected["names"].tolist(), part
    unshaved = [np.floor(steps * video.positions) for video in source.rescaled]
    np.testing.assert_array_equal(np.concatenate(unshaved), expected["segments"][:, :2], err_msg=part)
    labels = np.concatenate([video.labels for video in source.rescaled])
    np.testing.assert_array_equal(labels, expected["segments"][:, 2], err_msg=part)
    transform = RescaledSample(steps, classes)
    for number in range(len(source)):
        record = source.record(number)
        sample = transform(record, np.random.default_rng(0))
        where = f"{part} {record['video']}"
        _close(case, sample["features"].T, expected["features"][number], where)
        np.testing.assert_array_equal(sample["labels"], expected["cls_gt"][number], err_msg=where)
        np.testing.assert_array_equal(sample["masks"], expected["mask_gt"][number], err_msg=where)
        # Two more targets of the original, which no loss uses: classes of every step one by one, classes of the video.
        one_by_one = sample["labels"] == np.arange(classes + 1)[:, None]
        packed = np.unpackbits(expected["action_gt"][number], axis=-1, count=steps)
        np.testing.assert_array_equal(one_by_one, packed, err_msg=where)
        whole = video_labels(record["span_labels"], classes)
        np.testing.assert_array_equal(whole, expected["label_gt"][number], err_msg=where)


def _close(case: Case, found: np.ndarray, expected: np.ndarray, where: str) -> None:
    tolerance = case.meta["tolerance"]
    np.testing.assert_allclose(found, expected, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=where)


@parity("spot", "random_foreground")
def check_random_foreground(case: Case) -> None:
    """Random foregrounds of the first stage, with the integers drawn given.

    `cls_target`, `act_target` and `label_target` feed a disabled branch of the original. Ours has no such branch; the
    first and the last are equal to what our targets of spans would be.
    """
    arrays, steps, classes = case.arrays, case.config["temporal_scale"], case.config["num_classes"]
    scaled = scaled_to_unit(np.moveaxis(arrays["input"], 1, 2))
    _close(case, np.moveaxis(scaled, 1, 2), arrays["normalised_input"], "scaled")
    spans = foreground_spans(arrays["start_end_drawn"], steps)
    _close(case, np.moveaxis(only_spans(scaled, spans), 1, 2), arrays["mod_input"], "foregrounds")
    np.testing.assert_array_equal(span_masks(spans, steps), arrays["mask_target"])
    for number, logits in enumerate(arrays["top_logits"]):
        frequent = np.bincount(logits[:classes].argmax(axis=0), minlength=classes).argmax()
        labels = span_labels(np.asarray(spans[number]), np.full(2, frequent), steps, classes)
        np.testing.assert_array_equal(labels, arrays["cls_target"][number])
        np.testing.assert_array_equal(video_labels([frequent], classes), arrays["label_target"][number])
