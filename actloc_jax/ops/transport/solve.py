"""One function from costs to plans, whichever solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.ops.transport import mirror_descent, optimality
from actloc_jax.ops.transport.mirror_descent import Solution
from actloc_jax.ops.transport.problem import Problem, Settings, make_problem

CONVERGED = 1e-4  # L1 change of a plan of mass 1 below which a fixed number of steps counts as converged


class Transport(NamedTuple):
    """What `solve` found for a batch of videos.

    Attributes:
        plan: [batch, time, actions] float32, scaled so that a frame's row sums to 1 where frames are a constraint; 0
            outside the mask.
        objective: [batch, steps + 1] float32, F (module `problem`) before every step and at the end; NaN where fewer
            steps were taken. For `gw`: before and after ott's solver.
        published_objective: the same as the original code reports it, with half of the linear term.
        mass: [batch] float32, mass of the plan (1 where a side is a constraint).
        converged: [batch] bool; a fixed number of steps is enough to decode, converged or not.
        iterations: [batch] int32, steps taken.
    """

    plan: jax.Array
    objective: jax.Array
    published_objective: jax.Array
    mass: jax.Array
    converged: jax.Array
    iterations: jax.Array


def solve(
    cost: jax.Array,
    mask: jax.Array,
    settings: Settings,
    *,
    lengths: jax.Array | None = None,
    frame_mass: jax.Array | None = None,
    action_mass: jax.Array | None = None,
    trace: bool = True,
    one_by_one: bool = False,
) -> Transport:
    """Assigns frames to actions by unbalanced, fused Gromov-Wasserstein transport with temporal structure.

    Pure and traceable; `settings`, `trace` and `one_by_one` are static. No gradient passes: plans are constants to a
    loss.

    Args:
        cost: [batch, time, actions], finite.
        mask: [batch, time] bool, True on frames of the video.
        settings: hyper-parameters and solver.
        lengths: [batch] int32, frames of which `settings.radius` is a part; all of `time` where not given, which is
            right only if the original pads as well (its window follows the padded length).
        frame_mass: [batch, time] relative masses of the frames, positive inside the mask; equal where not given.
        action_mass: [actions] or [batch, actions] relative masses, positive; equal where not given.
        trace: whether `objective` holds every step or, [batch, 1], only the end.
        one_by_one: solve the videos in a loop instead of all at once. The plans are the same (with a tolerance each
            video stops for itself); on CPU it is about twice as fast, because a video fits the cache.

    Returns:
        The plans; float32 whatever the type of `cost`.
    """
    cost, frame_mass, action_mass = jax.lax.stop_gradient((cost, frame_mass, action_mass))
    problem = make_problem(cost, mask, settings, lengths=lengths, frame_mass=frame_mass, action_mass=action_mass)
    problem = mirror_descent.with_step(problem, settings)

    def run(problem: Problem) -> tuple[Solution, jax.Array]:
        if settings.mode == "gw":
            return optimality.solve_to_optimality(problem, settings)
        if settings.mode == "prox":
            found = optimality.solve_by_proximal_steps(problem, settings, trace=trace)
        else:
            found = mirror_descent.descend(problem, settings, iterations=settings.most_iterations, trace=trace)
        return found, found.change < max(settings.tolerance, CONVERGED)

    found, converged = _for_each(run, problem) if one_by_one else run(problem)
    frames = jnp.sum(mask, axis=1)
    plan = jnp.where(mask[:, None, :], found.plan, 0) * frames[:, None, None]
    return Transport(
        plan=jnp.swapaxes(plan, 1, 2),
        objective=found.values if trace else found.values[:, -1:],
        published_objective=found.published_values if trace else found.published_values[:, -1:],
        mass=jnp.sum(found.plan, axis=(1, 2)),
        converged=converged,
        iterations=found.iterations,
    )


def _for_each(run: Callable[[Problem], tuple[Solution, jax.Array]], problem: Problem) -> tuple[Solution, jax.Array]:
    """What `run` finds for each video by itself, stacked."""
    common = problem.half_window if isinstance(problem.half_window, int) else None

    def one(row: Problem) -> tuple[Solution, jax.Array]:
        single = jax.tree.map(lambda leaf: leaf[None], row)
        return run(single if common is None else single._replace(half_window=common))

    found = jax.lax.map(one, problem if common is None else problem._replace(half_window=None))
    return jax.tree.map(lambda leaf: leaf[:, 0], found)
