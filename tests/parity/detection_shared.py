"""Parity of what all detection systems share: non-maximum suppression and mean average precision."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from actloc_jax.metrics import detection, detection_matching
from actloc_jax.metrics.detection import Detections, Instances
from actloc_jax.ops import iou, nms, segment_merging
from tests.parity.harness import REPOSITORY, Case, parity

DATA = REPOSITORY.parent / "shared" / "data"


@parity("fustal", "nms_1d")
def check_nms_1d(case: Case) -> None:
    """The compiled suppression of ActionFormer and TriDet: all its decays, and the wrapper for classes and voting."""
    soft = dataclasses.replace(nms.ACTIONFORMER_SOFT, sigma=case.config["sigma"], max_per_class=None, max_total=None)
    for key in [key for key in case.arrays if re.fullmatch(r".*_(soft_m\d_min.*|hard|batched_\w+)_segs", key)]:
        inputs, variant = re.fullmatch(r"([a-z0-9]+)_(.*)_segs", key).groups()
        if variant == "hard":
            rule = dataclasses.replace(nms.ACTIONFORMER_HARD, threshold=0.5, above=0.1, max_per_class=None)
            found = _suppressed(case, inputs, variant, rule)
        elif variant.startswith("batched"):
            found = _batched(case, inputs, variant)
        else:
            method, least = re.fullmatch(r"soft_m(\d)_min(.*)", variant).groups()
            threshold = _soft_threshold(case, int(method))
            decay = ("zero", "linear", "gaussian")[int(method)]
            rule = dataclasses.replace(soft, decay=decay, threshold=threshold, min_score=float(least))
            found = _suppressed(case, inputs, variant, rule)
        _compare(case, f"{inputs}_{variant}", found)


def _soft_threshold(case: Case, method: int) -> float:
    """From the description: "methods 0 (hard weight, iou thr 0.5), 1 (linear, thr 0.1)"; the Gaussian has none."""
    stated = re.search(rf"\b{method} \([^)]*thr ([0-9.]+)\)", case.meta["description"])
    return float(stated[1]) if stated else 1.0


def _candidates(case: Case, inputs: str, variant: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments, scores and classes.

    Greedy suppression visits them in the order of `torch.sort`, which is not stable and depends on the processor: here
    the candidates of equal score that the case kept come before those that it did not, in the order of the case.
    """
    segments, scores, classes = (case.arrays[f"{inputs}_{part}"] for part in ("segs", "scores", "cls"))
    if "hard" not in variant:
        return segments, scores, classes
    rank = np.full(len(scores), len(scores))
    kept = zip(*(case.arrays[f"{inputs}_{variant}_{part}"] for part in ("segs", "scores", "cls")), strict=True)
    for position, (segment, score, label) in enumerate(kept):
        same = np.flatnonzero((scores == score) & (classes == label) & (rank == len(scores)))
        away = np.abs(np.nan_to_num(segments[same] - segment)).sum(axis=1)  # voting has moved the segment
        rank[same[away.argmin()]] = position
    order = np.argsort(rank, kind="stable")
    return segments[order], scores[order], classes[order]


