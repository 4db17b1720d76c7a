"""Kinds of errors of detections, counted by hand and by the rules of DETAD written as a loop."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.metrics import detection, detection_errors
from actloc_jax.metrics.detection import Detections, Instances
from actloc_jax.metrics.detection_errors import KINDS, MISSED
from actloc_jax.ops import iou

TRUTHS = {"a": Instances([[0, 10], [20, 30], [40, 50], [60, 61]], [0, 0, 1, 1])}
ROWS = [
    ([0, 10], 0, 0.9, "true positive"),
    ([0, 9], 0, 0.8, "duplicate"),
    ([20, 24], 0, 0.7, "localisation"),
    ([40, 50], 0, 0.6, "wrong label"),
    ([40, 43], 0, 0.5, "confusion"),
    ([80, 90], 0, 0.4, "background"),
    ([40, 50], 1, 0.3, "true positive"),
]
FOUND = {
    "a": Detections([row[0] for row in ROWS], [row[1] for row in ROWS], [row[2] for row in ROWS]),
    "nowhere": Detections([[0, 10]], [1], [0.2]),
}


def test_every_kind_by_hand():
    analysis = detection_errors.analyse(FOUND, TRUTHS, (0.5,))
    names = [KINDS[kind] for kind in analysis.kinds[0]]
    assert names == [row[3] for row in ROWS] + ["background"]
    assert analysis.shares()["background"].tolist() == [2 / 8]
    assert sum(share.item() for share in analysis.shares().values()) == 1
    assert analysis.missed.tolist() == [0.5]


def test_the_kind_depends_on_the_threshold():
    analysis = detection_errors.analyse(FOUND, TRUTHS, (0.2, 0.5, 0.95))
    assert [KINDS[kind] for kind in analysis.kinds[:, 1]] == ["duplicate", "duplicate", "localisation"]
    assert [KINDS[kind] for kind in analysis.kinds[:, 2]] == ["true positive", "localisation", "localisation"]
    assert [KINDS[kind] for kind in analysis.kinds[:, 4]] == ["wrong label", "confusion", "confusion"]


def test_what_each_kind_costs():
    analysis = detection_errors.analyse(FOUND, TRUTHS, (0.5,))
    # class 0: a hit at rank 1, one of 2 instances; class 1: likewise
    np.testing.assert_allclose(analysis.average_precision, [0.5])
    assert analysis.gains()["background"] == pytest.approx(0)
    assert analysis.gains()[MISSED] == pytest.approx(50)
    late = {"a": Detections([[80, 90], [0, 10], [20, 24]], [0, 0, 0], [0.9, 0.8, 0.7])}
    gains = detection_errors.analyse(late, TRUTHS, (0.5,)).gains()
    assert gains["background"] == pytest.approx(100 * (0.5 - 0.25) / 2)
    assert gains["localisation"] == pytest.approx(0)


def test_only_the_best_of_each_class_are_looked_at_and_profiled_by_rank():
    analysis = detection_errors.analyse(FOUND, TRUTHS, (0.5,), groups=2)
    assert analysis.kinds.shape == (1, 4 + 2)
    assert analysis.profile.shape == (1, 2, len(KINDS))
    # ranks 1 and 2 of both classes: of class 0 a hit and a duplicate, of class 1 a hit and background
    expected = {"true positive": 0.5, "duplicate": 0.25, "background": 0.25}
    assert analysis.profile[0, 0].tolist() == [expected.get(kind, 0) for kind in KINDS]
    assert analysis.profile[0, 1].tolist() == [0, 0, 0.5, 0.5, 0, 0]
    assert detection_errors.analyse(FOUND, TRUTHS, (0.5,), groups=50).profile[0, 40:].sum() == 0


def test_random_videos_equal_the_rules_one_by_one():
    rng = np.random.default_rng(5)
    found, truths = {}, {}
    for video in "uvw":
        starts = rng.uniform(0, 40, 8)
        truths[video] = Instances(np.stack([starts, starts + rng.uniform(2, 9, 8)], 1), rng.integers(0, 3, 8))
        starts = rng.uniform(0, 60, 60)
        found[video] = Detections(
            np.stack([starts, starts + rng.uniform(2, 9, 60)], 1), rng.integers(0, 3, 60), rng.random(60)
        )
    thresholds = (0.3, 0.6)
    analysis = detection_errors.analyse(found, truths, thresholds, groups=100)
    matching = detection.match(found, truths, thresholds, detection.SANE)
    assert analysis.kinds.shape == matching.taken.shape
    for threshold, kinds, taken in zip(thresholds, analysis.kinds, matching.taken, strict=True):
        for row, kind in enumerate(kinds):
            truth = truths[matching.videos[matching.video[row]]]
            overlap = iou.TIOU(matching.segments[row], truth.segments)
            same = truth.labels[overlap.argmax()] == matching.classes[matching.label[row]]
            near = "duplicate" if same else "wrong label"
            far = "localisation" if same else "confusion"
            expected = near if overlap.max() >= threshold else far if overlap.max() >= 0.1 else "background"
            assert KINDS[kind] == ("true positive" if taken[row] >= 0 else expected)
    assert {KINDS[kind] for kind in np.unique(analysis.kinds)} == set(KINDS)
    plain = detection.evaluate(found, truths, thresholds)
    np.testing.assert_allclose(analysis.average_precision, plain.average_precision.mean(axis=1))


def test_a_cut_of_the_predictions_leaves_the_matching_of_the_best_as_it_is():
    best = {"a": Detections(FOUND["a"].segments[[0, 1, 6]], FOUND["a"].labels[[0, 1, 6]], FOUND["a"].scores[[0, 1, 6]])}
    few = detection_errors.analyse(FOUND, TRUTHS, (0.5,), groups=1)
    alone = detection_errors.analyse(best, TRUTHS, (0.5,), groups=1)
    np.testing.assert_allclose(few.average_precision, alone.average_precision)


def test_what_cannot_be_analysed_is_an_error():
    with pytest.raises(ValueError, match="at least one group"):
        detection_errors.analyse(FOUND, TRUTHS, groups=0)
    with pytest.raises(ValueError, match="no error to analyse"):
        detection_errors.analyse({}, TRUTHS)
    with pytest.raises(ValueError, match="no true instance"):
        detection_errors.analyse(FOUND, {"a": Instances([[3, 3]], [0])})
