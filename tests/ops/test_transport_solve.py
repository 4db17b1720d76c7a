"""Plans of the three solvers: published steps in float64, marginals, batches, stopping, memory, and any finite cost."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actloc_jax.ops import transport

FRAMES, ACTIONS = 24, 4
LENGTHS = np.array([24, 17, 9])
MODES = ("pmd", "gw", "prox")
compiled = jax.jit(transport.solve, static_argnums=2, static_argnames="trace")


def solve(
    cost: Any, mask: Any, settings: transport.Settings, *, trace: bool = True, **given: Any
) -> transport.Transport:
    """With all optional arrays, so that tests share programs: one for each settings."""
    batch, frames, actions = np.shape(cost)
    defaults = {
        "lengths": np.full(batch, frames),
        "frame_mass": np.ones((batch, frames), np.float32),
        "action_mass": np.ones((batch, actions), np.float32),
    }
    arrays = {name: np.asarray(given.get(name, default), default.dtype) for name, default in defaults.items()}
    arrays["action_mass"] = np.broadcast_to(arrays["action_mass"], (batch, actions))
    return compiled(cost, mask, settings, trace=trace, **arrays)


def _settings(mode: str = "pmd", relax: tuple[bool, bool] = (False, True), **changes: Any) -> transport.Settings:
    options = {"radius": 0.15, "step_scope": "video", "lambda_frames": 0.2, "lambda_actions": 0.15, **changes}
    return transport.Settings(mode=mode, relax_frames=relax[0], relax_actions=relax[1], **options)


@functools.cache
def _batch() -> tuple[np.ndarray, np.ndarray]:
    """Costs that fall along the diagonal, and masks of `LENGTHS`."""
    rng = np.random.default_rng(0)
    mask = np.arange(FRAMES) < LENGTHS[:, None]
    prior = np.asarray(transport.temporal_prior(jnp.asarray(LENGTHS), FRAMES, ACTIONS, 0.5))
    return (rng.random((3, FRAMES, ACTIONS)) + prior).astype(np.float32), mask


def _published(cost: np.ndarray, settings: transport.Settings) -> np.ndarray:
    """The published steps for one video without padding, in the linear domain and float64: [time, actions]."""
    frames, actions = cost.shape
    distance = np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))
    near = ((distance > 0) & (distance <= int(frames * settings.radius))) / settings.radius
    wanted_frames, wanted_actions = 1 / frames, 1 / actions
    plan, step = np.full(cost.shape, wanted_frames * wanted_actions), settings.step
    for _ in range(settings.most_iterations):
        linear = settings.alpha * near @ plan @ (1 - np.eye(actions)) + (1 - settings.alpha) * cost
        rows, columns = plan.sum(axis=1, keepdims=True), plan.sum(axis=0, keepdims=True)
        gradient = linear + settings.epsilon * np.log(plan + 1e-12)
        if settings.relax_frames:
            gradient += settings.lambda_frames * (np.log(rows / wanted_frames + 1e-12) + 1)
        if settings.relax_actions:
            gradient += settings.lambda_actions * (np.log(columns / wanted_actions + 1e-12) + 1)
        step = step or 4 / gradient.max()
        if settings.relax_frames or settings.relax_actions:
            plan = plan * np.exp(-step * gradient)
            if not settings.relax_frames:
                plan *= wanted_frames / plan.sum(axis=1, keepdims=True)
            elif not settings.relax_actions:
                plan *= wanted_actions / plan.sum(axis=0, keepdims=True)
        else:
            kernel, scale = np.exp(-linear / settings.epsilon), np.ones(actions)
            for _ in range(settings.inner_iterations):
                other = wanted_frames / (kernel @ scale)
                scale = wanted_actions / (kernel.T @ other)
            plan = other[:, None] * kernel * scale
    return plan * frames


@pytest.mark.parametrize(
    ("relax", "changes"),
    [
        ((False, True), {}),
        ((True, False), {}),
        ((True, True), {"step": 1.2}),
        ((False, False), {"inner_iterations": 1}),
        ((False, False), {"inner_iterations": 5}),
    ],
)
def test_mirror_steps_are_the_published_ones(relax: tuple[bool, bool], changes: dict[str, Any]) -> None:
    cost, mask = _batch()
    settings = _settings(relax=relax, **changes)
    found = solve(cost, mask, settings, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(
            found.plan[row, :length], _published(np.float64(cost[row, :length]), settings), atol=1e-4
        )


@pytest.mark.parametrize(
    ("mode", "relax"),
    [
        ("pmd", (False, True)), ("pmd", (True, False)), ("pmd", (True, True)), ("pmd", (False, False)),
        ("gw", (False, True)), ("prox", (False, True)), ("prox", (True, False)),
    ],
)  # fmt: skip
def test_padded_batch_equals_one_by_one(mode: str, relax: tuple[bool, bool]) -> None:
    """And hard marginals are kept, plans outside the mask are 0, and masses are those of the plans."""
    cost, mask = _batch()
    balanced = not any(relax)
    changes = {"step": 1.2} if relax == (True, True) and mode == "pmd" else {}
    settings = _settings(mode, relax, inner_iterations=60 if balanced else 1, **changes)
    found = solve(cost, mask, settings, lengths=LENGTHS)
    assert not np.any(np.asarray(found.plan)[~mask])
    np.testing.assert_allclose(np.sum(found.plan, axis=(1, 2)) / LENGTHS, found.mass, rtol=1e-5)
    loose = {"pmd": 1e-3 if balanced else 1e-5, "gw": 1e-3, "prox": 5e-3}[mode]
    length = LENGTHS[1]
    alone = solve(cost[1:2, :length], mask[1:2, :length], settings)
    # Where ott stops depends on rounding near its thresholds.
    np.testing.assert_allclose(found.plan[1, :length], alone.plan[0], atol=1e-3 if mode == "gw" else 2e-5)
    np.testing.assert_array_equal(np.argmax(found.plan[1, :length], axis=1), np.argmax(alone.plan[0], axis=1))
    np.testing.assert_allclose(found.objective[1, -1], alone.objective[0, -1], atol=1e-5)
    for row, length in enumerate(LENGTHS):
        if not relax[0]:
            np.testing.assert_allclose(np.sum(found.plan[row, :length], axis=1), 1, atol=length * loose)
        if not relax[1]:
            np.testing.assert_allclose(np.sum(found.plan[row], axis=0) / length, 1 / ACTIONS, atol=loose)
    if not all(relax):
        np.testing.assert_allclose(found.mass, 1, atol=loose)


def test_given_marginals_are_kept() -> None:
    cost, mask = _batch()
    rng = np.random.default_rng(1)
    frame_mass, action_mass = rng.random(mask.shape) + 0.1, rng.random(ACTIONS) + 0.1
    found = solve(cost, mask, _settings(), lengths=LENGTHS, frame_mass=frame_mass)
    wanted = np.where(mask, frame_mass, 0)
    wanted *= LENGTHS[:, None] / wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.sum(found.plan, axis=2), wanted, atol=1e-5)
    found = solve(cost, mask, _settings(relax=(True, False)), lengths=LENGTHS, action_mass=action_mass)
    wanted = np.broadcast_to(action_mass / action_mass.sum(), (3, ACTIONS))
    np.testing.assert_allclose(np.sum(found.plan, axis=1) / LENGTHS[:, None], wanted, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [_settings(step_scope="batch", tolerance=1e-3), _settings(tolerance=1e-3), _settings("gw"), _settings("prox")],
    ids=["pmd-batch", "pmd-video", "gw", "prox"],
)
def test_rows_without_frames_are_empty_and_change_nothing(settings: transport.Settings) -> None:
    """They take no part in the step of the batch and do not delay its end; a second copy of a video does neither."""
    cost, mask = _batch()
    copies = [0, 1, 0]
    alone = solve(cost[copies], mask[copies], settings, lengths=LENGTHS[copies])
    filled = mask & np.array([True, True, False])[:, None]
    cost = np.where(filled[:, :, None], cost, 1000)
    found = solve(cost, filled, settings, lengths=LENGTHS * [1, 1, 0], frame_mass=filled)
    assert not np.any(found.plan[2])
    np.testing.assert_allclose(found.plan[:2], alone.plan[:2], atol=2e-5)
    np.testing.assert_array_equal(found.iterations[:2], alone.iterations[:2])


def test_step_of_a_batch_couples_its_videos() -> None:
    cost, mask = _batch()
    changed = cost.copy()
    changed[0] *= 3
    coupled, apart = _settings(step_scope="batch"), _settings(step_scope="video")
    first, second = (solve(one, mask, apart, lengths=LENGTHS).plan[1:] for one in (cost, changed))
    np.testing.assert_array_equal(first, second)
    first, second = (solve(one, mask, coupled, lengths=LENGTHS).plan[1:] for one in (cost, changed))
    assert np.max(np.abs(first - second)) > 1e-2


def test_a_window_of_no_frame_leaves_no_structure() -> None:
    cost, mask = _batch()
    weighted = _settings(radius=0.04)  # 24 x 0.04 < 1
    found = solve(cost, mask, weighted, lengths=LENGTHS)
    expected = solve(cost * 0.7, mask, _settings(radius=0.04, alpha=0.0), lengths=LENGTHS)
    np.testing.assert_allclose(found.plan, expected.plan, atol=2e-5)
    near = solve(cost, mask, _settings(), lengths=LENGTHS)
    assert np.max(np.abs(near.plan - found.plan)) > 1e-2


def test_weight_of_the_window_is_frames_over_half_width() -> None:
    """17 frames x 0.15 are 2 frames: 1 / radius weighs them 6.7, the window's rule 8.5, as a radius of 2 / 17 would."""
    cost, _ = _batch()
    video, seen = cost[1:2, :17], np.ones((1, 17), bool)
    found = solve(video, seen, _settings(band_weight="window"))
    expected = solve(video, seen, _settings(radius=2.0001 / 17))
    np.testing.assert_allclose(found.plan, expected.plan, atol=1e-3)
    assert np.max(np.abs(found.plan - solve(video, seen, _settings()).plan)) > 1e-2


