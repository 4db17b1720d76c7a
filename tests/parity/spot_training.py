"""Parity of both training stages of SPOT: losses and parameters after some steps without dropout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.layers.functional import flatten
from actloc_jax.systems.spot import finetune, pretext
from actloc_jax.systems.spot.finetune import FinetuneSettings, PseudoLabelSettings
from actloc_jax.systems.spot.pretext import PretextDraws, PretextSettings
from actloc_jax.training import optimizers, state
from actloc_jax.training.state import LossOutput
from convert import spot_tables
from tests.parity.harness import Case, parity
from tests.parity.params import state_of
from tests.parity.spot_network import close, network_of, time_first

LOSS_RTOL = 1e-4  # stated in words in the cases' tolerance


def optimizer_of(case: Case, is_trained: Any) -> Any:
    options = case.config["optimizer"]
    adam = optimizers.adam(options["lr"], weight_decay=options["weight_decay"], eps=options["eps"])
    return optimizers.grouped({"all": adam}, lambda path: "all" if is_trained(path) else "frozen")


def close_losses(ours: list[Any], expected: np.ndarray, name: str) -> None:
    np.testing.assert_allclose(np.asarray(ours, np.float32), expected, rtol=LOSS_RTOL, err_msg=name)


def check_parameters(case: Case, before: Any, after: Any) -> None:
    """All parameters after the last step; those that the original leaves alone are the same bits."""
    ours = state_of(spot_tables.SPOT, {path: np.asarray(value) for path, value in flatten(after).items()})
    first = state_of(spot_tables.SPOT, {path: np.asarray(value) for path, value in flatten(before).items()})
    for key in [key for key in case.arrays if key.startswith("final.")]:
        name = key.removeprefix("final.module.")
        close(case, ours[name], case.arrays[key], name)
        unchanged = np.array_equal(case.arrays[key], first[name])
        assert np.array_equal(ours[name], first[name]) == unchanged, name
    for key in case.meta.get("unchanged_parameters", []):
        name = key.removeprefix(spot_tables.PREFIX)
        np.testing.assert_array_equal(ours[name], first[name], err_msg=name)


@parity("spot", "pretrain_steps")
def check_pretraining(case: Case) -> None:
    """Random foregrounds, scaled videos, the three losses and all parameters of the first stage."""
    arrays = case.arrays
    net, params = network_of(case)
    settings = PretextSettings()
    steps = len(arrays["loss_total"])
    batches = [_pretext_batch(case, number) for number in range(steps)]
    for number, batch in enumerate(batches):
        _check_foregrounds(case, number, batch)

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> LossOutput:
        draws = PretextDraws(None, batch["spans"], batch["swapped"])
        present = jnp.ones(len(batch["features"]), bool)
        found = pretext.pretext_loss(net, params, batch["features"], present, draws, settings)
        return LossOutput(found.total, found._asdict(), {}, {})

    tx = optimizer_of(case, pretext.is_trained)
    step, current = jax.jit(state.gradient_step(loss, tx)), state.create(params, tx)
    for number, batch in enumerate(batches):
        current, scalars = step(current, batch, jax.random.key(0))
        for ours, name in (("total", "total"), ("masks", "mask"), ("reconstruction", "recon"), ("order", "clip")):
            close_losses([scalars[ours]], arrays[f"loss_{name}"][number : number + 1], f"{name} of step {number}")
    check_parameters(case, params, current.params)


def _pretext_batch(case: Case, number: int) -> dict[str, jax.Array]:
    drawn, order = case.arrays[f"s{number}.start_end_drawn"], case.arrays[f"s{number}.perm"]
    features = time_first(case.arrays[f"s{number}.input"])
    swapped = np.zeros(len(order), bool)
    swapped[order[: len(order) // 2]] = True
    return {
        "features": features,
        "spans": pretext.foreground_spans(jnp.asarray(drawn), features.shape[1]),
        "swapped": jnp.asarray(swapped),
    }


def _check_foregrounds(case: Case, number: int, batch: dict[str, jax.Array]) -> None:
    arrays = case.arrays
    scaled = pretext.scaled_to_unit(jnp.concatenate([batch["features"]] * 2))
    if f"s{number}.normalised_input" in arrays:
        np.testing.assert_allclose(time_first(scaled), arrays[f"s{number}.normalised_input"], rtol=1e-6, atol=1e-6)
    cut = pretext.only_spans(scaled, batch["spans"])
    np.testing.assert_allclose(time_first(cut), arrays[f"s{number}.mod_input"], rtol=1e-6, atol=1e-6)
    masks = pretext.span_masks(batch["spans"], scaled.shape[1])
    np.testing.assert_array_equal(masks, arrays[f"s{number}.mask_target"])


@parity("spot", "finetune_steps")
def check_finetuning(case: Case) -> None:
    """All losses and parameters of the second stage, and the loss of pseudo-labels that it computes in vain."""
    arrays = case.arrays
    net, params = network_of(case)
    settings = FinetuneSettings()
    order = arrays["unlabelled_order"]

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> LossOutput:
        found = finetune.finetune_loss(net, params, batch, None, settings)
        output = net(params, batch["unlabelled/features"])
        everything = jnp.ones(len(output.logits), bool)
        labels = finetune.pseudo_labels(output, everything, PseudoLabelSettings(min_confidence=0.0))
        unused = finetune.pseudo_label_loss(output, labels, settings.detection)
        return LossOutput(found.total, found.parts | {"unused": jnp.stack(unused)}, {}, {})

    tx = optimizer_of(case, finetune.is_trained)
    step, current = jax.jit(state.gradient_step(loss, tx)), state.create(params, tx)
    for number, unlabelled in enumerate(order):
        batch = {
            "features": time_first(arrays[f"s{number}.input"]),
            "labels": jnp.asarray(arrays[f"s{number}.cls_gt"]),
            "masks": time_first(arrays[f"s{number}.mask_gt"]),
            "index": np.arange(len(arrays[f"s{number}.input"])),
            "unlabelled/features": time_first(arrays[f"u{unlabelled}.input"]),
            "unlabelled/index": np.arange(len(arrays[f"u{unlabelled}.input"])),
        }
        current, scalars = step(current, batch, jax.random.key(0))
        expected = {
            "loss": "all",
            "reconstruction": "feat_label",
            "unlabelled/reconstruction": "feat_unlabel",
            "contrast": "contrast_label",
            "unlabelled/contrast": "contrast_unlabel",
        }
        for ours, name in expected.items():
            close_losses([scalars[ours]], arrays[f"loss_{name}"][number : number + 1], f"{name} of step {number}")
        ours = [scalars["classes"] + scalars["masks"], scalars["classes"], scalars["masks"]]
        close_losses(ours, arrays["loss_label_total_top_bottom"][number], f"labels of step {number}")
        close_losses(scalars["unused"], arrays["loss_unlabel_total_top_bottom_unused"][number], f"unused of {number}")
    check_parameters(case, params, current.params)
