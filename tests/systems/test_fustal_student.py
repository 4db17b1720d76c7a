"""FuSTAL's student: points, targets, losses without positives, the video loss, decoding, labels of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.backbones.detector import DetectorOutput
from actloc_jax.ops.boundary_bins import expected_distances
from actloc_jax.systems.fustal import student_losses
from actloc_jax.systems.fustal.decode import DecodeSettings, decode
from actloc_jax.systems.fustal.points import Targets, assign, make_points
from actloc_jax.systems.fustal.student_losses import DetectionLossSettings, detection_loss, student_video_loss

STRIDES, RANGES = (1, 2), ((0, 4), (4, 10000))
LENGTH, CLASSES, BINS = 16, 3, 4
POINTS = make_points(LENGTH, STRIDES, RANGES)


def random_output(batch: int = 2, trident: bool = True, valid: int = 12) -> DetectorOutput:
    draw = np.random.default_rng(0)

    def levels(width: int, positive: bool = False) -> tuple[jax.Array, ...]:
        values = [draw.standard_normal((batch, LENGTH // stride, width)) for stride in STRIDES]
        return tuple(jnp.asarray(np.abs(each) if positive else each, jnp.float32) for each in values)

    masks = tuple(
        jnp.broadcast_to(jnp.arange(0, LENGTH, stride) < valid, (batch, LENGTH // stride)) for stride in STRIDES
    )
    borders = (levels(CLASSES), levels(CLASSES)) if trident else ((), ())
    return DetectorOutput(levels(CLASSES), levels(2 * (BINS + 1) if trident else 2, True), *borders, masks)


def targets_of(*segments: tuple[float, float, int]) -> Targets:
    """For two videos: one with these segments, one with none."""
    shape = (2, max(len(segments), 1))
    where, labels = np.zeros((*shape, 2), np.float32), np.full(shape, -1)
    for number, (start, end, label) in enumerate(segments):
        where[0, number], labels[0, number] = (start, end), label
    return assign(POINTS, jnp.asarray(where), jnp.asarray(labels), CLASSES)


def gradient_of(output: DetectorOutput, targets: Targets) -> tuple[Any, Any]:
    def loss(floats: DetectorOutput) -> Any:
        full = floats._replace(masks=output.masks)
        found = detection_loss(full, targets, student_losses.initial_normaliser(), DetectionLossSettings())
        return found.total, found

    return jax.grad(loss, has_aux=True)(output._replace(masks=()))


@pytest.mark.parametrize("trident", [True, False])
def test_without_positive_points_gradients_are_finite_and_nothing_is_regressed(trident: bool) -> None:
    gradient, found = gradient_of(random_output(trident=trident), targets_of())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert found.regression == 0
    np.testing.assert_allclose(found.normaliser, 90.1, rtol=1e-6)
    assert all(np.all(leaf == 0) for leaf in gradient.offsets)


def test_an_overlap_of_zero_has_a_finite_gradient() -> None:
    """Distances of 0 overlap nothing; overlap ** 0.2 has an infinite slope there."""
    output = random_output()
    # Bin BINS of the left window is the frame itself, bin 0 of the right one, too: both distances are exactly 0.
    certain = tuple(jnp.concatenate([_bin(level, BINS), _bin(level, 0)], axis=2) for level in output.offsets)
    gradient, found = gradient_of(output._replace(offsets=certain), targets_of((2.0, 9.0, 1)))
    assert found.regression > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def _bin(level: jax.Array, bin_of: int) -> jax.Array:
    """Logits that put everything into one bin."""
    return jnp.zeros((*level.shape[:2], BINS + 1)).at[..., bin_of].set(1e4)


def test_padding_has_no_part_in_the_loss() -> None:
    output, targets = random_output(), targets_of((2.0, 9.0, 1), (1.0, 5.0, 0))
    changed = [
        jnp.where(mask[:, :, None], level, 7.0) for level, mask in zip(output.classes, output.masks, strict=True)
    ]
    settings, normaliser = DetectionLossSettings(), student_losses.initial_normaliser()
    before = detection_loss(output, targets, normaliser, settings)
    after = detection_loss(output._replace(classes=tuple(changed)), targets, normaliser, settings)
    np.testing.assert_allclose(before.total, after.total, rtol=1e-6)


def test_a_point_takes_the_shortest_segment_in_its_range() -> None:
    targets = targets_of((1.0, 4.5, 0), (0.0, 5.0, 1), (2.0, 14.0, 2))
    classes = np.asarray(targets.classes[0])
    np.testing.assert_array_equal(classes[3], [1, 0, 0])  # inside both short ones
    assert classes[LENGTH + 4].tolist() == [0, 0, 1]  # the coarse level's point at 8
    np.testing.assert_allclose(targets.distances[0, LENGTH + 4], [3.0, 3.0])
    assert not np.asarray(targets.classes[1]).any()


def test_segments_of_the_same_length_share_a_point() -> None:
    targets = targets_of((1.0, 5.0, 0), (1.0, 5.0005, 2))
    np.testing.assert_array_equal(targets.classes[0, 3], [1, 0, 1])


def test_no_slot_for_segments_at_all() -> None:
    targets = assign(POINTS, jnp.zeros((2, 0, 2)), jnp.zeros((2, 0), int), CLASSES)
    assert targets.classes.shape == (2, len(POINTS.time), CLASSES)
    assert not np.asarray(targets.classes).any()


def test_points_need_a_length_that_the_strides_divide() -> None:
    with pytest.raises(ValueError, match=r"length 15 is not a multiple of the strides \(1, 2\)"):
        make_points(15, STRIDES, RANGES)
    with pytest.raises(ValueError, match="1 regression ranges for 2 levels"):
        make_points(16, STRIDES, RANGES[:1])


def test_as_published_the_video_loss_depends_on_the_padding_and_fixed_it_does_not() -> None:
    short, labels = random_output(valid=LENGTH), jnp.asarray([[1.0, 0, 0], [0, 1, 1]])
    logits = short.classes[0] - 3  # below the 0 of padding
    padded = DetectorOutput(
        (jnp.pad(logits, ((0, 0), (0, 8), (0, 0))),), (), (), (), (jnp.pad(short.masks[0], ((0, 0), (0, 8))),)
    )
    short = short._replace(classes=(logits,), masks=short.masks[:1])
    fixed = [float(student_video_loss(each, labels, of_batch=False)) for each in (short, padded)]
    published = [float(student_video_loss(each, labels)) for each in (short, padded)]
    assert abs(fixed[0] - fixed[1]) < 1e-6
    assert abs(published[0] - published[1]) > 1e-3


def test_dropped_logits_do_not_count_in_the_fixed_video_loss() -> None:
    output, labels = random_output(valid=LENGTH), jnp.asarray([[1.0, 0, 0], [0, 1, 1]])
    keep = jax.random.bernoulli(jax.random.key(0), 0.4, output.classes[0].shape)
    changed = jnp.where(keep, output.classes[0], 50.0)
    before = student_video_loss(output, labels, keep, of_batch=False)
    after = student_video_loss(output._replace(classes=(changed,)), labels, keep, of_batch=False)
    np.testing.assert_allclose(before, after, rtol=1e-6)
    nothing = student_video_loss(output, labels, jnp.zeros_like(keep), of_batch=False)
    assert np.isfinite(nothing)


def test_distances_lie_between_zero_and_the_number_of_bins() -> None:
    output = random_output()
    distances = np.asarray(expected_distances(output.starts, output.ends, output.offsets))
    assert distances.shape == (2, len(POINTS.time), CLASSES, 2)
    assert distances.min() >= 0
    assert distances.max() <= BINS


def test_a_start_logit_pulls_the_start_to_its_step() -> None:
    starts = jnp.zeros((1, 10, 1)).at[0, 4].set(50.0)
    decoded = expected_distances([starts], [jnp.zeros((1, 10, 1))], [jnp.zeros((1, 10, 2 * (BINS + 1)))])
    np.testing.assert_allclose(decoded[0, 4:9, 0, 0], np.arange(5), atol=1e-4)


@pytest.mark.parametrize("trident", [True, False])
def test_decoding_keeps_the_best_of_every_level(trident: bool) -> None:
    output = random_output(trident=trident)
    found = decode(output, POINTS, DecodeSettings(per_level=5))
    assert found.segments.shape == (2, 10, 2)
    scores = np.asarray(found.scores)
    probabilities = np.asarray(jax.nn.sigmoid(output.classes[0][0]) * output.masks[0][0][:, None]).ravel()
    np.testing.assert_allclose(scores[0, :5], -np.sort(-probabilities)[:5], rtol=1e-6)
    assert (np.diff(scores[:, :5], axis=1) <= 0).all()
    none = decode(output, POINTS, DecodeSettings(min_score=1.0))
    assert not np.asarray(none.valid).any()
    assert not np.asarray(decode(output, POINTS, DecodeSettings(min_length=1e9)).valid).any()
