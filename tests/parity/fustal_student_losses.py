"""Parity of what stands around FuSTAL's student: points, targets, losses, decoding, schedule, average."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.detector import DetectorOutput
from actloc_jax.ops.boundary_bins import expected_distances
from actloc_jax.systems.fustal import student_losses
from actloc_jax.systems.fustal.points import Targets, assign, make_points
from actloc_jax.systems.fustal.student_losses import DetectionLossSettings
from actloc_jax.systems.fustal.video_level import top_mean
from actloc_jax.training import ema, optimizers
from tests.parity.harness import Case, parity

PUBLISHED_RANGES = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))


def close(case: Case, ours: Any, expected: Any, name: str = "") -> None:
    tolerance = case.meta["tolerance"]
    np.testing.assert_allclose(ours, expected, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=name)


def array(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x)


def classes_last(x: np.ndarray) -> jax.Array:
    """[..., class, time] to [..., time, class]."""
    return jnp.asarray(np.moveaxis(x, -2, -1))


@parity("fustal", "student_points")
def check_points(case: Case) -> None:
    """Points, ranges and strides of every level."""
    for prefix in ("points_", "af_points_"):
        expected = [case.arrays[name] for name in sorted(case.arrays) if re.fullmatch(prefix + r"\d+", name)]
        strides = case.config["strides"][: len(expected)]
        points = make_points(len(expected[0]) * strides[0], strides, [tuple(level[0, 1:3]) for level in expected])
        np.testing.assert_array_equal(np.stack(points, axis=1), np.concatenate(expected))


@parity("fustal", "student_label_assignment")
def check_label_assignment(case: Case) -> None:
    """Classes and distances of all points, with and without centre sampling."""
    arrays, config = case.arrays, case.config
    strides = sorted(set(arrays["points"][:, 3].astype(int).tolist()))
    points = make_points(config["max_seq_len"], strides, config["regression_range"])
    np.testing.assert_array_equal(np.stack(points, axis=1), arrays["points"])
    for name in sorted(key.removesuffix("_segments") for key in arrays if key.endswith("_segments")):
        segments, labels = arrays[f"{name}_segments"], arrays[f"{name}_labels"]
        for mode, radius in (("radius", config["radius"]), ("none", None)):
            for spare in (0, 3):  # empty slots change nothing
                targets = assign(
                    points,
                    array(np.pad(segments, ((0, spare), (0, 0)))[None]),
                    array(np.pad(labels, (0, spare), constant_values=-1)[None]),
                    config["num_classes"],
                    radius=radius,
                )
                expected = arrays[f"{mode}_{name}_cls"]
                np.testing.assert_array_equal(targets.classes[0], expected, err_msg=f"{mode} {name}")
                used = expected.any(axis=1)
                close(case, targets.distances[0][used], arrays[f"{mode}_{name}_reg"][used], f"{mode} {name}")


@parity("fustal", "student_element_losses")
def check_element_losses(case: Case) -> None:
    """Focal loss, overlap and DIoU, with their gradients."""
    arrays, config = case.arrays, case.config
    logits, targets = array(arrays["focal_logits"]), array(arrays["focal_targets"])

    def focal(x: jax.Array) -> jax.Array:
        return student_losses.focal_loss(x, targets, alpha=config["alpha"], gamma=config["gamma"])

    close(case, focal(logits), arrays["focal_none"])
    close(case, focal(logits).sum(), arrays["focal_sum"])
    close(case, focal(logits).mean(), arrays["focal_mean"])
    close(case, jax.grad(lambda x: focal(x).sum())(logits), arrays["focal_grad_of_sum"])
    unweighted = student_losses.focal_loss(logits, targets, alpha=None, gamma=config["gamma"])
    close(case, unweighted, arrays["focal_noalpha"])

    prediction, truth = array(arrays["off_pred"]), array(arrays["off_gt"])
    losses = {"giou": lambda x: 1 - student_losses.centre_iou(x, truth)}
    losses["diou"] = lambda x: student_losses.centre_diou_loss(x, truth)
    for name, loss in losses.items():
        close(case, loss(prediction), arrays[f"{name}_none"], name)
        close(case, loss(prediction).mean(), arrays[f"{name}_mean"], name)
        assert arrays[f"{name}_mean_empty"] == 0
        gradient = jax.grad(lambda x, loss=loss: loss(x).sum())(prediction)
        close(case, gradient, arrays[f"{name}_grad_of_sum"], name)


def levels_of(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The arrays `<name>_0`, `<name>_1`, ..."""
    count = sum(re.fullmatch(re.escape(name) + r"_\d+", key) is not None for key in arrays)
    return [arrays[f"{name}_{level}"] for level in range(count)]


