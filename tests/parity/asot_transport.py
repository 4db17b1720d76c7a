"""Parity of ASOT's solver: its pieces, whole solves, the real video, and the mapping onto ott's Gromov-Wasserstein."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.metrics import clustering
from actloc_jax.ops import transport
from actloc_jax.ops.transport import mirror_descent, problem
from actloc_jax.ops.transport.band import band_product
from tests.parity import harness
from tests.parity.harness import Case, parity

solve = jax.jit(transport.solve, static_argnums=2, static_argnames="trace")


def settings(options: dict[str, Any], **changes: Any) -> transport.Settings:
    """Settings of a case in the names of the original."""
    return transport.Settings(
        **{
            "epsilon": options["eps"],
            "alpha": options["alpha"],
            "radius": options["radius"],
            "relax_frames": options["ub_frames"],
            "relax_actions": options["ub_actions"],
            "lambda_frames": options["lambda_frames"],
            "lambda_actions": options["lambda_actions"],
            "iterations": options["n_iters"][0],
            "inner_iterations": options["n_iters"][1],
            "step": options["step_size"],
            **changes,
        }
    )


@parity("asot", "solver_pieces")
def check_pieces(case: Case) -> None:
    """Band product, gradients, both objectives, the balanced projection, the prior."""
    arrays, config = case.arrays, case.config
    cost, mask, plan = (arrays[name] for name in ("cost", "mask", "T"))
    close = functools.partial(np.testing.assert_allclose, rtol=case.meta["tolerance"]["rtol"], atol=1e-6)
    base = transport.Settings(
        epsilon=config["eps"], alpha=config["alpha"], radius=config["radius"], lambda_frames=config["lambda_frames"],
        lambda_actions=config["lambda_actions"],
    )  # fmt: skip
    made = problem.make_problem(jnp.asarray(cost), jnp.asarray(mask), base)
    inner = jnp.swapaxes(jnp.asarray(plan), 1, 2)
    half = len(arrays["cv_filter"]) // 2
    assert made.half_window == half
    close(made.band_weight[0, 0, 0], arrays["cv_filter"][0])
    product = made.band_weight * band_product(inner, made.half_window, half)
    close(jnp.swapaxes(product, 1, 2), arrays["mult_cv"])
    linearised = problem.linearise(made, base, inner)
    close(jnp.swapaxes(linearised, 1, 2), arrays["grad_fgw"])

    def gradient(**relaxed: bool) -> jax.Array:
        chosen = transport.Settings(**{**vars(base), "relax_frames": False, "relax_actions": False, **relaxed})
        return jnp.swapaxes(mirror_descent.objective_gradient(made, chosen, linearised, inner), 1, 2)

    seen = mask[:, :, None]
    entropy = gradient() - jnp.swapaxes(linearised, 1, 2)
    close(entropy, -arrays["grad_entropy"])
    # Frames without mass have their own floor in the logarithm; padded ones are no part of the problem.
    frames = np.broadcast_to(arrays["grad_kld_frames"], cost.shape)
    close(np.where(seen, gradient(relax_frames=True) - gradient(), 0), np.where(seen, frames, 0), atol=2e-6)
    actions = np.broadcast_to(arrays["grad_kld_actions"], cost.shape)
    close(gradient(relax_actions=True) - gradient(), actions, atol=2e-6)
    for frames_relaxed in (0, 1):
        for actions_relaxed in (0, 1):
            chosen = transport.Settings(
                **{**vars(base), "relax_frames": bool(frames_relaxed), "relax_actions": bool(actions_relaxed)}
            )
            value = problem.objective(made, chosen, inner, linearised)
            expected = arrays[f"objective_uf{frames_relaxed}_ua{actions_relaxed}"]
            close(value.as_published, expected, atol=2e-6)
    for index, options in enumerate(config["sinkhorn"]):
        chosen = transport.Settings(
            **{**vars(base), "epsilon": options["eps"], "inner_iterations": options["n"], "relax_actions": False}
        )
        projected = mirror_descent.balanced_projection(made, chosen, made.cost)
        np.testing.assert_allclose(
            jnp.swapaxes(projected, 1, 2), arrays[f"sinkhorn_{index}"], rtol=1e-3, atol=1e-5, err_msg=str(options)
        )
    for index, (frames, clusters, rho) in enumerate(config["prior"]):
        prior = transport.temporal_prior(jnp.array([frames]), frames, clusters, rho)[0]
        close(prior, arrays[f"prior_{index}"])


@parity("asot", "solver_masked_batch")
@parity("asot", "solver_single")
def check_solver(case: Case) -> None:
    """Plans, labels and objectives of whole solves."""
    cost = case.arrays["cost"]
    mask = case.arrays.get("mask", np.ones(cost.shape[:2], bool))
    for index, options in enumerate(case.config["settings"]):
        _compare_solve(case, index, solve(cost, mask, settings(options)), mask)


@parity("asot", "real_video")
def check_real_video(case: Case) -> None:
    """A real video: plans, labels, objectives, and metrics against its ground truth."""
    truth = case.arrays["gt"].astype(np.int32)
    for index, options in enumerate(case.config["settings"]):
        cost = _real_cost(options["rho"])
        found = solve(cost, np.ones(cost.shape[:2], bool), settings(options))
        _compare_solve(case, index, found, np.ones(cost.shape[:2], bool))
        labels = np.argmax(found.plan[0], axis=1)
        expected = options["metrics_vs_gt"]
        matching = clustering.match_clusters(labels, truth)
        assert abs(clustering.mof(labels, truth, matching) - expected["mof"]) <= 2e-3
        assert abs(clustering.miou(labels, truth, matching) - expected["miou"]) <= 2e-3


@parity("asot", "ott_gw")
def check_ott(case: Case) -> None:
    """ott's Gromov-Wasserstein on the real cost, from the plan of some mirror steps."""
    for index, options in enumerate(case.config["settings"]):
        cost = _real_cost(options["rho"])
        warm_start = options["pmd_warm_start_iterations"]
        chosen = settings(options, mode="gw", warm_start=warm_start, iterations=300)
        found = solve(cost, np.ones(cost.shape[:2], bool), chosen)
        plan, labels = case.arrays[f"T_{index}"], case.arrays[f"labels_{index}"]
        assert np.mean(np.abs(found.plan[0] - plan) <= 2e-2) >= 0.99, options
        assert np.mean(np.argmax(found.plan[0], axis=1) == labels) >= 0.99, options
        assert abs(float(found.published_objective[0, -1]) - options["objective_as_coded"]) <= 1e-3, options


