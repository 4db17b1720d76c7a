"""Exponential moving average of parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def init(params: Any) -> Any:
    """The average's first value: a copy of `params` (a copy, so that a donated `params` leaves it alive)."""
    return jax.tree.map(jnp.copy, params)


def update(ema: Any, params: Any, decay: float | jax.Array) -> Any:
    """`decay * ema + (1 - decay) * params`, leaf by leaf; `decay` lies in [0, 1]."""
    return jax.tree.map(lambda average, value: average + (1.0 - decay) * (value - average), ema, params)