@parity("fustal", "student_full_loss")
def check_full_loss(case: Case) -> None:
    """The loss of all points in every variant, its normaliser, and gradients of all logits."""
    arrays, config = case.arrays, case.config
    masks = tuple(array(mask) for mask in levels_of(arrays, "in_mask"))
    segments, labels = levels_of(arrays, "segments"), levels_of(arrays, "labels")
    strides = [masks[0].shape[1] // mask.shape[1] for mask in masks]
    points = make_points(config["T"], strides, PUBLISHED_RANGES[: len(strides)])
    most = max(map(len, labels))
    targets = assign(
        points,
        array(np.stack([np.pad(each, ((0, most - len(each)), (0, 0))) for each in segments])),
        array(np.stack([np.pad(each, (0, most - len(each)), constant_values=-1) for each in labels])),
        config["num_classes"],
    )
    for video, expected in enumerate(levels_of(arrays, "gt_cls")):
        np.testing.assert_array_equal(targets.classes[video], expected)

    for variant, changed in config["variants"].items():
        inputs = variant if f"{variant}_in_cls_0" in arrays else "base"
        output = DetectorOutput(
            classes=tuple(map(array, levels_of(arrays, f"{inputs}_in_cls"))),
            offsets=tuple(map(array, levels_of(arrays, f"{inputs}_in_off"))),
            starts=tuple(map(classes_last, levels_of(arrays, f"{inputs}_in_start"))),
            ends=tuple(map(classes_last, levels_of(arrays, f"{inputs}_in_end"))),
            masks=masks,
        )
        if variant == "base":
            close(case, expected_distances(output.starts, output.ends, output.offsets), arrays["base_decoded_train"])
        train = changed.get("train_cfg", {})
        settings = DetectionLossSettings(
            regression_weight=train.get("loss_weight", 1.0),
            iou_power=config["iou_weight_power"],
            label_smoothing=train.get("label_smoothing", 0.0),
            momentum=config["momentum"],
        )
        chosen = Targets(*map(jnp.zeros_like, targets)) if variant == "nopos" else targets
        normaliser = student_losses.initial_normaliser(config["init_loss_norm"])

        def loss(
            floats: DetectorOutput, chosen: Targets = chosen, settings: Any = settings, n: Any = normaliser
        ) -> Any:
            found = student_losses.detection_loss(floats._replace(masks=masks), chosen, n, settings)
            return found.total, found

        gradient, found = jax.grad(loss, has_aux=True)(output._replace(masks=()))
        close(case, found.classification, arrays[f"{variant}_cls_loss"], variant)
        close(case, found.regression, arrays[f"{variant}_reg_loss"], variant)
        close(case, found.total, arrays[f"{variant}_final_loss"], variant)
        close(case, found.normaliser, arrays[f"{variant}_loss_normalizer_after"], variant)
        for name, field, layout in (
            ("cls", gradient.classes, np.asarray), ("off", gradient.offsets, np.asarray),
            ("start", gradient.starts, classes_last), ("end", gradient.ends, classes_last),
        ):  # fmt: skip
            for level, expected in enumerate(levels_of(arrays, f"{variant}_grad_{name}")):
                close(case, field[level], layout(expected), f"{variant} {name} {level}")


@parity("fustal", "student_video_loss")
def check_video_loss(case: Case) -> None:
    """Video scores, loss and gradient, with padding and without."""
    arrays = case.arrays
    for name in sorted(key.removesuffix("_logits") for key in arrays if key.endswith("_logits")):
        logits, labels = array(arrays[f"{name}_logits"]), array(arrays[f"{name}_label"])
        batch, time, _ = logits.shape
        valid = int(arrays[f"{name}_valid_total"])
        scores = jax.nn.softmax(top_mean(logits, valid // 5), axis=1)
        close(case, scores, arrays[f"{name}_video_scores"], name)
        # Any mask with this many valid steps: the case gives their number only.
        mask = jnp.arange(batch * time).reshape(batch, time) < valid

        def loss(x: jax.Array, labels: jax.Array = labels, mask: jax.Array = mask) -> jax.Array:
            return student_losses.student_video_loss(DetectorOutput((x,), (), (), (), (mask,)), labels)

        value, gradient = jax.value_and_grad(loss)(logits)
        close(case, value, arrays[f"{name}_loss"], name)
        # Of equal logits, as padding has, `torch.sort` takes any (see fustal_generator.same_choice): which of them have
        # the gradient may differ, how many have it may not.
        close(case, *(_by_value(each, arrays[f"{name}_logits"]) for each in (gradient, arrays[f"{name}_grad"])), name)


def _by_value(gradient: Any, logits: np.ndarray) -> np.ndarray:
    """Gradients [batch, time, classes] along time in the order of the logits, those of equal logits in their own."""
    order = np.lexsort((np.asarray(gradient), logits), axis=1)
    return np.take_along_axis(np.asarray(gradient), order, axis=1)


@parity("fustal", "student_decode")
def check_decode(case: Case) -> None:
    """Distances from bins, also where a level is shorter than the bins."""
    arrays = case.arrays
    for name in sorted(key.removesuffix("_decoded") for key in arrays if key.endswith("_decoded")):
        starts, ends = (classes_last(arrays[f"{name}_{side}"])[None] for side in ("start", "end"))
        decoded = expected_distances([starts], [ends], [array(arrays[f"{name}_offset_logits"])[None]])
        close(case, jnp.moveaxis(decoded[0], 1, 0), arrays[f"{name}_decoded"], name)


@parity("fustal", "student_lr_schedule")
def check_lr_schedule(case: Case) -> None:
    """Warm-up with a cosine, endless or not, and with milestones."""
    rate, minimum = case.config["base_lr"], case.config["eta_min"]
    for name, expected in case.arrays.items():
        warmup = int(re.search(r"warm(\d+)", name)[1])
        if "multistep" in name:  # the case does not give the milestones: they are where the rate falls
            falls = np.flatnonzero(expected[warmup + 1 :] < 0.5 * expected[warmup:-1]) + 1
            schedule = optimizers.warmup_multistep(rate, warmup, falls.tolist())
        else:
            found = re.search(r"max(\d+)", name)
            schedule = optimizers.warmup_cosine(rate, minimum, warmup, float(found[1]) if found else 1e39 * warmup)
        close(case, schedule(np.arange(len(expected))), expected, name)
        traced = jax.vmap(jax.jit(schedule))(jnp.arange(len(expected)))
        np.testing.assert_allclose(traced, expected, rtol=2e-5, atol=1e-9, err_msg=name)


@parity("fustal", "student_ema")
def check_ema(case: Case) -> None:
    """The average after every step."""
    average = ema.init(array(case.arrays["weights"][0]))
    np.testing.assert_array_equal(average, case.arrays["ema"][0])
    for weights, expected in zip(case.arrays["weights"][1:], case.arrays["ema"][1:], strict=True):
        average = ema.update(average, array(weights), case.config["decay"])
        close(case, average, expected)
