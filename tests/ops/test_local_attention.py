"""Local dilated attention against a loop over frames, and its behaviour under padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.local_attention import local_attention, pad_time, tap

CHANNELS = 4
attend = jax.jit(local_attention, static_argnames=("taps", "dilation"))


def _inputs(lengths: list[int], time: int) -> list[np.ndarray]:
    """Random queries, keys and values [channels, batch, time], zero outside the videos, and the mask."""
    rng = np.random.default_rng(0)
    mask = np.arange(time) < np.asarray(lengths)[:, None]
    arrays = np.zeros((3, CHANNELS, len(lengths), time), np.float32)
    for row, length in enumerate(lengths):
        arrays[:, :, row, :length] = rng.normal(size=(3, CHANNELS, length))
    return [*arrays, mask]


def _attend(query, key, value, mask, taps, dilation):
    margin = taps // 2 * dilation
    return attend(query, pad_time(key, margin), pad_time(value, margin), mask, taps=taps, dilation=dilation)


def _by_loop(query, key, value, taps, dilation):
    """One video [channels, time], written as the definition reads."""
    time = query.shape[1]
    output, mass = np.zeros_like(value), np.zeros(time)
    for frame in range(time):
        sources = frame + (np.arange(taps) - taps // 2) * dilation
        inside = (sources >= 0) & (sources < time)
        keys = np.where(inside, key[:, sources.clip(0, time - 1)], 0)
        values = np.where(inside, value[:, sources.clip(0, time - 1)], 0)
        scores = query[:, frame] @ keys / np.sqrt(CHANNELS) + np.log(inside + 1e-6)
        weights = np.exp(scores - scores.max())
        weights = weights / weights.sum() * inside
        output[:, frame], mass[frame] = values @ weights, weights.sum()
    return output, mass


@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (5, 2), (7, 1), (5, 8), (3, 64)])
def test_equals_the_definition(taps: int, dilation: int) -> None:
    lengths = [13, 6]
    query, key, value, mask = _inputs(lengths, time=13)
    output, mass = _attend(query, key, value, mask, taps, dilation)
    for row, length in enumerate(lengths):
        own = [array[:, row, :length] for array in (query, key, value)]
        expected, expected_mass = _by_loop(*own, taps, dilation)
        np.testing.assert_allclose(output[:, row, :length], expected, atol=1e-5)
        np.testing.assert_allclose(mass[row, :length], expected_mass, atol=1e-6)


def test_padding_changes_nothing() -> None:
    exact = _attend(*_inputs([9], time=9), taps=5, dilation=2)
    padded = _attend(*_inputs([9], time=30), taps=5, dilation=2)
    np.testing.assert_allclose(padded[0][:, :, :9], exact[0], atol=1e-6)
    np.testing.assert_allclose(padded[1][:, :9], exact[1], atol=1e-6)


def test_only_frames_near_a_border_lose_mass() -> None:
    *_, value, mask = _inputs([12], time=12)
    query, key = 5 * np.ones_like(value), -5 * np.ones_like(value)  # keys so bad that one outside the video wins
    _, mass = _attend(query, key, value, mask, taps=3, dilation=2)
    np.testing.assert_allclose(mass[0, 2:-2], 1, atol=1e-6)
    np.testing.assert_allclose(mass[0, [0, 1, -2, -1]], 0, atol=1e-6)


def test_a_tap_reads_the_frame_of_its_offset() -> None:
    frames = jnp.arange(1.0, 8.0)
    np.testing.assert_array_equal(tap(pad_time(frames, 4), 0, 2, 7), [0, 0, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(tap(pad_time(frames, 4), 2, 2, 7), frames)
    np.testing.assert_array_equal(tap(pad_time(frames, 4), 3, 2, 7), [3, 4, 5, 6, 7, 0, 0])
