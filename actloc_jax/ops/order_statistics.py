"""Exact order statistics without a sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SIGN = np.uint32(0x80000000)


def kth_smallest(values: jax.Array, rank: jax.Array | int, where: jax.Array | None = None) -> jax.Array:
    """The element that stands at position `rank` once the values are sorted.

    Its bits are found one after the other by counting smaller values: 32 passes over the data in place of a sort, and
    where the values lie on several devices these exchange 32 numbers in place of the values. No gradient.

    Args:
        values: float32, any shape, finite.
        rank: from 0; may be traced.
        where: bool that broadcasts to `values`; the others are not looked at. None: all.

    Returns:
        float32 scalar, one of the values.
    """
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(values), jnp.uint32)
    ordered = jnp.where(bits >= SIGN, ~bits, bits | SIGN)  # the order of these integers is that of the floats

    def settle(step: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (SIGN >> step.astype(jnp.uint32))
        smaller = jnp.sum(ordered < candidate, where=where)
        return jnp.where(smaller <= rank, candidate, found)

    found = jax.lax.fori_loop(0, 32, settle, jnp.uint32(0))
    return jax.lax.bitcast_convert_type(jnp.where(found >= SIGN, found ^ SIGN, ~found), jnp.float32)


def lower_median(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """The lower of the middle elements, as `torch.median`: a float32 scalar, 0 if there is no value.

    Arguments as for `kth_smallest`.
    """
    number = values.size if where is None else jnp.sum(jnp.broadcast_to(where, values.shape))
    median = kth_smallest(values, (number - 1) // 2, where)
    return jnp.where(number > 0, median, 0.0)
