"""Labels that FuSTAL's student gets from its own average: against the detections of an evaluation, and in training."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data.grid import thumos14_i3d
from actloc_jax.ops import nms
from actloc_jax.systems.api import Dataset
from actloc_jax.systems.fustal import settings, videos
from actloc_jax.systems.fustal.decode import Candidates
from actloc_jax.systems.fustal.distillation import DistillationSettings, own_labels
from actloc_jax.systems.fustal.postprocess import detections
from actloc_jax.systems.fustal.student_stage import Objective, student_stage
from tests.tiny import tiny_fustal

CLASSES, NUMBER, END = 3, 60, 90.0
RULES = {
    "soft": nms.ACTIONFORMER_SOFT,
    "strict": dataclasses.replace(nms.ACTIONFORMER_SOFT, min_score=0.7),  # its limit is above the score of labels
    "hard": dataclasses.replace(nms.ACTIONFORMER_HARD, threshold=0.3, above=0.5),  # may leave nothing
    "none": None,
}

on_device = jax.jit(own_labels, static_argnames="settings")


def random_candidates(seed: int, best: float) -> Candidates:
    """Of one video: clusters of segments, some beyond the video, no equal scores, the highest score `best`, gaps."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-5, 95, 10)[rng.integers(10, size=NUMBER)] + rng.normal(0, 2, NUMBER)
    segments = np.stack([start, start + rng.gamma(3.0, 4.0, NUMBER) + 0.1], axis=1)
    scores = best * (rng.permutation(NUMBER) + 1) / NUMBER
    valid = (rng.random(NUMBER) < 0.9) | (scores == best)
    labels = rng.integers(CLASSES, size=NUMBER)
    return Candidates(segments.astype(np.float32), scores.astype(np.float32), labels.astype(np.int32), valid)


def of_batch(*rows: Candidates) -> Candidates:
    return Candidates(*(jnp.asarray(np.stack(values)) for values in zip(*rows, strict=True)))


def reference(found: Candidates, rule: nms.Suppression | None, min_score: float) -> tuple[np.ndarray, np.ndarray]:
    """Segments and classes as published: detections in seconds, those above the score or the best one, in grid units.

    The video ends at grid position `END`.
    """
    grid = thumos14_i3d(30.0)
    segments, scores, labels = (values[found.valid] for values in found[:3])
    duration = float(grid.to_seconds(END))
    said = detections("video", segments, scores, labels, grid=grid, duration=duration, rule=rule)
    kept = said.scores > min_score
    if not kept.any():
        kept = np.arange(len(said.scores)) == 0
    return np.maximum(grid.to_grid(said.segments[kept]), 0), said.labels[kept]


@pytest.mark.parametrize("rule", RULES)
@hypothesis.given(seed=st.integers(0, 10**6), best=st.sampled_from([0.95, 0.6, 0.3]))
def test_own_labels_are_the_confident_detections_or_the_best(rule: str, seed: int, best: float) -> None:
    found = random_candidates(seed, best)
    distilling = DistillationSettings(CLASSES, RULES[rule], candidates=NUMBER, labels=NUMBER)
    own = on_device(of_batch(found, found._replace(valid=np.zeros(NUMBER, bool))), jnp.full(2, END), distilling)
    segments, labels = reference(found, RULES[rule], distilling.min_score)
    count = len(labels)
    assert count >= 1 or (rule, best) == ("hard", 0.3)
    np.testing.assert_array_equal(own.labels[0, :count], labels)
    np.testing.assert_array_equal(own.labels[0, count:], -1)
    np.testing.assert_allclose(own.segments[0, :count], segments, atol=1e-3)
    assert (np.asarray(own.segments) >= 0).all()
    assert (np.asarray(own.segments) <= END).all()
    assert own.found.tolist() == [count > 0, False]
    assert (np.asarray(own.labels[1]) == -1).all()
    assert own.lost.tolist() == [0, 0]


