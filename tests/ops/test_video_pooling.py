"""Zeros around video and maxima of its windows, against counting them one by one."""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops.video_pooling import PADDINGS, STATIC_SAME, TF_SAME, max_pool, zeros_around

CASES = [((3, 3, 3), (2, 2, 2)), ((1, 3, 3), (1, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))]


@pytest.mark.parametrize(
    ("rule", "size", "kernel", "stride", "expected"),
    [
        (TF_SAME, 224, 7, 2, (2, 3)),
        (TF_SAME, 21, 7, 2, (3, 3)),
        (TF_SAME, 7, 3, 1, (1, 1)),
        (TF_SAME, 5, 2, 2, (0, 1)),
        (TF_SAME, 5, 1, 2, (0, 0)),
        (STATIC_SAME, 224, 7, 2, (2, 3)),
        (STATIC_SAME, 21, 7, 2, (2, 3)),
        (STATIC_SAME, 5, 2, 2, (0, 0)),
        (STATIC_SAME, 5, 1, 2, (0, 0)),
    ],
)
def test_zeros_around(rule: str, size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert zeros_around(rule, size, kernel, stride) == expected


def counted(x: np.ndarray, kernel: tuple[int, ...], stride: tuple[int, ...], rule: str) -> np.ndarray:
    """[time, height, width]: every window that begins inside, positions outside left out, zeros counted."""
    sides = [zeros_around(rule, *axis) for axis in zip(x.shape, kernel, stride, strict=True)]
    padded = np.pad(x, sides)
    rounded = math.floor if rule == TF_SAME else math.ceil
    counts = []
    for size, extent, step in zip(padded.shape, kernel, stride, strict=True):
        count = rounded((size - extent) / step) + 1
        counts.append(count - 1 if (count - 1) * step >= size else count)
    found = np.empty(counts, x.dtype)
    for place in itertools.product(*map(range, counts)):
        begin = [index * step for index, step in zip(place, stride, strict=True)]
        found[place] = padded[tuple(slice(b, b + extent) for b, extent in zip(begin, kernel, strict=True))].max()
    return found


@pytest.mark.parametrize("rule", PADDINGS)
def test_maxima_of_sizes_that_do_and_do_not_divide(rule: str) -> None:
    rng = np.random.default_rng(0)
    for (kernel, stride), size in itertools.product(CASES, [(4, 6, 8), (5, 7, 6), (3, 5, 9)]):
        x = rng.standard_normal((2, *size, 3)).astype(np.float32) - 1  # mostly negative: zeros show
        expected = np.stack(
            [np.stack([counted(one[..., channel], kernel, stride, rule) for channel in range(3)], -1) for one in x]
        )
        np.testing.assert_array_equal(max_pool(jnp.asarray(x), kernel, stride, rule), expected, f"{kernel} {size}")


def test_the_two_rules_agree_where_strides_divide() -> None:
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 8, 8, 8, 2)), jnp.float32)
    for kernel, stride in CASES:
        tf, static = (max_pool(x, kernel, stride, rule) for rule in PADDINGS)
        np.testing.assert_array_equal(tf, static)
