"""SPOT's losses: rows that do not count, quirks, saturation, optional losses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.systems.spot import losses, optional_losses
from actloc_jax.systems.spot.losses import DetectionSettings
from actloc_jax.systems.spot.optional_losses import ClassGroups

PUBLISHED = DetectionSettings()
FIXED = DetectionSettings(focal_on_mean=False, dice_without_factor_two=False)


detection_loss = jax.jit(losses.detection_loss, static_argnames="settings")


def batch(videos: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Logits, masks, labels and mask targets."""
    keys = jax.random.split(jax.random.key(0), 4)
    logits = jax.random.normal(keys[0], (4, 10, 6))
    masks = jax.random.uniform(keys[1], (4, 10, 10))
    labels = jax.random.randint(keys[2], (4, 10), 0, 6)
    target = (jax.random.uniform(keys[3], (4, 10, 10)) < 0.3).astype(jnp.float32)
    return logits[:videos], masks[:videos], labels[:videos], target[:videos]


@pytest.mark.parametrize("settings", [PUBLISHED, FIXED])
def test_rows_that_fill_the_batch_have_no_part(settings: DetectionSettings) -> None:
    counted = jnp.asarray([True, True, True, False])
    three = detection_loss(*batch(3), jnp.ones((3, 10), bool), settings)
    four = detection_loss(*batch(4), jnp.broadcast_to(counted[:, None], (4, 10)), settings)
    np.testing.assert_allclose(jnp.stack(four), jnp.stack(three), rtol=1e-6)
    x, y = batch(4)[0], 2 * batch(4)[0]
    np.testing.assert_allclose(
        losses.reconstruction_loss(x, y, counted), losses.reconstruction_loss(x[:3], y[:3], counted[:3]), rtol=1e-6
    )
    swapped = jnp.asarray([True, False, True, True])
    order = losses.order_loss(x[:, 0, :2], swapped, counted)
    np.testing.assert_allclose(order, losses.order_loss(x[:3, 0, :2], swapped[:3], counted[:3]), rtol=1e-6)


def test_snippets_that_do_not_count_have_no_gradient() -> None:
    logits, masks, labels, target = batch(2)
    counted = jnp.arange(10) < jnp.asarray([[6], [10]])
    gradient = jax.grad(lambda a, b: detection_loss(a, b, labels, target, counted, FIXED).total, (0, 1))
    by_logits, by_masks = gradient(logits, masks)
    np.testing.assert_array_equal(by_logits.any(axis=2), counted)
    np.testing.assert_array_equal(by_masks.any(axis=1), counted)


def test_nothing_that_counts_costs_nothing() -> None:
    nothing = jnp.zeros((3, 10), bool)
    np.testing.assert_array_equal(jnp.stack(detection_loss(*batch(3), nothing, PUBLISHED)), np.zeros(3))


def test_a_perfect_mask_costs_a_half_as_published_and_nothing_as_dice_is_meant() -> None:
    target = jnp.zeros((1, 40, 40)).at[:, 5:25, 5:25].set(1)
    counted = jnp.ones((1, 40), bool)
    only_dice = dataclasses.replace(PUBLISHED, entropy_share=0.0)
    assert float(losses.mask_loss(target, target, counted, only_dice)) == pytest.approx(0.5, abs=1e-3)
    only_dice = dataclasses.replace(FIXED, entropy_share=0.0)
    assert float(losses.mask_loss(target, target, counted, only_dice)) == pytest.approx(0, abs=1e-6)


def test_the_focal_factor_of_every_snippet_spares_what_is_easy() -> None:
    logits = jnp.asarray([[[9.0, 0.0], [0.0, 2.0]]])
    labels, counted = jnp.zeros((1, 2), int), jnp.ones((1, 2), bool)
    wrong = np.log1p(np.exp(2.0))
    each = losses.class_loss(logits, labels, counted, on_mean=False)
    np.testing.assert_allclose(each, (1 - np.exp(-wrong)) ** 2 * wrong / 2, rtol=1e-4)
    mean = (wrong + np.log1p(np.exp(-9.0))) / 2
    np.testing.assert_allclose(losses.class_loss(logits, labels, counted), (1 - np.exp(-mean)) ** 2 * mean, rtol=1e-5)


def test_saturated_masks_have_finite_gradients() -> None:
    masks, target = jnp.asarray([[[0.0, 1.0], [0.0, 1.0]]]), jnp.asarray([[[1.0, 0.0], [0.0, 1.0]]])
    gradient = jax.grad(losses.mask_loss)(masks, target, jnp.ones((1, 2), bool), PUBLISHED)
    assert np.isfinite(gradient).all()


def test_suppression_asks_background_only_for_some_classes() -> None:
    groups = ClassGroups(*(jnp.arange(5) == k for k in (0, 1, 2)))
    logits, labels = -5 * jnp.ones((2, 3, 6)), jnp.asarray([[5, 5, 5], [3, 3, 3]])
    gradient = jax.jit(jax.grad(optional_losses.suppression_loss))(logits, labels, groups, jax.random.key(0))
    assert gradient[0].any(axis=0).tolist() == [False, False, True, False, False, True]
    assert gradient[1].any(axis=0).tolist() == [False, False, False, True, False, False]


def test_suppression_asks_one_in_ten_background_videos_for_common_classes() -> None:
    groups = ClassGroups(*(jnp.arange(5) == k for k in (0, 1, 2)))
    logits, labels = -5 * jnp.ones((20, 3, 6)), jnp.full((20, 3), 5)
    gradient = jax.grad(
        lambda x: optional_losses.suppression_loss(x, labels, groups, jax.random.key(0), weights_of_last_snippet=False)
    )(logits)
    assert gradient.astype(bool).sum(axis=0)[:, :3].tolist() == [[0, 2, 20]] * 3


def test_consistency_rises_over_its_ramp() -> None:
    assert float(optional_losses.ramp_up(0, 5)) == pytest.approx(np.exp(-5))
    assert float(optional_losses.ramp_up(7, 5)) == float(optional_losses.ramp_up(0, 0)) == 1
