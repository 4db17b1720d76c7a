"""Parity of TST's stage 2 training with the original: live backbone, and cached backbone outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from actloc_jax.layers.functional import Network, Params, flatten
from actloc_jax.systems.tst import losses
from actloc_jax.systems.tst.refiner import Refiner, refiner_group
from actloc_jax.training import optimizers
from convert import torch_reader, tst_tables
from tests.parity import params
from tests.parity.harness import Case, parity
from tests.parity.tst_diffact import network_of, sizes_of
from tests.parity.tst_refiner import refiner_sizes

# The columns of the golden losses and learning rates.
LOSSES = ("total", "classification", "focal", "dice")
GROUPS = ("pixel_decoder", "transformer", "heads")

Step = tuple[np.ndarray, np.ndarray, np.ndarray]  # features [T, D], predictions [T, C], labels [T]


@parity("tst", "tst_train_live")
def check_live_training(case: Case) -> None:
    """Losses, rates and final parameters, the backbone sampled with the stored noise in every step."""
    weights = params.tst_params(case.weights())
    backbone = network_of(sizes_of(case.config, case.config["n_classes"]))
    videos = _videos(case)
    length = _longest(case)

    @jax.jit
    def run(features: jax.Array, mask: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, frames = backbone(weights["backbone"], features, mask, method="encode")
        sample = backbone(weights["backbone"], features, mask, None, condition=frames, noise=noise, method="sample")
        return frames, sample

    features = jnp.stack([_padded(case.arrays[f"{video}/x"].T, length) for video in videos])
    mask = jnp.arange(length) < jnp.array([[case.arrays[f"{video}/labels"].size] for video in videos])
    epochs = []
    for epoch in range(case.config["epochs"]):
        noises = [np.swapaxes(case.arrays[f"epoch{epoch}/noise_{video}"], 2, 3) for video in videos]
        noise = jnp.concatenate([_padded(noise, length, axis=2) for noise in noises], axis=1)
        frames, sample = map(np.asarray, run(features, mask, noise))
        labels = [case.arrays[f"{video}/labels"] for video in videos]
        epochs.append([(frames[i, : y.size], sample[i, : y.size], y) for i, y in enumerate(labels)])
    _check_training(case, weights["refiner"], epochs)


@parity("tst", "tst_train_cached")
def check_cached_training(case: Case) -> None:
    """Losses, rates and final parameters with cached backbone outputs: their seed changes from epoch to epoch."""
    cache = case.path / "cache"
    seeds = json.loads((cache / "meta.json").read_text())["n_seeds"]

    def read(epoch: int, video: str) -> Step:
        entry = torch_reader.read(cache / f"seed_{epoch % seeds:03d}" / f"{video}.pt")
        frames, sample = (np.asarray(entry[name]).astype(np.float32).T for name in CACHED)
        return frames, sample, case.arrays[f"{video}/labels"]

    epochs = [[read(epoch, video) for video in _videos(case)] for epoch in range(case.config["epochs"])]
    _check_training(case, params.tst_params(case.weights())["refiner"], epochs)


CACHED = ("frame_features", "frame_predictions")


def _check_training(case: Case, weights: Params, epochs: list[list[Step]]) -> None:
    """Trains on the steps of every epoch and compares all that the case holds."""
    config, arrays = case.config, case.arrays
    micro_steps = len(epochs[0])
    schedules = {
        group: optimizers.cosine_to(
            config["lr_transformer" if group == "transformer" else "lr"],
            config["eta_min"],
            config["total_steps"],
            config["warmup_steps"],
        )
        for group in GROUPS
    }
    assert config["scheduler"] == "cosine"
    adams = {
        group: optimizers.accumulate(
            optimizers.adam(rate, weight_decay=config["weight_decay"]), config["grad_accum"], micro_steps
        )
        for group, rate in schedules.items()
    }
    found, final = _train(case, weights, epochs, optimizers.grouped(adams, refiner_group))

    rtol = case.tolerance("losses rtol")
    np.testing.assert_allclose(found, arrays["loss_per_iter"], rtol=rtol)
    np.testing.assert_allclose(found[:, 0].reshape(len(epochs), -1).mean(axis=1), arrays["epoch_loss"], rtol=rtol)
    for micro_step, expected in enumerate(arrays["lr_per_iter"]):
        rates = optimizers.learning_rates(
            schedules, optimizers.optimizer_steps(micro_step, config["grad_accum"], micro_steps)
        )
        np.testing.assert_allclose([rates[group] for group in GROUPS], expected, rtol=1e-9)
    _check_parameters(case, weights, final)


def _train(
    case: Case, weights: Params, epochs: list[list[Step]], tx: optax.GradientTransformation
) -> tuple[np.ndarray, Params]:
    """Losses [micro-steps, 4] and the parameters at the end."""
    network = Network(lambda rngs: Refiner(refiner_sizes(case.config["refiner"]), rngs=rngs))
    bg_weight = case.config["bg_weight"]

    @jax.jit
    def train_step(weights: Params, state: Any, *batch: jax.Array) -> Any:
        def loss(weights: Params) -> Any:
            return losses.tst_loss(network, weights, *batch, bg_weight=bg_weight)

        (total, parts), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, state = tx.update(gradients, state, weights)
        values = {"total": total, **parts}
        return optax.apply_updates(weights, updates), state, [values[name] for name in LOSSES]

    state, rows = tx.init(weights), []
    for batch in _batches(epochs, _longest(case)):
        weights, state, row = train_step(weights, state, *batch)
        rows.append(row)
    return np.array(rows, np.float64), weights


def _batches(epochs: list[list[Step]], length: int) -> Iterator[tuple[jax.Array, ...]]:
    """Every step as a batch of one video: features, predictions, labels, mask, padded to `length` frames."""
    for features, predictions, labels in (step for epoch in epochs for step in epoch):
        mask = np.arange(length) < labels.size
        padded_labels = np.pad(labels.astype(np.int32), (0, length - labels.size), constant_values=-1)
        batch = (_padded(features, length), _padded(predictions, length), padded_labels, mask)
        yield tuple(jnp.asarray(array)[None] for array in batch)


def _check_parameters(case: Case, before: Params, after: Params) -> None:
    """Final values, checksums of all parameters, and which of them did not change at all."""
    expected = {
        name.removeprefix("final/refiner."): array for name, array in case.arrays.items() if name.startswith("final/")
    }
    atol = case.tolerance("final params atol")
    first = params.state_of(tst_tables.REFINER, flatten(before))
    final = params.state_of(tst_tables.REFINER, flatten(after))
    for key, value in expected.items():
        np.testing.assert_allclose(final[key], value, atol=atol, rtol=0, err_msg=key)
    for key, (total, squares) in case.meta["checksums_final_[sum,sum_sq]"].items():
        array = final[key.removeprefix("refiner.")].astype(np.float64)
        assert abs(array.sum() - total) <= atol * array.size, key
        assert abs(np.square(array).sum() - squares) <= 2 * atol * np.abs(array).sum() + atol, key
    unchanged = {f"refiner.{key}" for key in final if np.array_equal(final[key], first[key])}
    assert unchanged == set(case.meta["refiner_params_unchanged_after_training"])


def _videos(case: Case) -> list[str]:
    """The videos in the order of every epoch: vid0, vid1, ..."""
    names = [name.removesuffix("/labels") for name in case.arrays if name.endswith("/labels")]
    return sorted(names, key=lambda name: int(name.removeprefix("vid")))


def _longest(case: Case) -> int:
    return max(case.arrays[f"{video}/labels"].size for video in _videos(case))


def _padded(array: np.ndarray, length: int, axis: int = 0) -> np.ndarray:
    missing = [(0, length - size if at == axis else 0) for at, size in enumerate(array.shape)]
    return np.pad(array, missing)
