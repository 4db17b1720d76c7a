"""Parity of SPOT's losses, contrast and perturbations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from actloc_jax.data.rescaled import resize_linear
from actloc_jax.systems.spot import losses, mining, optional_losses, perturbations
from actloc_jax.systems.spot.losses import DetectionSettings
from actloc_jax.systems.spot.mining import MiningSettings
from actloc_jax.systems.spot.network import SpotOutput
from actloc_jax.systems.spot.optional_losses import ClassGroups
from tests.parity.harness import Case, parity
from tests.parity.spot_network import close, time_first


@parity("spot", "losses")
def check_losses(case: Case) -> None:
    """Values and gradients of class and mask loss for all kinds of targets, and of the other losses."""
    arrays = case.arrays
    settings = DetectionSettings(case.config["lambda_1"], case.config["lambda_2"])
    for name in sorted(key.removesuffix(".mask_gt") for key in arrays if key.endswith(".mask_gt")):
        _check_detection(case, name, settings)

    features, target = time_first(arrays["mse.features"]), time_first(arrays["mse.input"])
    every = jnp.ones(len(features), bool)
    value, gradient = jax.value_and_grad(losses.reconstruction_loss)(features, target, every)
    close(case, value, arrays["mse.value"])
    close(case, time_first(gradient), arrays["mse.grad_features"])

    epochs, length = arrays["rampup.epoch"], 5
    close(case, [optional_losses.ramp_up(epoch, length) for epoch in epochs], arrays["rampup.sigmoid"])
    close(case, [2 * optional_losses.ramp_up(epoch, length) for epoch in epochs], arrays["rampup.consistency_weight"])

    close(case, [optax.linear_schedule(0, 1, length)(epoch) for epoch in epochs], arrays["rampup.linear"])
    falling = optax.cosine_decay_schedule(1, int(epochs.max()))
    close(case, [falling(epoch) for epoch in epochs], arrays["rampup.cosine_down"])

    _check_consistency(case)
    hard = optax.softmax_cross_entropy_with_integer_labels(arrays["ce.logits"], arrays["ce.target"])
    close(case, hard, arrays["ce.hard"])
    close(case, optax.softmax_cross_entropy(arrays["ce.logits"], arrays["ce.soft_target"]), arrays["ce.soft"])


def _check_detection(case: Case, name: str, settings: DetectionSettings) -> None:
    arrays = {key.removeprefix(f"{name}."): value for key, value in case.arrays.items() if key.startswith(f"{name}.")}
    logits, masks = time_first(arrays["logits"]), time_first(arrays["mask_pred"])
    labels, target = jnp.asarray(arrays["cls_gt"]), time_first(arrays["mask_gt"])
    counted = jnp.ones(labels.shape, bool)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def total(logits: jax.Array, masks: jax.Array) -> tuple[jax.Array, losses.DetectionLoss]:
        found = losses.detection_loss(logits, masks, labels, target, counted, settings)
        return found.total, found

    (_, found), (by_logits, by_masks) = jax.jit(total)(logits, masks)
    close(case, found.total, arrays["total"], name)
    close(case, found.classes, arrays["top_branch"], name)
    close(case, found.masks, arrays["bottom"], name)
    close(case, found.masks, arrays["pretrain_loss"], name)
    close(case, losses.class_loss(logits, labels, counted), arrays["top_ce"], name)
    close(case, losses.balanced_entropy(masks, target, counted), arrays["wbce"], name)
    close(case, losses.dice_loss(masks, target, counted, factor=1.0), arrays["dice"], name)
    close(case, time_first(by_logits), arrays["grad_logits"], name)
    close(case, time_first(by_masks), arrays["grad_mask"], name, rtol=1e-3)
    by_dice = jax.grad(lambda m: losses.dice_loss(m, target, counted, factor=1.0))(masks)
    close(case, time_first(by_dice), arrays["grad_mask_dice"], name)


def _check_consistency(case: Case) -> None:
    """Of two arrays of logits: their squared difference, and the divergence from the classes that the second names."""
    arrays = case.arrays
    logits, teacher = time_first(arrays["consist.logits"]), time_first(arrays["consist.target"])
    every = jnp.ones(len(logits), bool)
    close(case, optional_losses.mask_consistency(logits, teacher, every), arrays["consist.mask_mse"])
    named = jax.nn.one_hot(teacher.argmax(axis=2), teacher.shape[2])
    value, gradient = jax.value_and_grad(optional_losses.class_consistency)(logits, named, every)
    close(case, value, arrays["consist.kl"])
    close(case, time_first(gradient), arrays["consist.kl_grad_logits"])


@parity("spot", "losses_inactive")
def check_inactive_losses(case: Case) -> None:
    """Adaptive suppression of classes, and the loss of the hardest negatives."""
    arrays = case.arrays
    logits, labels = time_first(arrays["acsl.logits"]), jnp.asarray(arrays["acsl.cls"])
    numbers = np.arange(case.config["num_classes"])
    groups = ClassGroups(*(np.isin(numbers, arrays[f"acsl.group_{name}"]) for name in ("rare", "common", "freq")))
    value, gradient = jax.jit(jax.value_and_grad(optional_losses.suppression_loss))(
        logits, labels, groups, jax.random.key(0)
    )
    # The case ran the original's loop over its own snippets, but divided by the published number of them.
    scale = case.config["temporal_scale"] / 100
    close(case, scale * value, arrays["acsl.value"])
    close(case, time_first(scale * gradient), arrays["acsl.grad"])

    probabilities, target = time_first(arrays["toplr.pred"]), time_first(arrays["toplr.gt"]).astype(jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(optional_losses.hardest_negatives_loss))(probabilities, target)
    close(case, value, arrays["toplr.value"])
    close(case, time_first(gradient), arrays["toplr.grad"])


@parity("spot", "contrastive")
def check_contrast(case: Case) -> None:
    """Mined entries, morphology, losses and the gradient of the features, with the hidden snippets given."""
    arrays, config = case.arrays, case.config
    features = time_first(arrays["features"])
    output = SpotOutput(time_first(arrays["logits"]), time_first(arrays["mask_pred"]), features)
    keep_scale, every = arrays["keep_scale"], jnp.ones(len(features), bool)
    settings = MiningSettings(
        easy=config["k_easy"],
        hard=config["k_hard"],
        temperature=config["temperature"],
        hidden=float(1 - 1 / keep_scale.max()),
    )
    keep = jnp.asarray(keep_scale > 0)
    np.testing.assert_array_equal(mining.video_class(output.logits), arrays["fg_class_mode"])
    easy = mining.easy_snippets(output.logits, settings, keep)
    for ours, name in zip(easy, ("act", "bkg"), strict=True):
        np.testing.assert_array_equal(ours, arrays[f"idx_easy_{name}"], err_msg=name)
    _check_borders(case, output.masks, settings)
    hard = mining.hard_snippets(*mining.border_scores(output.masks, every, settings), settings)
    for ours, name in zip(hard, ("act", "bkg"), strict=True):
        np.testing.assert_array_equal(time_first(ours), arrays[f"idx_hard_{name}"], err_msg=name)

    pairs = mining.gather(features, easy, hard, settings)
    close(case, pairs.easy_action, arrays["EA"])
    close(case, pairs.easy_background, arrays["EB"])
    close(case, pairs.hard_action, arrays["HA"].mean(axis=1))
    close(case, pairs.hard_background, arrays["HB"].mean(axis=1))
    along_time = mining.gather(
        features, easy, tuple(index[:, 0] for index in hard), MiningSettings(compares_channels=False)
    )
    close(case, along_time.easy_action, arrays["EA_time_axis"])
    close(case, along_time.easy_background, arrays["EB_time_axis"])

    action = mining.info_nce(pairs.hard_action, pairs.easy_action.mean(axis=1), pairs.easy_background, 0.07)
    close(case, action.mean(), arrays["loss_HA"])
    background = mining.info_nce(pairs.hard_background, pairs.easy_background.mean(axis=1), pairs.easy_action, 0.07)
    close(case, background.mean(), arrays["loss_HB"])
    contrast = jax.value_and_grad(
        lambda features: mining.boundary_contrast(output._replace(features=features), every, settings, keep)
    )
    value, gradient = jax.jit(contrast)(features)
    close(case, value, arrays["loss"])
    close(case, time_first(gradient), arrays["grad_features"])


def _check_borders(case: Case, masks: jax.Array, settings: MiningSettings) -> None:
    arrays, every = case.arrays, jnp.ones(len(masks), bool)
    active = masks >= arrays["median"]
    inner = (arrays[f"erosion{settings.narrow}"] - arrays[f"erosion{settings.wide}"]) * arrays["mask_pred"]
    outer = (arrays[f"dilation{settings.wide}"] - arrays[f"dilation{settings.narrow}"]) * arrays["mask_pred"]
    ours = mining.border_scores(masks, every, settings)
    np.testing.assert_array_equal(time_first(ours[0]), inner)
    np.testing.assert_array_equal(time_first(ours[1]), outer)
    for width in (settings.narrow, settings.wide):
        np.testing.assert_array_equal(time_first(mining.eroded_square(active, width)), arrays[f"erosion{width}"])
        np.testing.assert_array_equal(time_first(mining.dilated_square(active, width)), arrays[f"dilation{width}"])


@parity("spot", "augmentations")
def check_augmentations(case: Case) -> None:
    """Perturbations with what is drawn given, and resizing to every length of the case."""
    arrays = case.arrays
    x = time_first(arrays["x"])
    channels = np.arange(x.shape[2])
    back, ahead = (np.isin(channels, arrays[f"shift_random.{side}_channels"]) for side in ("left", "right"))
    expected = {
        "shift_random": perturbations.shifted_channels(x, back, ahead),
        "flip": perturbations.reversed_time(x),
        "reverse": perturbations.reversed_time(x),
        "half0": perturbations.one_half(x, bool(arrays["half0.draw"] < 0.5)),
        "half1": perturbations.one_half(x, bool(arrays["half1.draw"] < 0.5)),
        "cutout": perturbations.cut_out(x),
        "clip_swap": perturbations.swapped_halves(x),
    }
    for name, ours in expected.items():
        close(case, time_first(ours), arrays[f"{name}.out"], name)
    for name in [name for name in arrays if name.startswith("resize") and ".to" in name]:
        rows = arrays[f"{name.split('.')[0]}.in"]
        ours = [resize_linear(video.T, arrays[name].shape[2]).T for video in rows]
        close(case, np.stack(ours), arrays[name], name)
