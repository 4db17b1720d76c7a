"""Training on some chunks of a video: without a memory (gradient drop), and the memory's slower backbone (momentum).

A backbone is a function `(params, chunks) -> features` of chunks [batch, chunks, frames, height, width, channels] that
gives [batch, chunks, rows, ...]; chunks do not see each other.
Sources: `klauscc/TALLFormer:vedatad/models/backbones/temp_graddrop.py`,
`vedatad/models/detectors/mem_single_stage_detector.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from actloc_jax.training import ema

Params = Any
Backbone = Callable[[Params, jax.Array], jax.Array]


def cut(video: jax.Array, chunk_frames: int) -> jax.Array:
    """[batch, time, ...] to [batch, chunks, chunk_frames, ...].

    Raises:
        ValueError: the video is not whole chunks.
    """
    batch, frames = video.shape[:2]
    if frames % chunk_frames:
        raise ValueError(f"a window of {frames} frames is not a whole number of chunks of {chunk_frames}")
    return video.reshape(batch, -1, chunk_frames, *video.shape[2:])


def joined(features: jax.Array) -> jax.Array:
    """[batch, chunks, rows, ...] to [batch, chunks * rows, ...]."""
    return features.reshape(features.shape[0], -1, *features.shape[3:])


def shifted(video: jax.Array, shift: jax.Array, chunk_frames: int) -> jax.Array:
    """Zeros before and behind a window, so that its chunks begin elsewhere.

    Args:
        video: [batch, time, ...], normalised.
        shift: scalar int32 in 0..chunk_frames-1, frames of zeros before.
        chunk_frames: frames of a chunk, as many as there are zeros in all.

    Returns:
        [batch, time + chunk_frames, ...].
    """
    batch, frames, *rest = video.shape
    longer = jnp.zeros([batch, frames + chunk_frames, *rest], video.dtype)
    return jax.lax.dynamic_update_slice_in_dim(longer, video, shift, axis=1)


def unshifted(features: jax.Array, shift: jax.Array, rows: int, stride: int) -> jax.Array:
    """The `rows` rows of the window again, of features [batch, time, ...] of a `shifted` one, `stride` frames each."""
    return jax.lax.dynamic_slice_in_dim(features, shift // stride, rows, axis=1)


def dropped_gradient(
    backbone: Backbone,
    params: Params,
    chunks: jax.Array,
    keep: jax.Array,
    drop: jax.Array,
    *,
    of_dropped: Backbone | None = None,
    recompute: bool = False,
) -> jax.Array:
    """Features of all chunks; gradient flows through those in `keep` only.

    Args:
        backbone: see the head of this file.
        params: its parameters.
        chunks: [batch, chunks, frames, height, width, channels]; they get no gradient.
        keep: [kept] int32, at least one.
        drop: [dropped] int32, the others; both together are all chunks, none twice.
        of_dropped: computes the chunks in `drop`, where that is to be done in another way; None: `backbone`.
        recompute: keep nothing of the computation but the chunks and compute it again for the gradient (V1 of the
            original); otherwise (V2) its intermediate results are kept.

    Returns:
        [batch, chunks, rows, ...].
    """
    chunks = jax.lax.stop_gradient(chunks)
    kept = (jax.checkpoint(backbone) if recompute else backbone)(params, chunks[:, keep])
    rest = jax.lax.stop_gradient((of_dropped or backbone)(jax.lax.stop_gradient(params), chunks[:, drop]))
    order = jnp.argsort(jnp.concatenate([keep, drop]))
    return jnp.concatenate([kept, rest], axis=1)[:, order]


def momentum_update(average: Params, params: Params, momentum: float, step: jax.Array) -> Params:
    """The slower parameters after a forward pass: a copy at step 0, then mixed with `params`, `momentum` of the old.

    As published, parameters only; a backbone without running statistics has nothing else. `step` is an int32 scalar.
    """
    moved = ema.update(average, jax.lax.stop_gradient(params), momentum)
    return jax.tree.map(lambda value, later: jnp.where(step == 0, value, later), params, moved)


def combined(
    backbone: Backbone, params: Params, average: Params, chunks: jax.Array, keep: jax.Array, drop: jax.Array
) -> jax.Array:
    """Evaluation with both: features of the chunks in `keep` by `params`, of those in `drop` by `average`.

    Of the other published ways, "vanilla" is `backbone(params, chunks)` and "momentum" is `backbone(average, chunks)`.

    Args:
        backbone: see the head of this file.
        params: what is trained.
        average: what `momentum_update` gives.
        chunks: [batch, chunks, frames, height, width, channels].
        keep: [kept] int32.
        drop: [dropped] int32, the others.

    Returns:
        [batch, chunks, rows, ...].
    """
    order = jnp.argsort(jnp.concatenate([keep, drop]))
    parts = [backbone(weights, chunks[:, which]) for weights, which in ((params, keep), (average, drop)) if which.size]
    return jnp.concatenate(parts, axis=1)[:, order]