@pytest.mark.parametrize("mode", ["pmd", "prox"])
def test_tolerance_stops_early_and_says_so(mode: str) -> None:
    cost, mask = _batch()
    found = solve(cost, mask, _settings(mode, tolerance=1e-2, iterations=200), lengths=LENGTHS)
    assert np.all(found.converged)
    assert np.all((found.iterations > 1) & (found.iterations < 200))
    if mode == "pmd":
        steps = int(found.iterations[0])
        assert np.all(np.isfinite(found.objective[:, : steps + 1]))
        assert np.all(np.isnan(found.objective[:, steps + 1 :]))
        short = solve(cost, mask, _settings(iterations=1), lengths=LENGTHS)
        assert not np.any(short.converged)
        np.testing.assert_array_equal(short.iterations, 1)


def test_gw_says_whether_it_converged() -> None:
    cost, mask = _batch()
    found = solve(cost, mask, _settings("gw"), lengths=LENGTHS)
    assert np.all(found.converged)
    assert found.objective.shape == (3, 2)  # before and after
    short = solve(cost, mask, _settings("gw", iterations=1, warm_start=3, tolerance=0.5), lengths=LENGTHS)
    assert not np.any(short.converged)
    np.testing.assert_array_equal(short.iterations, 4)  # the tolerance is not the warm start's


