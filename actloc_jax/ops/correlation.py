"""Correlation of all positions of one feature map with all of another, in a pyramid, and windows read out of it.

Source: `princeton-vl/RAFT:core/corr.py` (Teed and Deng, ECCV 2020, arXiv 2003.12039, section 3.2). Everything is
float32: the windows of the coarse levels add up many products.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST  # no bfloat16 and no TF32 where float32 is multiplied


def pyramid(first: jax.Array, second: jax.Array, levels: int = 4) -> list[jax.Array]:
    """Dot products of all positions of two feature maps, divided by the root of the channels.

    Level k averages 2^k x 2^k positions of the second map. Averaging its features is the same as averaging the
    products, and cheaper; an odd last row or column is dropped on each level, as published.

    Args:
        first: [pairs, height, width, channels].
        second: [pairs, height, width, channels].
        levels: how many.

    Returns:
        [pairs, height * width, height / 2^k, width / 2^k] float32 for k = 0, 1, ...
    """
    pairs, height, width, channels = first.shape
    queries = first.reshape(pairs, height * width, channels).astype(jnp.float32) / math.sqrt(channels)
    second = second.astype(jnp.float32)
    found = []
    for level in range(levels):
        if level:
            second = _halved(second)
        found.append(jnp.einsum("pqc,phwc->pqhw", queries, second, precision=EXACT))
    return found


def _halved(x: jax.Array) -> jax.Array:
    """Means of 2 x 2 positions."""
    pairs, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(pairs, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def padded(maps: list[jax.Array], radius: int) -> list[jax.Array]:
    """The levels of a pyramid, [pairs, queries, height / 2^k, width / 2^k], with the zeros that `windows` needs."""
    margin = 2 * radius + 2
    return [jnp.pad(level, [(0, 0), (0, 0), (margin, margin), (margin, margin)]) for level in maps]


def windows(padded_maps: list[jax.Array], positions: jax.Array, radius: int) -> jax.Array:
    """The correlations around a position of the second image, for every position of the first.

    Bilinear, pixel centres at integers, zeros outside.

    Args:
        padded_maps: levels [pairs, queries, height / 2^k, width / 2^k], made by `padded` with the same radius.
        positions: [pairs, queries, 2] float32, (x, y) in positions of level 0.
        radius: of the windows, in positions of each level.

    Returns:
        [pairs, queries, levels * (2 * radius + 1)^2] float32. Levels follow each other; within one the offset that is
        added to x is the slow index and the one added to y the fast one, both from `-radius` on: an oddity of the
        original that the published weights know.
    """
    found = [_window(level, positions / 2**number, radius) for number, level in enumerate(padded_maps)]
    return jnp.concatenate(found, axis=-1)


def _window(level: jax.Array, centres: jax.Array, radius: int) -> jax.Array:
    """All offsets of a window have one fraction, so that it is a cut of whole positions, blended along both axes."""
    margin = 2 * radius + 2
    size = jnp.array([level.shape[3], level.shape[2]], jnp.float32) - 2 * margin
    corner = jnp.floor(centres)
    along_x, along_y = jnp.moveaxis(centres - corner, -1, 0)[..., None, None]
    # Windows wholly outside may stand anywhere in the margin.
    start = (jnp.clip(corner, -radius - 2, size + radius) - radius + margin).astype(jnp.int32)

    def cut(one: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(one, (place[1], place[0]), (margin, margin))

    cells = jax.vmap(jax.vmap(cut))(level, start)
    rows = cells[..., :-1, :] + along_y * (cells[..., 1:, :] - cells[..., :-1, :])
    blended = rows[..., :-1] + along_x * (rows[..., 1:] - rows[..., :-1])
    return blended.swapaxes(-1, -2).reshape(*centres.shape[:2], -1)
