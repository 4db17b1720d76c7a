"""ASOT's problem solved by ott-jax: to optimality (Gromov-Wasserstein), or by damped proximal steps.

The problem maps onto ott's fused quadratic problem with the product loss. Its KL terms are linear in the marginals
(ott's quadratic correction is another problem), and its entropy has no reference measure, which is what ott's Sinkhorn
is stationary for when a side is relaxed.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.problems.quadratic import quadratic_costs, quadratic_problem
from ott.solvers.linear import sinkhorn
from ott.solvers.quadratic import gromov_wasserstein

from actloc_jax.ops.transport.band import BandGeometry
from actloc_jax.ops.transport.mirror_descent import Solution, descend, start
from actloc_jax.ops.transport.problem import LOG_MOST, Problem, Settings, linearise, objective

PROX_STEP = 2.5
OUTER_THRESHOLD = 1e-6  # relative change of ott's cost between linearisations
INNER_THRESHOLD = 1e-4  # error of the marginals at which Sinkhorn stops
INNER_ITERATIONS = 500
ROUNDING = 1e-5  # of an objective, relative
PROX_INNER_THRESHOLD = 1e-3
PROX_INNER_ITERATIONS = 20
LOG_SMALLEST = -87.0  # float32's


def _zero(x: jax.Array) -> jax.Array:
    return 0 * x


def _minus(x: jax.Array) -> jax.Array:
    return -x


def _same(x: jax.Array) -> jax.Array:
    return x


# L(x, y) = x y in ott's form f1(x) + f2(y) - h1(x) h2(y). Functions of the module, because the loss is static data.
PRODUCT_LOSS = quadratic_costs.GWLoss(
    *(quadratic_costs.Loss(function, is_linear=True) for function in (_zero, _zero, _minus, _same))
)


def solve_to_optimality(problem: Problem, settings: Settings) -> tuple[Solution, jax.Array]:
    """ott's Gromov-Wasserstein loop from the plan of `warm_start` mirror steps on.

    Its full steps can leave for a worse optimum; then the plan that it started from is returned (not where both sides
    are constraints: the published projection does not keep them, so that its objective says nothing).

    Returns:
        the solution (values: before and after), and [batch] bool: ott's loop converged.
    """
    fixed = dataclasses.replace(settings, tolerance=0.0)  # it is a tolerance of ott's loop here
    begin = descend(problem, fixed, iterations=settings.warm_start, trace=False)
    solver = gromov_wasserstein.GromovWasserstein(
        sinkhorn.Sinkhorn(threshold=INNER_THRESHOLD, max_iterations=INNER_ITERATIONS),
        epsilon=settings.epsilon,
        warm_start=True,
        threshold=settings.tolerance or OUTER_THRESHOLD,
        max_iterations=settings.most_iterations,
    )

    def one(row: Problem, plan: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        pair = quadratic(row, settings)
        first = pair.update_linearization(_Plan(plan.T), epsilon=settings.epsilon)
        end = solver(pair, init=first)
        steps = jnp.sum(end.costs != -1)
        return end.linear_state.matrix.T, end.converged, steps.astype(jnp.int32)

    windows = jnp.broadcast_to(problem.half_window, len(begin.plan))
    plan, converged, steps = jax.vmap(one)(problem._replace(half_window=windows), begin.plan)
    plan = jnp.where(problem.mask, plan, 0)
    after = objective(problem, settings, plan, linearise(problem, settings, plan))
    better = jnp.isfinite(after.value)  # a mass that is not fixed can leave the range of float32
    if settings.relax_frames or settings.relax_actions:
        better &= after.value <= begin.values[:, 0]
    kept = jnp.where(better[:, None, None], plan, begin.plan)
    values = jnp.stack([begin.values[:, 0], jnp.where(better, after.value, begin.values[:, 0])], axis=1)
    published = begin.published_values[:, 0]
    published = jnp.stack([published, jnp.where(better, after.as_published, published)], axis=1)
    change = jnp.sum(jnp.abs(kept - begin.plan), axis=(1, 2))
    # Where mirror steps were at the optimum already, ott ends there too, above them by rounding at most.
    reached = after.value <= begin.values[:, 0] + ROUNDING * jnp.maximum(jnp.abs(begin.values[:, 0]), 1)
    return Solution(kept, values, published, change, begin.iterations + steps), converged & (better | reached)


def quadratic(problem: Problem, settings: Settings) -> quadratic_problem.QuadraticProblem:
    """The fused quadratic problem of ott of one video: a row of `Problem`."""
    actions, frames = problem.cost.shape
    constant = settings.lambda_frames + settings.lambda_actions
    both = settings.relax_frames and settings.relax_actions
    # ASOT's penalty of a marginal m is m log(m / w), ott's also has - m + w: a constant, if the mass is not fixed.
    cost = (1 - settings.alpha) * problem.cost + (constant if both else 0)
    return quadratic_problem.QuadraticProblem(
        geom_xx=BandGeometry(
            frames,
            problem.half_window,
            settings.half_window(frames),
            settings.alpha * problem.band_weight[0, 0],
        ),
        geom_yy=geometry.Geometry(1 - jnp.eye(actions)),
        geom_xy=geometry.Geometry(cost.T),
        fused_penalty=1.0,
        a=jnp.where(problem.mask[0], problem.frame_mass[0], 0),
        b=problem.action_mass[:, 0],
        loss=PRODUCT_LOSS,
        tau_a=_tau(settings.relax_frames, settings.lambda_frames, settings.epsilon),
        tau_b=_tau(settings.relax_actions, settings.lambda_actions, settings.epsilon),
        gw_unbalanced_correction=False,
    )


def solve_by_proximal_steps(problem: Problem, settings: Settings, *, trace: bool) -> Solution:
    """Steps argmin <F'(T_k), T> + epsilon entropy + KL terms + (1/s - epsilon) KL(T | T_k), each by ott's Sinkhorn.

    The fixed points are those of the mirror steps, and the KL term of a relaxed side is implicit.
    """
    smoothing = max(1 / (settings.step or PROX_STEP), settings.epsilon)
    solver = sinkhorn.Sinkhorn(threshold=PROX_INNER_THRESHOLD, max_iterations=PROX_INNER_ITERATIONS, inner_iterations=5)
    tau_a = _tau(settings.relax_frames, settings.lambda_frames, smoothing)
    tau_b = _tau(settings.relax_actions, settings.lambda_actions, smoothing)
    both = settings.relax_frames and settings.relax_actions
    constant = (settings.lambda_frames + settings.lambda_actions) if both else 0.0

    def nearest(
        row: Problem, linearised: jax.Array, plan: jax.Array, potential: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        log_plan = jnp.log(jnp.maximum(plan, jnp.exp(LOG_SMALLEST)))
        cost = linearised + constant - (smoothing - settings.epsilon) * log_plan
        masses = jnp.where(row.mask[0], row.frame_mass[0], 0)
        pair = linear_problem.LinearProblem(
            geometry.Geometry(cost.T, epsilon=smoothing), masses, row.action_mass[:, 0], tau_a=tau_a, tau_b=tau_b
        )
        end = solver(pair, init=(jnp.where(row.mask[0], 0.0, -jnp.inf), potential))
        new = jnp.minimum(end.matrix.T, jnp.exp(LOG_MOST))
        return jnp.where(row.mask, new, 0), end.g

    rows = problem._replace(half_window=jnp.broadcast_to(problem.half_window, len(problem.cost)))

    def advance(state: tuple, iteration: jax.Array) -> tuple:
        plan, potential, change, taken = state
        linearised = linearise(problem, settings, plan)
        now = objective(problem, settings, plan, linearised) if trace else None
        new, moved = jax.vmap(nearest)(rows, linearised, plan, potential)
        done = (change < settings.tolerance)[:, None, None]
        new = jnp.where(done, plan, new)
        change = jnp.where(done[:, 0, 0], change, jnp.sum(jnp.abs(new - plan), axis=(1, 2)))
        return (new, jnp.where(done[:, :, 0], potential, moved), change, taken + ~done[:, 0, 0]), now

    batch, actions, _ = problem.cost.shape
    begin = (start(problem), jnp.zeros((batch, actions)), jnp.full(batch, jnp.inf), jnp.zeros(batch, jnp.int32))
    (plan, _, change, taken), before = lax.scan(advance, begin, jnp.arange(settings.most_iterations))
    last = objective(problem, settings, plan, linearise(problem, settings, plan))
    values, published = last.value[:, None], last.as_published[:, None]
    if trace:
        values = jnp.concatenate([before.value.T, values], axis=1)
        published = jnp.concatenate([before.as_published.T, published], axis=1)
    return Solution(plan, values, published, change, taken)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["matrix"], meta_fields=[])
class _Plan:
    """What ott asks of a plan that it linearises at: its matrix [frames, actions] and its marginals."""

    def __init__(self, matrix: jax.Array) -> None:
        self.matrix = matrix

    def marginal(self, axis: int) -> jax.Array:
        """Sums over `axis`: [actions] over 0, [frames] over 1."""
        return jnp.sum(self.matrix, axis=axis)


def _tau(relaxed: bool, weight: float, epsilon: float) -> float:
    """ott's name for the weight of a KL term: weight / (weight + epsilon); 1 for a constraint."""
    return weight / (weight + epsilon) if relaxed else 1.0