@pytest.mark.parametrize("mode", ["pmd", "prox"])
def test_without_a_trace_the_last_objective_is_left(mode: str) -> None:
    cost, mask = _batch()
    found, traced = (solve(cost, mask, _settings(mode), lengths=LENGTHS, trace=trace) for trace in (False, True))
    assert found.objective.shape == found.published_objective.shape == (3, 1)
    assert traced.objective.shape == traced.published_objective.shape == (3, 26)
    np.testing.assert_allclose(found.objective[:, 0], traced.objective[:, -1], atol=1e-6)
    np.testing.assert_allclose(found.published_objective[:, 0], traced.published_objective[:, -1], atol=1e-6)


@pytest.mark.parametrize("relax", [(False, True), (True, False), (True, True)])
def test_small_mirror_steps_descend_to_the_optimum_of_the_others(relax: tuple[bool, bool]) -> None:
    """Proximal steps end at the same objective, and ott's solver nowhere above the published 25 steps."""
    cost, mask = _batch()
    values = np.asarray(solve(cost, mask, _settings(relax=relax, step=0.5, iterations=2000), lengths=LENGTHS).objective)
    assert np.all(np.diff(values, axis=1) <= 1e-6)
    assert np.all(values[:, -1] < values[:, 0] - 1e-2)
    # Sinkhorn's threshold leaves the actions' mass off by up to 1e-3 where it is a constraint.
    prox = solve(cost, mask, _settings("prox", relax, iterations=400), lengths=LENGTHS, trace=False)
    np.testing.assert_allclose(prox.objective[:, -1], values[:, -1], atol=1e-4 if relax[1] else 1e-3)
    if relax == (False, True):
        gw, pmd = (solve(cost, mask, _settings(mode), lengths=LENGTHS) for mode in ("gw", "pmd"))
        assert np.all(np.asarray(gw.objective)[:, -1] <= np.asarray(pmd.objective)[:, -1] + 1e-6)


