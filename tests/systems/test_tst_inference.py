"""Inference modes against loops over frames, votes, and `refine` at every capacity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.layers.functional import Network
from actloc_jax.ops.segments import runs
from actloc_jax.systems.tst import inference
from actloc_jax.systems.tst.refiner import Refiner, RefinerOutput, RefinerSizes

CLASSES, LENGTH, CAPACITY = 4, 18, 12
modes = {name: jax.jit(mode) for name, mode in inference.MODES.items()}
sequences = st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=LENGTH)


def _output(labels: list[int], seed: int, capacity: int = CAPACITY) -> RefinerOutput:
    """Random segments for the runs of `labels`."""
    rng = np.random.default_rng(seed)
    padded = jnp.array([labels + [-1] * (LENGTH - len(labels))])
    logits = rng.normal(size=(2, 1, capacity, CLASSES + 1)).astype(np.float32)
    logits[..., -1] += 5  # "no action" would win if it took part
    masks = rng.normal(size=(2, 1, capacity, LENGTH)).astype(np.float32)
    return RefinerOutput(padded, runs(padded, padded >= 0, capacity), jnp.array(logits), jnp.array(masks))


def _hardmax(labels: list[int], output: RefinerOutput) -> list[int]:
    """Class of every frame, written as the definition reads; the backbone's beyond the capacity."""
    painted, run = [], -1
    for t, label in enumerate(labels):
        run += t == 0 or label != labels[t - 1]
        inside = run < output.runs.capacity
        painted.append(int(np.argmax(output.segment_logits[1, 0, run, :CLASSES])) if inside else label)
    return painted


@given(sequences, st.integers(0, 99))
def test_hardmax_paints_the_runs(labels: list[int], seed: int) -> None:
    output = _output(labels, seed)
    found = modes["hardmax"](output)
    assert found.labels[0].tolist() == _hardmax(labels, output) + [-1] * (LENGTH - len(labels))
    assert not found.confidence[0, len(labels) :].any()
    assert (found.confidence[0, : len(labels)] >= 1 / CLASSES - 1e-6).sum() >= min(CAPACITY, len(labels))


@given(sequences, st.integers(0, 99))
def test_hybrid_keeps_the_backbone_around_boundaries(labels: list[int], seed: int) -> None:
    output, margin = _output(labels, seed), inference.HYBRID_MARGIN
    expected = _hardmax(labels, output)
    for b in range(1, len(labels)):
        if labels[b] != labels[b - 1]:
            near = slice(max(0, b - margin), b + margin)
            expected[near] = labels[near]
    assert modes["hybrid"](output).labels[0, : len(labels)].tolist() == expected
    assert inference.hybrid(output, 0).labels[0, : len(labels)].tolist() == _hardmax(labels, output)


@given(sequences, st.integers(0, 99))
def test_soft_votes_with_classes_and_masks(labels: list[int], seed: int) -> None:
    output = _output(labels, seed)
    count = min(int(output.runs.count[0]), CAPACITY)
    logits = np.asarray(output.segment_logits[1, 0, :count, :CLASSES], np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = 1 / (1 + np.exp(-np.asarray(output.segment_masks[1, 0, :count], np.float64)))
    scores = weights.T @ probabilities
    found = modes["soft"](output)
    assert found.labels[0].tolist() == [*scores.argmax(axis=1)[: len(labels)], *[-1] * (LENGTH - len(labels))]
    share = (scores.max(axis=1) / scores.sum(axis=1))[: len(labels)]
    np.testing.assert_allclose(found.confidence[0, : len(labels)], share, rtol=1e-4)


def test_votes_are_counted_and_ties_go_to_the_lowest_class() -> None:
    labels = jnp.array([[[2, 1, 3, -1]], [[0, 1, 2, -1]], [[2, 0, 1, -1]]])
    assert inference.vote(labels, CLASSES).tolist() == [[2, 1, 1, -1]]
    assert inference.count_votes(labels, CLASSES)[0].tolist() == [[1, 0, 2, 0], [1, 2, 0, 0], [0, 1, 1, 1], [0] * 4]


SIZES = RefinerSizes(num_classes=CLASSES, feature_dim=3, inner_dim=4, segment_dim=3, num_layers=3)
network = Network(lambda rngs: Refiner(SIZES, rngs=rngs))
params = network.init(jax.random.key(1))


def _refine(capacities: tuple[int, ...], monkeypatch) -> inference.Refined:
    monkeypatch.setattr(inference, "segment_capacities", lambda length: capacities)
    rng = np.random.default_rng(0)
    features, predictions = rng.normal(size=(2, LENGTH, 3)), rng.normal(size=(2, LENGTH, CLASSES))
    mask = np.arange(LENGTH) < np.array([[LENGTH], [7]])
    run = jax.jit(lambda *inputs: inference.refine(network, params, *inputs))
    return run(features.astype(np.float32), predictions.astype(np.float32), mask)


def test_the_capacity_does_not_change_the_labels(monkeypatch) -> None:
    expected = _refine((LENGTH,), monkeypatch)
    found = _refine((2, LENGTH), monkeypatch)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-6)
    assert found.left_out.tolist() == [0, 0]


def test_segments_without_a_slot_keep_the_backbones_labels_and_are_counted(monkeypatch) -> None:
    found = _refine((6,), monkeypatch)
    predictions = np.random.default_rng(0)
    predictions.normal(size=(2, LENGTH, 3))
    backbone = predictions.normal(size=(2, LENGTH, CLASSES)).argmax(axis=-1)
    run = np.cumsum(np.append(True, backbone[0, 1:] != backbone[0, :-1])) - 1
    assert found.left_out.tolist() == [run[-1] + 1 - 6, 0]
    np.testing.assert_array_equal(found.labels[0][run >= 6], backbone[0][run >= 6])
    assert not found.confidence[0][run >= 6].any()


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown inference mode 'hard'; known: hardmax, soft, hybrid"):
        inference.refine(network, {}, None, None, None, mode="hard")
