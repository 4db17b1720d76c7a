"""Convolution and attention over a dilated window against a loop over frames; padding; gradients."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.local_attention import Branches, Shares, Window, convolve_and_attend

CHANNELS = 4
run = jax.jit(convolve_and_attend, static_argnums=5)


def _inputs(lengths: list[int], time: int, taps: int, shared: bool = True) -> tuple[Any, ...]:
    """Kernel, x, shares (before padding) and mask; the arrays are zero outside the videos."""
    rng = np.random.default_rng(0)
    mask = np.arange(time) < np.asarray(lengths)[:, None]
    x, query, key = (np.zeros((CHANNELS, len(lengths), time), np.float32) for _ in range(3))
    for row, length in enumerate(lengths):
        for array in (x, query, key):
            array[:, row, :length] = rng.normal(size=(CHANNELS, length))
    kernel = rng.normal(size=(CHANNELS, (taps + 3) * CHANNELS)).astype(np.float32)
    if not shared:
        query, key = rng.normal(size=(2, CHANNELS)).astype(np.float32)
    return kernel, x, query, key, mask


def _run(kernel: Any, x: Any, query: Any, key: Any, mask: Any, window: Window) -> Branches:
    key = jnp.asarray(key)
    return run(kernel, x, Shares(query, key if key.ndim == 1 else window.pad(key)), mask, window, jnp.float32)


def _by_loop(kernel, x, query_share, key_share, taps, dilation):
    """One video [channels, time], written as the definition reads."""
    time = x.shape[1]
    parts = np.split(kernel, taps + 3, axis=1)
    query, key, value = (part.T @ x for part in parts[taps:])
    query, key = query + query_share, key + key_share
    convolved, attended, mass = np.zeros_like(x), np.zeros_like(x), np.zeros(time)
    for frame in range(time):
        sources = frame + (np.arange(taps) - taps // 2) * dilation
        inside = (sources >= 0) & (sources < time)
        at = lambda array: np.where(inside, array[:, sources.clip(0, time - 1)], 0)  # noqa: B023, E731
        convolved[:, frame] = sum(part.T @ column for part, column in zip(parts, at(x).T, strict=False))
        scores = query[:, frame] @ at(key) / np.sqrt(CHANNELS) + np.log(inside + 1e-6)
        weights = np.exp(scores - scores.max())
        weights = weights / weights.sum() * inside
        attended[:, frame], mass[frame] = at(value) @ weights, weights.sum()
    return convolved, attended, mass


@pytest.mark.parametrize("shared", [True, False], ids=["shares", "biases"])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (5, 2), (7, 1), (5, 8), (3, 64)])
def test_equals_the_definition(taps: int, dilation: int, shared: bool) -> None:
    lengths = [13, 6]
    kernel, x, query, key, mask = _inputs(lengths, 13, taps, shared)
    ours = _run(kernel, x, query, key, mask, Window.of(taps, dilation))
    for row, length in enumerate(lengths):
        own = [a[:, row, :length] if shared else a[:, None] for a in (query, key)]
        expected = _by_loop(kernel, x[:, row, :length], *own, taps, dilation)
        np.testing.assert_allclose(ours.convolved[:, row, :length], expected[0], atol=1e-5)
        np.testing.assert_allclose(ours.attended[:, row, :length], expected[1], atol=1e-5)
        np.testing.assert_allclose(ours.mass[row, :length], expected[2], atol=1e-6)


def test_a_wider_margin_and_a_traced_dilation_change_nothing() -> None:
    """The margin decides whether padding comes before or after the product: both orders are run."""
    inputs = _inputs([13, 6], 13, taps=5)
    exact = _run(*inputs, Window.of(5, 2))
    for margin in (6, 40):
        traced = jax.jit(lambda dilation, margin=margin: _run(*inputs, Window(dilation, 5, margin)))(2)
        for ours, expected in zip(traced, exact, strict=True):
            np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_padding_changes_nothing() -> None:
    exact = _run(*_inputs([9], 9, taps=5), Window.of(5, 2))
    padded = _run(*_inputs([9], 30, taps=5), Window.of(5, 2))
    for ours, expected in zip(padded, exact, strict=True):
        np.testing.assert_allclose(ours[..., :9], expected, atol=1e-5)


def test_only_frames_near_a_border_lose_mass() -> None:
    kernel, x, query, _, mask = _inputs([12], 12, taps=3)
    high = 5 * np.ones_like(query)
    mass = _run(0 * kernel, x, high, -high, mask, Window.of(3, 2)).mass  # keys so bad that one outside the video wins
    np.testing.assert_allclose(mass[0, 2:-2], 1, atol=1e-6)
    np.testing.assert_allclose(mass[0, [0, 1, -2, -1]], 0, atol=1e-6)


def test_a_tap_reads_the_frame_of_its_offset() -> None:
    frames, window = jnp.arange(1.0, 8.0), Window.of(5, 2)
    first, _, middle, fourth, _ = window.seen(window.pad(frames))
    np.testing.assert_array_equal(first, [0, 0, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(middle, frames)
    np.testing.assert_array_equal(fourth, [3, 4, 5, 6, 7, 0, 0])


@pytest.mark.parametrize("shared", [True, False], ids=["shares", "biases"])
@pytest.mark.parametrize(("taps", "dilation", "margin"), [(3, 1, 1), (5, 2, 4), (5, 2, 32), (5, 8, 16)])
def test_the_gradient_is_that_of_the_forward_pass(taps: int, dilation: int, margin: int, shared: bool) -> None:
    """Against JAX's own derivative of the undecorated function."""
    kernel, x, query, key, mask = _inputs([13, 6], 13, taps, shared)
    window = Window(dilation, taps, margin)
    cotangents = jax.tree.map(
        lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape), jnp.float32) * mask,
        _run(kernel, x, query, key, mask, window),
    )

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(function: Any, *inputs: Any) -> Any:
        def total(kernel, x, query, key):
            shares = Shares(query, key if key.ndim == 1 else window.pad(key))
            branches = function(kernel, x, shares, mask, window, jnp.float32)
            return sum(jnp.sum(a * b) for a, b in zip(branches, cotangents, strict=True))

        return jax.grad(total, argnums=(0, 1, 2, 3))(*inputs)

    ours = gradients(convolve_and_attend, kernel, x, query, key)
    derived = gradients(convolve_and_attend.fun, kernel, x, query, key)
    for name, got, expected in zip(("kernel", "x", "query", "key"), ours, derived, strict=True):
        inside = mask if got.ndim == 3 else True  # outside the video inputs are constant zeros
        np.testing.assert_allclose(got * inside, expected * inside, atol=2e-5, err_msg=name)
