"""Optimizers against PyTorch's formulas written out in NumPy; groups, accumulation and schedules by their rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from actloc_jax.training import ema, optimizers


def trajectory(tx, start, gradients, values=None):
    """Parameters after each micro-step, [steps, ...], all steps through one jitted update."""
    tx = optax.with_extra_args_support(tx)
    params = {"w": jnp.asarray(start)}
    state = tx.init(params)

    @jax.jit
    def step(params, state, gradient, value):
        updates, state = tx.update({"w": gradient}, state, params, value=value)
        return optax.apply_updates(params, updates), state

    history = []
    values = np.zeros(len(gradients)) if values is None else values
    for gradient, value in zip(gradients, values, strict=True):
        params, state = step(params, state, gradient, value)
        history.append(np.asarray(params["w"]))
    return np.stack(history)


def torch_adam(start, gradients, rate, weight_decay, decoupled=False, eps=1e-8):
    """`torch.optim.Adam` / `AdamW` in float64 NumPy, from their documentation."""
    w, m, v = start.astype(np.float64), 0.0, 0.0
    history = []
    for step, gradient in enumerate(gradients.astype(np.float64), start=1):
        if decoupled:
            w = w * (1 - rate * weight_decay)
        else:
            gradient = gradient + weight_decay * w
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        w = w - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + eps)
        history.append(w)
    return np.stack(history)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3)).astype(np.float32), (1e-2 * rng.normal(size=(12, 4, 3))).astype(np.float32)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_adam_couples_weight_decay_as_pytorch(problem, weight_decay):
    start, gradients = problem
    ours = trajectory(optimizers.adam(5e-3, weight_decay=weight_decay), start, gradients)
    np.testing.assert_allclose(ours, torch_adam(start, gradients, 5e-3, weight_decay), atol=3e-6)


def test_adamw_decays_the_parameter_itself(problem):
    start, gradients = problem
    ours = trajectory(optimizers.adamw(5e-3, weight_decay=0.5), start, gradients)
    np.testing.assert_allclose(ours, torch_adam(start, gradients, 5e-3, 0.5, decoupled=True), atol=3e-6)


def test_adam_adds_eps_outside_the_root():
    """With gradients as small as eps the two placements of eps differ by orders of magnitude."""
    start, gradients = np.zeros((2, 2), np.float32), np.full((3, 2, 2), 1e-8, np.float32)
    ours = trajectory(optimizers.adam(1.0), start, gradients)
    np.testing.assert_allclose(ours, torch_adam(start, gradients, 1.0, 0.0), rtol=1e-4)


def test_sgd_momentum_and_coupled_decay(problem):
    start, gradients = problem
    w, velocity, expected = start.astype(np.float64), 0.0, []
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient + 0.1 * w
        w = w - 0.05 * velocity
        expected.append(w)
    ours = trajectory(optimizers.sgd(0.05, momentum=0.9, weight_decay=0.1), start, gradients)
    np.testing.assert_allclose(ours, np.stack(expected), atol=1e-5)


def test_accumulated_groups_run_over_epochs(problem):
    """12 micro-steps in epochs of 5, groups of 4: updates after steps 4, 8, 12, whatever the epochs are."""
    start, gradients = problem
    ours = trajectory(optimizers.accumulate(optimizers.adam(1e-2, weight_decay=0.1), 4), start, gradients)
    means = gradients.reshape(3, 4, *start.shape).mean(1)
    updated = torch_adam(start, means, 1e-2, 0.1)
    expected = np.stack([start] * 3 + [updated[0]] * 4 + [updated[1]] * 4 + [updated[2]])
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_accumulation_closes_a_short_group_at_the_end_of_an_epoch(problem):
    """Epochs of 6, groups of 4: updates after steps 4, 6, 10, 12; the pairs are still divided by 4."""
    start, gradients = problem
    tx = optimizers.accumulate(optimizers.adam(1e-2, weight_decay=0.1), 4, steps_per_epoch=6)
    sums = [gradients[a:b].sum(0) / 4 for a, b in ((0, 4), (4, 6), (6, 10), (10, 12))]
    updated = torch_adam(start, np.stack(sums), 1e-2, 0.1)
    expected = np.stack([start] * 3 + [updated[0]] * 2 + [updated[1]] * 4 + [updated[2]] * 2 + [updated[3]])
    np.testing.assert_allclose(trajectory(tx, start, gradients), expected, atol=1e-6)


@pytest.mark.parametrize(("every", "steps_per_epoch"), [(1, None), (3, None), (4, 6), (4, 3), (1, 5)])
def test_optimizer_steps_counts_the_updates_of_accumulate(every, steps_per_epoch):
    tx = optimizers.accumulate(optimizers.sgd(1.0), every, steps_per_epoch)
    history = trajectory(tx, np.zeros(1, np.float32), np.ones((20, 1), np.float32))[:, 0]
    updates = np.cumsum(np.diff(history, prepend=0.0) != 0)
    counted = [optimizers.optimizer_steps(steps, every, steps_per_epoch) for steps in range(1, 21)]
    np.testing.assert_array_equal(counted, updates)


def test_schedule_inside_accumulate_counts_updates_not_batches():
    tx = optimizers.accumulate(optimizers.sgd(optimizers.halve_every(1.0, 2)), 2)
    history = trajectory(tx, np.zeros(1, np.float32), -np.ones((12, 1), np.float32))[:, 0]
    np.testing.assert_allclose(np.diff(history[1::2], prepend=0.0), [1, 1, 0.5, 0.5, 0.25, 0.25])


def label(path: str) -> str:
    return {"slow": "slow", "fast": "fast"}.get(path.split("/")[0], "frozen")


def test_groups_move_at_their_own_rates_and_frozen_parameters_stay():
    params = {"slow": {"a": jnp.ones(2)}, "fast": {"b": jnp.ones(3)}, "backbone": {"c": jnp.ones(1000)}}
    tx = optimizers.grouped(
        {
            "slow": optimizers.accumulate(optimizers.adam(1e-3, weight_decay=0.1), 2),
            "fast": optimizers.accumulate(optimizers.adam(1e-1, weight_decay=0.1), 2),
        },
        label,
    )
    state = tx.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["slow"]["a"], 1 - 1e-3, rtol=1e-6)  # Adam's first step is one whole rate
    np.testing.assert_allclose(params["fast"]["b"], 1 - 1e-1, rtol=1e-6)
    np.testing.assert_array_equal(params["backbone"]["c"], 1.0)
    assert max(leaf.size for leaf in jax.tree.leaves(state)) <= 3, "frozen parameters take optimizer memory"


def test_groups_report_unknown_labels_and_empty_groups():
    params = {"slow": {"a": jnp.ones(2)}, "other": jnp.ones(1)}
    with pytest.raises(ValueError, match=r"'other' in group 'heads'.*\['frozen', 'slow'\]"):
        optimizers.grouped(
            {"slow": optimizers.sgd(1.0)}, lambda path: "slow" if path.startswith("slow/") else "heads"
        ).init(params)
    with pytest.raises(ValueError, match=r"without any parameter: \['fast'\]"):
        optimizers.grouped({"slow": optimizers.sgd(1.0), "fast": optimizers.sgd(1.0)}, label).init(params)


def test_cosine_with_warmup_passes_its_landmarks():
    schedule = optimizers.cosine_to(1e-2, 1e-6, total_steps=110, warmup_steps=10)
    np.testing.assert_allclose(
        [schedule(step) for step in (0, 5, 10, 60, 110, 500)],
        [1e-4, (0.01 + 0.99 / 2) * 1e-2, 1e-2, (1e-2 + 1e-6) / 2, 1e-6, 1e-6],
        rtol=1e-12,
    )
    with pytest.raises(ValueError, match="warmup_steps=5 leaves no step of total_steps=5"):
        optimizers.cosine_to(1e-2, 1e-6, total_steps=5, warmup_steps=5)


@pytest.mark.parametrize(
    "schedule",
    [optimizers.cosine_to(1e-2, 1e-6, 50, 7), optimizers.halve_every(0.3, 4), optimizers.constant(0.1)],
)
def test_schedules_agree_inside_and_outside_jit(schedule):
    steps = range(60)
    traced = [jax.jit(schedule)(jnp.asarray(step, jnp.int32)) for step in steps]
    np.testing.assert_allclose(traced, [schedule(step) for step in steps], rtol=1e-4)


def test_learning_rates_name_every_group():
    schedules = {"pixel_decoder": optimizers.halve_every(1.0, 30), "heads": 0.25}
    assert optimizers.learning_rates(schedules, 60) == {"pixel_decoder": 0.25, "heads": 0.25}


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="Unknown schedule 'cosin'; known: constant, cosine, halving"):
        optimizers.make_schedule("cosin", 0.1)
    with pytest.raises(ValueError, match="Unknown optimizer 'adan'; known: adam, adamw, sgd"):
        optimizers.make_optimizer("adan", 0.1)
    assert optimizers.make_schedule("halving", 1.0, steps=5)(5) == 0.5


def test_plateau_halves_after_patience_and_from_the_next_epoch_on():
    """Patience 2, epochs of 2 batches: the third epoch in a row without progress halves, as in PyTorch."""
    epoch_losses = [1.0, 0.9, 0.95, 0.9, 0.91, 0.8, 0.9, 0.85, 0.9, 0.9]
    values = np.repeat(epoch_losses, 2) + np.tile([0.5, -0.5], len(epoch_losses))  # only the mean may count
    tx = optax.chain(optimizers.sgd(1.0), optimizers.halve_on_plateau(patience=2, steps_per_epoch=2))
    history = trajectory(tx, np.zeros(1, np.float32), -np.ones((20, 1), np.float32), values)[:, 0]
    rates = np.diff(history, prepend=0.0)
    np.testing.assert_allclose(rates, [1.0] * 10 + [0.5] * 8 + [0.25] * 2)


def test_plateau_scale_is_found_in_a_nested_state():
    params = {"scale": jnp.full(3, 7.0)}  # a parameter of that name must not be mistaken for it
    tx = optax.chain(optimizers.adam(1.0), optimizers.halve_on_plateau(patience=0, steps_per_epoch=1))
    state = tx.init(params)
    for loss in (1.0, 2.0, 3.0):
        _, state = tx.update(params, state, params, value=loss)
    assert optimizers.plateau_scale(state) == 0.25
    assert optimizers.plateau_scale(optimizers.adam(1.0).init(params)) == 1.0


def test_ema_follows_with_its_decay():
    average = ema.init({"w": jnp.zeros(2)})
    for _ in range(2):
        average = ema.update(average, {"w": jnp.ones(2)}, 0.9)
    np.testing.assert_allclose(average["w"], 1 - 0.9**2, rtol=1e-6)


def test_warmup_cosine_passes_its_landmarks():
    schedule = optimizers.warmup_cosine(0.1, 0.01, warmup_steps=5, total_steps=25)
    np.testing.assert_allclose(schedule(np.asarray([0, 2, 4, 5, 15, 25])), [0, 0.05, 0.1, 0.1, 0.055, 0.01])
    np.testing.assert_allclose(optimizers.warmup_cosine(0.1, 0.01, 1, 21)(np.asarray([0, 1, 21])), [0, 0.1, 0.01])


def test_warmup_cosine_without_end_stays_at_its_rate():
    schedule = optimizers.warmup_cosine(0.1, 0.01, warmup_steps=5, total_steps=1e39)
    np.testing.assert_allclose(schedule(np.asarray([5, 10**6])), 0.1)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(10**6)), 0.1, rtol=1e-6)


def test_warmup_multistep_falls_at_its_milestones():
    schedule = optimizers.warmup_multistep(0.1, 5, [10, 20])
    np.testing.assert_allclose(schedule(np.asarray([4, 14, 15, 24, 25])), [0.1, 0.1, 0.01, 0.01, 0.001])
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(15)), 0.01, rtol=1e-6)


def test_clipping_scales_all_gradients_together_and_leaves_small_ones():
    gradients = {"a": jnp.asarray([3.0]), "b": jnp.asarray([4.0])}
    clip = optimizers.clip_by_norm(1.0)
    clipped, _ = clip.update(gradients, clip.init(gradients))
    np.testing.assert_allclose([clipped["a"][0], clipped["b"][0]], [0.6, 0.8], rtol=1e-5)
    small = jax.tree.map(lambda gradient: gradient / 10, gradients)
    unchanged, _ = clip.update(small, clip.init(small))
    np.testing.assert_array_equal(unchanged["a"], small["a"])


def test_kernels_decay_and_nothing_else():
    params = {"layer": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    tx = optimizers.decay_kernels(0.1, weight_decay=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["layer"]["kernel"], 0.95)
    np.testing.assert_array_equal(moved["layer"]["bias"], 1)
    np.testing.assert_array_equal(moved["norm"]["scale"], 1)
