"""Losses of predicted against true segments, [..., 2] start and end to [...] (`vedatad/criteria/losses/iou_loss.py`).

THUMOS14 is trained with `diou_loss`; the others are the alternatives of the published code.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from actloc_jax.ops import iou

EPSILON = 1e-6
BOUNDED_BETA = 0.2
BOUNDED_EPSILON = 1e-3


def iou_loss(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """-log of the overlap, which counts as at least `EPSILON`; [..., 2] to [...]."""
    return -jnp.log(jnp.maximum(iou.FLOORED_TIOU(predicted, true), EPSILON))


def bounded_iou_loss(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """Tychsen-Smith and Petersson, CVPR 2018: how much the centre and the length alone may cost, the sum of both.

    [..., 2] to [...].
    """
    return bounded_iou_parts(predicted, true).sum(axis=-1)


def bounded_iou_parts(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """The parts of `bounded_iou_loss` for centre and length, [..., 2]."""
    shift = _centre(true) - _centre(predicted)
    apart = shift * jnp.sign(shift)  # |shift| with gradient 0 at 0, where JAX's has 1
    length, true_length = _length(predicted), _length(true)
    centre_overlap = (true_length - 2 * apart) / (true_length + 2 * apart + BOUNDED_EPSILON)
    length_overlap = jnp.minimum(true_length / (length + BOUNDED_EPSILON), length / (true_length + BOUNDED_EPSILON))
    loss = 1 - jnp.stack([jnp.maximum(centre_overlap, 0), length_overlap], axis=-1)
    return jnp.where(loss < BOUNDED_BETA, 0.5 * loss * loss / BOUNDED_BETA, loss - 0.5 * BOUNDED_BETA)


def giou_loss(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """Rezatofighi et al., CVPR 2019: 1 - overlap + the share of the hull that neither covers; [..., 2] to [...]."""
    ratio, union, hull = _parts(predicted, true)
    hull = hull + EPSILON
    return 1 - ratio + (hull - union) / hull


def diou_loss(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """Zheng et al., AAAI 2020: 1 - overlap + the squared distance of the centres in units of the hull.

    [..., 2] to [...].
    """
    ratio, _, hull = _parts(predicted, true)
    return 1 - ratio + jnp.square(_centre(true) - _centre(predicted)) / (jnp.square(hull) + EPSILON)


OVERLAP_LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "iou": iou_loss,
    "bounded_iou": bounded_iou_loss,
    "giou": giou_loss,
    "diou": diou_loss,
}


def _parts(predicted: jax.Array, true: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Overlap, union and hull."""
    start, end = jnp.maximum(predicted[..., 0], true[..., 0]), jnp.minimum(predicted[..., 1], true[..., 1])
    shared = _not_negative(end - start)
    union = _length(predicted) + _length(true) - shared + EPSILON
    outer = jnp.maximum(predicted[..., 1], true[..., 1]) - jnp.minimum(predicted[..., 0], true[..., 0])
    return shared / union, union, _not_negative(outer)


def _not_negative(x: jax.Array) -> jax.Array:
    """max(x, 0) with gradient 1 at 0, as PyTorch's clamp; JAX's maximum has one half."""
    return jnp.where(x >= 0, x, 0)


def _centre(segments: jax.Array) -> jax.Array:
    return 0.5 * (segments[..., 0] + segments[..., 1])


def _length(segments: jax.Array) -> jax.Array:
    return segments[..., 1] - segments[..., 0]
