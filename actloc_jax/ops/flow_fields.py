"""Fields of displacements: padding of the images they are computed from, and how coarse ones become fine.

A field is [pairs, height, width, 2], in pixels, x (to the right) before y (down). Source: `princeton-vl/RAFT:core`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

CELL = 8  # pixels per position of the coarse field
PADDINGS = ("sintel", "kitti")


def margins(height: int, width: int, mode: str = "sintel") -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows above and below, and columns left and right, that make a size a multiple of 8.

    Args:
        height: in pixels.
        width: in pixels.
        mode: "sintel": half on either side, the odd one after; "kitti": all rows below.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in PADDINGS:
        raise ValueError(f"padding={mode!r} is unknown; use one of {', '.join(PADDINGS)}.")
    rows, columns = -height % CELL, -width % CELL
    above = rows // 2 if mode == "sintel" else 0
    return (above, rows - above), (columns // 2, columns - columns // 2)


def pad(images: jax.Array, mode: str = "sintel") -> jax.Array:
    """[images, height, width, channels] with its edges repeated up to multiples of 8; see `margins`."""
    return jnp.pad(images, [(0, 0), *margins(*images.shape[1:3], mode), (0, 0)], mode="edge")


def unpad(field: jax.Array, height: int, width: int, mode: str = "sintel") -> jax.Array:
    """The field of images that were padded: [pairs, height, width, 2] of a larger one."""
    (above, _), (left, _) = margins(height, width, mode)
    return field[:, above : above + height, left : left + width]


def positions(height: int, width: int) -> np.ndarray:
    """Where every position stands, (x, y): float32 [height, width, 2]."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def upsampled_convex(field: jax.Array, logits: jax.Array) -> jax.Array:
    """Eight times the size: every pixel a weighted mean of the 3 x 3 coarse displacements around it.

    Args:
        field: [pairs, height, width, 2] in coarse positions.
        logits: [pairs, height, width, 9 * 64]: of the neighbours (row by row), then the pixel's row and column within
            its position; their softmax over the neighbours are the weights.

    Returns:
        [pairs, 8 * height, 8 * width, 2] in pixels, float32; outside of the field stand zeros.
    """
    pairs, height, width, _ = field.shape
    weights = jax.nn.softmax(logits.astype(jnp.float32).reshape(pairs, height, width, 9, CELL, CELL), axis=3)
    around = jnp.pad(CELL * field, [(0, 0), (1, 1), (1, 1), (0, 0)])
    neighbours = [around[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    fine = sum(weights[:, :, :, k, :, :, None] * each[:, :, :, None, None] for k, each in enumerate(neighbours))
    return fine.transpose(0, 1, 3, 2, 4, 5).reshape(pairs, CELL * height, CELL * width, 2)


def upsampled_bilinear(field: jax.Array) -> jax.Array:
    """Eight times the size, bilinear with corner on corner: [pairs, height, width, 2] to pixels."""
    rows, columns = (_corner_aligned(size) for size in field.shape[1:3])
    return CELL * jnp.einsum("yh,xw,phwc->pyxc", rows, columns, field, precision=jax.lax.Precision.HIGHEST)


def _corner_aligned(size: int) -> np.ndarray:
    """[8 * size, size]: how every fine position blends two coarse ones."""
    places = np.arange(CELL * size) * (size - 1) / (CELL * size - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size))).astype(np.float32)
