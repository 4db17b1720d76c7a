"""Runs of equal labels: against a loop over frames, round trip, capacity, padding."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.ops import segments

LENGTH = 24  # of every array, so that one compilation serves all examples
find = jax.jit(segments.runs, static_argnums=2)
sequences = st.lists(st.integers(0, 3), min_size=0, max_size=LENGTH)


def _padded(labels: list[int], filler: int = 7) -> tuple[np.ndarray, np.ndarray]:
    missing = LENGTH - len(labels)
    return np.array([labels + [filler] * missing], np.int32), np.array([[True] * len(labels) + [False] * missing])


@given(sequences)
def test_runs_equal_those_of_a_loop(labels: list[int]) -> None:
    found = jax.tree.map(np.asarray, find(*_padded(labels), LENGTH))
    expected = [(label, len(list(group))) for label, group in itertools.groupby(labels)]
    ends = np.cumsum([0] + [length for _, length in expected])
    count = len(expected)
    assert found.count[0] == count
    assert found.valid[0].tolist() == [True] * count + [False] * (LENGTH - count)
    assert found.label[0, :count].tolist() == [label for label, _ in expected]
    assert found.start[0, :count].tolist() == ends[:-1].tolist()
    assert found.end[0, :count].tolist() == ends[1:].tolist()
    for slots in (found.start, found.end, found.label):
        assert not slots[0, count:].any()
    of_frames = [run for run, (_, length) in enumerate(expected) for _ in range(length)]
    assert found.run_of_frame[0].tolist() == of_frames + [segments.NO_RUN] * (LENGTH - len(labels))
    np.testing.assert_array_equal(segments.Runs(*found).members.sum(axis=2)[0, :count], np.diff(ends))


@given(sequences, st.integers(1, LENGTH))
def test_painting_the_labels_gives_them_back_except_beyond_the_capacity(labels: list[int], capacity: int) -> None:
    frames, mask = _padded(labels)
    whole = find(frames, mask, LENGTH)
    found = whole.first(capacity)
    painted = np.asarray(segments.paint(found, found.label, jnp.full((1, LENGTH), -5)))[0]
    run = np.asarray(whole.run_of_frame)[0]
    held = (run >= 0) & (run < capacity)
    np.testing.assert_array_equal(painted, np.where(held, frames[0], -5))
    assert found.count[0] == whole.count[0]  # the true number, whatever the capacity


def test_a_smaller_capacity_finds_the_first_runs() -> None:
    frames, mask = _padded([0, 0, 1, 2, 2, 0, 3])
    small, large = find(frames, mask, 3), find(frames, mask, LENGTH)
    for one, other in zip(small, large.first(3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_videos_of_a_batch_do_not_touch_each_other() -> None:
    rows = [_padded([0, 0, 1]), _padded([]), _padded([2] * LENGTH)]
    together = find(np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]), 5)
    for index, row in enumerate(rows):
        for one, all_ in zip(find(*row, 5), together, strict=True):
            np.testing.assert_array_equal(one[0], all_[index])


def test_frames_outside_the_mask_separate_runs() -> None:
    labels = jnp.array([[1, 1, 1, 1, 1]])
    found = find(labels, jnp.array([[True, True, False, True, True]]), 4)
    assert found.count.tolist() == [2]
    assert found.start[0, :2].tolist() == [0, 3]
    assert found.end[0, :2].tolist() == [2, 5]
    assert found.run_of_frame[0].tolist() == [0, 0, -1, 1, 1]
