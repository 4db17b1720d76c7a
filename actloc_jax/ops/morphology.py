"""Erosion and dilation of marked positions along one axis.

A window of even width reaches one position further back than ahead. Beyond the ends nothing is marked. A square window
on two axes is one axis after the other.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def eroded(active: jax.Array, width: int, *, axis: int = 1) -> jax.Array:
    """Which positions have only marked ones in the window [i - width // 2, i - width // 2 + width - 1].

    Args:
        active: bool, any shape.
        width: of the window.
        axis: along which it lies.

    Returns:
        bool, as `active`.
    """
    before = width // 2
    return functools.reduce(jnp.logical_and, _shifted(active, before, width - 1 - before, axis))


def dilated(active: jax.Array, width: int, *, axis: int = 1, mirrored: bool = True) -> jax.Array:
    """Which positions have a marked one in the window; arguments and result as for `eroded`.

    Args:
        active: bool, any shape.
        width: of the window.
        axis: along which it lies.
        mirrored: a window of even width reaches further ahead than back, as the dual of `eroded` does (CoLA, FuSTAL).
            False: the same window as in `eroded` (kornia, SPOT).
    """
    before = width - 1 - width // 2 if mirrored else width // 2
    return functools.reduce(jnp.logical_or, _shifted(active, before, width - 1 - before, axis))


def _shifted(active: jax.Array, before: int, after: int, axis: int) -> list[jax.Array]:
    """`active` moved along `axis` by every number of positions, from `before` ahead to `after` back."""
    length = active.shape[axis]
    margins = [(0, 0)] * active.ndim
    margins[axis] = (before, after)
    padded = jnp.pad(active, margins)
    return [jax.lax.slice_in_dim(padded, shift, shift + length, axis=axis) for shift in range(before + after + 1)]
