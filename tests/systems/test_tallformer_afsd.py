"""TALLFormer on ActivityNet: which row gets which segment, losses, suppression, classes of the video."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.backbones.afsd import Afsd, AfsdOutput, AfsdSizes
from actloc_jax.layers.functional import Network, count
from actloc_jax.systems.tallformer.afsd_decode import (
    AfsdDecodeSettings,
    Scored,
    candidates,
    suppressed,
    with_video_classes,
)
from actloc_jax.systems.tallformer.afsd_losses import AfsdLossSettings, afsd_loss, afsd_targets, boundary_maps

SIZES = AfsdSizes(levels=2, frames=64, width=4)  # 8 rows of 8 frames, 4 of 16
SETTINGS = AfsdLossSettings(ranges=((0, 16), (10, 64)))


def output(seed: int = 0, batch: int = 1) -> AfsdOutput:
    rng, rows = np.random.default_rng(seed), sum(SIZES.lengths)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(batch, *shape)), jnp.float32)

    features = [jnp.maximum(normal(time, channels), 0) for time, channels in ((64, 4), (8, 8), (8, 8))]
    return AfsdOutput(
        normal(5), jnp.exp(normal(rows, 2)) * 8, normal(rows, 2), normal(rows, 2), normal(rows, 2), normal(rows),
        features[0], tuple(features[1:]),
    )  # fmt: skip


def targets(segments: list[list[float]], slots: int = 3):
    rows = np.zeros((1, slots, 2), np.float32)
    rows[0, : len(segments)] = np.reshape(segments, (-1, 2))
    valid = (np.arange(slots) < len(segments))[None]
    return jax.jit(lambda *given: afsd_targets(SIZES, *given, SETTINGS))(rows, valid, np.array([2], np.int32))


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    net = Network(lambda rngs: Afsd(AfsdSizes(), rngs=rngs))
    assert count(net.shapes()) == 31_484_584


def test_rows_get_the_shortest_segment_around_them_whose_end_is_in_range() -> None:
    found = targets([[2.0, 34.0], [10.0, 22.0]])
    np.testing.assert_array_equal(found.positive[0, :8], [0, 1, 1, 0, 0, 0, 0, 0])  # centres 4, 12, 20, ...
    np.testing.assert_array_equal(found.distances[0, 1:3], [[2, 10], [10, 2]])
    np.testing.assert_array_equal(found.positive[0, 8:], [1, 1, 0, 0])  # centres 8, 24: of the long segment
    np.testing.assert_array_equal(found.distances[0, 8:10], [[6, 26], [22, 10]])
    assert not targets([]).positive.any()
    with pytest.raises(ValueError, match="6 ranges for 2 levels"):
        afsd_targets(SIZES, jnp.zeros((1, 1, 2)), jnp.ones((1, 1), bool), jnp.zeros(1, jnp.int32), AfsdLossSettings())


def test_maps_mark_a_tenth_of_the_segment_and_stay_in_the_video() -> None:
    maps = boundary_maps(jnp.asarray([[[0.0, 40.0], [50.0, 60.0]]]), jnp.asarray([[True, False]]), 64)[0]
    np.testing.assert_array_equal(np.flatnonzero(maps[:, 0]), [0, 1, 2])
    np.testing.assert_array_equal(np.flatnonzero(maps[:, 1]), [38, 39, 40, 41, 42])


def test_a_video_without_segments_has_finite_gradients_and_no_loss_of_distances() -> None:
    nothing = targets([])
    gradient, loss = jax.jit(
        jax.grad(lambda given: (lambda loss: (loss.total, loss))(afsd_loss(given, nothing, SETTINGS)), has_aux=True)
    )(output())
    assert loss.distance == loss.refinement == loss.centre == 0
    assert np.isfinite(loss.total)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not gradient.distances.any()
    assert gradient.classes.any()


@pytest.mark.parametrize("moves", [True, False])
def test_the_centre_loss_moves_segments_only_as_published(moves: bool) -> None:
    settings = dataclasses.replace(SETTINGS, overlap_moves_segments=moves)
    given = targets([[2.0, 34.0], [10.0, 22.0]])
    gradient = jax.jit(jax.grad(lambda found: afsd_loss(found, given, settings).centre))(output())
    assert gradient.centres.any()
    assert gradient.distances.any() == gradient.refinements.any() == moves


def test_losses_of_a_batch_are_the_means_of_its_videos() -> None:
    one, other = targets([[2.0, 34.0]]), targets([[10.0, 22.0], [40.0, 60.0]])
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), one, other)
    found = output(batch=2)
    loss_of = jax.jit(lambda *given: afsd_loss(*given, SETTINGS))
    alone = [
        loss_of(jax.tree.map(lambda x, row=row: x[row : row + 1], found), video)
        for row, video in enumerate((one, other))
    ]
    for name, value in loss_of(found, both)._asdict().items():
        np.testing.assert_allclose(value, np.mean([getattr(loss, name) for loss in alone]), rtol=1e-5, err_msg=name)


def test_candidates_are_in_seconds_and_in_order_of_the_rows() -> None:
    of_video = jax.tree.map(lambda x: np.asarray(x[0]), output())
    found = candidates(of_video, SIZES, 4.0, AfsdDecodeSettings())
    assert found.segments.min() >= 0
    assert found.segments.max() <= 16
    unrefined = of_video._replace(refinements=np.zeros_like(of_video.refinements))
    plain = candidates(unrefined, SIZES, 4.0, AfsdDecodeSettings()).segments
    centre = SIZES.priors[3] * 64
    expected = np.clip([centre - of_video.distances[3, 0], centre + of_video.distances[3, 1]], 0, 64) / 4
    np.testing.assert_allclose(plain[3], expected, rtol=1e-5)


def test_a_single_candidate_is_lost_as_published_and_kept_when_asked() -> None:
    single = Scored(np.array([[1, 2]], np.float32), np.array([0.5], np.float32))
    published = AfsdDecodeSettings()
    assert len(suppressed(single, published).scores) == 0
    keeps = dataclasses.replace(published, suppression=dataclasses.replace(published.suppression, selects_last=True))
    np.testing.assert_array_equal(suppressed(single, keeps).segments, single.segments)


def test_every_segment_gets_the_likeliest_classes_of_its_video_and_ends_with_it() -> None:
    found = Scored(np.array([[1, 9], [11, 12]], np.float32), np.array([0.5, 0.4], np.float32))
    labelled = with_video_classes(found, np.array([0.1, 0.6, 0.3]), 8.0, AfsdDecodeSettings())
    np.testing.assert_array_equal(labelled.segments, [[1, 8], [1, 8]])
    np.testing.assert_array_equal(labelled.labels, [1, 2])
    np.testing.assert_allclose(labelled.scores, [0.3, 0.15], rtol=1e-6)
