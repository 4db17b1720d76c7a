"""Both stages of SPOT: what is drawn, which parameters learn, filler rows, pseudo-labels, teacher."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.systems.spot import finetune, perturbations, pretext
from actloc_jax.systems.spot.finetune import FinetuneSettings, PseudoLabelSettings
from actloc_jax.systems.spot.mining import MiningSettings
from actloc_jax.systems.spot.network import Spot, SpotOutput
from actloc_jax.systems.spot.pretext import PretextDraws, PretextSettings

TIME, CHANNELS, CLASSES = 20, 24, 5
NET = Network(lambda rngs: Spot(CHANNELS, CLASSES, TIME, heads=2, mask_width=6, num_positions=30, rngs=rngs))
PARAMS = NET.init(jax.random.key(0))
SETTINGS = FinetuneSettings(mining=MiningSettings(easy=4, hard=5))
COUNTING = dataclasses.replace(SETTINGS, pseudo_labels_dropped=False)
TRUSTING = dataclasses.replace(COUNTING, pseudo=PseudoLabelSettings(min_confidence=0.0, min_mask=0.5))


def batch(filled: int = 0) -> dict[str, jax.Array]:
    """Three labelled and two unlabelled videos, and rows that only fill the batch."""
    keys = jax.random.split(jax.random.key(1), 3)
    rows = jnp.arange(3 + filled)
    inside = (jnp.arange(TIME) >= 4 + rows[:, None]) & (jnp.arange(TIME) < 12 + rows[:, None])
    return {
        "features": jax.random.normal(keys[0], (5, TIME, CHANNELS))[: 3 + filled],
        "labels": jnp.where(inside, rows[:, None] % CLASSES, CLASSES),
        "masks": (inside[:, :, None] & inside[:, None, :]).astype(jnp.float32),
        "index": jnp.where(rows < 3, rows, -1),
        "unlabelled/features": jax.random.normal(keys[1], (4, TIME, CHANNELS))[: 2 + filled],
        "unlabelled/index": jnp.where(jnp.arange(2 + filled) < 2, 0, -1),
    }


@functools.cache
def compiled(settings: FinetuneSettings) -> Callable[..., finetune.FinetuneLoss]:
    """The loss of (videos, key, teacher, epoch), compiled once for all tests."""

    def loss(videos: Any, key: Any, teacher: Any, epoch: Any) -> finetune.FinetuneLoss:
        return finetune.finetune_loss(NET, PARAMS, videos, key, settings, teacher=teacher, epoch=epoch)

    return jax.jit(loss)


def run(
    settings: FinetuneSettings, videos: Any = None, *, key: Any = None, teacher: Any = None, epoch: float = 0.0
) -> finetune.FinetuneLoss:
    return compiled(settings)(batch() if videos is None else videos, key, teacher, epoch)


@jax.jit
def drawn(present: jax.Array) -> PretextDraws:
    return pretext.draw(jax.random.key(0), (len(present), TIME, 3), present, PretextSettings())


def test_foregrounds_lie_in_the_video_and_are_not_short() -> None:
    draws = drawn(jnp.arange(50) < 37)
    start, end = np.moveaxis(np.asarray(draws.spans), 2, 0)
    assert draws.spans.shape == (100, 2, 2)
    assert start.min() == 0
    assert end.max() == TIME - 1
    assert (end - start).min() >= pretext.SHORTEST
    assert 0.85 < np.mean(draws.keep) < 0.95


def test_half_of_the_real_videos_is_swapped_and_no_filler() -> None:
    present = jnp.arange(50) < 37
    swapped = drawn(present).swapped
    assert int(swapped.sum()) == 4 * 37 // 2
    assert not (swapped & ~jnp.tile(present, 4)).any()


def test_a_constant_channel_becomes_zero() -> None:
    scaled = pretext.scaled_to_unit(jnp.stack([jnp.full((1, 9), 3.0), jnp.arange(9.0)[None]], axis=2))
    np.testing.assert_array_equal(scaled[0, :, 0], np.zeros(9))
    np.testing.assert_allclose(scaled[0, :, 1], np.arange(9) / 8, rtol=1e-6)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_first_stage_trains_what_it_says_and_ignores_filler_rows(fixed: bool) -> None:
    settings = PretextSettings(masks_of_whole_input=not fixed, reconstructs_normalised=not fixed)
    features, present = batch(2)["features"], batch(2)["index"] >= 0
    drawn = pretext.draw(jax.random.key(2), features.shape, present, settings)._replace(keep=None)

    def loss(params: Any, features: jax.Array, present: jax.Array, draws: PretextDraws) -> jax.Array:
        return pretext.pretext_loss(NET, params, features, present, draws, settings).total

    run = jax.jit(jax.value_and_grad(loss))
    total, gradients = run(PARAMS, features, present, drawn)
    reached = {path for path, gradient in flatten(gradients).items() if np.any(gradient)}
    assert reached == {path for path in flatten(gradients) if pretext.is_trained(path)}
    others = jnp.where(present[:, None, None], features, 2 * features[::-1] - 1)
    for path, gradient in flatten(run(PARAMS, others, present, drawn)[1]).items():
        np.testing.assert_allclose(gradient, flatten(gradients)[path], rtol=1e-4, atol=1e-6, err_msg=path)
    real = PretextDraws(None, drawn.spans[jnp.tile(present, 2)], drawn.swapped[jnp.tile(present, 4)])
    np.testing.assert_allclose(jax.jit(loss)(PARAMS, features[:3], present[:3], real), total, rtol=1e-5)


def test_the_second_stage_trains_what_it_says_and_not_the_teacher() -> None:
    def loss(params: Any, teacher: Any) -> jax.Array:
        return finetune.finetune_loss(NET, params, batch(), None, TRUSTING, teacher=teacher).total

    of_student, of_teacher = jax.jit(jax.grad(loss, (0, 1)))(PARAMS, NET.init(jax.random.key(5)))
    reached = {path for path, gradient in flatten(of_student).items() if np.any(gradient)}
    assert reached == {path for path in flatten(of_student) if finetune.is_trained(path)}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_teacher))


@pytest.mark.parametrize("settings", [SETTINGS, TRUSTING])
def test_the_second_stage_ignores_filler_rows(settings: FinetuneSettings) -> None:
    full, filled = run(settings), run(settings, batch(2))
    np.testing.assert_allclose(filled.total, full.total, rtol=1e-5)
    for name, value in full.parts.items():
        np.testing.assert_allclose(filled.parts[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(filled.trusted, full.trusted)


def test_pseudo_labels_count_only_if_not_dropped() -> None:
    dropped, counting = run(SETTINGS), run(TRUSTING)
    assert "unlabelled/classes" not in dropped.parts
    added = counting.parts["unlabelled/classes"] + counting.parts["unlabelled/masks"]
    np.testing.assert_allclose(counting.total, dropped.total + added, rtol=1e-6)
    assert float(counting.parts["unlabelled/trusted"]) == 1
    unsure = dataclasses.replace(COUNTING, pseudo=PseudoLabelSettings(min_confidence=1.1))
    np.testing.assert_allclose(run(unsure).total, dropped.total, rtol=1e-6)


def test_a_teacher_gives_the_labels() -> None:
    teacher = jax.tree.map(lambda leaf: leaf, PARAMS)
    teacher["classifier"] = {"kernel": jnp.zeros((CHANNELS, CLASSES + 1)), "bias": jnp.eye(CLASSES + 1)[2] * 9}
    found = run(TRUSTING, teacher=teacher)
    assert found.trusted.tolist() == [0, 0, 2 * TIME, 0, 0, 0]
    assert float(found.total) != float(run(TRUSTING).total)


def test_there_is_nothing_inconsistent_with_oneself() -> None:
    pseudo = dataclasses.replace(TRUSTING.pseudo, consistency_weight=2.0)
    settings = dataclasses.replace(TRUSTING, pseudo=pseudo)
    same = run(settings, teacher=PARAMS, epoch=5.0)
    np.testing.assert_allclose(same.parts["unlabelled/consistency"], 0, atol=1e-7)
    other = NET.init(jax.random.key(5))
    early, late = (run(settings, teacher=other, epoch=epoch) for epoch in (0.0, 5.0))
    difference = 2 * (1 - np.exp(-5)) * late.parts["unlabelled/consistency"]
    np.testing.assert_allclose(late.total - early.total, difference, rtol=1e-3)


def test_flexible_thresholds_ask_less_of_classes_rarely_trusted() -> None:
    needed = finetune.flexible_thresholds(jnp.asarray([10.0, 5.0, 0.0]), 0.7)
    np.testing.assert_allclose(needed, [0.7, 0.7 / 3, 0])
    logits = jnp.log(jnp.asarray([[[0.5, 0.3, 0.2], [0.3, 0.5, 0.2]]]))
    output = SpotOutput(logits, jnp.ones((1, 2, 2)), jnp.ones((1, 2, 3)))
    settings = PseudoLabelSettings(flexible=True)
    labels = finetune.pseudo_labels(output, jnp.ones(1, bool), settings, jnp.asarray([10.0, 5.0, 0.0]))
    assert labels.counted.tolist() == [[False, True]]
    with pytest.raises(ValueError, match="pass trusted"):
        finetune.pseudo_labels(output, jnp.ones(1, bool), settings)


def test_without_unlabelled_videos_and_weights_training_is_supervised() -> None:
    labelled = {name: value for name, value in batch().items() if not name.startswith("unlabelled/")}
    settings = dataclasses.replace(SETTINGS, reconstruction_weight=0.0, contrast_weight=0.0)
    found = run(settings, labelled)
    assert set(found.parts) == {"classes", "masks"}
    np.testing.assert_allclose(found.total, found.parts["classes"] + found.parts["masks"])


def test_the_same_key_gives_the_same_loss() -> None:
    first, again, other = (run(TRUSTING, key=jax.random.key(number)).total for number in (3, 3, 4))
    assert float(first) == float(again) != float(other)


@pytest.mark.parametrize("name", list(perturbations.VIEWS))
def test_views_keep_the_shape_and_the_place_of_every_snippet(name: str) -> None:
    x = jnp.broadcast_to(jnp.arange(1.0, 129.0), (2, 10, 128)) * 1.0
    seen = perturbations.view(name)(jax.random.key(3), x)
    assert seen.shape == x.shape
    inner = np.asarray(seen)[:, 1:-1]  # a video that does not change over time: values stay, vanish, or are scaled
    ratio = np.unique(np.round(inner / np.arange(1, 129), 4))
    assert set(ratio.tolist()) <= {0.0, 1.0, 1.25}


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown view 'upside down' of unlabelled videos; known: plain, shift"):
        perturbations.view("upside down")


def test_lost_steps_repeat_the_last_one_that_is_not() -> None:
    x = jnp.arange(6.0)[None, :, None]
    lost = jnp.asarray([True, False, True, True, False, True])
    assert perturbations.cut_out(x, lost)[0, :, 0].tolist() == [0, 1, 1, 1, 4, 4]


def test_random_shift_moves_as_many_channels_back_as_ahead() -> None:
    x = jnp.broadcast_to(jnp.arange(5.0)[None, :, None], (1, 5, 64))
    moved = np.asarray(perturbations.random_shift(jax.random.key(0), x, divisor=16))[0, 2]
    assert sorted(moved.tolist()) == [1.0] * 4 + [2.0] * 56 + [3.0] * 4
