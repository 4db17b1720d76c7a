"""The published solver of ASOT: damped mirror steps with a fixed count, in the log domain.

A step multiplies the plan by exp(-step * gradient) and puts a constrained side back onto its marginal. Where both sides
are constraints the published code throws the mirror step away and projects the linearised problem by Sinkhorn.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from actloc_jax.ops.transport.problem import (
    BOUND,
    LOG_FLOOR,
    LOG_MOST,
    Problem,
    Settings,
    largest_of_frames,
    linearise,
    mass_of_actions,
    mass_of_frames,
    objective,
)

STEP_TARGET = 4.0  # what the first step times the largest entry of the first gradient is
LOG_LEAST = -60.0  # of an entry of a plan that frames do not constrain, so that it can come back


class Solution(NamedTuple):
    """Where a solver ended.

    Attributes:
        plan: [batch, actions, time], mass 1 where a side is a constraint, 0 outside the mask.
        values, published_values: [batch, steps + 1], `Objective` of every plan from the start on; NaN beyond
            `iterations`. Of the last plan only, [batch, 1], where no trace is kept.
        change: [batch], L1 norm of the last change of the plan.
        iterations: [batch] int32, steps taken.
    """

    plan: jax.Array
    values: jax.Array
    published_values: jax.Array
    change: jax.Array
    iterations: jax.Array


class _State(NamedTuple):
    """Of the loop; the plan is kept beside its logarithm, which does not underflow."""

    iteration: jax.Array
    plan: jax.Array
    log_plan: jax.Array
    change: jax.Array
    values: jax.Array
    published_values: jax.Array


def descend(problem: Problem, settings: Settings, *, iterations: int, trace: bool) -> Solution:
    """At most `iterations` mirror steps from the product of the marginals."""
    batch = len(problem.cost)
    plan = start(problem)
    rows = iterations + 1 if trace else 1
    real = jnp.any(problem.present, axis=(1, 2))

    def advance(state: _State) -> _State:
        linearised = linearise(problem, settings, state.plan)
        values, published_values = state.values, state.published_values
        if trace:
            now = objective(problem, settings, state.plan, linearised, state.log_plan)
            values = values.at[:, state.iteration].set(now.value)
            published_values = published_values.at[:, state.iteration].set(now.as_published)
        plan, log_plan = _mirror_step(problem, settings, linearised, state.plan, state.log_plan)
        looked_at = (settings.tolerance > 0) | (state.iteration == iterations - 1)
        change = lax.cond(looked_at, lambda: jnp.sum(jnp.abs(plan - state.plan), axis=(1, 2)), lambda: state.change)
        return _State(state.iteration + 1, plan, log_plan, change, values, published_values)

    def goes_on(state: _State) -> jax.Array:
        unfinished = state.iteration < iterations
        return unfinished & jnp.any(real & (state.change >= settings.tolerance)) if settings.tolerance else unfinished

    empty = jnp.full((batch, rows), jnp.nan)
    log_plan = jnp.log(problem.action_mass * problem.frame_mass)
    begin = _State(jnp.int32(0), plan, log_plan, jnp.full(batch, jnp.inf), empty, empty)
    end = lax.while_loop(goes_on, advance, begin)
    last = objective(problem, settings, end.plan, linearise(problem, settings, end.plan))
    row = end.iteration if trace else 0
    return Solution(
        plan=end.plan,
        values=end.values.at[:, row].set(last.value),
        published_values=end.published_values.at[:, row].set(last.as_published),
        change=end.change,
        iterations=jnp.full(batch, end.iteration),
    )


def start(problem: Problem) -> jax.Array:
    """The product of the marginals, [batch, actions, time], 0 outside the mask."""
    return jnp.where(problem.mask, problem.action_mass * problem.frame_mass, 0)


def objective_gradient(problem: Problem, settings: Settings, linearised: jax.Array, plan: jax.Array) -> jax.Array:
    """The gradient of F, [batch, actions, time], with the published floors inside the logarithms."""
    gradient = linearised + settings.epsilon * jnp.log(plan + LOG_FLOOR)
    if settings.relax_frames:
        mass = mass_of_frames(plan)
        ratio = mass / jnp.where(problem.frame_mass > 0, problem.frame_mass, 1)
        gradient += settings.lambda_frames * (jnp.log(ratio + LOG_FLOOR) + 1)
    if settings.relax_actions:
        mass = mass_of_actions(plan)
        ratio = mass / jnp.where(problem.action_mass > 0, problem.action_mass, 1)
        gradient += settings.lambda_actions * (jnp.log(ratio + LOG_FLOOR) + 1)
    return gradient


def with_step(problem: Problem, settings: Settings) -> Problem:
    """The problem with the step that is given, or that the published rule finds.

    Where the largest gradient is not positive the rule has no meaning; the undamped step stands in for it.
    """
    plan = start(problem)
    if settings.step is not None:
        return problem._replace(step=jnp.full((len(plan), 1, 1), settings.step))
    gradient = objective_gradient(problem, settings, linearise(problem, settings, plan), plan)
    seen = problem.present if settings.step_scope == "batch" else problem.mask
    largest = jnp.max(gradient, axis=(1, 2), keepdims=True, where=seen, initial=-jnp.inf)
    if settings.step_scope == "batch":
        largest = jnp.broadcast_to(jnp.max(largest), largest.shape)
    curvature = settings.epsilon
    curvature += settings.lambda_frames * settings.relax_frames + settings.lambda_actions * settings.relax_actions
    usable = largest > STEP_TARGET * settings.epsilon / 100
    return problem._replace(step=jnp.where(usable, STEP_TARGET / jnp.where(usable, largest, 1), 1 / curvature))


def _mirror_step(
    problem: Problem, settings: Settings, linearised: jax.Array, plan: jax.Array, log_plan: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The next plan and its logarithm."""
    if not (settings.relax_frames or settings.relax_actions):
        plan = balanced_projection(problem, settings, linearised)
        return plan, jnp.log(jnp.where(plan > 0, plan, 1))
    gradient = objective_gradient(problem, settings, linearised, plan)
    score = log_plan - jnp.clip(problem.step * gradient, -BOUND, BOUND)
    if not settings.relax_frames:
        plan, log_plan = _onto_frames(score, problem.frame_mass)
    elif not settings.relax_actions:
        plan, log_plan = _onto_actions(jnp.where(problem.mask, score, -jnp.inf), problem.action_mass)
        log_plan = jnp.where(problem.mask, log_plan, LOG_LEAST)
    else:
        log_plan = jnp.clip(score, LOG_LEAST, LOG_MOST)
        plan = jnp.exp(log_plan)
    return jnp.where(problem.mask, plan, 0), log_plan