def test_what_there_is_no_room_for_is_counted() -> None:
    start = 10.0 * np.arange(12)
    scores = np.linspace(0.9, 0.5, 12)
    apart = Candidates(
        np.stack([start, start + 5], axis=1).astype(np.float32), scores.astype(np.float32),
        np.array([0] * 8 + [1] * 4, np.int32), np.ones(12, bool),
    )  # fmt: skip
    for room, lost in (
        ({"candidates": 12, "labels": 12}, 0),
        ({"candidates": 12, "labels": 5}, 7),
        ({"candidates": 5, "labels": 7}, 3 + 2),
    ):
        own = on_device(
            of_batch(apart), jnp.full(1, 500.0), DistillationSettings(CLASSES, nms.ACTIONFORMER_SOFT, **room)
        )
        assert own.lost.tolist() == [lost], room
        kept = (np.asarray(own.labels[0]) >= 0).sum()
        assert kept == 12 - lost
        np.testing.assert_array_equal(own.segments[0, 0], apart.segments[0])


# ------------------------------------------------------------------------------------------------------ in training


STEPS_PER_EPOCH = 3
GIVEN = 3  # labels of each video of a batch; an untrained average gives one, its best


def tiny(folder: pathlib.Path, **quirks: bool) -> tuple[ConfigDict, Dataset]:
    """A config that distils from the start, with epochs of `STEPS_PER_EPOCH`, and its videos."""
    config = tiny_fustal(student__distil_from=0, student__warmup_epochs=0)
    config.quirks.update(quirks)
    config.network.student.max_length = 32
    dataset = videos.open_dataset(config, epath.Path(folder))
    config.student.batch_size = len(dataset.source("train")) // STEPS_PER_EPOCH
    return config, dataset


def batch(rows: int) -> dict[str, np.ndarray]:
    """Two videos with labels, the second with so many rows; with none it has no prediction."""
    rng = np.random.default_rng(0)
    mask = np.arange(32) < np.array([[32], [rows]])
    segments = np.tile(np.array([[2.0, 9.0], [12.0, 20.0], [22.0, 30.0]], np.float32), (2, 1, 1))
    return {
        "features": (mask[:, :, None] * rng.standard_normal([2, 32, 64])).astype("f4"),
        "mask": mask,
        "segments": segments,
        "segment_labels": np.tile(np.arange(GIVEN, dtype=np.int32), (2, 1)),
        "video_labels": np.ones([2, 5], np.float32),
        "index": np.arange(2, dtype=np.int32),
    }


def same(before: Any, after: Any) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_video_without_prediction_keeps_the_given_labels(tmp_path: pathlib.Path) -> None:
    config, dataset = tiny(tmp_path)
    sizes = settings.detector_sizes(config, 5)
    net = settings.detector_network(config, sizes)
    objective = Objective(config, net, sizes, dataset.source("train"), STEPS_PER_EPOCH)
    state = student_stage(config, dataset, epath.Path(tmp_path)).scratch(jax.random.key(1))
    loss = jax.jit(lambda batch: objective.loss(state.params, state, batch, jax.random.key(0)))
    without, every = loss(batch(rows=0)), loss(batch(rows=32))
    assert without.metrics["count/labels"] == (1 + GIVEN) / 2
    assert every.metrics["count/labels"] == 1
    assert without.extra.keys() == {"normaliser"}


def test_as_published_a_video_without_prediction_ends_distillation_until_the_next_epoch(
    tmp_path: pathlib.Path,
) -> None:
    stage = student_stage(*tiny(tmp_path, empty_prediction_ends_distillation=True), epath.Path(tmp_path))
    step = jax.jit(functools.partial(stage.train_step, key=jax.random.key(0)))
    state, _ = step(stage.scratch(jax.random.key(1)), batch(rows=32))  # a step at rate 0
    assert (int(state.step), int(state.extra["epoch_without"])) == (1, -1)
    skipped, scalars = step(state, batch(rows=0))
    assert scalars["skipped"] == 1
    for before, after in zip(state, skipped, strict=True):
        if before is state.step:
            assert int(after) == 2
        elif before is state.extra:
            assert int(after["epoch_without"]) == 0
            assert after["normaliser"] == before["normaliser"]
        else:
            assert same(before, after)
    given, scalars = step(skipped, batch(rows=32))  # the last step of epoch 0
    assert (scalars["skipped"], scalars["count/labels"]) == (0, GIVEN)
    assert not same(skipped.params, given.params)
    assert not same(skipped.ema, given.ema)
    again, scalars = step(given, batch(rows=32))
    assert (scalars["skipped"], scalars["count/labels"]) == (0, 1)
    _, scalars = step(again, batch(rows=0))
    assert scalars["skipped"] == 1
