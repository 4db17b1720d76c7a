"""Refinement of boundaries by contrast: which snippets are compared, and the loss.

Easy snippets are those with the largest class or background logits; hard ones lie just inside and just outside the
border of the predicted masks. Hard ones are pulled to the easy ones of their kind and away from the other kind's.
Paper section 3.3; source: `sauradip/SPOT:utils/contrastive_refinement.py`.

The published code looks indices of snippets up along the channels of the features (`compares_channels`).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.layers.dropout import drop
from actloc_jax.ops.morphology import dilated, eroded
from actloc_jax.ops.order_statistics import lower_median
from actloc_jax.systems.spot.losses import mean_of
from actloc_jax.systems.spot.network import SpotOutput

SMALLEST_NORM = 1e-12


@dataclasses.dataclass(frozen=True)
class MiningSettings:
    """How snippets are chosen and compared.

    Attributes:
        easy: easy snippets of each kind.
        hard: hard ones.
        narrow: snippets from the border of a mask to where hard ones begin.
        wide: to where they end.
        hidden: rate at which snippets are hidden from the choice of easy ones.
        temperature: of the contrast.
        compares_channels: quirk: the index of a snippet is taken as that of a channel, so that channels are compared
            over time. False: snippets are compared over channels, and the hard ones of a video are those with the
            largest scores summed over its masks.
        hidden_score_zero: quirk: hidden snippets have score 0, which may be the largest. False: they are not chosen.
    """

    easy: int = 10
    hard: int = 20
    narrow: int = 4
    wide: int = 8
    hidden: float = 0.3
    temperature: float = 0.07
    compares_channels: bool = True
    hidden_score_zero: bool = True

    def check(self, time: int, channels: int) -> None:
        """Raises ValueError if videos of `time` snippets of `channels` are too short or too narrow."""
        if time < max(self.easy, self.hard):
            raise ValueError(f"{time} snippets are too few to choose {self.easy} easy and {self.hard} hard ones")
        if self.compares_channels and channels < time:
            raise ValueError(
                f"compares_channels takes the index of one of {time} snippets as that of a channel, but there are "
                f"{channels} channels; set it to False"
            )


class Pairs(NamedTuple):
    """What is compared: easy ones [batch, easy, width], and the mean of the hard ones [batch, width]."""

    easy_action: jax.Array
    easy_background: jax.Array
    hard_action: jax.Array
    hard_background: jax.Array


def boundary_contrast(
    output: SpotOutput, present: jax.Array, settings: MiningSettings, keep: jax.Array | None = None
) -> jax.Array:
    """The loss of a batch; gradients reach the features only.

    The masks' threshold is one for all videos, their median; under a sharded batch it is that of the global batch.

    Args:
        output: of the network.
        present: [batch] bool, False for rows that only fill the batch.
        settings: see there.
        keep: [batch, time] bool, snippets that may be chosen as easy ones; None: all.

    Returns:
        Scalar float32.

    Raises:
        ValueError: the videos are too short or too narrow.
    """
    settings.check(*output.features.shape[1:])
    logits, masks = jax.lax.stop_gradient((output.logits, output.masks))
    easy = easy_snippets(logits, settings, keep)
    hard = hard_snippets(*border_scores(masks, present, settings), settings)
    pairs = gather(output.features, easy, hard, settings)
    action = info_nce(pairs.hard_action, pairs.easy_action.mean(axis=1), pairs.easy_background, settings.temperature)
    background = info_nce(
        pairs.hard_background, pairs.easy_background.mean(axis=1), pairs.easy_action, settings.temperature
    )
    return mean_of(action + background, present)


def video_class(logits: jax.Array) -> jax.Array:
    """The class that most snippets look like, background left out; of equally many the first: [batch] int32."""
    votes = jnp.argmax(logits[:, :, :-1], axis=2)
    return jax.nn.one_hot(votes, logits.shape[2] - 1).sum(axis=1).argmax(axis=1).astype(jnp.int32)


def easy_snippets(
    logits: jax.Array, settings: MiningSettings, keep: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Snippets with the largest logits of the video's class and of background, largest first: int32 [batch, easy]."""
    action = jnp.take_along_axis(logits, video_class(logits)[:, None, None], axis=2)[:, :, 0]
    chosen = []
    for scores in (action, logits[:, :, -1]):
        if settings.hidden_score_zero or keep is None:
            scores = drop(scores, keep, settings.hidden)
        else:
            scores = jnp.where(keep, scores, -jnp.inf)
        chosen.append(_largest(scores, settings.easy))
    return chosen[0], chosen[1]


