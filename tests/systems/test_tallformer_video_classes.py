"""Who names the classes of a video, and how candidates are suppressed: what predictions follow of the config."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from actloc_jax.ops import nms
from actloc_jax.systems.tallformer import settings
from actloc_jax.systems.tallformer.afsd_decode import AfsdDecodeSettings, Scored, with_video_classes
from actloc_jax.systems.tallformer.anchor_decode import Window
from actloc_jax.systems.tallformer.predictor import Row, tallformer_predictor
from actloc_jax.systems.tallformer.video_classes import VideoClasses
from configs import tallformer_thumos
from tests.parity.tallformer_anchor_decode import SOFT_RULES
from tests.tiny import tiny_tallformer

NAMES = ("bounce", "slide", "spin")
SCORES = {"results": {"one": [0.0, 0.6, 0.4], "two": [0.9, 0.1, 0.0]}, "class": list(NAMES)}


class Named:
    """Records with a name, and with labels unless they are a user's own."""

    def __init__(self, *names: str, annotated: bool = True) -> None:
        self._names, self._annotated = names, annotated

    def __len__(self) -> int:
        return len(self._names)

    def record(self, position: int) -> dict[str, Any]:
        return {"video": self._names[position]} | ({"labels": np.array([2])} if self._annotated else {})


def _config(tmp_path: pathlib.Path, classifier: str, name: str = "tallformer_anet") -> Any:
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    return tiny_tallformer(name, decode__classifier=classifier, decode__video_scores=str(tmp_path / "scores.json"))


def test_classes_come_from_the_network_another_model_or_the_annotation(tmp_path: pathlib.Path) -> None:
    own, external, truth = (VideoClasses(_config(tmp_path, who), NAMES) for who in ("own", "external", "truth"))
    assert own.scores("one", [1]) is None
    np.testing.assert_array_equal(external.scores("one", [1]), [0, 0.6, 0.4])
    np.testing.assert_array_equal(truth.scores("one", [2, 0]), [0, 0, 1])
    assert not truth.scores("one", []).any()
    external.require(Named("one", "two"))
    with pytest.raises(ValueError, match=r"not of 1 of the 2 that are predicted, e.g. three"):
        external.require(Named("one", "three"))
    truth.require(Named("three"))
    own.require(Named("three", annotated=False))
    with pytest.raises(ValueError, match="which videos of your own have not; use own or external"):
        truth.require(Named("three", annotated=False))


def test_segments_are_given_the_best_classes_that_have_a_score() -> None:
    found = Scored(np.array([[1, 2], [3, 5]], np.float32), np.array([0.5, 0.25], np.float32))
    named = with_video_classes(found, np.array([0, 0.6, 0.4]), 10.0, AfsdDecodeSettings(classes_per_segment=2))
    assert named.labels.tolist() == [1, 2, 1, 2]
    np.testing.assert_allclose(named.scores, [0.3, 0.2, 0.15, 0.1])
    truth = with_video_classes(found, np.array([0, 0, 1.0]), 10.0, AfsdDecodeSettings(classes_per_segment=2))
    assert truth.labels.tolist() == [2, 2]
    np.testing.assert_allclose(truth.scores, found.scores)


def test_with_anchors_detections_of_other_classes_are_left_out(tmp_path: pathlib.Path) -> None:
    def labels(classifier: str, video: str, true: tuple[int, ...] = ()) -> list[int]:
        config = _config(tmp_path, classifier, "tallformer_thumos")
        sizes = settings.detector_sizes(config, 3)
        anchors = settings.window_anchors(config, sizes)
        logits = np.full([len(anchors.segments), 3], -20.0, np.float32)
        logits[[20, 20, 40], [1, 2, 0]] = 3.0, 2.0, 1.0
        outputs = {"classes": logits[None], "deltas": np.zeros([1, len(logits), 2], np.float32)}
        network = settings.backbone_network(config), settings.detector_network(config, sizes)
        predictor = tallformer_predictor(config, *network, sizes, NAMES)
        row = Row(video, Window(0, 128), True, True, 10.0, 12.8, true)
        (found,) = predictor.decode(outputs, [row])["TALLFormer"]
        return found.labels.tolist()

    assert labels("own", "one") == [1, 2, 0]
    assert labels("external", "one") == [1]
    assert labels("external", "two") == [0]
    assert labels("truth", "one", (2, 1)) == [2]


def test_suppressions_are_those_of_the_original() -> None:
    config = tallformer_thumos.get_config()
    assert settings.anchor_decode(config).suppression is None
    for name, rule in (
        ("nms", nms.TALLFORMER_HARD),
        ("soft_linear", nms.TALLFORMER_LINEAR),
        ("soft_gaussian", nms.TALLFORMER_GAUSSIAN),
    ):
        config.decode.suppression = name
        assert settings.anchor_decode(config).suppression == rule
    # The settings of the golden case can be reached.
    config.decode.update({"suppression": "soft_linear", "threshold": 0.3})
    assert settings.anchor_decode(config).suppression == SOFT_RULES["linear"]
    config.decode.update({"suppression": "soft_gaussian", "threshold": 0.5, "soft_min_score": 0.01})
    assert settings.anchor_decode(config).suppression == SOFT_RULES["gauss"]
    config.decode.suppression = "lb_nms"
    with pytest.raises(ValueError, match="suppression='lb_nms' is unknown; use nmw, nms, soft_linear, soft_gaussian"):
        settings.anchor_decode(config)