def _suppressed(
    case: Case, inputs: str, variant: str, rule: nms.Suppression
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments, scores and classes after suppression among all candidates."""
    segments, scores, classes = _candidates(case, inputs, variant)
    index, values = nms.suppress(segments, scores, rule)
    return segments[index], values, classes[index]


def _batched(case: Case, inputs: str, variant: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The wrapper that systems call."""
    segments, scores, classes = _candidates(case, inputs, variant)
    batched = case.config["batched"]
    rule = nms.ACTIONFORMER_SOFT if "soft" in variant else nms.ACTIONFORMER_HARD
    least = {"min_score" if "soft" in variant else "above": batched["min_score"]}
    most = batched["max_seg_num"]
    rule = dataclasses.replace(
        rule,
        threshold=batched["iou_threshold"],
        max_per_class=most,
        max_total=most,
        sigma=case.config["sigma"],
        **least,
    )
    groups = classes if "multi" in variant else np.zeros_like(classes)
    index, values = nms.suppress_classes(segments, scores, groups, rule)
    refined = segments[index]
    if variant.endswith("_vote"):
        stated = re.search(r"voting ([0-9.]+)", case.meta["description"])
        refined = segment_merging.vote(refined, segments, scores, float(stated[1]), alone="nan")
    return refined, values, classes[index]


def _compare(case: Case, prefix: str, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Row by row where scores are distinct; as sets where the order is free (see the case's tolerance)."""
    expected = [case.arrays[f"{prefix}_{part}"] for part in ("segs", "scores", "cls")]
    tables = [np.column_stack(table).astype(np.float64) for table in (found, expected)]
    if re.match("ties|identical", prefix):
        tables = [table[np.lexsort(np.round(table, 4).T)] for table in tables]
    tolerance = case.meta["tolerance"]
    np.testing.assert_allclose(*tables, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=prefix)


@parity("fustal", "generator_nms")
def check_generator_nms(case: Case) -> None:
    """Greedy suppression on seconds with lengths that count one more; rows are (class, score, start, end)."""
    rule = dataclasses.replace(nms.FUSTAL_GENERATOR, threshold=case.config["thresh"])
    for key in [key for key in case.arrays if key.endswith("_in")]:
        rows = case.arrays[key]
        found = rows[nms.suppress(rows[:, 2:], rows[:, 1], rule).index]
        expected = case.arrays[key[: -len("in")] + "out"]
        if key.startswith("tie"):
            found, expected = (table[np.lexsort(table.T)] for table in (found, expected))
        np.testing.assert_allclose(found, expected, rtol=case.meta["tolerance"]["rtol"], err_msg=key)


@parity("spot", "soft_nms")
def check_spot_soft_nms(case: Case) -> None:
    """The overlap, the suppression, and the detections of one video."""
    tolerance = case.meta["tolerance"]["rtol"]
    segments = case.arrays["iou_segments"]
    table = case.arrays["iou_table"]
    found = iou.SPOT_OVERLAP(segments[:, None], segments)
    np.testing.assert_allclose(found, np.where(np.isnan(table), 0, table), rtol=tolerance)
    for inputs in [key.removesuffix(".in_scores") for key in case.arrays if key.endswith(".in_scores")]:
        given = {part: case.arrays[f"{inputs}.{part}"] for part in ("in_segments", "in_scores", "in_labels")}
        rule = dataclasses.replace(
            nms.SPOT_SOFT,
            divisor=float(case.arrays[f"{inputs}.thr"]),
            max_per_class=int(case.arrays[f"{inputs}.num_prop"]),
        )
        index, scores = nms.suppress(given["in_segments"], given["in_scores"], rule)
        np.testing.assert_allclose(scores, case.arrays[f"{inputs}.out_scores"], rtol=tolerance, err_msg=inputs)
        np.testing.assert_allclose(given["in_segments"][index], case.arrays[f"{inputs}.out_segments"].reshape(-1, 2))
        assert given["in_labels"][index].tolist() == case.arrays[f"{inputs}.out_labels"].tolist(), inputs
    _check_spot_video(case, tolerance)


def _check_spot_video(case: Case, tolerance: float) -> None:
    """Product of both scores, suppression, order by score, clipping, seconds; a lone row is not suppressed."""
    rows = np.column_stack([case.arrays["final.xmin"], case.arrays["final.xmax"]])
    product = case.arrays["final.clr_score"] * case.arrays["final.reg_score"]
    duration, most = float(case.arrays["final.duration"]), case.config["num_prop"]
    rule = dataclasses.replace(nms.SPOT_SOFT, divisor=case.config["nms_thresh"], max_per_class=most)
    best = nms.sorted_by_score(*nms.suppress(rows, product, rule), most)
    np.testing.assert_allclose(best.scores, case.arrays["final.out_scores"], rtol=tolerance)
    seconds = np.clip(rows[best.index], 0, 1) * duration
    np.testing.assert_allclose(seconds, case.arrays["final.out_segments"], rtol=tolerance)
    np.testing.assert_allclose(product[0], case.arrays["single.out_score"][0], rtol=tolerance)
    np.testing.assert_allclose(rows[0].clip(0, 1) * duration, case.arrays["single.out_segment"].ravel(), rtol=tolerance)


def numbered_classes(
    truths: Mapping[str, Sequence[tuple[Any, Any, Any]]],
    predictions: Mapping[str, Sequence[tuple[Any, Any, Any, float]]],
    unknown: Mapping[Any, int] | None = None,
) -> tuple[dict[str, Detections], dict[str, Instances]]:
    """Rows (start, end, class[, score]) of each video with the classes numbered in order of first appearance.

    Classes that no instance has get numbers of their own, or those of `unknown`.
    """
    numbers: dict[Any, int] = {}
    instances = {
        video: Instances(
            np.array([row[:2] for row in rows], np.float64), [numbers.setdefault(row[2], len(numbers)) for row in rows]
        )
        for video, rows in truths.items()
    }
    found = {}
    for video, rows in predictions.items():
        labels = [numbers.get(row[2], (unknown or {}).get(row[2], -1)) for row in rows]
        segments = np.array([row[:2] for row in rows], np.float64)
        found[video] = Detections(segments, labels, [row[3] for row in rows])
    return found, instances


def annotation_rows(database: Mapping[str, Any], subset: str) -> dict[str, list[tuple]]:
    """ActivityNet's ground truth as rows."""
    return {
        video: [(*map(float, row["segment"]), row["label"]) for row in entry["annotations"]]
        for video, entry in database.items()
        if entry["subset"] == subset
    }


def _results(results: Mapping[str, Any]) -> dict[str, list[tuple]]:
    """ActivityNet's results as rows."""
    return {
        video: [(*map(float, row["segment"]), row["label"], row["score"]) for row in rows]
        for video, rows in results.items()
    }


def _check_scores(case: Case, found: detection.DetectionScores, prefix: str, average: str = "avg") -> None:
    """mAP, its mean over thresholds and the AP of every class against the arrays that begin with `prefix`."""
    tolerance = {"rtol": case.meta["tolerance"]["rtol"], "atol": case.meta["tolerance"].get("atol", 0)}
    np.testing.assert_allclose(found.average_precision, case.arrays[f"{prefix}ap"], err_msg=prefix, **tolerance)
    means = found.average_precision.mean(axis=1)
    np.testing.assert_allclose(means, case.arrays[f"{prefix}mAP"], err_msg=prefix, **tolerance)
    np.testing.assert_allclose(found.mean(), float(case.arrays[f"{prefix}{average}"].item()), **tolerance)
    for low, high in ((0.1, 0.5), (0.3, 0.7)):
        expected = case.arrays.get(f"{prefix}avg_{low:g}_{high:g}".replace("0.", "0"))
        if expected is not None:
            np.testing.assert_allclose(found.mean(low, high), expected.item(), **tolerance)


@parity("fustal", "detection_map")
def check_fustal_map(case: Case) -> None:
    """FuSTAL's two evaluators on small inputs, and real detections on THUMOS14."""
    if case.meta["real_data"]:
        _check_fustal_real(case)
        return
    for name, given in case.config.items():
        if name == "second":
            _check_second_evaluator(case, given)
        elif not name.startswith("_"):
            truths = {video: rows for video, (subset, rows) in given["ground_truth"].items() if subset == "test"}
            predictions: dict[str, list] = {}
            for video, start, end, label, score in given["predictions"]:
                predictions.setdefault(video, []).append((start, end, label, score))
            scores = detection.evaluate(
                *numbered_classes(truths, predictions), detection.THUMOS14_TIOU, detection_matching.FUSTAL
            )
            _check_scores(case, scores, f"{name}_")
    label_without_truth = {"v": Detections([[0, 1]], [1], [0.5])}, {"v": Instances([[0, 1]], [0])}
    with pytest.raises(ValueError, match="no true instance has"):
        detection.evaluate(*label_without_truth, protocol=detection_matching.FUSTAL)


def _check_second_evaluator(case: Case, given: Mapping[str, Any]) -> None:
    """ActionFormer's evaluator: label ids, without duplicates and instances of length zero."""
    truths = {
        video: detection.without_duplicates(
            Instances(
                [row["segment"] for row in entry["annotations"]], [row["label_id"] for row in entry["annotations"]]
            )
        )
        for video, entry in given["json"]["database"].items()
        if entry["subset"].lower() == given["split"]
    }
    columns = given["predictions"]
    predictions = {}
    for video in dict.fromkeys(columns["video-id"]):
        rows = [row for row, other in enumerate(columns["video-id"]) if other == video]
        start, end, label, score = (
            np.array([columns[column][row] for row in rows]) for column in ("t-start", "t-end", "label", "score")
        )
        predictions[video] = Detections(np.column_stack([start, end]), label, score)
    low, step, high = map(float, given["tiou"].split(":"))
    thresholds = np.linspace(low, high, round((high - low) / step) + 1)
    _check_scores(case, detection.evaluate(predictions, truths, thresholds, detection_matching.ACTIVITYNET), "second_")


def _check_fustal_real(case: Case) -> None:
    """Published detections of the 210 videos that the weakly supervised protocol evaluates."""
    folder = _data("thumos14")
    evaluated = set((folder / "fustal_split_test.txt").read_text().split())
    database = json.loads((folder / "afsd" / "thumos_gt.json").read_text())["database"]
    class_list = (folder / "annotations" / "test" / "detclasslist.txt").read_text().split("\n")
    names = dict(line.split() for line in class_list if line.strip())
    predictions: dict[str, list] = {}
    with gzip.open(folder / "predictions" / "a2net_action_detection_af38.txt.gz", "rt") as file:
        for video, start, end, label, score in csv.reader(file, delimiter="\t"):
            if video in evaluated:
                predictions.setdefault(video, []).append((float(start), float(end), names[label], float(score)))
    assert sum(map(len, predictions.values())) == case.config["n_predictions"]
    given = numbered_classes(annotation_rows(database, "test"), predictions)
    _check_scores(case, detection.evaluate(*given, detection.THUMOS14_TIOU, detection_matching.FUSTAL), "")


@parity("spot", "map_edge_cases")
def check_spot_map_edge_cases(case: Case) -> None:
    """Only videos of the proposal file count; a class without truth takes the number of another class (quirk 19)."""
    tolerance = case.meta["tolerance"]["rtol"]
    collisions = {name: int(number) for name, number in re.findall(r'"([^"]+)" = (\d+)', case.meta["notes"])}
    for name, given in json.loads((case.path / "inputs.json").read_text()).items():
        proposed = set(given["videos_in_proposal_csv"])
        truths = annotation_rows(given["ground_truth"], "validation")
        truths = {video: rows for video, rows in truths.items() if video in proposed}
        found, instances = numbered_classes(truths, _results(given["predictions"]), collisions)
        for kind, thresholds in (
            ("anet", detection.ACTIVITYNET_TIOU),
            ("thumos", detection.THUMOS14_STRICT_TIOU),
        ):
            scores = detection.evaluate(found, instances, thresholds, detection_matching.ACTIVITYNET)
            _check_scores(case, scores, f"{name}.{kind}.", "average")
    recall, precision = case.arrays["interp.recall"], case.arrays["interp.precision"]
    steps = np.diff(np.append(0, recall))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    np.testing.assert_allclose((steps * envelope).sum(), case.arrays["interp.ap"].item(), rtol=tolerance)
    overlap = iou.TIOU(case.arrays["tiou.target"], case.arrays["tiou.candidates"])
    np.testing.assert_allclose(overlap, case.arrays["tiou.value"], rtol=tolerance)


@parity("spot", "map_real")
def check_spot_map_real(case: Case) -> None:
    """Real annotations of ActivityNet: all validation videos, and those that SPOT evaluates."""
    folder = _data("activitynet")
    with gzip.open(folder / "anet_anno_action.json.gz", "rt") as file:
        annotations = json.load(file)
    with gzip.open(folder / "video_info_new.csv.gz", "rt") as file:
        videos = [row["video"] for row in csv.DictReader(file) if row["subset"] == "validation"]
    truths = {
        video.removeprefix("v_"): [(*row["segment"], row["label"]) for row in annotations[video]["annotations"]]
        for video in videos
    }
    with gzip.open(case.path / "predictions.json.gz", "rt") as file:
        predictions = json.load(file)
    predictions = _results(predictions.get("results", predictions))
    kept = {video.removeprefix("v_") for video in case.arrays["filtered_videos"].tolist()}
    for prefix, wanted in (("full_", set(truths)), ("filtered_", kept)):
        given = numbered_classes(
            {video: rows for video, rows in truths.items() if video in wanted},
            {video: rows for video, rows in predictions.items() if video in wanted},
        )
        scores = detection.evaluate(*given, detection.ACTIVITYNET_TIOU, detection_matching.ACTIVITYNET)
        _check_scores(case, scores, prefix, "average")


def _data(name: str) -> pathlib.Path:
    """A folder of real data; the case is skipped where it is not at hand."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there; it holds the data that the case was made from")
    return DATA / name


@parity("tallformer", "map_eval")
def check_tallformer_map(case: Case) -> None:
    """TALLFormer's three modes on THUMOS14; classes without truth are not in the mean."""
    protocols = {
        "anet": detection_matching.TALLFORMER,
        "default": detection_matching.VOC,
        "voc07": detection_matching.VOC07,
    }
    tolerance = {"rtol": case.meta["tolerance"]["rtol"], "atol": case.meta["tolerance"]["atol"]}
    for name, sizes in case.config.items():
        found, truths = {}, {}
        for video in range(sizes["num_videos"]):
            rows = [case.arrays[f"{name}/det_v{video}_c{label}"] for label in range(sizes["num_classes"])]
            labels = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
            table = np.concatenate(rows)
            found[str(video)] = Detections(table[:, :2], labels, table[:, 2])
            truths[str(video)] = Instances(case.arrays[f"{name}/gt_v{video}"], case.arrays[f"{name}/lab_v{video}"])
        for mode, protocol in protocols.items():
            expected = case.arrays[f"{name}/ap_{mode}"], case.arrays[f"{name}/map_{mode}"]
            if not any(len(truth) for truth in truths.values()):
                assert not any(array.any() for array in expected)
                with pytest.raises(ValueError, match="no true instance"):
                    detection.evaluate(found, truths, detection.THUMOS14_STRICT_TIOU, protocol)
                continue
            scores = detection.evaluate(found, truths, detection.THUMOS14_STRICT_TIOU, protocol)
            precision = np.zeros_like(expected[0])
            precision[:, scores.classes] = scores.average_precision
            np.testing.assert_allclose(precision, expected[0], err_msg=f"{name} {mode}", **tolerance)
            means = scores.average_precision.mean(axis=1)
            np.testing.assert_allclose(means, expected[1], err_msg=f"{name} {mode}", **tolerance)
    for mode, overlap in (("iou", iou.FLOORED_TIOU), ("iof", iou.FLOORED_COVERAGE)):
        found = overlap(case.arrays["iou/a"][:, None], case.arrays["iou/b"])
        np.testing.assert_allclose(found, case.arrays[f"iou/{mode}"], **tolerance)


@parity("tallformer", "anet_eval")
def check_tallformer_anet_map(case: Case) -> None:
    """AFSD's evaluation: predictions of videos and classes without truth are left out."""
    for name, given in case.config.items():
        given = numbered_classes(annotation_rows(given["ground_truth"], "validation"), _results(given["predictions"]))
        scores = detection.evaluate(*given, detection.ACTIVITYNET_TIOU, detection_matching.AFSD)
        _check_scores(case, scores, f"{name}/")
