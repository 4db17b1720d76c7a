"""From FuSTAL's student to detections: what padding may change, and what it may not."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.systems.api import Predictor
from actloc_jax.systems.fustal import settings
from actloc_jax.systems.fustal.decode import Candidates
from actloc_jax.systems.fustal.student_predictor import student_predictor
from actloc_jax.systems.fustal.videos import open_inputs
from actloc_jax.systems.runner import Runner
from tests.tiny import tiny_fustal

MAX_LENGTH = 64
LENGTHS = {"short": 41, "long": 101}  # as published, padded to 64 and 102


def tiny(seen: bool, **changes: Any) -> ConfigDict:
    config = tiny_fustal(**changes)
    config.quirks.padding_is_seen = seen
    config.network.student.max_length = MAX_LENGTH
    return config


def predictor_of(config: ConfigDict) -> tuple[Predictor, Any]:
    """The predictor and random parameters: none is zero as at the start of a training, where some layers do nothing."""
    sizes = settings.detector_sizes(config, 5)
    net = settings.detector_network(config, sizes)
    leaves, tree = jax.tree.flatten(net.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = tree.unflatten(jnp.asarray(leaf + 0.1 * rng.standard_normal(leaf.shape), "f4") for leaf in leaves)
    return student_predictor(config, net, sizes), {"params": params, "batch_stats": {}}


def padded(rows: int, length: int, seen: int) -> dict[str, np.ndarray]:
    """A batch of one video."""
    features = np.zeros([1, length, 64], np.float32)
    features[0, :rows] = np.random.default_rng(1).standard_normal([rows, 64])
    return {"features": features, "mask": np.arange(length)[None] < rows, "seen": np.array([seen], np.int32)}


def test_padding_that_is_not_seen_changes_nothing_and_padding_that_is_seen_does() -> None:
    predictor, model = predictor_of(tiny(seen=False))
    predict = jax.jit(lambda batch: Candidates(**predictor.predict(model, batch, jax.random.key(0))))
    exact, longer, seen = (
        jax.device_get(predict(padded(42, length, seen))) for length, seen in ((64, 42), (96, 42), (96, 64))
    )
    assert exact.valid.sum() > 20
    np.testing.assert_array_equal(longer.valid, exact.valid)
    np.testing.assert_array_equal(longer.labels[longer.valid], exact.labels[exact.valid])
    np.testing.assert_allclose(longer.scores[longer.valid], exact.scores[exact.valid], rtol=1e-5)
    np.testing.assert_allclose(longer.segments[longer.valid], exact.segments[exact.valid], atol=1e-4)
    assert np.abs(seen.scores[0, :20] - exact.scores[0, :20]).max() > 1e-3, "the comparison shows nothing"


def inputs(folder: pathlib.Path, config: ConfigDict) -> Any:
    """Files of random features of the `LENGTHS`."""
    rng = np.random.default_rng(2)
    paths = [folder / f"{name}.npy" for name in LENGTHS]
    for path, rows in zip(paths, LENGTHS.values(), strict=True):
        np.save(path, rng.standard_normal([rows, 64]).astype(np.float32))
    return open_inputs(config, {"stage": "student"}, [str(path) for path in paths])


TOGETHER = {"decode__batch_size": 2, "data__max_buckets": 1}
ALONE = {"decode__batch_size": 1, "data__max_buckets": 6}


def test_videos_padded_together_are_detected_as_alone(tmp_path: pathlib.Path) -> None:
    found = {}
    for way, options in (("together", TOGETHER), ("alone", ALONE)):
        config = tiny(seen=True, **options)
        predictor, model = predictor_of(config)
        source = inputs(tmp_path, config)
        shapes = [batch.arrays["mask"].shape for batch in predictor.batches(source)]
        assert shapes == ([(2, 102)] if way == "together" else [(1, MAX_LENGTH), (1, 102)])
        (found[way],) = Runner(predictor).run(model, source, seed=0).values()
    for one, other in zip(found["together"], found["alone"], strict=True):
        assert one.video == other.video
        assert len(one.labels) > 20
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)
        np.testing.assert_allclose(one.segments, other.segments, atol=1e-3)


def test_without_padding_that_is_seen_only_the_rows_of_a_video_count(tmp_path: pathlib.Path) -> None:
    config = tiny(seen=False, **ALONE)
    batches = [batch.arrays for batch in predictor_of(config)[0].batches(inputs(tmp_path, config))]
    assert [batch["seen"].tolist() for batch in batches] == [[rows] for rows in LENGTHS.values()]
    assert [batch["mask"].shape for batch in batches] == [(1, 42), (1, 102)]