def _onto_frames(score: jax.Array, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(score), scaled so that every frame has its mass, and its logarithm."""
    highest = largest_of_frames(score)
    powers = jnp.exp(score - highest)
    total = mass_of_frames(powers)
    return powers * (mass / total), score - (highest + jnp.log(total) - jnp.log(mass))


def _onto_actions(score: jax.Array, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for every action."""
    highest = jnp.max(score, axis=2, keepdims=True)
    powers = jnp.exp(score - highest)
    total = mass_of_actions(powers)
    return powers * (mass / total), score - (highest + jnp.log(total) - jnp.log(mass))


def balanced_projection(problem: Problem, settings: Settings, linearised: jax.Array) -> jax.Array:
    """`inner_iterations` of Sinkhorn for the linearised problem: frames first, so that actions keep their mass exactly.

    Costs [batch, actions, time] to a plan of that shape. ott updates the second side first; the cost is handed over
    with actions first for that.
    """
    solver = sinkhorn.Sinkhorn(
        threshold=-1.0,
        inner_iterations=settings.inner_iterations,
        min_iterations=settings.inner_iterations,
        max_iterations=settings.inner_iterations,
    )

    def project(cost: jax.Array, mask: jax.Array, frame_mass: jax.Array, action_mass: jax.Array) -> jax.Array:
        masses = jnp.where(mask, frame_mass, 0)
        pair = linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=settings.epsilon), action_mass, masses)
        potentials = (jnp.zeros_like(action_mass), jnp.where(mask, 0, -jnp.inf))
        # Of the potentials only the frames' are used: the actions' follow, and so their mass is exact at any cost. The
        # largest is subtracted before the division, or a fused multiplication and subtraction could overflow.
        score = solver(pair, init=potentials).g - cost
        powers = jnp.exp((score - jnp.max(score, axis=1, keepdims=True)) / settings.epsilon)
        return powers * (action_mass[:, None] / jnp.sum(powers, axis=1, keepdims=True))

    return jax.vmap(project)(linearised, problem.mask[:, 0], problem.frame_mass[:, 0], problem.action_mass[:, :, 0])
