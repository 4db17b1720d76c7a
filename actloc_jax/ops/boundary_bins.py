"""Boundaries from bins: the Trident head of TriDet (Shi et al., CVPR 2023, section 3.3).

The distance from a frame to a boundary is the expectation over bins 0..n of the frames beside it, each of which says
how much it looks like a boundary; logits of the frame itself are added. Source:
`dingfengshi/TriDet:libs/modeling/meta_archs.py` (`decode_offset`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

OUTSIDE = -1e4  # logit of frames that cannot be a boundary


def expected_distances(
    starts: Sequence[jax.Array],
    ends: Sequence[jax.Array],
    offsets: Sequence[jax.Array],
    masks: Sequence[jax.Array] | None = None,
) -> jax.Array:
    """Distances to start and end of an action of each class, in steps of the level.

    Args:
        starts: logits of every level, [batch, time of the level, classes].
        ends: likewise.
        offsets: logits of bins, [batch, time of the level, 2 * (bins + 1)]; first those of the start.
        masks: [batch, time of the level] bool, frames of the video; no other frame is a boundary then. None: frames
            before the first and behind the last one of a level have logit 0, as padding has (published).

    Returns:
        [batch, points, classes, 2] float32, between 0 and `bins`; points are the steps of all levels in order.
    """
    bins = offsets[0].shape[2] // 2 - 1
    outside = 0.0
    if masks is not None:
        outside = OUTSIDE
        starts, ends = (
            [jnp.where(mask[:, :, None], level, OUTSIDE) for level, mask in zip(levels, masks, strict=True)]
            for levels in (starts, ends)
        )
    offset = _joined(offsets, bins, 0.0)[:, bins:-bins]
    before = _windows(_joined(starts, bins, outside)[:, :-bins], bins)
    behind = _windows(_joined(ends, bins, outside)[:, bins:], bins)
    distance = np.arange(bins + 1, dtype=np.float32)
    left = _expectation(before + offset[:, :, : bins + 1, None], distance[::-1])
    right = _expectation(behind + offset[:, :, bins + 1 :, None], distance)
    distances = jnp.stack([left, right], axis=3)
    lengths = [level.shape[1] for level in offsets]
    begins = np.cumsum([0, *lengths[:-1]]) + bins * np.arange(len(lengths))
    return jnp.concatenate([distances[:, b : b + n] for b, n in zip(begins, lengths, strict=True)], axis=1)


def _expectation(logits: jax.Array, distance: np.ndarray) -> jax.Array:
    """Mean distance under the softmax over bins of [batch, time, bins + 1, classes]: [batch, time, classes]."""
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=2, keepdims=True)))
    return (weights * distance[:, None]).sum(axis=2) / weights.sum(axis=2)


def _joined(levels: Sequence[jax.Array], gap: int, outside: float) -> jax.Array:
    """Levels [batch, time of the level, ...] one behind the other, with `gap` times `outside` between and around them.

    So the windows of all levels are cut at once: cut level by level, they take 40% longer to compile.
    """
    joined = jnp.concatenate([_padded(level.astype(jnp.float32), gap, 0, outside) for level in levels], axis=1)
    return _padded(joined, 0, gap, outside)


def _padded(x: jax.Array, before: int, behind: int, value: float) -> jax.Array:
    return jnp.pad(x, ((0, 0), (before, behind), (0, 0)), constant_values=value)


def _windows(logits: jax.Array, bins: int) -> jax.Array:
    """[batch, time + bins, classes] to the `bins + 1` frames from each on: [batch, time, bins + 1, classes]."""
    time = logits.shape[1] - bins
    return jnp.stack([logits[:, shift : shift + time] for shift in range(bins + 1)], axis=2)