def test_proximal_steps_converge_at_a_large_epsilon() -> None:
    """The default step is cut to 1 / epsilon: beyond it, steps overshoot by more each time."""
    cost, mask = _batch()
    long = solve(cost, mask, _settings(epsilon=1.0, iterations=300, step=0.5), lengths=LENGTHS)
    found = solve(cost, mask, _settings("prox", epsilon=1.0), lengths=LENGTHS)
    assert np.all(found.converged)
    np.testing.assert_allclose(found.objective[:, -1], long.objective[:, -1], atol=1e-4)


def test_no_gradient_passes() -> None:
    cost, mask = _batch()

    def total(cost: jax.Array, frame_mass: jax.Array, action_mass: jax.Array) -> jax.Array:
        found = transport.solve(
            cost, mask, _settings(), lengths=LENGTHS, frame_mass=frame_mass, action_mass=action_mass
        )
        return jnp.sum(found.plan**2) + jnp.sum(found.objective[:, -1]) + jnp.sum(cost)

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(cost, jnp.ones(mask.shape), jnp.ones(ACTIONS))
    np.testing.assert_array_equal(gradients[0], np.ones(cost.shape))
    assert not np.any(gradients[1])
    assert not np.any(gradients[2])


def test_costs_of_half_precision_are_solved_in_float32() -> None:
    cost, mask = _batch()
    half = jnp.asarray(cost, jnp.bfloat16)
    found = solve(half, mask, _settings(), lengths=LENGTHS)
    expected = solve(half.astype(jnp.float32), mask, _settings(), lengths=LENGTHS)
    assert {leaf.dtype.name for leaf in found} == {"float32", "bool", "int32"}
    np.testing.assert_array_equal(found.plan, expected.plan)


@pytest.mark.parametrize("mode", ["pmd", "gw"])
def test_one_program_serves_all_lengths_of_a_bucket(mode: str) -> None:
    cost, _ = _batch()
    traces = []

    @jax.jit
    def count(cost: jax.Array, mask: jax.Array, lengths: jax.Array) -> jax.Array:
        traces.append(1)
        return transport.solve(cost, mask, _settings(mode), lengths=lengths).plan

    for length in (24, 13, 1):
        plan = count(cost[:1], np.arange(FRAMES)[None] < length, np.array([length]))
        np.testing.assert_allclose(np.sum(plan), length, rtol=1e-3)
    assert len(traces) == 1


@pytest.mark.parametrize("relax", [(False, True), (False, False)])
@pytest.mark.parametrize("mode", MODES)
def test_memory_is_linear_in_the_frames(mode: str, relax: tuple[bool, bool]) -> None:
    """No array of the program is near frames x frames."""
    frames, actions = 4096, 8
    shapes = (jax.ShapeDtypeStruct((1, frames, actions), "float32"), jax.ShapeDtypeStruct((1, frames), "bool"))
    lengths = jax.ShapeDtypeStruct((1,), "int32")
    program = compiled.lower(*shapes, _settings(mode, relax), lengths=lengths).as_text()
    sizes = [np.prod([int(n) for n in found.split("x")[:-1]]) for found in re.findall(r"tensor<((?:\d+x)+)", program)]
    assert frames * actions <= max(sizes) <= 16 * frames * actions


