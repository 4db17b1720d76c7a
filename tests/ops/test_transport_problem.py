"""The objective of the transport problem, its linearisation and gradient against dense formulas; its settings."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops import transport
from actloc_jax.ops.transport import mirror_descent, optimality, problem

BATCH, FRAMES, ACTIONS = 3, 24, 4
LENGTHS = np.array([24, 17, 9])
RELAXATIONS = list(itertools.product([False, True], repeat=2))
linearise = jax.jit(problem.linearise, static_argnums=1)
objective = jax.jit(problem.objective, static_argnums=1)
objective_gradient = jax.jit(mirror_descent.objective_gradient, static_argnums=1)


def _settings(relax: tuple[bool, bool], **changes: Any) -> transport.Settings:
    frames, actions = relax
    options = {"radius": 0.15, "relax_frames": frames, "relax_actions": actions, **changes}
    return transport.Settings(epsilon=0.05, alpha=0.4, lambda_frames=0.2, lambda_actions=0.15, **options)


def _made(settings: transport.Settings, seed: int = 0) -> tuple[problem.Problem, jax.Array]:
    """A problem with videos of three lengths and given marginals, and a plan inside the masks."""
    rng = np.random.default_rng(seed)
    mask = np.arange(FRAMES) < LENGTHS[:, None]
    made = problem.make_problem(
        jnp.asarray(rng.normal(size=(BATCH, FRAMES, ACTIONS))),
        jnp.asarray(mask),
        settings,
        lengths=jnp.asarray(LENGTHS),
        frame_mass=rng.random((BATCH, FRAMES)) + 0.1,
        action_mass=rng.random((BATCH, ACTIONS)) + 0.1,
    )
    plan = rng.random((BATCH, ACTIONS, FRAMES)) * mask[:, None] / 50
    return made, jnp.asarray(plan, jnp.float32)


def _dense(made: problem.Problem, settings: transport.Settings, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Cv and Ck of a video, as the module's docstring has them."""
    half = int(LENGTHS[row] * settings.radius)
    distance = np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
    weight = 1 / settings.radius if settings.band_weight == "radius" else LENGTHS[row] / half
    return ((distance > 0) & (distance <= half)) * weight, 1 - np.eye(ACTIONS)


@pytest.mark.parametrize("band_weight", ["radius", "window"])
@pytest.mark.parametrize("relax", RELAXATIONS)
def test_objective_is_the_formula(relax: tuple[bool, bool], band_weight: str) -> None:
    settings = _settings(relax, band_weight=band_weight)
    made, plans = _made(settings)
    linearised = linearise(made, settings, plans)
    found = objective(made, settings, plans, linearised)
    for row in range(BATCH):
        near, different = _dense(made, settings, row)
        plan, cost = np.float64(plans[row].T), np.float64(made.cost[row].T)  # [frames, actions]
        structure = settings.alpha * near @ plan @ different
        linear = (1 - settings.alpha) * cost
        np.testing.assert_allclose(linearised[row].T, structure + linear, rtol=1e-5, atol=1e-5)

        kept = plan[plan > 0]
        value = (
            np.sum(structure * plan) / 2 + np.sum(linear * plan) + settings.epsilon * np.sum(kept * np.log(kept) - kept)
        )
        seen = np.asarray(made.mask[row, 0])
        if settings.relax_frames:
            mass = plan.sum(axis=1)[seen]
            value += settings.lambda_frames * np.sum(mass * np.log(mass / made.frame_mass[row, 0][seen]))
        if settings.relax_actions:
            mass = plan.sum(axis=0)
            value += settings.lambda_actions * np.sum(mass * np.log(mass / made.action_mass[row, :, 0]))
        np.testing.assert_allclose(found.value[row], value, rtol=1e-5, atol=1e-5)
        published = value - np.sum(linear * plan) / 2
        np.testing.assert_allclose(found.as_published[row], published, rtol=1e-5, atol=1e-5)


