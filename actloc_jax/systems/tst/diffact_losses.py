"""DiffAct's training loss on a batch: encoder and decoder are trained together.

Liu et al. (arXiv 2303.17959, sections 3.2 to 3.4), `Finspire13/DiffAct:model.py`. Every loss is a mean over the frames
of a video, then over the videos of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.backbones.diffact import DiffActSizes
from actloc_jax.layers.functional import Network, Params
from actloc_jax.losses.asformer import log_probability_steps
from actloc_jax.ops import diffusion
from actloc_jax.training.state import Batch

LARGEST_STEP = 16.0  # squared change of a log probability beyond which the smoothing loss is constant
LOWEST_LOG = -100.0  # as in PyTorch's binary cross entropy
TINY = 1e-38

BOUNDARY_THRESHOLDS = {"boundary05-": 0.5, "boundary03-": 0.3}
HIDDEN_CLASSES = {"segment=1": 1, "segment=2": 2}
CONDITIONS = ("full", "zero", *BOUNDARY_THRESHOLDS, *HIDDEN_CLASSES)


class Draws(NamedTuple):
    """What a training step draws for every video.

    Attributes:
        time: [batch] int32, diffusion times.
        noise: [batch, time, classes] float32, standard normal.
        visible: [batch, time] bool, frames whose features condition the decoder.
    """

    time: jax.Array
    noise: jax.Array
    visible: jax.Array


def condition_mask(condition: str, batch: Batch, hidden: jax.Array) -> jax.Array:
    """Frames that a condition leaves visible (section 3.3 of the paper): all, none, those away from boundaries, or
    those of other classes.

    Args:
        condition: one of `CONDITIONS`.
        batch: `labels` [batch, time] int32 and `boundary` [batch, time].
        hidden: [batch, 2] int32, classes to hide; `segment=1` hides the first, `segment=2` both.

    Returns:
        [batch, time] bool.

    Raises:
        ValueError: an unknown condition.
    """
    labels = batch["labels"]
    if condition == "full":
        return jnp.ones(labels.shape, bool)
    if condition == "zero":
        return jnp.zeros(labels.shape, bool)
    if condition in BOUNDARY_THRESHOLDS:
        return batch["boundary"] < BOUNDARY_THRESHOLDS[condition]
    if condition in HIDDEN_CLASSES:
        hidden = hidden[:, : HIDDEN_CLASSES[condition]]
        return jnp.all(labels[:, :, None] != hidden[:, None, :], axis=-1)
    raise ValueError(f"Condition {condition!r} is unknown; use {', '.join(CONDITIONS)}.")


def draw(sizes: DiffActSizes, batch: Batch, key: jax.Array, conditions: Sequence[str]) -> Draws:
    """Draws time, noise and one of `conditions` (uniformly, repeated names weigh more) for every video.

    Args:
        sizes: of the network.
        batch: `labels` [batch, time] int32, `boundary` [batch, time] and `mask` [batch, time] bool.
        key: scalar typed PRNG key.
        conditions: names from `CONDITIONS`.
    """
    labels, mask = batch["labels"], batch["mask"]
    videos = labels.shape[0]
    time_key, noise_key, condition_key, class_key = jax.random.split(key, 4)
    classes = jnp.arange(sizes.num_classes)
    present = jnp.any((labels[:, :, None] == classes) & mask[:, :, None], axis=1)
    log_present = jnp.where(present, 0.0, -jnp.inf)
    hidden = jax.random.categorical(class_key, log_present[:, None, :], shape=(videos, 2))
    masks = {name: condition_mask(name, batch, hidden) for name in dict.fromkeys(conditions)}
    chosen = jax.random.randint(condition_key, (videos,), 0, len(conditions))
    stacked = jnp.stack([masks[name] for name in conditions], axis=1)
    return Draws(
        time=jax.random.randint(time_key, (videos,), 0, sizes.timesteps),
        noise=jax.random.normal(noise_key, (*labels.shape, sizes.num_classes)),
        visible=jnp.take_along_axis(stacked, chosen[:, None, None], axis=1)[:, 0],
    )


def diffact_loss(
    network: Network,
    params: Params,
    batch: Batch,
    draws: Draws,
    *,
    sizes: DiffActSizes,
    weights: Mapping[str, float],
    class_weights: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of encoder and decoder losses, and its parts.

    Args:
        network: a `DiffAct`.
        params: its parameters.
        batch: `features` [batch, time, input_dim], `labels` [batch, time] int32 (-1: no class), `boundary`
            [batch, time] in 0..1, `mask` [batch, time] bool, and optionally `soft_labels` [batch, time, classes], which
            replace labels and class weights in the cross entropies.
        draws: see `draw`.
        sizes: of the network.
        weights: of `encoder_ce`, `encoder_mse`, `decoder_ce`, `decoder_mse`, `decoder_boundary`.
        class_weights: [classes], of the cross entropies with hard labels.
        rngs: makes dropout active.

    Returns:
        scalar, and the parts by the names of `weights`.
    """
    mask, labels = batch["mask"], batch["labels"]
    events = jax.nn.one_hot(labels, sizes.num_classes)
    if "soft_labels" in batch:
        targets = batch["soft_labels"]
    else:
        targets = events if class_weights is None else events * class_weights
    x = network(params, batch["features"], mask, method="normalise_input")
    encoder_logits, features = network(params, x, mask, rngs=rngs, method="encode")
    diffused = diffusion.diffuse(events, draws.noise, draws.time, timesteps=sizes.timesteps, scale=sizes.scale)
    condition = jnp.where(draws.visible[:, :, None], features, 0)
    decoder_logits = network(params, condition, draws.time, diffused, mask, rngs=rngs, method="denoise")

    parts = {
        "encoder_ce": _cross_entropy(encoder_logits, targets, mask),
        "encoder_mse": _smoothing(encoder_logits, mask),
        "decoder_ce": _cross_entropy(decoder_logits, targets, mask),
        "decoder_mse": _smoothing(decoder_logits, mask),
        "decoder_boundary": _boundary_loss(decoder_logits, batch["boundary"], mask),
    }
    present = jnp.any(mask, axis=1)
    parts = {
        name: jnp.sum(jnp.where(present, losses, 0)) / jnp.maximum(jnp.sum(present), 1)
        for name, losses in parts.items()
    }
    return sum(weights[name] * part for name, part in parts.items()), parts


def _cross_entropy(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch] mean over frames, not divided by the weights in the targets."""
    losses = -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    return _mean(losses, mask)


def _smoothing(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch] truncated mean squared change of the log probabilities; the earlier frame is a constant."""
    return _mean(jnp.mean(jnp.minimum(log_probability_steps(logits), LARGEST_STEP), axis=-1), mask[:, 1:])


def _boundary_loss(logits: jax.Array, boundary: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch] binary cross entropy of how little two neighbouring frames agree, against the boundary sequence."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    agreement = jnp.sum(probabilities[:, 1:] * jax.lax.stop_gradient(probabilities[:, :-1]), axis=-1)
    change = 1 - agreement
    target = boundary[:, 1:]
    return _mean(-(target * _safe_log(change) + (1 - target) * _safe_log(1 - change)), mask[:, 1:])


def _safe_log(x: jax.Array) -> jax.Array:
    positive = x > TINY
    return jnp.where(positive, jnp.maximum(jnp.log(jnp.where(positive, x, 1)), LOWEST_LOG), LOWEST_LOG)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch] mean of [batch, time] over valid frames."""
    return jnp.sum(jnp.where(mask, values, 0), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)
