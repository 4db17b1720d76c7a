"""Decoding of SPOT's outputs, against loops that follow the published script, and its switches."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.systems.spot import decode
from actloc_jax.systems.spot.decode import Candidates, DecodeSettings, VideoScores

SETTINGS = DecodeSettings(top_snippets=4)
FIXED = dataclasses.replace(
    SETTINGS, ends_at_last_snippet=False, overlap_exceeds_iou=False, last_candidate_lost=False,
    overlap_raises_scores=False,
)  # fmt: skip


def outputs(videos: int = 3, time: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and masks that go up and down along time."""
    rng = np.random.default_rng(seed)
    logits = 2 * np.cumsum(rng.standard_normal((videos, time, 5)), axis=1)
    walk = np.cumsum(rng.standard_normal((videos, time, time)), axis=1)
    return logits.astype(np.float32), (1 / (1 + np.exp(-walk - 0.5))).astype(np.float32)


def found_in(logits: np.ndarray, masks: np.ndarray, settings: DecodeSettings = SETTINGS) -> Candidates:
    run = jax.jit(lambda logits, masks: decode.candidates(logits, masks, settings))
    return jax.tree.map(np.asarray, run(jnp.asarray(logits), jnp.asarray(masks)))


def hull(above: np.ndarray) -> tuple[int, int]:
    places = np.flatnonzero(above)
    return places[0], places[-1]


def longest_run(above: np.ndarray) -> tuple[int, int]:
    best, start = (0, -1), None
    for place, marked in enumerate([*above, False]):
        if marked and start is None:
            start = place
        if not marked and start is not None:
            if place - 1 - start > best[1] - best[0]:
                best = (start, place - 1)
            start = None
    return best


