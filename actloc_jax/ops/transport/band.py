"""Sums over a window of time, in time linear in the frames: the structure matrix Cv of ASOT and its ott geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from ott.geometry import geometry

BLOCK = 32


def prefix_sums(x: jax.Array) -> jax.Array:
    """Inclusive sums along the last axis of [..., time].

    Blocks are summed by a small triangular matrix product and their totals by recursion: on CPU several times faster
    than a scan, and rounding grows with the depth instead of with the length.
    """
    length = x.shape[-1]
    if length <= BLOCK:
        return _product_with_triangle(x)
    blocks = -(-length // BLOCK)
    padded = _pad_time(x, 0, blocks * BLOCK - length)
    within = _product_with_triangle(padded.reshape(*x.shape[:-1], blocks, BLOCK))
    totals = within[..., -1]
    before = prefix_sums(totals) - totals
    return (within + before[..., None]).reshape(*x.shape[:-1], blocks * BLOCK)[..., :length]


def _product_with_triangle(x: jax.Array) -> jax.Array:
    """Sums along a short last axis; in full precision, which matrix units leave out unless they are asked for it."""
    length = x.shape[-1]
    return jnp.matmul(x, jnp.triu(jnp.ones((length, length), x.dtype)), precision=lax.Precision.HIGHEST)


def band_product(x: jax.Array, half_window: int | jax.Array, largest: int) -> jax.Array:
    """The sum over the other frames within `half_window`: y[i] = sum of x[j] over 0 < |i - j| <= half_window.

    Args:
        x: [batch, ..., time], 0 outside the videos.
        half_window: one for all videos, static, which is about twice as fast; or [batch] int32, at most `largest`.
            With 0 the result is 0.
        largest: static bound of a traced half window, which the arrays are padded by.
    """
    if isinstance(half_window, int):
        return _sum_of_doubled_windows(x, half_window) - x
    time = x.shape[-1]
    largest = min(largest, time)
    if largest == 0:
        return jnp.zeros_like(x)
    sums = prefix_sums(_pad_time(x, largest + 1, largest))

    def window(sums: jax.Array, half: jax.Array) -> jax.Array:
        upper = lax.dynamic_slice_in_dim(sums, largest + 1 + half, time, axis=-1)
        return upper - lax.dynamic_slice_in_dim(sums, largest - half, time, axis=-1)

    total = jax.vmap(window)(sums, jnp.minimum(half_window, time))
    return jnp.where(_rowwise(half_window > 0, x.ndim), total - x, 0)


def _sum_of_doubled_windows(x: jax.Array, half_window: int) -> jax.Array:
    """The sum over 2 * half_window + 1 frames around each: windows of 1, 2, 4, ... frames, joined by its binary digits.

    No differences of large sums are taken, and on CPU it takes half of the time of prefix sums.
    """
    time = x.shape[-1]
    half_window = min(half_window, time)
    doubled = _pad_time(x, half_window, half_window)
    width, begin, rest = 1, 0, 2 * half_window + 1
    total = jnp.zeros_like(x)
    while rest:
        if rest & 1:
            total += doubled[..., begin : begin + time]
            begin += width
        rest >>= 1
        if rest:
            doubled = doubled[..., :-width] + doubled[..., width:]
            width *= 2
    return total


def _pad_time(x: jax.Array, before: int, after: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])


def _rowwise(values: jax.Array, ndim: int) -> jax.Array:
    return values.reshape(-1, *[1] * (ndim - 1))


@jax.tree_util.register_pytree_node_class
class BandGeometry(geometry.Geometry):
    """weight where 0 < |i - j| <= half_window and 0 elsewhere, as a geometry of ott that is never a matrix.

    Args:
        frames: number of points; static.
        half_window: int32 scalar, may be traced.
        largest: static bound of `half_window`.
        weight: scalar.
    """

    def __init__(self, frames: int, half_window: jax.Array, largest: int, weight: jax.Array) -> None:
        super().__init__(cost_matrix=None, kernel_matrix=None)
        self.frames, self.largest = frames, largest
        self.half_window, self.weight = half_window, weight

    @property
    def cost_matrix(self) -> jax.Array:
        """Refused: a matrix [frames, frames] is what this class is there to avoid."""
        raise TypeError("BandGeometry is applied by prefix sums and has no matrix")

    @property
    def shape(self) -> tuple[int, int]:
        """Frames x frames."""
        return (self.frames, self.frames)

    @property
    def dtype(self) -> Any:
        """float32."""
        return jnp.float32

    @property
    def is_symmetric(self) -> bool:
        """True."""
        return True

    def apply_cost(
        self,
        arr: jax.Array,
        axis: int = 0,
        fn: Callable[[jax.Array], jax.Array] | None = None,
        is_linear: bool = False,
    ) -> jax.Array:
        """The product with `arr` [time] or [time, columns]; symmetric, so that `axis` does not matter.

        Raises:
            TypeError: `fn` is not linear; it would need every entry of the matrix.
        """
        del axis
        if fn is not None and not is_linear:
            raise TypeError("BandGeometry applies only linear functions of its entries")
        columns = jnp.reshape(arr, (self.frames, -1)).T[None]
        product = band_product(columns, self.half_window[None], self.largest)[0].T
        product = self.weight * jnp.reshape(product, arr.shape)
        return product if fn is None else fn(product)

    def tree_flatten(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Half width and weight are traced, sizes are static."""
        return (self.half_window, self.weight), {"frames": self.frames, "largest": self.largest}

    @classmethod
    def tree_unflatten(cls, aux_data: dict[str, Any], children: tuple[Any, ...]) -> BandGeometry:
        """The inverse of `tree_flatten`."""
        half_window, weight = children
        return cls(aux_data["frames"], half_window, aux_data["largest"], weight)
