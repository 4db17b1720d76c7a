"""TALLFormer on THUMOS14: norms shared by the levels, losses without positives, decoding of windows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.backbones.daotad import AnchorDetector, AnchorDetectorSizes, AnchorOutput
from actloc_jax.layers.conv_norm import BatchNorm, stretch
from actloc_jax.layers.functional import Network, count, flatten, united
from actloc_jax.ops import nms
from actloc_jax.ops.anchors import make_anchors
from actloc_jax.systems.tallformer.anchor_decode import (
    AnchorDecodeSettings,
    Candidates,
    Window,
    merge,
    window_candidates,
)
from actloc_jax.systems.tallformer.anchor_losses import AnchorLossSettings, anchor_loss, anchor_targets
from actloc_jax.training import optimizers
from tests.ops.test_anchors import ANCHORS, SHAPES

TINY = AnchorDetectorSizes(
    input_dim=6, num_classes=3, width=8, pyramid_width=4, heads=2, num_layers=1, max_length=8, windows=(3,),
    window_heads=2, anchors=2, head_layers=1,
)  # fmt: skip


def output_of(logits: jax.Array, deltas: jax.Array) -> AnchorOutput:
    return AnchorOutput(tuple(ANCHORS.levels(logits)), tuple(ANCHORS.levels(deltas)))


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    net = Network(lambda rngs: AnchorDetector(AnchorDetectorSizes(), rngs=rngs))
    assert count(net.shapes()) == 117_478_022 - 87_638_984  # all of TALLFormer less Swin-B


def test_running_statistics_follow_every_level_in_turn() -> None:
    net = Network(lambda rngs: BatchNorm(2))
    params, running = net.init(jax.random.key(0)), net.init_statistics()
    levels = [np.random.default_rng(seed).normal(seed, 2, (3, 5, 2)).astype(np.float32) for seed in (1, 2)]
    mean, var = np.zeros(2), np.ones(2)
    for x in levels:
        y, running = net.with_statistics(params, running, x, train=True)
        np.testing.assert_allclose(y.mean(axis=(0, 1)), 0, atol=1e-6)
        np.testing.assert_allclose(y.std(axis=(0, 1)), 1, rtol=1e-4)
        mean, var = 0.9 * mean + 0.1 * x.mean(axis=(0, 1)), 0.9 * var + 0.1 * x.var(axis=(0, 1), ddof=1)
    np.testing.assert_allclose(running["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(running["var"], var, rtol=1e-5)
    y = net(united(params, running), levels[0], train=False)
    np.testing.assert_allclose(y, (levels[0] - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)


def test_evaluation_changes_no_statistics_and_training_draws_dropout() -> None:
    net = Network(lambda rngs: AnchorDetector(TINY, rngs=rngs))
    params, running = net.init(jax.random.key(0)), net.init_statistics()
    assert {path.rsplit("/", 1)[-1] for path in flatten(running)} == {"mean", "var"}
    x = jax.random.normal(jax.random.key(1), (2, 22, 6))

    @jax.jit
    def both(key: jax.Array) -> tuple:
        return (
            net.with_statistics(params, running, x, train=False),
            net.with_statistics(params, running, x, train=True, rngs=nnx.Rngs(dropout=key)),
        )

    (evaluated, unchanged), (first, moved) = both(jax.random.key(2))
    second = both(jax.random.key(3))[1][0]
    assert [level.shape for level in evaluated.classes] == [(2, 12, 3), (2, 6, 3)]
    jax.tree.map(np.testing.assert_array_equal, unchanged, running)
    assert not any(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (moved, running)), strict=True))
    assert not np.allclose(first.deltas[0], second.deltas[0])


def test_a_batch_without_segments_is_background_and_has_finite_gradients() -> None:
    settings = AnchorLossSettings()
    make = jax.jit(lambda *truth: anchor_targets(ANCHORS, *truth, 3, settings.assignment))
    none = make(jnp.zeros((2, 1, 2)), jnp.full((2, 1), -1))
    slotless = make(jnp.zeros((2, 0, 2)), jnp.zeros((2, 0), jnp.int32))
    jax.tree.map(np.testing.assert_array_equal, none, slotless)
    logits, deltas = (jax.random.normal(jax.random.key(n), (2, 18, n)) for n in (3, 2))

    def parts(logits: jax.Array, deltas: jax.Array) -> tuple:
        loss = anchor_loss(output_of(logits, deltas), ANCHORS, none, settings)
        return loss.total, loss

    (of_logits, of_deltas), loss = jax.jit(jax.grad(parts, argnums=(0, 1), has_aux=True))(logits, deltas)
    assert loss.segment == 0
    assert loss.total == loss.classification > 0
    assert none.number == 2
    assert np.isfinite(of_logits).all()
    assert of_logits.any()
    assert not of_deltas.any()


def test_anchors_in_the_padding_have_no_loss() -> None:
    settings = AnchorLossSettings()
    short = make_anchors((6, 3), SHAPES, frames=9)
    everywhere, labels = jnp.asarray([[[0.0, 20.0]]]), jnp.zeros((1, 1), jnp.int32)

    def total(logits: jax.Array, settings: AnchorLossSettings = settings) -> jax.Array:
        targets = anchor_targets(short, everywhere, labels, 3, settings.assignment)
        return anchor_loss(output_of(logits, jnp.zeros((1, 18, 2))), short, targets, settings).total

    gradient = jax.jit(jax.grad(total))(jnp.zeros((1, 18, 3)))
    np.testing.assert_array_equal(gradient[0].any(axis=1)[~short.inside], False)
    assert gradient[0].any()
    with pytest.raises(ValueError, match="segment_loss is 'l1'; known: bounded_iou, diou"):
        jax.eval_shape(lambda x: total(x, AnchorLossSettings(segment_loss="l1")), jnp.zeros((1, 18, 3)))


def test_windows_are_clipped_to_their_frames_and_moved_into_the_video() -> None:
    logits = np.full((18, 3), -9, np.float32)
    logits[10, 2] = 2  # the anchor 16..24 of row 5
    found = window_candidates(logits, np.zeros((18, 2), np.float32), ANCHORS, Window(100, 22), AnchorDecodeSettings())
    np.testing.assert_allclose(found.segments[10], [116, 122])
    limited = window_candidates(
        logits, np.zeros((18, 2), np.float32), ANCHORS, Window(100, 22), AnchorDecodeSettings(per_level=4)
    )
    assert len(limited.scores) == 8
    assert limited.scores.argmax() == 2


def test_candidates_of_neighbouring_windows_are_merged_class_by_class() -> None:
    scores = np.array([[0.8, 0.0], [0.4, 0.0], [0.0, 0.5]], np.float32)
    segments = np.array([[10, 20], [10, 22], [10, 20]], np.float32)
    parts = [Candidates(segments[:1], scores[:1]), Candidates(segments[1:], scores[1:])]
    found = merge(parts, AnchorDecodeSettings())
    np.testing.assert_array_equal(found.labels, [0, 1])
    np.testing.assert_allclose(found.scores, [0.8, 0.5])
    weights = np.array([0.8, 0.4 * 10 / 12])
    np.testing.assert_allclose(found.segments[0], [10, (weights * [20, 22]).sum() / weights.sum()], rtol=1e-6)
    hard = dataclasses.replace(AnchorDecodeSettings(), suppression=nms.TALLFORMER_HARD, most=1)
    np.testing.assert_allclose(merge(parts, hard).segments, [[10, 20]])


def test_nearest_neighbours_of_uneven_lengths() -> None:
    x = jnp.arange(3.0).reshape(1, 3, 1)
    np.testing.assert_array_equal(stretch(x, 5)[0, :, 0], [0, 0, 1, 1, 2])


def test_the_rate_restarts_and_a_traced_step_gives_the_same() -> None:
    schedule = optimizers.make_schedule(
        "warmup_cosine_restarts", 0.01, period_epochs=4, steps_per_epoch=10, warmup_steps=5
    )
    np.testing.assert_allclose(schedule(np.array([0, 5, 40])), [0.001, 0.01, 0.01])
    assert schedule(39) == schedule(30) < schedule(29)
    np.testing.assert_allclose(jax.jit(schedule)(33), schedule(33), rtol=1e-6)
