"""Segmentation of stored affinities or costs, as a function for people who want nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from actloc_jax.ops import transport
from actloc_jax.systems.asot.losses import assignment_cost

SMALLEST_BUCKET = 64  # frames
BUCKETS_PER_OCTAVE = 8
VIDEOS_PER_CALL = 32


class Segmentation(NamedTuple):
    """What `segment_asot` finds for a video.

    Attributes:
        labels: int32 [time], the action of every frame; -1 outside the mask.
        plan: float32 [time, actions], soft assignment; rows sum to 1 unless `relax_frames`, and are 0 outside the mask.
        objective: float32 [steps + 1], the true objective of the plan before every step and at the end.
        mass: of the plan; 1 unless both sides are relaxed.
        converged: whether the last step changed next to nothing; the published fixed number of steps often does not.
        iterations: steps taken.
    """

    labels: np.ndarray
    plan: np.ndarray
    objective: np.ndarray
    mass: float
    converged: bool
    iterations: int


def segment_asot(
    affinity: ArrayLike | Sequence[ArrayLike] | None = None,
    *,
    cost: ArrayLike | Sequence[ArrayLike] | None = None,
    mask: ArrayLike | Sequence[ArrayLike] | None = None,
    rho: float = 0.0,
    step_scope: str = "video",
    **options: Any,
) -> Segmentation | list[Segmentation]:
    """Segments videos by ASOT (arXiv 2404.01518) from how similar their frames are to actions.

    >>> found = segment_asot(affinity, epsilon=0.01, alpha=0.6, radius=0.02, lambda_actions=0.09)
    >>> found.labels

    Videos are padded to a few lengths, so that a second video of about the same length needs no compilation.

    Args:
        affinity: [time, actions], the larger the more alike (cosine similarities in the paper); or a list of such
            arrays, of any lengths and one number of actions.
        cost: the same as costs, instead of `affinity`; an affinity a costs 1 - a.
        mask: bool [time], or a list: frames to segment; all where not given.
        rho: weight of the expectation that actions come in the order of their columns, spread evenly over the video.
        step_scope: `video`, or `batch` for one automatic step for all videos of a padded batch.
        options: fields of `actloc_jax.ops.transport.Settings`: epsilon, alpha, radius, relax_frames, relax_actions,
            lambda_frames, lambda_actions, mode (pmd, gw or prox), iterations, ...

    Returns:
        A `Segmentation`; a list of them for a list.

    Raises:
        TypeError: neither or both of affinity and cost, or an unknown option.
        ValueError: an array of other axes, with NaN, or with more actions than frames; a mask of another length or
            without a frame; an option outside its range.
    """
    if (affinity is None) == (cost is None):
        raise TypeError("segment_asot needs either an affinity or a cost.")
    settings = transport.Settings(step_scope=step_scope, **options)
    if not np.isfinite(rho):
        raise ValueError(f"rho is {rho}; it must be a finite number.")
    given = affinity if cost is None else cost
    several = isinstance(given, (list, tuple)) or np.ndim(given) > 2
    if several and len(given) == 0:
        raise ValueError("segment_asot was given no video; give one [time, actions] array, or a list of them.")
    single = not several or (np.ndim(given[0]) == 1 and not isinstance(given[0], np.ndarray))  # rows of Python numbers
    matrices = _checked_matrices([given] if single else given, "affinity" if cost is None else "cost")
    if cost is not None:
        matrices = [1 - matrix for matrix in matrices]
    masks = _checked_masks(matrices, [mask] if single else mask)
    for doubt in settings.doubts(min(map(len, matrices))):
        warnings.warn(doubt, stacklevel=2)
    found: dict[int, Segmentation] = {}
    for length, positions in _buckets([len(matrix) for matrix in matrices]).items():
        chosen = [matrices[i] for i in positions], [masks[i] for i in positions]
        found |= zip(positions, _segment_bucket(*chosen, length, settings, rho), strict=True)
    return found[0] if single else [found[i] for i in range(len(matrices))]


def _checked_matrices(given: Sequence[ArrayLike], name: str) -> list[np.ndarray]:
    """The arrays as float32, if they can be segmented."""
    matrices = []
    for number, matrix in enumerate(given):
        where = f"{name} {number}" if len(given) > 1 else f"the {name}"
        matrix = np.asarray(matrix, np.float32)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"{where} has axes {list(matrix.shape)}; expected [time, actions] of a video.")
        if not np.isfinite(matrix).all():
            frames = np.unique(np.argwhere(~np.isfinite(matrix))[:, 0])
            raise ValueError(
                f"{where} has NaN or infinite values in {len(frames)} frames, the first is frame {frames[0]}; "
                "use large finite costs to forbid an assignment."
            )
        if matrix.shape[1] > matrix.shape[0]:
            raise ValueError(
                f"{where} has more actions ({matrix.shape[1]}) than frames ({matrix.shape[0]}); expected [time, "
                "actions]. Transpose it, if it is the other way round."
            )
        if matrices and matrix.shape[1] != matrices[0].shape[1]:
            raise ValueError(
                f"{where} has {matrix.shape[1]} actions, the first video has {matrices[0].shape[1]}; call once for "
                "each number of actions."
            )
        matrices.append(matrix)
    return matrices


def _checked_masks(matrices: Sequence[np.ndarray], given: Sequence[ArrayLike | None] | None) -> list[np.ndarray]:
    """The masks as bool [time], if they fit the videos; all frames where none is given."""
    given = [None] * len(matrices) if given is None else given
    if len(given) != len(matrices):
        raise ValueError(f"There are {len(given)} masks for {len(matrices)} videos; give one for each, or None.")
    masks = []
    for number, (matrix, mask) in enumerate(zip(matrices, given, strict=True)):
        where = f"mask {number}" if len(given) > 1 else "the mask"
        mask = np.ones(len(matrix), bool) if mask is None else np.asarray(mask, bool)
        if mask.shape != (len(matrix),):
            raise ValueError(f"{where} has axes {list(mask.shape)}; the video has {len(matrix)} frames.")
        if not mask.any():
            raise ValueError(f"{where} has no frame; leave the video out, or mark the frames to segment.")
        masks.append(mask)
    return masks


def _buckets(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Positions by padded length; paddings waste at most an eighth."""
    buckets: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        unit = max(2 ** (length - 1).bit_length() // (2 * BUCKETS_PER_OCTAVE), SMALLEST_BUCKET)
        buckets.setdefault(-(-length // unit) * unit, []).append(position)
    return buckets


def _segment_bucket(
    matrices: Sequence[np.ndarray], masks: Sequence[np.ndarray], length: int, settings: transport.Settings, rho: float
) -> list[Segmentation]:
    """Segments videos that are padded to the same length, a power of two of them per call."""
    results = []
    for begin in range(0, len(matrices), VIDEOS_PER_CALL):
        rows = matrices[begin : begin + VIDEOS_PER_CALL]
        count = 2 ** (len(rows) - 1).bit_length()
        affinity = np.zeros([count, length, rows[0].shape[1]], np.float32)
        mask, lengths = np.zeros([count, length], bool), np.ones(count, np.int32)
        for row, matrix in enumerate(rows):
            affinity[row, : len(matrix)], lengths[row] = matrix, len(matrix)
            mask[row, : len(matrix)] = masks[begin + row]
        found = jax.device_get(_solve(affinity, mask, lengths, settings, rho))
        for row, matrix in enumerate(rows):
            plan = found.plan[row, : len(matrix)]
            labels = np.where(masks[begin + row], plan.argmax(axis=1), -1).astype(np.int32)
            trace = found.objective[row][np.isfinite(found.objective[row])]
            results.append(
                Segmentation(
                    labels, plan, trace, float(found.mass[row]), bool(found.converged[row]), int(found.iterations[row])
                )
            )
    return results


def _solve_padded(
    affinity: jax.Array, mask: jax.Array, lengths: jax.Array, settings: transport.Settings, rho: float
) -> transport.Transport:
    cost = assignment_cost(affinity, lengths, rho)
    cost = jnp.where(jnp.any(mask, axis=1)[:, None, None], cost, cost[:1])  # filler rows choose no common step
    on_cpu = jax.default_backend() == "cpu"
    return transport.solve(cost, mask, settings, lengths=lengths, one_by_one=on_cpu)


_solve = jax.jit(_solve_padded, static_argnums=3)
