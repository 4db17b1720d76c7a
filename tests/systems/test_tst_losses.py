"""The set loss under padding, in batches, with filler rows, and at every capacity."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.ops.matching import match_runs
from actloc_jax.ops.segments import runs
from actloc_jax.systems.tst import capacity, losses
from actloc_jax.systems.tst.refiner import Refiner, RefinerSizes

SIZES = RefinerSizes(num_classes=3, feature_dim=4, inner_dim=4, segment_dim=3, num_layers=3, dropout=0.2)
LENGTH = 30
network = Network(lambda rngs: Refiner(SIZES, rngs=rngs))
params = network.init(jax.random.key(0))


@jax.jit
def loss_and_gradients(params, *batch):
    def loss(params, features):
        return losses.tst_loss(network, params, features, *batch[1:], bg_weight=0.1)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, batch[0])


def _batch(seed: int, lengths: list[int]) -> list[np.ndarray]:
    """Features, predictions, labels, mask; what lies outside the mask is noise, the labels there are -1."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(lengths), LENGTH, SIZES.feature_dim)).astype(np.float32)
    predictions = np.repeat(rng.normal(size=(len(lengths), LENGTH // 3, SIZES.num_classes)), 3, axis=1)
    labels = np.repeat(rng.integers(0, SIZES.num_classes, (len(lengths), LENGTH // 5)), 5, axis=1)
    mask = np.arange(LENGTH) < np.array(lengths)[:, None]
    return [features, predictions.astype(np.float32), np.where(mask, labels, -1).astype(np.int32), mask]


def _only(video: int, batch: list[np.ndarray]) -> list[np.ndarray]:
    """One video of the batch, the others made fillers; of the same shape, so that it is compiled once."""
    mask = batch[3] & (np.arange(len(batch[3])) == video)[:, None]
    return [*batch[:2], np.where(mask, batch[2], -1), mask]


def test_the_loss_of_a_batch_is_the_mean_over_its_videos_and_fillers_do_not_count() -> None:
    batch = _batch(0, [30, 0, 13])
    (total, parts), (gradients, of_features) = loss_and_gradients(params, *batch)
    alone = [loss_and_gradients(params, *_only(video, batch)) for video in (0, 2)]
    np.testing.assert_allclose(total, np.mean([one[0][0] for one in alone]), rtol=1e-5)
    for name, value in parts.items():
        np.testing.assert_allclose(value, np.mean([one[0][1][name] for one in alone]), rtol=1e-5, err_msg=name)
    expected = jax.tree.map(lambda *values: np.mean(values, axis=0), *[one[1][0] for one in alone])
    for path, value in flatten(expected).items():
        np.testing.assert_allclose(flatten(gradients)[path], value, atol=1e-5, err_msg=path)
    assert not np.any(of_features[1])
    assert not np.any(of_features[2, 13:])


def test_a_batch_of_fillers_costs_nothing() -> None:
    (total, parts), (gradients, _) = loss_and_gradients(params, *_batch(1, [0, 0, 0]))
    assert total == 0
    assert set(map(float, parts.values())) == {0.0}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_the_total_is_the_sum_of_the_parts_over_both_rounds() -> None:
    (total, parts), _ = loss_and_gradients(params, *_batch(2, [30, 20, 5]))
    assert set(parts) == {"classification", "focal", "dice"}
    np.testing.assert_allclose(total, 2 * sum(parts.values()), rtol=1e-6)


def test_the_capacity_does_not_change_loss_or_gradients(monkeypatch) -> None:
    batch = _batch(3, [30, 24, 9])
    assert 3 < capacity.largest_run_count(batch[1].argmax(axis=-1), batch[3]) <= 12
    (expected, _), (gradients, _) = loss_and_gradients(params, *batch)
    monkeypatch.setattr(losses, "segment_capacities", lambda length: (3, 12, LENGTH))
    (total, _), (found, _) = jax.jit(loss_and_gradients.__wrapped__)(params, *batch)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    for path, value in flatten(gradients).items():
        np.testing.assert_allclose(flatten(found)[path], value, atol=1e-6, err_msg=path)


def test_dropout_reaches_frames_and_segments() -> None:
    batch = _batch(4, [30, 11, 0])
    in_frames_only = Network(lambda rngs: Refiner(dataclasses.replace(SIZES, dropout=0.0), rngs=rngs))

    @functools.partial(jax.jit, static_argnums=0)
    def draw(network, key):
        return losses.tst_loss(network, params, *batch, bg_weight=0.1, rngs=nnx.Rngs(dropout=key))[0]

    first, again, other = (float(draw(network, jax.random.key(seed))) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    (without, _), _ = loss_and_gradients(params, *batch)
    of_frames = float(draw(in_frames_only, jax.random.key(0)))
    assert of_frames != pytest.approx(float(without), rel=1e-3)
    assert of_frames != pytest.approx(first, rel=1e-3)


def test_a_better_prediction_costs_less() -> None:
    """Segments that say the class and mask of the run they match, against the same with one class wrong."""
    labels = jnp.array([[0, 0, 0, 1, 1, 2, 2, 2]])
    mask = jnp.ones(labels.shape, bool)
    found = runs(labels, mask, 4)
    matched = match_runs(found, found)
    masks = jnp.where(found.members, 9.0, -9.0)[None]
    right = 9.0 * jax.nn.one_hot(found.label, 4)[None]
    wrong = right.at[0, 0, 1].set(9.0 * jax.nn.one_hot(0, 4))

    def total(logits: jax.Array, masks: jax.Array) -> float:
        return float(losses.set_loss(logits, masks, matched, found.valid, found, mask, bg_weight=0.1).total[0])

    assert total(right, masks) < 0.01
    assert total(wrong, masks) > 1
    assert total(right, -masks) > 1


def test_gradients_through_a_capacity_are_those_of_the_branch() -> None:
    def cube(slots: int, trained, fixed) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(trained["x"] ** 3) * slots + fixed[0], fixed[0]

    def value(x: jax.Array, largest: int) -> jax.Array:
        fixed = (jnp.float32(5), jax.random.key(0), None)
        return capacity.loss_with_capacity(cube, (2, 7), jnp.int32(largest), {"x": x}, fixed)[0]

    x = jnp.array([1.0, 2.0])
    for largest, slots in ((1, 2), (2, 2), (3, 7), (99, 7)):
        assert value(x, largest) == 9 * slots + 5
        np.testing.assert_allclose(jax.grad(lambda x, n=largest: 2 * value(x, n))(x), 6 * slots * x**2)


def test_capacities_never_exceed_the_length() -> None:
    assert capacity.segment_capacities(40) == (40,)
    longer = capacity.SHORT + 1
    assert capacity.segment_capacities(longer) == (*capacity.CAPACITIES[:-1], longer)
    assert capacity.segment_capacities(10**6) == capacity.CAPACITIES
