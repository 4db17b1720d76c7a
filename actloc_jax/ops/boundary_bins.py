"""Boundaries from bins: the Trident head of TriDet (Shi et al., CVPR 2023, section 3.3).

The distance from a frame to a boundary is the expectation over bins 0..n of the frames beside it, each of which says
how much it looks like a boundary; logits of the frame itself are added. Source:
`dingfengshi/TriDet:libs/modeling/meta_archs.py` (`decode_offset`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

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
    offset = jnp.concatenate(offsets, axis=1).astype(jnp.float32)
    bins = offset.shape[2] // 2 - 1
    outside = 0.0
    if masks is not None:
        outside = OUTSIDE
        starts, ends = (
            [jnp.where(mask[:, :, None], level, OUTSIDE) for level, mask in zip(levels, masks, strict=True)]
            for levels in (starts, ends)
        )
    before = jnp.concatenate([_windows(level, bins, bins, 0, outside) for level in starts], axis=1)
    behind = jnp.concatenate([_windows(level, bins, 0, bins, outside) for level in ends], axis=1)
    distance = jnp.arange(bins + 1, dtype=jnp.float32)
    left = jax.nn.softmax(before + offset[:, :, None, : bins + 1], axis=3) @ distance[::-1]
    right = jax.nn.softmax(behind + offset[:, :, None, bins + 1 :], axis=3) @ distance
    return jnp.stack([left, right], axis=3)


def _windows(logits: jax.Array, bins: int, before: int, behind: int, outside: float) -> jax.Array:
    """[batch, time, classes] to the logits of `bins + 1` frames from `before` on: [batch, time, classes, bins + 1]."""
    time = logits.shape[1]
    padded = jnp.pad(logits.astype(jnp.float32), ((0, 0), (before, behind), (0, 0)), constant_values=outside)
    return jnp.stack([padded[:, shift : shift + time] for shift in range(bins + 1)], axis=3)
