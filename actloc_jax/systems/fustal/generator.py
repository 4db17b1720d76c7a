"""Stage 1 of FuSTAL, the generator: class activations of snippets, and the snippets that its contrast compares.

Source: `fqhank/FuSTAL:CrossVideo-Generator`, after CoLA (Zhang et al., CVPR 2021, arXiv 2103.16392). It learns which
snippets speak for a class from video labels only. Easy snippets are those with the most (action) or the least
(background) activation; hard ones lie just inside and just outside the borders of what is active.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop, keep_masks
from actloc_jax.layers.masked import Frames, MaskedConv
from actloc_jax.layers.temporal import LinearMap, pytorch_uniform
from actloc_jax.ops.morphology import dilated, eroded
from actloc_jax.systems.fustal.video_level import top_mean


@dataclasses.dataclass(frozen=True)
class Mining:
    """How snippets are chosen.

    Attributes:
        easy_ratio: one in so many snippets is easy; also one in so many speaks for a video's class.
        hard_ratio: one in so many is hard.
        narrow: width of the inner and outer border's near side, in snippets.
        wide: width of their far side.
        dropout: rate at which snippets are hidden from the choice of easy ones in training.
    """

    easy_ratio: int = 5
    hard_ratio: int = 20
    narrow: int = 3
    wide: int = 6
    dropout: float = 0.6


class GeneratorOutput(NamedTuple):
    """What the generator says of every snippet.

    Attributes:
        embeddings: [batch, time, width], not negative; zero on padding, as the others.
        activations: [batch, time, classes] float32, not negative (the class activation sequence).
        actionness: [batch, time] float32, their sum over classes.
    """

    embeddings: jax.Array
    activations: jax.Array
    actionness: jax.Array


class Generator(nnx.Module):
    """A convolution over three snippets and a linear map to classes, each with a ReLU.

    Attributes:
        f_embed: the convolution.
        f_cls: kernel [width, classes], no bias.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        *,
        width: int = 2048,
        dropout: float = 0.7,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        bias_init = pytorch_uniform(3 * input_dim)
        self.f_embed = MaskedConv(input_dim, width, kernel_size=3, bias_init=bias_init, **options)
        self.f_cls = LinearMap(width, num_classes, **options)
        self.dropout = dropout

    def __call__(self, x: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None) -> GeneratorOutput:
        """Runs the network.

        Args:
            x: [batch, time, input_dim] features of snippets.
            mask: [batch, time] bool, True on snippets of the video; activations are zero elsewhere.
            rngs: makes dropout active; None for evaluation.
        """
        embeddings = nnx.relu(self.f_embed(x, Frames(mask, seen=mask)))
        (keep,) = keep_masks(rngs, self.dropout, 1, embeddings.shape)
        activations = nnx.relu(self.f_cls(drop(embeddings, keep, self.dropout))).astype(jnp.float32)
        activations = jnp.where(mask[:, :, None], activations, 0)
        return GeneratorOutput(embeddings, activations, activations.sum(axis=2))


def video_scores(activations: jax.Array, mask: jax.Array, ratio: int = 5) -> jax.Array:
    """Probability of each class for each video: softmax of the mean of its largest activations, [batch, classes].

    Args:
        activations: [batch, time, classes].
        mask: [batch, time] bool.
        ratio: one in so many snippets counts.
    """
    return jax.nn.softmax(top_mean(activations, mask.sum(axis=1) // ratio), axis=1)


class Snippets(NamedTuple):
    """Indices of snippets, int32 [batch, number]: easy and hard ones of action and of background."""

    easy_action: jax.Array
    easy_background: jax.Array
    hard_action: jax.Array
    hard_background: jax.Array


def mine(actionness: jax.Array, mining: Mining, keep: jax.Array | None = None) -> Snippets:
    """Chooses snippets; no gradient flows through the choice.

    Args:
        actionness: [batch, time], all of it valid.
        mining: how many, and how wide the borders are.
        keep: [batch, time] bool, snippets that may be chosen as easy ones; None: all.
    """
    actionness = jax.lax.stop_gradient(actionness)
    time = actionness.shape[1]
    return Snippets(
        *easy_snippets(actionness, time // mining.easy_ratio, keep, mining.dropout),
        *hard_snippets(actionness, time // mining.hard_ratio, mining.narrow, mining.wide),
    )


def gather(embeddings: jax.Array, snippets: Snippets) -> Snippets:
    """The embeddings [batch, number, width] of chosen snippets, in place of their indices."""
    return Snippets(*(jnp.take_along_axis(embeddings, index[:, :, None], axis=1) for index in snippets))


def easy_snippets(
    actionness: jax.Array, number: int, keep: jax.Array | None = None, rate: float = 0.6
) -> tuple[jax.Array, jax.Array]:
    """Indices [batch, number] of the most and of the least active snippets, in this order.

    Hidden snippets count as zero and are chosen, the first ones first, where too few others are above zero.
    """
    inactivity = actionness.max(axis=1, keepdims=True) - actionness
    return _largest(drop(actionness, keep, rate), number), _largest(drop(inactivity, keep, rate), number)


def hard_snippets(actionness: jax.Array, number: int, narrow: int, wide: int) -> tuple[jax.Array, jax.Array]:
    """Indices [batch, number] of the most active snippets inside and outside the borders of what is active.

    Active are snippets above the video's median. Where a border has fewer snippets, the first ones of the video follow.
    """
    active = actionness > jnp.median(actionness, axis=1, keepdims=True)
    inner = eroded(active, narrow) & ~eroded(active, wide)
    outer = dilated(active, wide) & ~dilated(active, narrow)
    return _largest(jnp.where(inner, actionness, 0), number), _largest(jnp.where(outer, actionness, 0), number)


def _largest(scores: jax.Array, number: int) -> jax.Array:
    """Indices of the largest scores of each row, largest first, of equal ones the first: [batch, number]."""
    return jax.lax.top_k(scores, number)[1]
