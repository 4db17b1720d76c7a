"""Losses of ASRF: classes under class weights, a smoothing term that spares visible changes, and boundaries.

After `baiyang4/TST-action-segmentation:asformer_tst/libs/loss_fn` (ASRF: arXiv 2007.06866, section 3.2). Every loss is
given per video, [batch] float32, as the original computes it on batches of one. Frames labelled -1, padding among them,
are taken out of the sequence: the frames on either side of them become neighbours.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

IGNORE = -1
SoftmaxAxis = Literal["time", "classes"]


def weighted_cross_entropy(logits: jax.Array, labels: jax.Array, class_weights: jax.Array | None = None) -> jax.Array:
    """Weighted mean of the cross entropy, divided by the sum of the weights of the frames.

    Args:
        logits: [batch, time, classes].
        labels: [batch, time] int, -1 where ignored.
        class_weights: [classes]; None for equal weights.

    Returns:
        [batch] float32; 0 for a video without labelled frames.
    """
    known = labels != IGNORE
    target = jnp.where(known, labels, 0)
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    cross_entropy = -jnp.take_along_axis(log_probability, target[..., None], axis=-1)[..., 0]
    weights = jnp.where(known, 1.0 if class_weights is None else jnp.asarray(class_weights)[target], 0.0)
    return _ratio(jnp.sum(weights * cross_entropy, axis=1), jnp.sum(weights, axis=1))


def focal_loss(logits: jax.Array, labels: jax.Array, *, gamma: float = 2.0, alpha: float = 0.25) -> jax.Array:
    """`alpha (1 - e^-L)^gamma L` of the mean cross entropy L of a video, not of each frame, as in the original.

    Arguments as in `weighted_cross_entropy`: [batch, time, classes] logits to [batch] float32.
    """
    cross_entropy = weighted_cross_entropy(logits, labels)
    return alpha * (1 - jnp.exp(-cross_entropy)) ** gamma * cross_entropy


def temporal_mse(
    logits: jax.Array,
    labels: jax.Array,
    *,
    features: jax.Array | None = None,
    threshold: float = 4.0,
    softmax_axis: SoftmaxAxis = "time",
) -> jax.Array:
    """Truncated squared change of the log probabilities between neighbouring frames, mean over classes and pairs.

    Unlike in MS-TCN no gradient is stopped. With `features` each pair counts by how similar its frames look, which is
    the Gaussian similarity TMSE of ASRF (equation 5).

    Args:
        logits: [batch, time, classes].
        labels: [batch, time] int, -1 where ignored.
        features: [batch, time, channels] input features, treated as constants; None for equal weights.
        threshold: changes beyond it are cut off.
        softmax_axis: what the probabilities of a pair are normalised over. `"classes"` is the loss of the papers.
            `"time"` is what the released code computes: it takes the softmax over the second axis of
            [classes, time], once over all frames but the last and once over all but the first.

    Returns:
        [batch] float32; 0 for a video with fewer than two labelled frames.

    Raises:
        ValueError: if `softmax_axis` is not one of the two.
    """
    if softmax_axis not in get_args(SoftmaxAxis):
        raise ValueError(f"softmax_axis is {softmax_axis!r}; expected one of {', '.join(get_args(SoftmaxAxis))}")
    known = labels != IGNORE
    previous, has_previous = _previous_known(known)
    logits = logits.astype(jnp.float32)
    if softmax_axis == "classes":
        logits = jax.nn.log_softmax(logits, axis=-1)
    change = logits - _take_frames(logits, previous)
    if softmax_axis == "time":
        _, has_next = _previous_known(known[:, ::-1])
        change -= _log_sum_over_time(logits, has_previous) - _log_sum_over_time(logits, has_next[:, ::-1])
    loss = jnp.mean(jnp.minimum(jnp.square(change), threshold**2), axis=-1)
    if features is not None:
        features = jax.lax.stop_gradient(features.astype(jnp.float32))
        distance = jnp.linalg.norm(features - _take_frames(features, previous), axis=-1)
        loss = jnp.exp(-distance / 2) * loss
    return _ratio(jnp.sum(jnp.where(has_previous, loss, 0), axis=1), jnp.sum(has_previous, axis=1))


def class_loss(
    logits: jax.Array,
    labels: jax.Array,
    features: jax.Array,
    class_weights: jax.Array | None = None,
    *,
    focal_weight: float = 0.0,
    tmse_weight: float = 0.0,
    gstmse_weight: float = 1.0,
    softmax_axis: SoftmaxAxis = "time",
) -> jax.Array:
    """Weighted cross entropy plus the terms whose weight is not 0; the default is what ASRF on ASFormer trains with.

    Args:
        logits: [batch, time, classes] of one stage.
        labels: [batch, time] int, -1 where ignored.
        features: [batch, time, channels] input features, for the Gaussian similarity TMSE.
        class_weights: [classes], for the cross entropy only.
        focal_weight: weight of `focal_loss`.
        tmse_weight: weight of `temporal_mse` with equal weights; the original uses 0.15 where it uses it.
        gstmse_weight: weight of `temporal_mse` with feature similarity.
        softmax_axis: see `temporal_mse`.

    Returns:
        [batch] float32.
    """
    loss = weighted_cross_entropy(logits, labels, class_weights)
    if focal_weight:
        loss += focal_weight * focal_loss(logits, labels)
    if tmse_weight:
        loss += tmse_weight * temporal_mse(logits, labels, softmax_axis=softmax_axis)
    if gstmse_weight:
        loss += gstmse_weight * temporal_mse(logits, labels, features=features, softmax_axis=softmax_axis)
    return loss


def boundary_loss(
    logits: jax.Array, boundary: jax.Array, mask: jax.Array, positive_weight: float | None = None
) -> jax.Array:
    """Binary cross entropy of the boundary logits, mean over valid frames.

    Args:
        logits: [batch, time] of one stage.
        boundary: [batch, time], 1 at boundaries, else 0.
        mask: [batch, time] bool, True on valid frames.
        positive_weight: weight of boundary frames; None for 1.

    Returns:
        [batch] float32; 0 for a video without valid frames.
    """
    logits = logits.astype(jnp.float32)
    positive = boundary * jax.nn.softplus(-logits) * (1.0 if positive_weight is None else positive_weight)
    negative = (1 - boundary) * jax.nn.softplus(logits)
    return _ratio(jnp.sum(jnp.where(mask, positive + negative, 0), axis=1), jnp.sum(mask, axis=1))


def asrf_loss(
    class_logits: jax.Array,
    boundary_logits: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    boundary: jax.Array,
    mask: jax.Array,
    *,
    class_weights: jax.Array | None = None,
    positive_weight: float | None = None,
    boundary_weight: float = 0.1,
    softmax_axis: SoftmaxAxis = "time",
) -> jax.Array:
    """Training loss of ASRF on ASFormer: each branch's loss, mean over its stages.

    Args:
        class_logits: [class_stages, batch, time, classes].
        boundary_logits: [boundary_stages, batch, time].
        features: [batch, time, channels], the network's input.
        labels: [batch, time] int, -1 where ignored.
        boundary: [batch, time], 1 at boundaries, else 0.
        mask: [batch, time] bool, True on valid frames.
        class_weights: [classes], see `data.class_weights.median_frequency_weights`.
        positive_weight: weight of boundary frames, see `data.class_weights.boundary_positive_weight`.
        boundary_weight: weight of the boundary branch (`lambda_b` of the original).
        softmax_axis: see `temporal_mse`.

    Returns:
        [batch] float32.
    """

    def of_class_stage(logits: jax.Array) -> jax.Array:
        return class_loss(logits, labels, features, class_weights, softmax_axis=softmax_axis)

    def of_boundary_stage(logits: jax.Array) -> jax.Array:
        return boundary_loss(logits, boundary, mask, positive_weight)

    of_classes, of_boundaries = jax.vmap(of_class_stage)(class_logits), jax.vmap(of_boundary_stage)(boundary_logits)
    return jnp.mean(of_classes, axis=0) + boundary_weight * jnp.mean(of_boundaries, axis=0)


def _previous_known(known: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each frame the nearest known frame before it (0 if none), and whether both exist: [batch, time] each."""
    index = jnp.where(known, jnp.arange(known.shape[1]), -1)
    last_known = jax.lax.cummax(index, axis=1)
    previous = jnp.pad(last_known[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return jnp.maximum(previous, 0), known & (previous >= 0)


def _take_frames(x: jax.Array, index: jax.Array) -> jax.Array:
    """Frames `index` [batch, time] of `x` [batch, time, channels]."""
    return jnp.take_along_axis(x, index[..., None], axis=1)


def _log_sum_over_time(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """Log of the sum of exponentials over the chosen frames: [batch, 1, classes]; very negative if there are none."""
    return jax.nn.logsumexp(jnp.where(chosen[..., None], logits, -1e9), axis=1, keepdims=True)


def _ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    """`total / count`, 0 where the count is 0."""
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0)
