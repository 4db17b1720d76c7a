"""From the device's outputs to the labels of whole videos: post-processing, sample rate, votes, what did not fit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ml_collections import ConfigDict

from actloc_jax.systems.tst import adapters, predictors
from actloc_jax.systems.tst.capacity import CAPACITIES
from actloc_jax.systems.tst.videos import Row
from configs import tst_gtea

RATE, FRAMES, TOTAL = 2, 6, 11
BACKBONE = np.array([0, 0, 0, 1, 2, 2], np.int32)
REFINED = np.array([3, 3, 3, 1, 3, 3], np.int32)


@pytest.fixture
def config() -> ConfigDict:
    """A sample rate of 2, and runs of one frame are purged."""
    config = tst_gtea.get_config("files")
    config.data.sample_rate = RATE
    config.decode.update({"postprocess": "purge", "postprocess_size": 1})
    return config


def _decode(config: ConfigDict, left_out: int = 0) -> dict[str, np.ndarray]:
    """Labels by source for one video, in a batch with a filler row."""

    def padded(values: np.ndarray, filler: float = -1) -> np.ndarray:
        row = np.pad(values, (0, 2), constant_values=filler)
        return np.stack([row, np.full_like(row, filler)])

    outputs = {
        "labels": padded(REFINED),
        "backbone": padded(BACKBONE),
        "confidence": padded(np.linspace(0.4, 0.9, FRAMES, dtype=np.float32), 0),
        "left_out": np.array([left_out, 0]),
        "draws": padded(REFINED)[:, None],
    }
    predictor = predictors.tst_predictor(config, adapters.make(config), refiner=None)
    results = predictor.decode(outputs, [Row("video", 0, FRAMES, TOTAL)])
    return {name: videos[0] for name, videos in results.items()}


def test_refined_labels_are_processed_and_repeated_to_the_full_rate(config: ConfigDict) -> None:
    results = _decode(config)
    assert set(results) == {"TST", "backbone"}
    assert results["TST"].labels.tolist() == [3] * (RATE * FRAMES)  # longer than the video, as published
    assert results["backbone"].labels.tolist() == np.repeat(BACKBONE, RATE).tolist()
    assert results["TST"].confidence == pytest.approx(np.repeat(np.linspace(0.4, 0.9, FRAMES), RATE))


def test_the_overhang_can_be_cut(config: ConfigDict) -> None:
    config.quirks.keep_overhang = False
    assert {len(result.labels) for result in _decode(config).values()} == {TOTAL}


def test_segments_that_did_not_fit_are_reported(config: ConfigDict, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _decode(config)
        assert not caplog.messages
        _decode(config, left_out=3)
    (message,) = caplog.messages
    assert message.startswith(f"video has 3 segments more than the refiner holds ({CAPACITIES[-1]})")


def test_seeds_of_the_votes_are_the_published_ones() -> None:
    assert predictors.noise_seeds(666, 1) == (666,)
    assert predictors.noise_seeds(666, 3) == (1, 112, 223)
