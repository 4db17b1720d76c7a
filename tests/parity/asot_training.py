"""Parity of ASOT's model: forward, pseudo-labels, loss and gradients, Adam steps, and a real Lightning run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.data.frame_sampling import standardise
from actloc_jax.layers.functional import flatten
from actloc_jax.metrics import clustering
from actloc_jax.ops import transport
from actloc_jax.systems.asot import losses, network, predictor, settings, stage
from actloc_jax.training import optimizers, state
from actloc_jax.training.state import LossOutput
from configs import asot_desktop_assembly
from tests.parity.harness import Case, parity
from tests.parity.params import asot_params


def experiment(hyper: dict[str, Any]) -> ConfigDict:
    """Our config of the original's hyper-parameters."""
    config = asot_desktop_assembly.get_config()
    config.clusters = ConfigDict({"videos": hyper["n_clusters"]})
    config.network.update({"layers": tuple(hyper["layer_sizes"]), "temperature": hyper["temp"]})
    config.data.feature_dim = hyper["layer_sizes"][0]
    config.asot.update({"learning_rate": hyper["lr"], "weight_decay": hyper["weight_decay"]})
    shared = {
        "radius": hyper["radius_gw"], "rho": hyper["rho"], "relax_frames": hyper["ub_frames"],
        "relax_actions": hyper["ub_actions"], "step": hyper["step_size"] or 0.0,
    }  # fmt: skip
    for group, use in (("transport", "train"), ("decode", "eval")):
        outer, inner = hyper[f"n_ot_{use}"]
        config[group].update(shared)
        config[group].update(
            {
                "epsilon": hyper[f"{use}_eps"], "alpha": hyper[f"alpha_{use}"], "iterations": outer,
                "inner_iterations": inner, "lambda_frames": hyper[f"lambda_frames_{use}"],
                "lambda_actions": hyper[f"lambda_actions_{use}"],
            }
        )  # fmt: skip
    return config


@parity("asot", "model")
def check_model(case: Case) -> None:
    """Embeddings, soft codes, pseudo-labels, training loss and its gradient, evaluation plan, validation loss."""
    arrays, config = case.arrays, experiment(case.config["hyper_parameters"])
    stored = asot_params(case.weights()["state_dict"])
    net = network.encoder_network(config, stage.num_clusters(config))
    features, mask = jnp.asarray(arrays["features_raw"]), jnp.asarray(arrays["mask"])
    lengths = stage.sampled_lengths(config, mask)
    batch = {"features": features, "mask": mask, "index": jnp.arange(len(mask))}

    params = stage.with_unit_clusters(stored)
    embedding = net(params, features)
    np.testing.assert_allclose(embedding, arrays["features"], rtol=1e-4, atol=1e-6)
    affinity = losses.affinities(embedding, params["clusters"])
    codes = losses.soft_codes(affinity, config.network.temperature)
    np.testing.assert_allclose(codes, arrays["codes"], rtol=1e-4, atol=1e-6)
    cost = losses.assignment_cost(affinity, lengths, config.transport.rho)
    np.testing.assert_allclose(cost, arrays["train_cost"], rtol=1e-4, atol=1e-6)
    plan = transport.solve(cost, mask, settings.training_settings(config), lengths=lengths).plan
    np.testing.assert_allclose(plan, arrays["pseudo_labels"], atol=1e-3)
    loss, gradient = jax.value_and_grad(lambda p: stage.batch_loss(config, net, p, batch))(params)
    np.testing.assert_allclose(loss, arrays["train_loss"], rtol=1e-4)
    expected = asot_params({name[5:]: value for name, value in arrays.items() if name.startswith("grad.")})
    for path, value in flatten(expected).items():
        np.testing.assert_allclose(flatten(gradient)[path], value, rtol=1e-3, atol=1e-6, err_msg=path)

    # Validation decodes a whole batch with one step, with the clusters as they are stored.
    affinity = losses.affinities(net(stored, features), stored["clusters"])
    cost = losses.assignment_cost(affinity, lengths, config.decode.rho)
    np.testing.assert_allclose(cost, arrays["eval_cost"], rtol=1e-4, atol=1e-6)
    together = transport.Settings(**{**vars(settings.decoding_settings(config)), "step_scope": "batch"})
    decoded = transport.solve(cost, mask, together, lengths=lengths).plan
    np.testing.assert_allclose(decoded, arrays["eval_T"], atol=1e-3)
    assert np.mean((np.argmax(decoded, axis=2) == arrays["eval_labels"])[np.asarray(mask)]) >= 0.999
    pseudo = transport.solve(cost, mask, settings.training_settings(config), lengths=lengths).plan
    value = losses.validation_loss(pseudo, losses.soft_codes(affinity, config.network.temperature), mask)
    np.testing.assert_allclose(value, arrays["val_loss"], rtol=1e-4)


