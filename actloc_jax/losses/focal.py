"""The sigmoid focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def focal_loss(logits: jax.Array, targets: jax.Array, *, alpha: float | None = 0.25, gamma: float = 2.0) -> jax.Array:
    """The loss of every element, float32 of the shape of `logits`.

    Args:
        logits: any shape, such as [batch, points, classes].
        targets: probabilities of the same shape, 0 or 1 unless labels are smoothed.
        alpha: weight of targets 1, those of 0 have 1 - alpha; None: no weights.
        gamma: power of how far the prediction is off.
    """
    logits = logits.astype(jnp.float32)
    probability = jax.nn.sigmoid(logits)
    entropy = jax.nn.softplus(logits) - logits * targets
    miss = probability * (1 - targets) + (1 - probability) * targets
    loss = entropy * miss**gamma
    return loss if alpha is None else loss * (alpha * targets + (1 - alpha) * (1 - targets))
