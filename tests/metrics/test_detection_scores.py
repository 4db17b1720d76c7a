"""Average precision of detections: against the protocol written as a loop, and on inputs counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actloc_jax.metrics import detection, detection_matching
from actloc_jax.metrics.detection import Detections, Instances
from actloc_jax.metrics.detection_matching import Protocol
from actloc_jax.ops import iou

TRUE = {"a": Instances([[0, 10], [20, 30]], [4, 4]), "b": Instances([[5, 9]], [7]), "empty": Instances([], [])}


def detections(*rows: tuple[float, float, int, float]) -> Detections:
    """Rows of start, end, class, score."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    return Detections(table[:, :2], table[:, 2].astype(int), table[:, 3])


def random_videos(seed: int, *, rounded: bool) -> tuple[dict[str, Detections], dict[str, Instances]]:
    """A few videos with overlapping instances of three classes, and detections near and far from them."""
    rng = np.random.default_rng(seed)
    found, truths = {}, {}
    for video in ("u", "v", "w"):
        starts = rng.uniform(0, 20, rng.integers(0, 7))
        truths[video] = Instances(
            np.stack([starts, starts + rng.uniform(3, 9, len(starts))], 1), rng.integers(0, 3, len(starts))
        )
        starts, scores = rng.uniform(0, 20, rng.integers(0, 25)), rng.random(25)
        ends = starts + rng.uniform(3, 9, len(starts))
        labels, scores = rng.integers(0, 4, len(starts)), scores[: len(starts)]
        if rounded:
            starts, ends, scores = np.round(starts), np.round(ends), np.round(scores, 1)
            truths[video] = Instances(np.round(truths[video].segments), truths[video].labels)
        found[video] = Detections(np.stack([starts, ends], 1), labels, scores)
    truths["u"] = Instances(np.vstack([truths["u"].segments, [[0, 5]]]), np.append(truths["u"].labels, 0))
    return found, truths


def visited_one_by_one(found, truths, thresholds, protocol: Protocol) -> dict[int, list[float]]:
    """The published procedure: class -> AP at every threshold."""
    classes = sorted({label for truth in truths.values() for label in truth.labels.tolist()})
    table = {}
    for label in classes:
        rows = [
            (segment, score, video)
            for video, one in found.items()
            for segment, own, score in zip(one.segments, one.labels, one.scores, strict=True)
            if own == label
        ]
        scores = np.array([score for _, score, _ in rows])
        order = {
            "stable": np.argsort(-scores, kind="stable"),
            "argsort": np.argsort(-scores),
            "argsort_reversed": np.argsort(scores)[::-1],
        }[protocol.ties]
        instances = sum(int((truth.labels == label).sum()) for truth in truths.values())
        table[label] = []
        for threshold in thresholds:
            taken, hits = set(), []
            for segment, _, video in (rows[row] for row in order):
                true = truths[video].segments[truths[video].labels == label]
                overlap = iou.TIOU(segment, true)
                ranked = np.argsort(-overlap, kind="stable")
                if protocol.ties == "argsort_reversed":
                    ranked = np.argsort(overlap, kind="stable")[::-1]
                ranked = ranked[:1] if protocol.instances == "best" else ranked
                free = [row for row in ranked if overlap[row] >= threshold and (video, row) not in taken]
                taken |= {(video, free[0])} if free else set()
                hits.append(bool(free))
            table[label].append(area_of_staircase(np.array(hits), instances))
    return table


