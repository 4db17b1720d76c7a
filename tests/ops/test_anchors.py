"""Anchors: coding there and back, and who gets which segment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.anchors import (
    BACKGROUND,
    IGNORED,
    AnchorShapes,
    Assigned,
    Assignment,
    assign,
    decode,
    encode,
    make_anchors,
)

SHAPES = AnchorShapes(strides=(4, 8), per_octave=2)
ANCHORS = make_anchors((6, 3), SHAPES)


def assigned(segments: list[list[float]], empty: int = 0, **rule: bool) -> Assigned:
    rows = jnp.asarray(segments + [[0.0, 1e4]] * empty, jnp.float32).reshape(1, -1, 2)
    valid = (jnp.arange(rows.shape[1]) < len(segments))[None]
    return jax.jit(lambda *given: assign(ANCHORS.segments, *given, Assignment(**rule)))(rows, valid)


def test_anchors_stand_row_by_row_and_may_stick_out() -> None:
    assert ANCHORS.ends == (12, 18)
    np.testing.assert_allclose(ANCHORS.segments[:2], [[-4, 4], [-4 * 2**0.5, 4 * 2**0.5]], rtol=1e-6)
    np.testing.assert_allclose(ANCHORS.segments[13:15].mean(axis=1), [0, 8])
    np.testing.assert_array_equal([len(part) for part in ANCHORS.levels(ANCHORS.segments)], [12, 6])
    np.testing.assert_array_equal(make_anchors((6, 3), SHAPES, frames=9).inside, [1] * 6 + [0] * 6 + [1] * 4 + [0] * 2)
    with pytest.raises(ValueError, match="3 levels, but anchors for 2"):
        make_anchors((6, 3, 1), SHAPES)


def test_decoding_undoes_encoding_up_to_the_longest_segment() -> None:
    segments = np.random.default_rng(0).uniform(0, 20, (18, 2)).astype(np.float32)
    segments[:, 1] += segments[:, 0] * 0 + 21  # longer than nothing, at most e times the anchor
    deltas = encode(ANCHORS.segments, segments)
    short = deltas[:, 1] <= 1
    assert short.any()
    assert not short.all()
    np.testing.assert_allclose(decode(ANCHORS.segments, deltas)[short], segments[short], rtol=1e-4, atol=1e-4)
    lengths = np.diff(decode(ANCHORS.segments, deltas), axis=1) / np.diff(ANCHORS.segments, axis=1)
    np.testing.assert_allclose(lengths[~short], np.e, rtol=1e-5)
    assert decode(ANCHORS.segments, deltas, 15.0).max() == 15


def test_enough_overlap_or_the_best_of_all_makes_an_anchor_positive() -> None:
    found = assigned([[4, 12]]).segment[0]
    assert found[4] == 1  # the same segment
    assert found[0] == BACKGROUND
    assert (found == IGNORED).sum() > 0
    little = assigned([[9.9, 10.4]])
    best = np.asarray(little.overlap[0])
    assert best.max() < 0.4
    np.testing.assert_array_equal(little.segment[0] == 1, best == best.max())


def test_later_segments_overrule_earlier_ones() -> None:
    assert assigned([[4, 12], [4, 12.1]]).segment[0, 4] == 2
    assert assigned([[4, 12.1], [4, 12]]).segment[0, 4] == 2


def test_empty_slots_change_nothing() -> None:
    for segments in ([], [[4, 12], [1, 19]]):
        ours, expected = assigned(segments, empty=3), assigned(segments)
        np.testing.assert_array_equal(ours.segment, expected.segment)
        np.testing.assert_array_equal(ours.overlap, expected.overlap)
    assert not assigned([], empty=2).segment.any()


def test_a_segment_without_length_claims_all_anchors_only_as_published() -> None:
    assert (assigned([[7, 7]]).segment == 1).all()
    assert not assigned([[7, 7]], claims_without_overlap=False).segment.any()