def test_a_known_logarithm_changes_no_objective() -> None:
    settings = _settings((True, True))
    made, plan = _made(settings)
    linearised = linearise(made, settings, plan)
    log_plan = jnp.log(jnp.where(plan > 0, plan, 1e-20))
    for found, expected in zip(
        objective(made, settings, plan, linearised, log_plan),
        objective(made, settings, plan, linearised),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("relax", RELAXATIONS)
def test_linearisation_is_otts(relax: tuple[bool, bool]) -> None:
    settings = _settings(relax)
    made, plan = _made(settings)
    expected = linearise(made, settings, plan)
    if all(relax):  # ott's penalty has - m + w as well
        expected += settings.lambda_frames + settings.lambda_actions
    for row in range(BATCH):
        pair = optimality.quadratic(jax.tree.map(lambda leaf, row=row: leaf[row], made), settings)
        linear = pair.update_linearization(optimality._Plan(plan[row].T), epsilon=settings.epsilon)
        np.testing.assert_allclose(linear.geom.cost_matrix.T, expected[row], rtol=1e-5, atol=1e-5)
        assert float(linear.geom.epsilon) == pytest.approx(settings.epsilon)
        assert (linear.tau_a < 1, linear.tau_b < 1) == relax
        np.testing.assert_allclose(jnp.sum(linear.a), 1, rtol=1e-6)
        assert not np.any(linear.a[LENGTHS[row] :])


@pytest.mark.parametrize("relax", RELAXATIONS)
def test_gradient_is_that_of_the_objective(relax: tuple[bool, bool]) -> None:
    settings = _settings(relax)
    made, plan = _made(settings)

    def total(plan: jax.Array) -> jax.Array:
        return jnp.sum(objective(made, settings, plan, linearise(made, settings, plan)).value)

    found = objective_gradient(made, settings, linearise(made, settings, plan), plan)
    np.testing.assert_allclose(
        jnp.where(made.mask, found, 0), jnp.where(made.mask, jax.jit(jax.grad(total))(plan), 0), atol=2e-5
    )


def test_gradient_is_finite_where_a_plan_is_zero() -> None:
    """The published floors: epsilon log 1e-12, and the same inside the logarithms of the ratios."""
    settings = _settings((True, True))
    made, _ = _made(settings)
    nothing = jnp.zeros_like(made.cost)
    floor = np.log(1e-12)
    expected = settings.epsilon * floor + (settings.lambda_frames + settings.lambda_actions) * (floor + 1)
    found = objective_gradient(made, settings, nothing, nothing)
    np.testing.assert_allclose(found, np.full(found.shape, expected), rtol=1e-6)


def test_marginals_are_relative_and_count_inside_the_mask() -> None:
    settings = transport.Settings()
    mask = jnp.asarray([[True, True, False], [False, False, False]])
    frame_mass = jnp.asarray([[1.0, 3.0, np.inf], [0.0, 0.0, 0.0]])
    made = problem.make_problem(jnp.ones((2, 3, 2)), mask, settings, frame_mass=frame_mass, action_mass=[2.0, 6.0])
    np.testing.assert_allclose(made.frame_mass[0, 0, :2], [0.25, 0.75])
    np.testing.assert_allclose(jnp.where(made.mask, made.frame_mass, 0).sum(axis=2), 1)
    np.testing.assert_allclose(made.action_mass[:, :, 0], [[0.25, 0.75]] * 2)
    assert np.all(np.isfinite(made.frame_mass))


@pytest.mark.parametrize("radius", [0.29, 0.02, 1.0])
def test_half_windows_are_rounded_as_python_rounds(radius: float) -> None:
    """In float32, 100 x 0.29 is 29; in float64 it is a little less."""
    settings = transport.Settings(radius=radius)
    lengths = jnp.arange(0, 201)
    made = problem.make_problem(jnp.ones((201, 200, 1)), jnp.ones((201, 200), bool), settings, lengths=lengths)
    np.testing.assert_array_equal(made.half_window, [int(length * radius) for length in range(201)])
    assert settings.half_window(200) == int(200 * radius)


def test_prior_is_the_distance_from_the_order_of_actions() -> None:
    prior = transport.temporal_prior(jnp.asarray([4, 2]), 4, 2, 0.5)
    expected = 0.5 * np.abs(np.arange(4)[:, None] / 4 - np.arange(2) / 2)
    np.testing.assert_allclose(prior[0], expected, rtol=1e-6)
    np.testing.assert_allclose(prior[1, :2], expected[::2], rtol=1e-6)
    assert np.all(np.isfinite(transport.temporal_prior(jnp.asarray([0]), 4, 2, 0.5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be positive"),
        ({"epsilon": float("nan")}, "epsilon is nan; it must be positive"),
        ({"inner_iterations": 0}, "inner_iterations is 0; it must be positive"),
        ({"iterations": 0}, "iterations is 0; it must be positive"),
        ({"step": -1.0}, "step is -1.0; it must be positive"),
        ({"relax_frames": True, "lambda_frames": 0.0}, "lambda_frames is 0.0; it must be positive"),
        ({"lambda_actions": -0.5}, "lambda_actions is -0.5; it must be positive"),
        ({"tolerance": -1e-3}, "tolerance is -0.001; it must not be negative"),
        ({"warm_start": -1}, "warm_start is -1; it must not be negative"),
        ({"mode": "prox", "epsilon": 0.1, "step": 11.0}, "step is 11.0; for prox it must be at most 1 / epsilon, 10"),
        ({"alpha": 1.5}, "alpha is 1.5; .* in 0..1"),
        ({"alpha": -0.1}, "alpha is -0.1; .* in 0..1"),
        ({"radius": 0.0}, "radius is 0.0; .* more than 0, at most 1"),
        ({"radius": 1.1}, "radius is 1.1; .* more than 0, at most 1"),
        ({"mode": "sinkhorn"}, "mode is 'sinkhorn'; use pmd, gw, prox"),
        ({"step_scope": "frame"}, "step_scope is 'frame'; use batch, video"),
        ({"band_weight": "none"}, "band_weight is 'none'; use radius, window"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transport.Settings(**options)


def test_settings_at_the_ends_of_their_ranges_are_accepted() -> None:
    transport.Settings(alpha=0.0, radius=1.0, warm_start=0)
    transport.Settings(alpha=1.0, mode="prox", epsilon=0.3, step=1 / 0.3)
    transport.Settings(lambda_frames=0.0)  # of a side that is a constraint; it is not used
    assert [transport.Settings(mode=mode).most_iterations for mode in ("pmd", "prox", "gw")] == [25, 25, 200]