def _compare_solve(case: Case, index: int, found: transport.Transport, mask: np.ndarray) -> None:
    options = case.config["settings"][index]
    plan, labels, trace = (case.arrays[f"{name}_{index}"] for name in ("T", "labels", "obj"))
    plan, labels = plan.reshape(found.plan.shape), labels.reshape(mask.shape)
    if options["n_iters"][0] <= 2:
        np.testing.assert_allclose(found.plan, plan, rtol=2e-4, atol=1e-6, err_msg=str(options))
    np.testing.assert_allclose(found.plan, plan, atol=1e-3, err_msg=str(options))
    assert np.mean((np.argmax(found.plan, axis=2) == labels)[mask]) >= 0.999, options
    trace = trace.reshape(len(trace), -1).T
    np.testing.assert_allclose(found.published_objective, trace, rtol=1e-4, atol=1e-5, err_msg=str(options))


def _real_cost(rho: float) -> np.ndarray:
    """1 - affinity of the desktop-assembly video that the cases name, plus the prior: [1, time, clusters]."""
    folder = pathlib.Path(harness.root()).parent / "data" / "asot_examples" / "affinity"
    affinity = np.load(folder / "2020-04-19_14-03-25.npy")
    prior = transport.temporal_prior(jnp.array([len(affinity)]), *affinity.shape, rho)
    return np.asarray(1 - affinity + prior, np.float32)
