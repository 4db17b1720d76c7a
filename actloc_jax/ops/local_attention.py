"""What DiffAct's layers do along time: a dilated convolution, and an attention over the same few frames.

Every frame sees `taps` frames, `dilation` frames apart. Arrays are [channels, batch, time] (see
`ops/channels_first.py`). The dilation may be a traced value, so that one compiled layer serves a stack whose dilations
double. The gradients are written out, because they are shifts again (what a frame gives to its taps, it receives from
the mirrored taps), where differentiating slices gives an update of an array of zeros for every tap.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from actloc_jax.ops.channels_first import dense, dense_gradients, sum_over_frames

OUTSIDE = 1e-6  # the weight of a frame outside the video, before the logarithm, as published


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Window:
    """The frames that a frame sees.

    Attributes:
        dilation: frames between neighbouring taps; may be traced.
        taps: their number, odd.
        margin: zeros on both sides of a padded array, at least `taps // 2 * dilation`.
    """

    dilation: ArrayLike
    taps: int = dataclasses.field(metadata={"static": True})
    margin: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, taps: int, dilation: int) -> Window:
        """A window with the smallest margin."""
        return cls(dilation, taps, taps // 2 * dilation)

    def pad(self, x: jax.Array) -> jax.Array:
        """[..., time] to [..., margin + time + margin], zeros (False) around."""
        zeros = jnp.zeros((*x.shape[:-1], self.margin), x.dtype)
        return jnp.concatenate([zeros, x, zeros], axis=-1)

    def tap(self, padded: jax.Array, index: int) -> jax.Array:
        """[..., time]: what tap `index` sees from each frame."""
        time = padded.shape[-1] - 2 * self.margin
        start = self.margin + (index - self.taps // 2) * self.dilation
        return jax.lax.dynamic_slice_in_dim(padded, start, time, axis=padded.ndim - 1)

    def seen(self, padded: jax.Array) -> list[jax.Array]:
        """What each tap sees of one array [..., padded time]: `taps` arrays [..., time]."""
        return [self.tap(padded, index) for index in range(self.taps)]

    def seen_of_each(self, padded: jax.Array) -> list[jax.Array]:
        """What each tap sees of its own part of [taps, ..., padded time]: `taps` arrays [..., time]."""
        return [self.tap(padded[index], index) for index in range(self.taps)]


class Shares(NamedTuple):
    """What is added to queries and keys that does not come from the layer's own input.

    Attributes:
        query, key: [channels] each; or [channels, batch, time], and [channels, batch, padded time] zero outside the
            video.
    """

    query: jax.Array
    key: jax.Array


class Branches(NamedTuple):
    """Sums over the window: [channels, batch, time], the same, and [batch, time] in 0..1; float32."""

    convolved: jax.Array
    attended: jax.Array
    mass: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def convolve_and_attend(
    kernel: jax.Array, x: jax.Array, shares: Shares, mask: jax.Array, window: Window, dtype: DTypeLike
) -> Branches:
    """Dilated convolution of `x`, and softmax-weighted sum of its values at the taps.

    Frames outside the video take part in the softmax with score 0 + log(1e-6), and are then dropped without
    renormalising, so that frames at the borders lose a little mass (`Finspire13/DiffAct:model.py`, AttLayer).

    Args:
        kernel: [channels, (taps + 3) * channels], side by side those of the taps, of queries, keys and values.
        x: [channels, batch, time] float32, zero outside the video.
        shares: added to queries and keys.
        mask: [batch, time] bool, True = frame of the video.
        window: the frames seen.
        dtype: to multiply matrices in.

    Returns:
        the convolution, the sum of values, and the mass of the weights (what a bias of the values is weighted by).
    """
    channels, _, time = x.shape
    # One product for everything, shifted afterwards. Short margins are cheaper to multiply than to copy.
    if 2 * window.margin <= time:
        projected = dense(kernel, window.pad(x), dtype)
    else:
        projected = window.pad(dense(kernel, x, dtype))
    parts = projected.reshape(window.taps + 3, channels, *projected.shape[1:])
    query, key, value = parts[window.taps :]
    query = jax.lax.slice_in_dim(query, window.margin, window.margin + time, axis=2)
    query, key = _complete(query, key, shares, mask, window)
    probabilities, inside = _softmax(query, key, mask, window)
    weights = probabilities * inside
    return Branches(sum(window.seen_of_each(parts)), _mix(weights, window.seen(value)), sum(weights))


_Inputs = tuple[jax.Array, jax.Array, Shares, jax.Array, Window]


def _forward(*inputs: Any) -> tuple[Branches, _Inputs]:
    return convolve_and_attend(*inputs), inputs[:-1]


def _backward(dtype: DTypeLike, inputs: _Inputs, to: Branches) -> tuple[jax.Array | Shares | None, ...]:
    """Queries, keys and values are computed again, which is cheaper than to keep them."""
    kernel, x, shares, mask, window = inputs
    query, key, value = jnp.split(dense(kernel[:, window.taps * len(x) :], x, dtype), 3)
    query, key = _complete(query, window.pad(key), shares, mask, window)
    value = window.pad(value)
    probabilities, inside = _softmax(query, key, mask, window)
    weights = probabilities * inside
    to_weights = (_dots(to.attended, window.seen(value)) + to.mass) * inside
    to_scores = probabilities * (to_weights - sum(probabilities * to_weights)) / math.sqrt(len(x))
    mirrored = lambda per_tap: window.seen_of_each(window.pad(per_tap[::-1]))  # noqa: E731
    to_query = _mix(to_scores, window.seen(key))
    to_key = jnp.where(mask, _mix(mirrored(to_scores), window.seen(window.pad(query))), 0)
    to_value = _mix(mirrored(weights), window.seen(window.pad(to.attended)))
    to_taps = window.seen(window.pad(to.convolved))[::-1]
    to_kernel, to_x = dense_gradients(kernel, x, jnp.concatenate([*to_taps, to_query, to_key, to_value]), dtype)
    if shares.key.ndim == 1:
        to_shares = Shares(sum_over_frames(to_query), sum_over_frames(to_key))
    else:
        to_shares = Shares(to_query, window.pad(to_key))
    return to_kernel, to_x, to_shares, None, None


convolve_and_attend.defvjp(_forward, _backward)


def _complete(
    query: jax.Array, key: jax.Array, shares: Shares, mask: jax.Array, window: Window
) -> tuple[jax.Array, jax.Array]:
    """Adds the shares to queries [channels, batch, time] and keys [channels, batch, padded time]."""
    if shares.key.ndim == 1:
        shares = Shares(shares.query[:, None, None], jnp.where(window.pad(mask), shares.key[:, None, None], 0))
    return query + shares.query, key + shares.key


def _softmax(query: jax.Array, key: jax.Array, mask: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
    """Probabilities of the taps, and 1 where a tap is a frame of the video; both [taps, batch, time]."""
    inside = jnp.stack(window.seen(window.pad(mask)))
    scores = _dots(query, window.seen(key)) / math.sqrt(query.shape[0])
    scores += jnp.where(inside, math.log(1 + OUTSIDE), math.log(OUTSIDE))
    exponentials = jnp.exp(scores - functools.reduce(jnp.maximum, scores))
    return exponentials / sum(exponentials), inside.astype(jnp.float32)


def _dots(x: jax.Array, others: list[jax.Array]) -> jax.Array:
    """[taps, batch, time]: sums over channels of `x` times each of the others.

    A product with ones, and sums tap by tap elsewhere: XLA's CPU backend reduces leading axes slowly.
    """
    products = jnp.stack([x * other for other in others], axis=1)
    return jnp.einsum("c,ckbt->kbt", jnp.ones(x.shape[0]), products, precision=jax.lax.Precision.HIGHEST)


def _mix(weights: Iterable[jax.Array], arrays: list[jax.Array]) -> jax.Array:
    """Sum of `arrays` [channels, batch, time], each times its weight [batch, time]."""
    return sum(weight * array for weight, array in zip(weights, arrays, strict=True))