def loops(logits: np.ndarray, masks: np.ndarray) -> set[tuple[float, ...]]:
    """(first, last, mask score, class score) of one video, one candidate after the other; scores rounded."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (exponents / exponents.sum(axis=1, keepdims=True))[:, :-1]
    likeliest, own = probabilities.max(axis=1), probabilities[:, logits[:, :-1].mean(axis=0).argmax()]
    spans = []
    for threshold in SETTINGS.class_thresholds:
        if (likeliest > threshold).any():
            a, b = hull(likeliest > threshold)
            if b - a > 1:
                spans.append((a, b, likeliest[a:b].max()))
    found = set()
    for snippet in np.argsort(-likeliest, kind="stable")[: SETTINGS.top_snippets]:
        row = masks[:, snippet]
        for threshold in SETTINGS.mask_thresholds:
            if not (row > threshold).any():
                continue
            (a, b), (first, last) = hull(row > threshold), longest_run(row > threshold)
            if last - first < 3:
                continue
            certain = own[first:last].max()
            score = certain * row[first + 1 : last - 1].mean()
            found.add((a, b, round(float(score), 4), round(float(certain * likeliest[snippet]), 4)))
            for a, b, class_score in spans:
                found.add((a, b, round(float(row[a:b].max()), 4), round(float(class_score), 4)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_candidates_are_those_of_the_loops(seed: int) -> None:
    logits, masks = outputs(seed=seed)
    rows = decode.joined_rows(found_in(logits, masks), 25, SETTINGS)
    spans = np.round(25 * rows.segments).astype(int)
    for video in range(3):
        own = rows.video == video
        ours = {
            (a, b, round(mask, 4), round(certain, 4))
            for (a, b), mask, certain in zip(
                spans[own].tolist(), rows.mask_scores[own], rows.class_scores[own], strict=True
            )
        }
        expected = loops(logits[video], masks[video])
        near = [any(np.allclose(one, other, atol=2e-4) for other in ours) for one in expected]
        assert all(near)
        assert len(ours) == len(expected) > 5


def test_rows_are_sorted_and_no_two_are_equal() -> None:
    rows = decode.joined_rows(found_in(*outputs()), 25, SETTINGS)
    keys = list(zip(rows.video, -rows.mask_scores, *rows.segments.T, rows.class_scores, strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_an_external_classifier_names_the_videos_it_knows() -> None:
    found = found_in(*outputs())
    rows = decode.joined_rows(found, 25, SETTINGS, VideoScores(np.array([7, -1, 3]), np.array([0.9, 0.0, 0.5])))
    for video, label in enumerate((7, found.video_class[1], 3)):
        assert set(rows.labels[rows.video == video].tolist()) == {label}
    assert set(rows.class_scores[rows.video == 0].tolist()) == {0.9}
    assert len(set(rows.class_scores[rows.video == 1].tolist())) > 1


def test_videos_are_decoded_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks = outputs(5)
    durations = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    together = decode.detections("abcde", durations, found_in(logits, masks), 25, SETTINGS)
    monkeypatch.setattr(decode, "CHUNK", 2)
    in_chunks = decode.detections("abcde", durations, found_in(logits, masks), 25, SETTINGS)
    for number, expected in enumerate(together):
        one = slice(number, number + 1)
        alone = decode.detections(["x"], durations[one], found_in(logits[one], masks[one]), 25, SETTINGS)[0]
        for other in (alone, in_chunks[number]):
            np.testing.assert_allclose(other.segments, expected.segments, rtol=1e-6)
            np.testing.assert_allclose(other.scores, expected.scores, rtol=1e-6)


def test_detections_are_sorted_seconds_inside_the_video() -> None:
    for settings in (SETTINGS, FIXED):
        for found, duration in zip(
            decode.detections("abc", np.array([10.0, 20.0, 30.0]), found_in(*outputs()), 25, settings),
            (10, 20, 30),
            strict=True,
        ):
            assert (np.diff(found.scores) <= 0).all()
            assert found.segments.min() >= 0
            assert found.segments.max() <= duration
            assert (found.segments[:, 0] < found.segments[:, 1]).all()


def test_a_video_without_candidate_has_no_detection() -> None:
    logits, masks = outputs()
    masks[1] = 0
    found = decode.detections("abc", np.ones(3), found_in(logits, masks), 25, SETTINGS)
    assert [len(each.scores) > 0 for each in found] == [True, False, True]
    nothing = decode.detections("abc", np.ones(3), found_in(logits, 0 * masks), 25, SETTINGS)
    assert [each.segments.shape for each in nothing] == [(0, 2)] * 3


def two_candidates() -> Candidates:
    """A video with one candidate, and one with two."""
    return Candidates(
        spans=np.array([[[0, 24], [0, 0]], [[2, 9], [12, 20]]]),
        mask_scores=np.array([[0.9, 0.0], [0.8, 0.6]]),
        class_scores=np.ones((2, 2)),
        valid=np.array([[True, False], [True, True]]),
        video_class=np.array([1, 2]),
    )


def test_the_last_candidate_is_lost_as_published_unless_it_is_alone() -> None:
    counts = [
        [len(each.scores) for each in decode.detections("ab", np.ones(2), two_candidates(), 25, settings)]
        for settings in (SETTINGS, FIXED)
    ]
    assert counts == [[1, 1], [1, 2]]


def test_a_whole_video_ends_a_snippet_early_as_published() -> None:
    ends = [
        decode.detections("ab", np.full(2, 50.0), two_candidates(), 25, settings)[0].segments[0, 1]
        for settings in (SETTINGS, FIXED)
    ]
    np.testing.assert_allclose(ends, [48, 50])


def test_overlap_raises_scores_only_as_published() -> None:
    touching = two_candidates()._replace(
        spans=np.array([[[0, 24], [0, 0]], [[0, 10], [10, 24]]]), mask_scores=np.array([[0.9, 0], [0.8, 0.79]])
    )
    barely = dataclasses.replace(FIXED, overlap_raises_scores=True)
    rows = decode.joined_rows(touching, 25, barely)
    raised, plain = (decode.suppressed(rows, 2, settings)[1].scores for settings in (barely, FIXED))
    assert raised[0] > 1 > plain[0]


@pytest.mark.parametrize(("time", "least"), [(100, 3), (25, 3), (200, 5), (300, 7)])
def test_runs_exceed_their_share_and_have_an_inside(time: int, least: int) -> None:
    assert decode._shortest_run(time, 0.02) == least
