"""Order statistics by counting, against a sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.ops.order_statistics import kth_smallest, lower_median

FLOATS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_every_rank_is_that_of_a_sort(values: list[float]) -> None:
    array = jnp.asarray(values, jnp.float32)
    found = [float(kth_smallest(array, rank)) for rank in range(0, len(values), 7)]
    np.testing.assert_array_equal(found, np.sort(np.asarray(values, np.float32))[::7])


@pytest.mark.parametrize("number", [1, 2, 7, 8])
def test_the_median_is_the_lower_of_two_and_ignores_the_rest(number: int) -> None:
    values = jax.random.normal(jax.random.key(number), (12,))
    median = jax.jit(lower_median)(values, jnp.arange(12) < number)
    assert float(median) == np.sort(np.asarray(values[:number]))[(number - 1) // 2]


def test_of_nothing_it_is_zero_and_it_has_no_gradient() -> None:
    assert float(lower_median(jnp.ones(4), jnp.zeros(4, bool))) == 0
    np.testing.assert_array_equal(jax.grad(lower_median)(jnp.asarray([1.0, 3.0, 2.0])), np.zeros(3))
