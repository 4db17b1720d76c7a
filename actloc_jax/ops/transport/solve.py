"""One function from costs to plans, whichever solver."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from actloc_jax.ops.transport import mirror_descent, optimality
from actloc_jax.ops.transport.problem import Settings, make_problem

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
) -> Transport:
    """Assigns frames to actions by unbalanced, fused Gromov-Wasserstein transport with temporal structure.

    Pure and traceable; `settings` and `trace` are static. No gradient passes: plans are constants to a loss.

    Args:
        cost: [batch, time, actions], finite.
        mask: [batch, time] bool, True on frames of the video.
        settings: hyper-parameters and solver.
        lengths: [batch] int32, frames of which `settings.radius` is a part; all of `time` where not given, which is
            right only if the original pads as well (its window follows the padded length).
        frame_mass: [batch, time] relative masses of the frames, positive inside the mask; equal where not given.
        action_mass: [actions] or [batch, actions] relative masses, positive; equal where not given.
        trace: whether `objective` holds every step or, [batch, 1], only the end.

    Returns:
        The plans; float32 whatever the type of `cost`.
    """
    cost, frame_mass, action_mass = jax.lax.stop_gradient((cost, frame_mass, action_mass))
    problem = make_problem(cost, mask, settings, lengths=lengths, frame_mass=frame_mass, action_mass=action_mass)
    if settings.mode == "gw":
        found, converged = optimality.solve_to_optimality(problem, settings)
    elif settings.mode == "prox":
        found = optimality.solve_by_proximal_steps(problem, settings, trace=trace)
        converged = found.change < max(settings.tolerance, CONVERGED)
    else:
        found = mirror_descent.descend(problem, settings, iterations=settings.most_iterations, trace=trace)
        converged = found.change < max(settings.tolerance, CONVERGED)
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