def area_of_staircase(hits: np.ndarray, instances: int) -> float:
    """VOC 2011: every step of recall times the highest precision from there on."""
    found = np.cumsum(hits)
    precision = np.concatenate([[0], found / np.arange(1, len(hits) + 1), [0]])
    recall = np.concatenate([[0], found / instances, [1]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from(["stable", "argsort", "argsort_reversed"]),
    st.sampled_from(["any", "best"]),
)
def test_all_classes_equal_the_visit_one_by_one(seed, rounded, ties, instances):
    found, truths = random_videos(seed, rounded=rounded)
    protocol = Protocol(ties=ties, instances=instances)
    thresholds = (0.1, 0.3, 0.5, 0.75)
    scores = detection.evaluate(found, truths, thresholds, protocol)
    expected = visited_one_by_one(found, truths, thresholds, protocol)
    assert scores.classes.tolist() == list(expected)
    np.testing.assert_allclose(scores.average_precision.T, list(expected.values()), rtol=1e-12, atol=1e-15)


def test_a_perfect_prediction_scores_a_hundred_and_none_scores_zero():
    found = {video: Detections(truth.segments, truth.labels, np.ones(len(truth))) for video, truth in TRUE.items()}
    scores = detection.evaluate(found, TRUE)
    assert scores.summary() == {f"mAP@0.{tenth}": 100 for tenth in range(1, 8)} | {"mAP": 100}
    assert scores.classes.tolist() == [4, 7]
    assert scores.instances.tolist() == scores.predictions.tolist() == [2, 1]
    for nothing in ({}, {"a": detections()}):
        assert set(detection.evaluate(nothing, TRUE).summary().values()) == {0}


def test_average_precision_by_hand():
    found = {"a": detections((0, 10, 4, 0.9), (40, 50, 4, 0.8), (21, 30, 4, 0.7)), "b": detections((5, 9, 4, 0.6))}
    scores = detection.evaluate(found, TRUE, (0.5, 0.95))
    # class 4: hits at ranks 1 and 3 of 4 at 0.5, at rank 1 at 0.95; class 7 has no prediction
    np.testing.assert_allclose(scores.average_precision, [[(1 + 2 / 3) / 2, 0], [0.5, 0]])
    assert scores.summary()["mAP@0.95"] == 25
    assert scores.mean(0.9, 1.0) == 0.25
    with pytest.raises(ValueError, match=r"no tIoU threshold in 0\.1\.\.0\.2"):
        scores.mean(0.1, 0.2)
    rows = scores.per_class()
    assert [row["class"] for row in rows] == [4, 7]
    assert (rows[0]["instances"], rows[0]["predictions"], rows[1]["predictions"]) == (2, 4, 0)
    assert rows[0]["mAP@0.5"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert rows[1]["mAP"] == 0


def test_reaching_a_threshold_exactly_is_enough():
    scores = detection.evaluate({"a": detections((0, 5, 0, 1))}, {"a": Instances([[0, 10]], [0])}, (0.5, 0.51))
    assert scores.average_precision[:, 0].tolist() == [1, 0]


def test_a_second_detection_takes_the_second_best_instance_unless_only_the_best_counts():
    truths = {"a": Instances([[0, 10], [1, 11]], [0, 0])}
    found = {"a": detections((0, 10, 0, 0.9), (0.2, 10.2, 0, 0.8))}
    assert detection.evaluate(found, truths, (0.5,)).summary()["mAP"] == 100
    assert detection.evaluate(found, truths, (0.5,), detection_matching.VOC).summary()["mAP"] == 50


def test_a_replaced_detection_goes_on_to_its_next_instance():
    truths = {"a": Instances([[0, 10], [4, 14], [8, 18]], [0, 0, 0])}
    # the second asks for what the first has, then for what the third has asked for, which goes on to the last
    found = {"a": detections((0, 10, 0, 0.9), (1, 11, 0, 0.8), (5, 15, 0, 0.7))}
    matching = detection.match(found, truths, (0.3, 0.7), detection.SANE)
    assert matching.taken.tolist() == [[0, 1, 2], [0, -1, 1]]


def test_of_equally_near_instances_the_earlier_or_the_later_is_taken():
    truths = {"a": Instances([[0, 10], [2, 12]], [0, 0])}
    found = {"a": detections((1, 11, 0, 0.9))}
    assert detection.match(found, truths, (0.5,), detection.SANE).taken.item() == 0
    assert detection.match(found, truths, (0.5,), detection_matching.ACTIVITYNET).taken.item() == 1


def test_ties_are_stable_or_as_numpy_has_them():
    truths = {"a": Instances([[0, 10]], [0]), "b": Instances([[0, 10]], [0])}
    found = {"a": detections((50, 60, 0, 0.5)), "b": detections((0, 10, 0, 0.5))}
    assert detection.evaluate(found, truths, (0.5,)).average_precision.item() == 0.25
    first_is_right = np.argsort([0.5, 0.5])[::-1][0] == 1
    as_numpy = detection.evaluate(found, truths, (0.5,), detection_matching.ACTIVITYNET)
    assert as_numpy.average_precision.item() == (0.5 if first_is_right else 0.25)


def test_videos_and_classes_without_truth():
    found = {"a": detections((0, 10, 4, 0.5), (0, 1, 99, 0.9)), "empty": detections((0, 1, 4, 0.9))}
    found["nowhere"] = detections((0, 1, 4, 0.8))
    counted = detection.evaluate(found, TRUE, (0.5,))
    assert counted.average_precision[0, 0] == pytest.approx(1 / 3 / 2)
    assert counted.predictions.tolist() == [3, 0]
    assert detection.evaluate(found, TRUE, (0.5,), detection_matching.AFSD).average_precision[0, 0] == 0.5
    with pytest.raises(ValueError, match=r"1 predictions have classes \[99\]"):
        detection.evaluate(found, TRUE, (0.5,), detection_matching.FUSTAL)


def test_segments_of_length_zero_miss_or_match():
    truths, found = {"a": Instances([[5, 5]], [0])}, {"a": detections((7, 7, 0, 1))}
    assert detection.evaluate(found, truths, (0.5,)).average_precision.item() == 0
    assert detection.evaluate(found, truths, (0.5,), detection_matching.ACTIVITYNET).average_precision.item() == 1
    reversed_in_time = {"a": detections((8, 2, 0, 1))}
    assert detection.evaluate(reversed_in_time, {"a": Instances([[3, 7]], [0])}).summary()["mAP"] == 0


def test_eleven_points_and_area():
    hits = np.array([True, False, True, False])
    assert detection.area(hits, 2) == pytest.approx((1 + 2 / 3) / 2)
    assert detection.area(hits, 4) == pytest.approx((1 + 2 / 3) / 4)
    # recalls 0..0.5 have precision 1, 0.6..1 have 2/3
    assert detection.area(hits, 2, "eleven_points") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert detection.area(hits, 4, "eleven_points") == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert detection.area(np.zeros(0, bool), 3) == 0


def test_curves_of_a_class():
    found = {"a": detections((0, 10, 4, 0.9), (40, 50, 4, 0.8), (21, 30, 4, 0.7)), "b": detections((5, 9, 7, 0.6))}
    matching = detection.match(found, TRUE, (0.5, 0.95), detection.SANE)
    recall, precision = matching.curve(0, 0)
    np.testing.assert_allclose(recall, [0.5, 0.5, 1])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3])
    assert [len(part) for part in matching.curve(1, 1)] == [1, 1]