def border_scores(masks: jax.Array, present: jax.Array, settings: MiningSettings) -> tuple[jax.Array, jax.Array]:
    """The masks just inside and just outside their borders, 0 elsewhere: [batch, time, snippet] each.

    Args:
        masks: [batch, time, snippet].
        present: [batch] bool, videos that share the threshold.
        settings: how wide a border is.
    """
    active = masks >= lower_median(masks, present[:, None, None])
    inner = eroded_square(active, settings.narrow) & ~eroded_square(active, settings.wide)
    outer = dilated_square(active, settings.wide) & ~dilated_square(active, settings.narrow)
    return jnp.where(inner, masks, 0), jnp.where(outer, masks, 0)


def hard_snippets(inner: jax.Array, outer: jax.Array, settings: MiningSettings) -> tuple[jax.Array, jax.Array]:
    """The snippets with the largest scores, largest first, of equal ones the first.

    Args:
        inner, outer: [batch, time, snippet] as `border_scores` gives.
        settings: how many.

    Returns:
        For action and background int32 [batch, time, hard] if channels are compared (for every time, which snippets
        have it on the border of their mask), else [batch, hard].
    """
    if not settings.compares_channels:
        inner, outer = inner.sum(axis=2), outer.sum(axis=2)
    return _largest(inner, settings.hard), _largest(outer, settings.hard)


def gather(
    features: jax.Array,
    easy: tuple[jax.Array, jax.Array],
    hard: tuple[jax.Array, jax.Array],
    settings: MiningSettings,
) -> Pairs:
    """The features [batch, time, channels] of chosen snippets, or channels; indices as `*_snippets` give them."""
    if settings.compares_channels:
        of_easy = (jnp.take_along_axis(features, index[:, None, :], axis=2).swapaxes(1, 2) for index in easy)
        of_hard = (jnp.take_along_axis(features, index, axis=2).mean(axis=2) for index in hard)
    else:
        of_easy = (jnp.take_along_axis(features, index[:, :, None], axis=1) for index in easy)
        of_hard = (jnp.take_along_axis(features, index[:, :, None], axis=1).mean(axis=1) for index in hard)
    return Pairs(*of_easy, *of_hard)


def info_nce(query: jax.Array, positive: jax.Array, negatives: jax.Array, temperature: float) -> jax.Array:
    """How hard it is to tell the positive from the negatives by their cosine with the query.

    Args:
        query, positive: [batch, width].
        negatives: [batch, number, width].
        temperature: that cosines are divided by.

    Returns:
        [batch] float32.
    """
    query, positive, negatives = (_unit(each.astype(jnp.float32)) for each in (query, positive, negatives))
    alike = jnp.sum(query * positive, axis=1, keepdims=True)
    different = jnp.einsum("bw,bnw->bn", query, negatives)
    logits = jnp.concatenate([alike, different], axis=1) / temperature
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0]


def eroded_square(active: jax.Array, width: int) -> jax.Array:
    """Entries of [batch, time, snippet] bool around which a square of this width is marked."""
    return eroded(eroded(active, width, axis=1), width, axis=2)


def dilated_square(active: jax.Array, width: int) -> jax.Array:
    """Entries of [batch, time, snippet] bool around which something is marked in the same square."""
    return dilated(dilated(active, width, axis=1, mirrored=False), width, axis=2, mirrored=False)


def _largest(scores: jax.Array, number: int) -> jax.Array:
    """Indices of the largest scores along the last axis, largest first, of equal ones the first."""
    return jax.lax.top_k(scores, number)[1]


def _unit(x: jax.Array) -> jax.Array:
    """The last axis scaled to length 1; a zero vector stays, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), SMALLEST_NORM**2))