# mode, relaxed sides, epsilon, alpha
EXTREME = [
    ("pmd", (False, True), 0.005, 0.6), ("pmd", (True, False), 0.02, 1.0), ("pmd", (True, True), 0.07, 0.3),
    ("pmd", (False, False), 0.005, 0.3), ("gw", (False, True), 0.005, 0.6), ("gw", (True, True), 0.07, 0.3),
    ("prox", (False, True), 0.005, 0.6), ("prox", (True, True), 1.0, 0.0),
]  # fmt: skip


def _costs(rng: np.random.Generator, kind: str, shape: tuple[int, ...], power: float) -> np.ndarray:
    signs = rng.choice([-1, 1], shape)
    return {
        "normal": lambda: rng.normal(size=shape),
        "extreme": lambda: rng.choice([-1, 0, 1], shape) * 10.0**power,
        "wide": lambda: signs * 10.0 ** rng.uniform(-power, power, shape),
        "constant": lambda: np.full(shape, signs.flat[0] * 10.0 ** rng.uniform(-3, power)),
        "zero": lambda: np.zeros(shape),
    }[kind]()


@pytest.mark.parametrize(("mode", "relax", "epsilon", "alpha"), EXTREME)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["normal", "extreme", "wide", "constant", "zero"]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    spread=st.sampled_from([0.0, 4.0]),
)
def test_plans_are_finite_for_any_finite_cost(
    mode: str,
    relax: tuple[bool, bool],
    epsilon: float,
    alpha: float,
    seed: int,
    kind: str,
    density: float,
    spread: float,
) -> None:
    iterations = 40 if mode == "gw" else None
    settings = _settings(mode, relax, epsilon=epsilon, alpha=alpha, iterations=iterations)
    rng = np.random.default_rng(seed)
    shape = (3, FRAMES, ACTIONS)
    cost = _costs(rng, kind, shape, 30 if mode == "pmd" else 4).astype(np.float32)
    mask = rng.random(shape[:2]) < density
    mask[0] = np.arange(FRAMES) < rng.integers(1, FRAMES + 1)
    frame_mass = np.where(mask, 10.0 ** rng.uniform(-spread, spread, mask.shape), 0).astype(np.float32)
    action_mass = (10.0 ** rng.uniform(-spread, spread, (3, ACTIONS))).astype(np.float32)
    lengths = np.max(np.where(mask, np.arange(1, FRAMES + 1), 0), axis=1)
    _assert_finite(solve(cost, mask, settings, lengths=lengths, frame_mass=frame_mass, action_mass=action_mass), mask)


@pytest.mark.parametrize("mode", MODES)
@given(cost=st.floats(-1e4, 1e4, width=32), present=st.booleans())
def test_one_frame_and_one_action(mode: str, cost: float, present: bool) -> None:
    mask = np.array([[present]])
    found = solve(np.full((1, 1, 1), cost, np.float32), mask, _settings(mode), lengths=np.array([int(present)]))
    _assert_finite(found, mask)
    np.testing.assert_allclose(found.plan[0, 0, 0], float(present), atol=2e-2)  # float32 of costs over epsilon


def _assert_finite(found: transport.Transport, mask: np.ndarray) -> None:
    for name in ("plan", "objective", "published_objective", "mass"):
        assert np.all(np.isfinite(getattr(found, name))), name
    plan = np.asarray(found.plan)
    assert np.all(plan >= 0)
    assert not np.any(plan[~mask])


@pytest.mark.parametrize(
    ("mode", "lengths"), [("pmd", None), ("pmd", LENGTHS), ("prox", LENGTHS), ("gw", None)], ids=str
)
def test_a_loop_over_the_videos_gives_what_all_at_once_give(mode: str, lengths: np.ndarray | None) -> None:
    cost, mask = _batch()
    settings = _settings(mode, step_scope="batch")  # a common step is found before the loop
    together, alone = (
        transport.solve(cost, mask, settings, lengths=lengths, one_by_one=choice) for choice in (False, True)
    )
    # Where ott stops depends on rounding near its thresholds.
    np.testing.assert_allclose(together.plan, alone.plan, atol=2e-3 if mode == "gw" else 2e-5)
    np.testing.assert_allclose(together.objective, alone.objective, atol=1e-5)
    np.testing.assert_allclose(together.mass, alone.mass, atol=1e-5)
    assert together.iterations.shape == alone.iterations.shape == together.converged.shape == alone.converged.shape
