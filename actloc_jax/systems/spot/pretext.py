"""Stage 1 of SPOT: what is learnt from features alone, without labels.

Two copies of every video go in, one of them with values dropped. The network reconstructs them, finds the random
foregrounds that are cut out of them, and tells videos with swapped halves. Paper section 3.4;
source: `sauradip/SPOT:spot_train.py` (`pretrain`, `TemporalCrop`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.layers.dropout import drop, keep_masks
from actloc_jax.layers.functional import Network
from actloc_jax.systems.spot.losses import DetectionSettings, mask_loss, order_loss, reconstruction_loss
from actloc_jax.systems.spot.perturbations import swapped_halves

SHORTEST = 5  # snippets of a foreground; a shorter one grows by as many on both sides
LATEST = 6  # snippets before the end, where a foreground begins at the latest


@dataclasses.dataclass(frozen=True)
class PretextSettings:
    """How the first stage trains.

    Attributes:
        detection: of the mask loss.
        input_dropout: rate at which values of the second copy are dropped.
        foregrounds: cut out of every video.
        reconstruction_weight, order_weight: of these losses; the mask loss has weight 1.
        masks_of_whole_input: quirk: the masks that should find the foregrounds are those of the whole video, from which
            they cannot be known. False: those of the video with all but the foregrounds set to zero.
        reconstructs_normalised: quirk: what should be reconstructed is scaled to 0..1, though the input is not, and the
            order of halves is told from scaled videos. False: videos are left as they are. Foregrounds are always cut
            out of the scaled ones, in which zero is the smallest value.
    """

    detection: DetectionSettings = dataclasses.field(default_factory=DetectionSettings)
    input_dropout: float = 0.1
    foregrounds: int = 2
    reconstruction_weight: float = 2.0
    order_weight: float = 1.0
    masks_of_whole_input: bool = True
    reconstructs_normalised: bool = True


class PretextDraws(NamedTuple):
    """What is random in a step besides the network's own dropout.

    Attributes:
        keep: [batch, time, channels] bool, values of the second copy that stay; None: all.
        spans: [2 * batch, foregrounds, 2] int32, first snippet and the one behind the last.
        swapped: [4 * batch] bool, the videos whose halves change place: half of the real ones.
    """

    keep: jax.Array | None
    spans: jax.Array
    swapped: jax.Array


class PretextLoss(NamedTuple):
    """Scalars: `total` is the weighted sum of the others."""

    total: jax.Array
    masks: jax.Array
    reconstruction: jax.Array
    order: jax.Array


def draw(
    key: jax.Array, shape: tuple[int, int, int], present: jax.Array, settings: PretextSettings, *, dropout: bool = True
) -> PretextDraws:
    """Draws for a batch.

    Args:
        key: scalar typed PRNG key.
        shape: of the features, (batch, time, channels).
        present: [batch] bool, False for rows that only fill the batch.
        settings: rates and numbers.
        dropout: whether values of the second copy are dropped.
    """
    batch, time, _ = shape
    of_spans, of_order, of_input = jax.random.split(key, 3)
    (keep,) = keep_masks(nnx.Rngs(dropout=of_input) if dropout else None, settings.input_dropout, 1, shape)
    drawn = _span_draws(of_spans, (2 * batch, settings.foregrounds), time)
    return PretextDraws(keep, foreground_spans(drawn, time), _random_half(of_order, jnp.tile(present, 4)))


def is_trained(path: str, *, order_ignores_transformer: bool = True) -> bool:
    """Whether the first stage changes the parameter at a "/"-joined path of `Spot`; the classifier waits for labels."""
    if path.startswith("clip_trans/"):
        return not order_ignores_transformer
    return not path.startswith(("classifier/", "embedding/positions/"))


def pretext_loss(
    net: Network,
    params: Any,
    features: jax.Array,
    present: jax.Array,
    draws: PretextDraws,
    settings: PretextSettings,
    *,
    rngs: nnx.Rngs | None = None,
) -> PretextLoss:
    """The loss of the first stage.

    Args:
        net: a `Spot`.
        params: its parameters; the classifier's have no part in the loss.
        features: [batch, time, channels].
        present: [batch] bool, False for rows that only fill the batch.
        draws: of `draw`.
        settings: weights and quirks.
        rngs: makes the network's dropout active.
    """
    time = features.shape[1]
    videos = jnp.concatenate([features, drop(features, draws.keep, settings.input_dropout)])
    present = jnp.tile(present, 2)
    scaled = scaled_to_unit(videos)
    cut = only_spans(scaled, draws.spans)
    output = net(params, videos, rngs=rngs)

    found = output.masks if settings.masks_of_whole_input else net(params, cut, rngs=rngs).masks
    every_snippet = jnp.broadcast_to(present[:, None], (len(present), time))
    masks = mask_loss(found, span_masks(draws.spans, time), every_snippet, settings.detection)

    original = scaled if settings.reconstructs_normalised else videos
    reconstruction = reconstruction_loss(output.features, original, present)

    both = jnp.concatenate([original, cut])
    in_order = jnp.where(draws.swapped[:, None, None], swapped_halves(both), both)
    logits = net(params, in_order, rngs=rngs, method="order")
    order = order_loss(logits, draws.swapped, jnp.tile(present, 2))
    total = masks + settings.reconstruction_weight * reconstruction + settings.order_weight * order
    return PretextLoss(total, masks, reconstruction, order)


def scaled_to_unit(features: jax.Array) -> jax.Array:
    """Every channel of every video [batch, time, channels] scaled to 0..1 over time; a constant one becomes 0."""
    least, most = features.min(axis=1, keepdims=True), features.max(axis=1, keepdims=True)
    span = most - least
    return (features - least) / jnp.where(span > 0, span, 1)


def foreground_spans(drawn: jax.Array, time: int) -> jax.Array:
    """From draws to foregrounds.

    Args:
        drawn: [..., 2] int, a start in [0, time - 6) and an end in [start, time).
        time: snippets.

    Returns:
        [..., 2] int, first snippet and the one behind the last, inside [0, time - 1].
    """
    start, end = drawn[..., 0], drawn[..., 1]
    short = end - start < SHORTEST
    start, end = jnp.where(short, start - SHORTEST, start), jnp.where(short, end + SHORTEST, end)
    return jnp.stack([jnp.maximum(start, 0), jnp.minimum(end, time - 1)], axis=-1)


def only_spans(features: jax.Array, spans: jax.Array) -> jax.Array:
    """[batch, time, channels] with zeros outside the spans [batch, number, 2]."""
    inside = _inside(spans, features.shape[1]).any(axis=1)
    return jnp.where(inside[:, :, None], features, 0)


def span_masks(spans: jax.Array, time: int) -> jax.Array:
    """The mask of every snippet: the spans [batch, number, 2] that it lies in, [batch, time, snippet] float32."""
    inside = _inside(spans, time)
    return (inside[:, :, :, None] & inside[:, :, None, :]).any(axis=1).astype(jnp.float32)


def _inside(spans: jax.Array, time: int) -> jax.Array:
    """Which snippets a span holds: [batch, number, time] bool."""
    snippet = jnp.arange(time)
    return (spans[:, :, :1] <= snippet) & (snippet < spans[:, :, 1:])


def _span_draws(key: jax.Array, shape: tuple[int, ...], time: int) -> jax.Array:
    """Start and end as `foreground_spans` takes them: [*shape, 2] int32."""
    of_start, of_end = jax.random.split(key)
    start = jax.random.randint(of_start, shape, 0, time - LATEST)
    return jnp.stack([start, jax.random.randint(of_end, shape, start, time)], axis=-1)


def _random_half(key: jax.Array, present: jax.Array) -> jax.Array:
    """[rows] bool, True on half (rounded down) of the rows that are `present`, chosen at random."""
    order = jnp.where(present, jax.random.uniform(key, present.shape), 2.0)
    return (jnp.argsort(jnp.argsort(order)) < present.sum() // 2) & present
