"""Running the segment part of the refiner at a capacity that fits the batch.

The number of segments is known only on the device. A few capacities are compiled, and the smallest that holds the
batch's largest number of runs is run, so that ordinary videos do not pay for over-segmented ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from actloc_jax.ops.segments import run_starts

CAPACITIES = (64, 256, 2048)  # of ordinary videos, of over-segmented ones, and a bound for degenerate ones
SHORT = 512  # frames; sequences up to this length are refined at one capacity, their length


def segment_capacities(length: int) -> tuple[int, ...]:
    """Capacities to choose from for sequences of `length` frames, which cannot have more runs than frames."""
    return (length,) if length <= SHORT else tuple(min(capacity, length) for capacity in CAPACITIES)


def largest_run_count(labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Largest number of runs in a sequence of the batch: labels and mask [batch, time] to an int32 scalar."""
    return jnp.max(jnp.sum(run_starts(labels, mask), axis=1, dtype=jnp.int32))


def with_capacity(function: Callable[..., Any], capacities: tuple[int, ...], largest: jax.Array, *operands: Any) -> Any:
    """Runs `function(capacity, *operands)` at the smallest capacity that holds `largest` runs, else at the last.

    Args:
        function: takes a static capacity and the operands; returns the same shapes for every capacity.
        capacities: ascending, such as `segment_capacities` gives.
        largest: int32 scalar, the number of runs to hold.
        operands: trees of arrays.
    """
    branches = [functools.partial(function, capacity) for capacity in capacities]
    too_small = jnp.sum(largest > jnp.array(capacities[:-1], jnp.int32))
    return lax.switch(too_small, branches, *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def loss_with_capacity(
    function: Callable[..., tuple[jax.Array, Any]],
    capacities: tuple[int, ...],
    largest: jax.Array,
    trained: Any,
    fixed: Any,
) -> tuple[jax.Array, Any]:
    """`with_capacity` for a loss: the gradient is taken inside the chosen branch.

    Differentiating `with_capacity` itself would keep the intermediates of every capacity.

    Args:
        function: takes a static capacity, `trained` and `fixed`; returns a scalar and a tree of arrays (its parts).
        capacities: ascending.
        largest: int32 scalar, the number of runs to hold.
        trained: tree of arrays by which the scalar can be differentiated.
        fixed: tree of arrays without gradient.

    Returns:
        What `function` returns. The parts have no gradient.
    """
    return with_capacity(function, capacities, largest, trained, fixed)


def _loss_and_gradient(function, capacities, largest, trained, fixed):
    def run(capacity: int, trained: Any, fixed: Any) -> Any:
        return jax.value_and_grad(functools.partial(function, capacity), has_aux=True)(trained, fixed)

    return with_capacity(run, capacities, largest, trained, fixed)


def _scaled_gradient(function, capacities, gradient, cotangents):
    scale, _ = cotangents
    return None, jax.tree.map(lambda leaf: leaf * scale, gradient), None


loss_with_capacity.defvjp(_loss_and_gradient, _scaled_gradient)
