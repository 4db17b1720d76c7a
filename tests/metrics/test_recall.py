"""Recall of the best proposals of each video, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.metrics import recall
from actloc_jax.metrics.detection import Detections, Instances

TRUTHS = {
    "a": Instances([[0, 10], [1, 11], [50, 60]], [0, 1, 2]),
    "b": Instances([[0, 4]], [0]),
    "c": Instances([], []),
}
FOUND = {
    "a": Detections([[50, 55], [0, 10], [50, 60]], [9, 9, 9], [0.2, 0.9, 0.5]),
    "c": Detections([[0, 1]], [0], [0.9]),
    "nowhere": Detections([[0, 1]], [0], [0.9]),
}


def test_recalls_by_hand():
    found = recall.recalls(FOUND, TRUTHS, (1, 2, 100), (0.5, 0.9))
    # the best proposal covers two instances at 0.5 (tIoU 1 and 9/11) and one at 0.9; the second covers the third
    np.testing.assert_allclose(found, [[2 / 4, 1 / 4], [3 / 4, 2 / 4], [3 / 4, 2 / 4]])
    assert recall.average_recall(FOUND, TRUTHS, (1, 2), (0.5, 0.9)) == {"AR@1": 37.5, "AR@2": 62.5}


def test_more_proposals_never_recall_less():
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, 50, (2, 40))
    truths = {"a": Instances(np.stack([starts[0], starts[0] + 5], 1), np.zeros(40))}
    found = {"a": Detections(np.stack([starts[1], starts[1] + 5], 1), np.zeros(40), rng.random(40))}
    table = recall.recalls(found, truths, (1, 3, 10, 40), (0.3, 0.5, 0.7))
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) <= 0).all()
    assert 0 < table[0, 0] < table[-1, 0] <= 1


def test_what_cannot_be_recalled_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        recall.recalls(FOUND, TRUTHS, (0, 5))
    with pytest.raises(ValueError, match="nothing to recall"):
        recall.recalls(FOUND, {"c": Instances([], [])})
    assert recall.average_recall({}, TRUTHS, (5,)) == {"AR@5": 0}
