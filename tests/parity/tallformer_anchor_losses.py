"""Parity of TALLFormer's anchors, their assignment and their losses."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.daotad import AnchorOutput
from actloc_jax.losses.focal import focal_loss
from actloc_jax.ops import anchors as anchor_ops
from actloc_jax.ops.anchors import Anchors, AnchorShapes, Assignment, make_anchors
from actloc_jax.systems.tallformer import overlap_losses
from actloc_jax.systems.tallformer.anchor_losses import AnchorLossSettings, anchor_loss, anchor_targets
from tests.parity.harness import Case, parity
from tests.parity.tallformer_anchors import channels_of, close

PUBLISHED = AnchorShapes()


def rows_of(array: np.ndarray, anchors: int) -> np.ndarray:
    """A head's [batch, anchors * values, time] as our [batch, time * anchors, values]."""
    batch, channels, _ = array.shape
    return array.swapaxes(1, 2).reshape(batch, -1, channels // anchors)


def output_of(arrays: dict[str, np.ndarray], prefix: str, levels: int, anchors: int) -> AnchorOutput:
    """What the heads said in a case."""
    heads = ("cls", "reg")
    return AnchorOutput(
        *(tuple(rows_of(arrays[f"{prefix}{head}{i}"], anchors) for i in range(levels)) for head in heads)
    )


def padded(segments: list[np.ndarray], labels: list[np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """Segments [batch, slots, 2] and labels [batch, slots], with at least one empty slot."""
    slots = 1 + max(map(len, segments))
    rows = [np.pad(part, ((0, slots - len(part)), (0, 0))) for part in segments]
    names = [np.pad(part, (0, slots - len(part)), constant_values=-1) for part in labels]
    return jnp.asarray(np.stack(rows), jnp.float32), jnp.asarray(np.stack(names), jnp.int32)


@parity("tallformer", "anchors_assign")
def check_anchors_assign(case: Case) -> None:
    """Anchors, flags of padding, and which segment each anchor belongs to."""
    arrays, lengths = case.arrays, case.config["level_sizes"]
    mesh, assigner = case.config["mesh"], case.config["assigner"]
    base = mesh["base_anchor"]
    shapes = AnchorShapes(tuple(mesh["strides"]), base["octave_base_scale"], base["scales_per_octave"])
    rule = Assignment(assigner["pos_iou_thr"], assigner["neg_iou_thr"])
    anchors = make_anchors(lengths, shapes)
    sizes = re.search(r"pad_tsize (\d+) and (\d+)", case.meta["what"]).groups()
    flags = [make_anchors(lengths, shapes, int(frames)).inside for frames in sizes]
    begin = 0
    for level, end in enumerate(anchors.ends):
        close(case, shapes.around_zero(shapes.strides[level]), f"base{level}")
        close(case, anchors.segments[begin:end], f"anchors{level}")
        for number, inside in enumerate(flags):
            np.testing.assert_array_equal(inside[begin:end], arrays[f"valid{number}_{level}"])
        begin = end
    assign = jax.jit(lambda segments, valid: anchor_ops.assign(anchors.segments, segments, valid, rule))
    for name in (name.removesuffix("/gt") for name in arrays if name.endswith("/gt")):
        truth = arrays[f"{name}/gt"]
        segments, labels = padded([truth], [np.zeros(len(truth), int)])
        found = assign(segments, labels >= 0)
        np.testing.assert_array_equal(found.segment[0], arrays[f"{name}/gt_inds"], err_msg=name)
        close(case, found.overlap[0], f"{name}/max_overlaps")


@parity("tallformer", "losses")
def check_losses(case: Case) -> None:
    """Focal and overlap losses alone, then targets, losses and gradients of whole batches."""
    _check_focal(case)
    _check_overlap_losses(case)
    arrays, lengths = case.arrays, case.config["level_sizes"]
    anchors = make_anchors(lengths, PUBLISHED, lengths[0] * PUBLISHED.strides[0])
    videos = {"batch3": (0, 1, 2), "only_empty": (1,), "single": (2,)}
    for name, numbers in videos.items():
        truth = padded([arrays[f"gt{i}"] for i in numbers], [arrays[f"lab{i}"] for i in numbers])
        _check_batch(case, name, anchors, truth)


def _check_focal(case: Case) -> None:
    arrays = case.arrays
    target, weight, classes = arrays["focal/target"], arrays["focal/weight"], arrays["focal/x"].shape[1]
    one_hot = np.eye(classes, dtype=np.float32)[np.clip(target, 0, classes - 1)] * (target < classes)[:, None]
    counts = (target >= 0)[:, None]
    total, gradient = jax.jit(
        jax.value_and_grad(lambda x: jnp.sum(jnp.where(counts, focal_loss(x, one_hot), 0) * weight[:, None]))
    )(arrays["focal/x"])
    factor = np.round(total / arrays["focal/loss"])  # the average factor of the case, a whole number
    close(case, np.where(counts, focal_loss(arrays["focal/x"], one_hot), 0), "focal/elementwise")
    close(case, total / factor, "focal/loss")
    close(case, gradient / factor, "focal/gx")


def _check_overlap_losses(case: Case) -> None:
    arrays = case.arrays
    true, weight = jnp.asarray(arrays["iou_target"]), arrays["iou_weight"].mean(axis=1)
    for name, loss in overlap_losses.OVERLAP_LOSSES.items():
        element = overlap_losses.bounded_iou_parts if name == "bounded_iou" else loss
        predicted = jnp.asarray(arrays["iou_pred"])
        close(case, jax.jit(element)(predicted, true), f"{name}/elementwise")
        total, gradient = jax.jit(jax.value_and_grad(lambda x, loss=loss: jnp.sum(loss(x, true) * weight)))(predicted)
        factor = np.round(total / arrays[f"{name}/loss"])
        close(case, total / factor, f"{name}/loss")
        close(case, gradient / factor, f"{name}/gpred")


def _check_batch(case: Case, name: str, anchors: Anchors, truth: tuple[jax.Array, jax.Array]) -> None:
    arrays, settings, levels = case.arrays, AnchorLossSettings(), len(anchors.ends)
    per_row, classes = PUBLISHED.per_octave, case.config["num_classes"]
    output = output_of(arrays, f"{name}/", levels, per_row)
    targets = jax.jit(lambda *given: anchor_targets(anchors, *given, classes, settings.assignment))(*truth)
    labels, counts, segments, positive = jax.tree.map(np.asarray, targets)
    fields = {
        "label": np.where(counts, labels, classes)[..., None],
        "labelw": counts[..., None],
        "seg": segments,
        "segw": np.repeat(positive[..., None], 2, axis=-1),
    }
    for field, values in fields.items():
        for level, found in enumerate(anchors.levels(values)):
            close(case, np.squeeze(found, -1) if found.shape[-1] == 1 else found, f"{name}/t_{field}{level}")
    assert targets.number == arrays[f"{name}/num_pos"]

    def total(given: AnchorOutput) -> tuple[jax.Array, Any]:
        found = anchor_loss(given, anchors, targets, settings)
        return found.total, found

    gradient, found = jax.jit(jax.grad(total, has_aux=True))(output)
    parts = {"loss": found.total, "loss_cls": found.classification, "loss_segment": found.segment}
    for part, value in parts.items():
        close(case, value, f"{name}/{part}")
    for head, of_head in zip(("gcls", "greg"), gradient, strict=True):
        for level, values in enumerate(of_head):
            close(case, channels_of(values, per_row), f"{name}/{head}{level}")
