"""Perturbations of features along time, [batch, time, channels] to the same shape.

Source: `sauradip/SPOT:spot_model.py` (`TemporalShift_random`), `spot_lib/augmentations.py`, `spot_train.py`. In the
published training none of them reaches the loss; here the student of `finetune.py` can see one of `VIEWS`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from actloc_jax.layers.dropout import drop


def shifted_channels(x: jax.Array, back: jax.Array, ahead: jax.Array) -> jax.Array:
    """Moves some channels by one step, zeros coming in (Lin et al., temporal shift, ICCV 2019).

    Args:
        x: [batch, time, channels].
        back: [channels] bool, channels that show the next step.
        ahead: [channels] bool, channels that show the previous step.
    """
    later = jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
    earlier = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jnp.where(back, later, jnp.where(ahead, earlier, x))


def random_shift(key: jax.Array, x: jax.Array, divisor: int = 64) -> jax.Array:
    """Moves one in `divisor` channels of [batch, time, channels] back and as many ahead, the same in all videos."""
    rank, number = jax.random.permutation(key, x.shape[2]), x.shape[2] // divisor
    return shifted_channels(x, rank < number, (rank >= number) & (rank < 2 * number))


def fixed_shift(x: jax.Array, divisor: int = 8, streams: int = 2) -> jax.Array:
    """Moves the first 1 / `divisor` of every stream's channels back and the next ahead, in [batch, time, channels].

    As published, a slip in the number of channels moves all of them back; this is what was meant.
    """
    width = x.shape[2] // streams
    place, number = jnp.arange(x.shape[2]) % width, width // divisor
    return shifted_channels(x, place < number, (place >= number) & (place < 2 * number))


def reversed_time(x: jax.Array) -> jax.Array:
    """The last step of [batch, time, channels] first."""
    return x[:, ::-1]


def one_half(x: jax.Array, first: jax.Array | bool) -> jax.Array:
    """Zeros in the second half of [batch, time, channels], or in the first half where `first`, a scalar, is False."""
    time = x.shape[1]
    return jnp.where(((jnp.arange(time) < time // 2) == first)[:, None], x, 0)


def cut_out(x: jax.Array, lost: jax.Array | None = None) -> jax.Array:
    """Steps that are `lost` [time] bool repeat the last one that is not; the first never is. None: all others are."""
    place = jnp.arange(x.shape[1])
    lost = place > 0 if lost is None else lost & (place > 0)
    return jnp.take(x, jax.lax.cummax(jnp.where(lost, 0, place)), axis=1)


def one_of_three(key: jax.Array, x: jax.Array) -> jax.Array:
    """As it is (1 in 4), one half of it (1 in 4) or its first step only (1 in 2), the same for all videos.

    [batch, time, channels] to the same shape.
    """
    of_choice, of_half = jax.random.split(key)
    choice = jax.random.uniform(of_choice)
    halved = one_half(x, jax.random.uniform(of_half) < 0.5)
    return jnp.where(choice < 0.25, x, jnp.where(choice < 0.5, halved, cut_out(x)))


def without_channels(key: jax.Array, x: jax.Array, rate: float = 0.2) -> jax.Array:
    """Drops whole channels of every video of [batch, time, channels]; what stays is scaled so that the mean does."""
    keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, x.shape[2]))
    return drop(x, jnp.broadcast_to(keep, x.shape), rate)


def without_steps(key: jax.Array, x: jax.Array, rate: float = 0.2) -> jax.Array:
    """Drops whole steps of every video of [batch, time, channels], likewise."""
    keep = jax.random.bernoulli(key, 1 - rate, (*x.shape[:2], 1))
    return drop(x, jnp.broadcast_to(keep, x.shape), rate)


def swapped_halves(x: jax.Array) -> jax.Array:
    """The second half of [batch, time, channels] first."""
    half = x.shape[1] // 2
    return jnp.concatenate([x[:, half:], x[:, :half]], axis=1)


VIEWS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "plain": lambda key, x: x,
    "shift": random_shift,
    "fixed shift": lambda key, x: fixed_shift(x),
    "one of three": one_of_three,
    "without channels": without_channels,
    "without steps": without_steps,
    "shift without channels": lambda key, x: without_channels(
        jax.random.fold_in(key, 1), random_shift(jax.random.fold_in(key, 0), x)
    ),
}
"""`(key, features) -> features` that leave every snippet where it is, so that labels of the plain video stay true."""


def view(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`VIEWS[name]`. Raises ValueError for a name that the table does not hold."""
    if name not in VIEWS:
        raise ValueError(f"unknown view {name!r} of unlabelled videos; known: {', '.join(VIEWS)}")
    return VIEWS[name]