def test_duplicates_and_ambiguous_classes_are_taken_out_of_the_truth():
    truth = Instances([[0, 10], [0.0005, 10.0005], [0.0005, 10.0005], [15, 15], [0, 10.01]], [3, 3, 5, 3, 3])
    cleaned = detection.without_duplicates(truth)
    assert cleaned.segments.tolist() == [[0, 10], [0.0005, 10.0005], [0, 10.01]]
    assert cleaned.labels.tolist() == [3, 5, 3]
    assert len(detection.without_duplicates(truth, 0.1)) == 2
    assert detection.without_classes({"a": truth}, [3])["a"].labels.tolist() == [5]
    assert len(detection.without_duplicates(Instances([], []))) == 0


def test_pairs_are_found_in_parts_as_in_one(monkeypatch):
    found, truths = random_videos(3, rounded=False)
    whole = detection.evaluate(found, truths, (0.1, 0.5))
    monkeypatch.setattr(detection_matching, "PAIRS_AT_ONCE", 3)
    parts = detection.evaluate(found, truths, (0.1, 0.5))
    np.testing.assert_array_equal(whole.average_precision, parts.average_precision)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (([[0, np.nan]], [0], [1]), r"segments of detection 0 is not finite: \[0.0, nan\]"),
        (([[0, 1], [2, 3]], [0, 0], [1, np.inf]), "scores of detection 1 is not finite: inf"),
        (([[0, 1, 2]], [0], [1]), r"segments must have shape \('n', 2\)"),
        (([[0, 1]], [[0]], [1]), "labels must have shape"),
        (([[0, 1]], [0, 1], [1]), "found numbers"),
    ],
)
def test_detections_that_cannot_be_evaluated_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Detections(*fields)


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no true instance in 1 videos"):
        detection.evaluate({}, {"a": Instances([], [])})
    for thresholds in ((), (0.0,), (1.5,)):
        with pytest.raises(ValueError, match="tIoU thresholds must lie in"):
            detection.evaluate({}, TRUE, thresholds)


def test_the_order_of_videos_changes_nothing_without_ties():
    found, truths = random_videos(11, rounded=False)
    again = detection.evaluate(dict(reversed(found.items())), dict(reversed(truths.items())))
    np.testing.assert_allclose(again.average_precision, detection.evaluate(found, truths).average_precision)
    shifted = {
        video: dataclasses.replace(one, scores=3 * one.scores - 7, segments=2 * one.segments + 5)
        for video, one in found.items()
    }
    moved = {video: Instances(2 * truth.segments + 5, truth.labels) for video, truth in truths.items()}
    np.testing.assert_allclose(
        detection.evaluate(shifted, moved).average_precision, detection.evaluate(found, truths).average_precision
    )