@parity("asot", "train_steps")
def check_train_steps(case: Case) -> None:
    """Adam steps through the train step that the loop runs."""
    arrays, config = case.arrays, experiment(case.config["hyper_parameters"])
    net = network.encoder_network(config, stage.num_clusters(config))

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> LossOutput:
        return LossOutput(stage.batch_loss(config, net, params, batch), {}, {}, {})

    adam = optimizers.adam(config.asot.learning_rate, weight_decay=config.asot.weight_decay)
    step = jax.jit(state.gradient_step(loss, adam, project=stage.with_unit_clusters))
    current = state.create(asot_params(case.weights()["state_dict"]), adam)
    batches = sum(name.startswith("mask_") for name in arrays)
    for number in range(case.config["n_steps"]):
        features, mask = arrays[f"features_raw_{number % batches}"], arrays[f"mask_{number % batches}"]
        batch = {"features": features, "mask": mask, "index": np.arange(len(mask))}
        current, scalars = step(current, batch, jax.random.key(0))
        np.testing.assert_allclose(scalars["loss"], arrays["losses"][number], rtol=2e-4)
        np.testing.assert_allclose(scalars["grad_norm"], arrays["grad_norms"][number], rtol=2e-3)
    expected = asot_params({name[6:]: value for name, value in arrays.items() if name.startswith("final.")})
    for path, value in flatten(expected).items():
        difference = np.abs(flatten(current.params)[path] - value)
        assert difference.max() <= 1e-3, path
        assert np.mean(difference <= 1e-4) >= 0.99, path


@parity("asot", "lightning_run")
def check_lightning_run(case: Case) -> None:
    """Test labels and metrics of all videos from the checkpoint of a real run."""
    config = experiment(case.config["hyper_parameters"])
    params = asot_params(case.weights()["state_dict"])
    net = network.encoder_network(config, stage.num_clusters(config))
    predict = jax.jit(predictor.encoder_predictor(config, net).predict)
    videos = sorted(name.removeprefix("raw_") for name in case.arrays if name.startswith("raw_"))
    predictions, truths = {}, {}
    for video in videos:
        features = standardise(case.arrays[f"raw_{video}"])[None]
        batch = {"features": features, "mask": np.ones(features.shape[:2], bool)}
        plan = predict({"params": params}, batch, jax.random.key(0))["plan"]
        predictions[video] = np.argmax(plan[0], axis=1)
        truths[video] = case.arrays[f"gt_{video}"].astype(np.int32)
        assert np.mean(predictions[video] == case.arrays[f"test_labels_{video}"]) >= 0.995, video
    scores = clustering.evaluate(predictions, truths)
    for name, ours, tolerance in (("mof", "MoF", 5e-3), ("miou", "mIoU", 5e-3), ("f1", "F1", 2e-2)):
        for scope, suffix in (("full", ""), ("per", " video")):
            expected = case.meta["results"]["test_after_training"][f"test_{name}_{scope}"]
            assert abs(scores[ours + suffix] / 100 - expected) <= tolerance, (name, scope)
