"""The transport problem of ASOT: cost, marginals, structure, settings, and its objective.

Xu and Gould, "Temporally Consistent Unbalanced Optimal Transport for Unsupervised Action Segmentation" (CVPR 2024,
arXiv 2404.01518), in the form of the published code (`mingu6/action_seg_ot:src/asot.py`). A plan T between the frames
and the actions of a video is sought that makes

    F(T) = alpha/2 <Cv T Ck, T> + (1 - alpha) <C, T> + epsilon sum(T log T - T)
           + lambda_frames KL(T 1, p) + lambda_actions KL(T' 1, q)

small, where Cv is a band (frames that are near in time), Ck is 0 on the diagonal and 1 off it (different actions), and
a KL term stands for each marginal that is relaxed; one that is not is a constraint.

Inside this folder arrays are [batch, actions, time], time last: reductions over a few actions and sums along time are
then passes over long rows.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.ops.transport.band import band_product

LOG_FLOOR = 1e-12  # added to a plan's entries and ratios before the logarithm, as published
BOUND = 1e20  # costs beyond it are treated as this large: float32 must not overflow, whatever the mass
LOG_MOST = 25.0  # the largest logarithm of an entry of a plan whose mass is not fixed, for the same reason

Mode = Literal["pmd", "gw", "prox"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyper-parameters of the problem and of its solver; static, one program is compiled for each.

    Attributes:
        epsilon: weight of the entropy.
        alpha: weight of the temporal structure against the cost, in 0..1.
        radius: half width of the band, as a part of the video.
        relax_frames, relax_actions: whether the marginal of a side is a KL term (True) or a constraint.
        lambda_frames, lambda_actions: weight of the KL term of a relaxed side.
        mode: `pmd`, the published fixed number of mirror steps; `gw`, ott's Gromov-Wasserstein solver from the plan of
            `warm_start` mirror steps on, to optimality; `prox`, KL-proximal steps solved by Sinkhorn.
        iterations: mirror or proximal steps, for `gw` the most linearisations; None takes 25, for `gw` 200.
        inner_iterations: Sinkhorn iterations of a mirror step where both sides are constraints (published: 1, with
            which frames do not keep their mass; 10 and more do).
        step: size of a step; None takes 4 / (largest entry of the first gradient) for `pmd`, and for `prox` 2.5 or
            the undamped step 1 / epsilon, beyond which it diverges, whichever is smaller.
        step_scope: `batch`, one automatic step for all videos of a batch, padding included, as published; `video`, one
            for each from its own frames.
        band_weight: `radius`, 1 / radius, as published; `window`, frames / half width, which does not change with the
            rounding of the half width.
        tolerance: stops when every plan of the batch changes by less than this (L1 norm, plans of mass 1); 0 never
            does. For `gw`, the relative change of ott's cost (0 stands for 1e-6).
        warm_start: mirror steps before `gw`.

    Raises:
        ValueError: a value is outside its range.
    """

    epsilon: float = 0.07
    alpha: float = 0.3
    radius: float = 0.04
    relax_frames: bool = False
    relax_actions: bool = True
    lambda_frames: float = 0.1
    lambda_actions: float = 0.05
    mode: Mode = "pmd"
    iterations: int | None = None
    inner_iterations: int = 1
    step: float | None = None
    step_scope: Literal["batch", "video"] = "batch"
    band_weight: Literal["radius", "window"] = "radius"
    tolerance: float = 0.0
    warm_start: int = 25

    def __post_init__(self) -> None:
        optional = [name for name in ("iterations", "step") if getattr(self, name) is not None]
        positive = ["epsilon", "inner_iterations", *optional]
        positive += ["lambda_frames"] * self.relax_frames + ["lambda_actions"] * self.relax_actions
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive.")
        for name in ("tolerance", "warm_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.mode == "prox" and self.step is not None and self.step > 1 / self.epsilon:
            raise ValueError(f"step is {self.step}; for prox it must be at most 1 / epsilon, {1 / self.epsilon:g}.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it weighs structure against cost and lies in 0..1.")
        if not 0 < self.radius <= 1:
            raise ValueError(f"radius is {self.radius}; it is a part of the video: more than 0, at most 1.")
        for name, known in (
            ("mode", ("pmd", "gw", "prox")),
            ("step_scope", ("batch", "video")),
            ("band_weight", ("radius", "window")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use {', '.join(known)}.")

    @property
    def most_iterations(self) -> int:
        """`iterations`, or the default of the mode."""
        return self.iterations or (200 if self.mode == "gw" else 25)

    def doubts(self, frames: int) -> list[str]:
        """What a user may not expect of these settings in a video of `frames`: one sentence each."""
        doubts = []
        if self.mode == "pmd" and not (self.relax_frames or self.relax_actions) and self.inner_iterations < 10:
            doubts.append(
                f"Neither side is relaxed and inner_iterations is {self.inner_iterations}: frames will not keep their "
                "mass, as in the published code. Set 10 or more, or relax a side."
            )
        if self.relax_frames and self.relax_actions and self.step is None and self.mode == "pmd":
            doubts.append(
                "Both sides are relaxed and the step is chosen automatically, which is unstable in long videos. Set a "
                "step (1 to 1.5 works), or use gw."
            )
        if self.alpha > 0 and self.half_window(frames) == 0:
            doubts.append(
                f"radius {self.radius} of {frames} frames is less than one: there is no temporal structure. Set a "
                f"radius of at least {1 / max(frames, 1):.3g}."
            )
        return doubts

    def half_window(self, frames: int) -> int:
        """Frames on each side that are near a frame, in a video of `frames`; 0 means no temporal structure."""
        return int(frames * self.radius)


class Problem(NamedTuple):
    """A batch of problems.

    Attributes:
        cost: [batch, actions, time] float32, finite everywhere.
        mask: [batch, 1, time] bool, True on frames of the video. A row without any frame has all of them here, so
            that it stays finite; its plan is cleared at the end.
        present: [batch, 1, time] bool, True on frames of the video and on those that the original pads with; nowhere
            in a row without any frame.
        frame_mass: [batch, 1, time], mass of each frame; sums to 1 over the mask, outside it is their mean.
        action_mass: [batch, actions, 1], mass of each action; sums to 1.
        half_window: of all videos, a Python number, where they have the same length; else [batch] int32.
        band_weight: [batch, 1, 1].
        step: [batch, 1, 1], size of the mirror steps; None until `mirror_descent.with_step` has set it.
    """

    cost: jax.Array
    mask: jax.Array
    present: jax.Array
    frame_mass: jax.Array
    action_mass: jax.Array
    half_window: int | jax.Array
    band_weight: jax.Array
    step: jax.Array | None = None


class Objective(NamedTuple):
    """Values of a plan, [batch] float32 each.

    Attributes:
        value: F of the module's docstring; what the solvers make small.
        as_published: what the original code reports: its linear term is halved, though the gradient is F's.
    """

    value: jax.Array
    as_published: jax.Array


def make_problem(
    cost: jax.Array,
    mask: jax.Array,
    settings: Settings,
    *,
    lengths: jax.Array | None = None,
    frame_mass: jax.Array | None = None,
    action_mass: jax.Array | None = None,
) -> Problem:
    """The problem of a batch.

    Args:
        cost: [batch, time, actions].
        mask: [batch, time] bool, True on frames of the video.
        settings: of the solve.
        lengths: [batch] int32, frames of each video; the band is a part of it. All of `time` where not given.
        frame_mass: [batch, time], relative masses of the frames; equal ones where not given.
        action_mass: [batch, actions] or [actions], relative masses; equal ones where not given.
    """
    batch, time, actions = cost.shape
    cost = jnp.clip(jnp.swapaxes(cost.astype(jnp.float32), 1, 2), -BOUND, BOUND)
    mask = mask[:, None, :]
    real = jnp.any(mask, axis=2, keepdims=True)
    mask |= ~real
    frames = jnp.ones((batch, time)) if frame_mass is None else jnp.asarray(frame_mass, jnp.float32)
    frames = jnp.where(real, frames[:, None, :], 1)
    mean = jnp.mean(frames, axis=2, keepdims=True, where=mask)
    frames = jnp.where(mask, frames, mean)  # as published; what is given outside the mask does not count
    weights = jnp.ones(actions) if action_mass is None else jnp.asarray(action_mass, jnp.float32)
    weights = jnp.broadcast_to(weights, (batch, actions))[:, :, None]
    half_window: int | jax.Array = settings.half_window(time)
    if lengths is None:
        lengths = jnp.full(batch, time)
    else:
        # A table, because length times radius must be rounded down as Python does it, in float64.
        table = np.array([settings.half_window(frames) for frames in range(time + 1)], np.int32)
        lengths = jnp.asarray(lengths)
        half_window = jnp.asarray(table)[lengths]
    if settings.band_weight == "window":
        band_weight = lengths / jnp.maximum(half_window, 1)
    else:
        band_weight = jnp.full(batch, 1 / settings.radius)
    return Problem(
        cost=cost,
        mask=mask,
        present=real & (mask | (jnp.arange(time) < lengths[:, None])[:, None, :]),
        frame_mass=frames / jnp.sum(frames, axis=2, keepdims=True, where=mask),
        action_mass=weights / jnp.sum(weights, axis=1, keepdims=True),
        half_window=half_window,
        band_weight=band_weight.astype(jnp.float32)[:, None, None],
    )


def linearise(problem: Problem, settings: Settings, plan: jax.Array) -> jax.Array:
    """alpha Cv T Ck + (1 - alpha) C, [batch, actions, time]: the gradient of F without entropy and KL terms."""
    other_actions = mass_of_frames(plan) - plan
    largest = settings.half_window(plan.shape[-1])
    structure = problem.band_weight * band_product(other_actions, problem.half_window, largest)
    return settings.alpha * structure + (1 - settings.alpha) * problem.cost


def objective(
    problem: Problem, settings: Settings, plan: jax.Array, linearised: jax.Array, log_plan: jax.Array | None = None
) -> Objective:
    """F of a plan [batch, actions, time] (mass 1 where a side is a constraint), given its `linearise`.

    `log_plan` spares the logarithm to those who have it; any finite value does where the plan is 0.
    """
    if log_plan is None:
        log_plan = jnp.log(jnp.where(plan > 0, plan, 1))
    smooth = total_of(plan, linearised / 2 + settings.epsilon * (log_plan - 1))
    linear = (1 - settings.alpha) * total_of(plan, problem.cost)
    divergence = jnp.zeros(len(plan))
    if settings.relax_frames:
        mass = mass_of_frames(plan)
        divergence += settings.lambda_frames * _divergence(mass, problem.frame_mass)
    if settings.relax_actions:
        mass = mass_of_actions(plan)
        divergence += settings.lambda_actions * _divergence(mass, problem.action_mass)
    return Objective(value=smooth + linear / 2 + divergence, as_published=smooth + divergence)


# The CPU backend sums scalar by scalar, and walks over actions with a cache miss each once a row outgrows the cache. As
# matrix products and halvings the same reductions are 3 to 40 times faster.


def mass_of_actions(plan: jax.Array) -> jax.Array:
    """[batch, actions, 1] sums over time."""
    return jnp.matmul(plan, jnp.ones((plan.shape[2], 1)), precision=jax.lax.Precision.HIGHEST)


def mass_of_frames(plan: jax.Array) -> jax.Array:
    """[batch, 1, time] sums over actions."""
    return jnp.matmul(jnp.ones((1, plan.shape[1])), plan, precision=jax.lax.Precision.HIGHEST)


def largest_of_frames(values: jax.Array) -> jax.Array:
    """[batch, 1, time] maxima over actions."""
    while values.shape[1] > 1:
        half = (values.shape[1] + 1) // 2
        values = jnp.maximum(values[:, :half], values[:, -half:])
    return values


def total_of(plan: jax.Array, values: jax.Array) -> jax.Array:
    """[batch] sum of plan * values over actions and time."""
    return jnp.einsum("bkt,bkt->bk", plan, values, precision=jax.lax.Precision.HIGHEST).sum(axis=1)


def temporal_prior(lengths: jax.Array, time: int, actions: int, weight: float) -> jax.Array:
    """weight |i / N - k / K| for frame i of N and action k of K: early actions cost less in early frames.

    Args:
        lengths: [batch], N of each video.
        time: padded frames.
        actions: K.
        weight: rho of the paper.

    Returns:
        [batch, time, actions] float32; frames beyond N have values too.
    """
    frame = jnp.arange(time)[None, :, None] / jnp.maximum(lengths, 1)[:, None, None]
    return weight * jnp.abs(frame - jnp.arange(actions) / actions).astype(jnp.float32)


def _divergence(mass: jax.Array, wanted: jax.Array) -> jax.Array:
    """[batch] sum of m log(m / w); where m is 0 the term is 0, whatever w."""
    ratio = jnp.where(mass > 0, mass / jnp.where(wanted > 0, wanted, 1), 1)
    return jnp.sum(mass * jnp.log(ratio), axis=(1, 2))
