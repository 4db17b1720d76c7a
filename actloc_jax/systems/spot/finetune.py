"""Stage 2 of SPOT: labelled and unlabelled videos in one step.

As published, unlabelled videos are reconstructed and contrasted, while the loss of their pseudo-labels is computed and
dropped. With `pseudo_labels_dropped=False` it counts, as in the paper (section 3.3): labels are those of the network
itself or of its running average (a teacher), where these are confident. Source: `sauradip/SPOT:spot_train.py`
(`train_semi`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.data.paired_batches import UNLABELLED
from actloc_jax.layers.dropout import keep_masks
from actloc_jax.layers.functional import Network
from actloc_jax.systems.spot import optional_losses
from actloc_jax.systems.spot.losses import (
    DetectionLoss,
    DetectionSettings,
    detection_loss,
    reconstruction_loss,
)
from actloc_jax.systems.spot.mining import MiningSettings, boundary_contrast
from actloc_jax.systems.spot.network import SpotOutput
from actloc_jax.systems.spot.perturbations import view


@dataclasses.dataclass(frozen=True)
class PseudoLabelSettings:
    """How unlabelled videos are labelled.

    Attributes:
        weight: of the loss.
        min_confidence: probability of a class from which on a snippet is trusted; its mask is, too. 0: all are, as in
            the loss that the published code drops.
        min_mask: value from which on a mask covers a snippet.
        flexible: the confidence asked for is lower for classes that few snippets were trusted with so far (FlexMatch,
            Zhang et al., NeurIPS 2021).
        student_view: key of `perturbations.VIEWS`, what the network sees of unlabelled videos; labels are those of the
            plain video.
        consistency_weight: of the squared difference from the teacher's masks and the divergence from its classes, at
            full strength; published, and switched off, with 2.
        consistency_ramp: epochs until then.
    """

    weight: float = 1.0
    min_confidence: float = 0.7
    min_mask: float = 0.7
    flexible: bool = False
    student_view: str = "plain"
    consistency_weight: float = 0.0
    consistency_ramp: float = 5.0


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How the second stage trains.

    Attributes:
        detection: losses on labels.
        mining: of the contrast.
        pseudo: labels of unlabelled videos.
        reconstruction_weight, contrast_weight: of these losses, of labelled and of unlabelled videos alike. With both 0
            and no unlabelled videos, training is supervised as published.
        pseudo_labels_dropped: quirk: pseudo-labels have no part in the loss.
    """

    detection: DetectionSettings = dataclasses.field(default_factory=DetectionSettings)
    mining: MiningSettings = dataclasses.field(default_factory=MiningSettings)
    pseudo: PseudoLabelSettings = dataclasses.field(default_factory=PseudoLabelSettings)
    reconstruction_weight: float = 1.0
    contrast_weight: float = 1.0
    pseudo_labels_dropped: bool = True


class FinetuneLoss(NamedTuple):
    """The loss of a step.

    Attributes:
        total: scalar.
        parts: unweighted losses to log, scalars.
        trusted: [classes + 1] float32, how often each class was trusted so far; for `flexible` thresholds.
    """

    total: jax.Array
    parts: dict[str, jax.Array]
    trusted: jax.Array


def no_class_trusted(num_classes: int) -> jax.Array:
    """`FinetuneLoss.trusted` before the first step, [num_classes + 1] float32."""
    return jnp.zeros(num_classes + 1, jnp.float32)


def is_trained(path: str) -> bool:
    """Whether the second stage changes the parameter at a "/"-joined path of `Spot`: all but the order of halves."""
    return not path.startswith(("clip_", "embedding/positions/"))


def finetune_loss(
    net: Network,
    params: Any,
    batch: dict[str, jax.Array],
    key: jax.Array | None,
    settings: FinetuneSettings,
    *,
    teacher: Any = None,
    trusted: jax.Array | None = None,
    epoch: jax.Array | float = 0.0,
) -> FinetuneLoss:
    """The loss of labelled videos and, where the batch has them, of unlabelled ones.

    Args:
        net: a `Spot`.
        params: its parameters.
        batch: `features` [batch, time, channels], `labels` [batch, time] int (background = classes), `masks`
            [batch, time, snippet] 1 or 0, `index` [batch] int, negative for rows that only fill the batch; of
            unlabelled videos `unlabelled/features` and `unlabelled/index`, of another batch size.
        key: of all that is random; None: no dropout, and no snippet is hidden from the choice of easy ones.
        settings: weights and quirks.
        teacher: parameters that label the unlabelled videos; None: `params`, with the dropout of this very step where
            `student_view` is plain.
        trusted: of the step before; needed for flexible thresholds.
        epoch: for the ramp of consistency.
    """
    keys = [None] * 5 if key is None else jax.random.split(key, 5)
    features, present = batch["features"], batch["index"] >= 0
    output = net(params, features, rngs=_rngs(keys[0]))
    counted = jnp.broadcast_to(present[:, None], batch["labels"].shape)
    detection = detection_loss(
        output.logits, output.masks, batch["labels"], batch["masks"], counted, settings.detection
    )
    total, parts = _with_features(output, features, present, keys[1], settings)
    total = total + detection.total
    parts = {"classes": detection.classes, "masks": detection.masks, **parts}
    trusted = no_class_trusted(output.logits.shape[2] - 1) if trusted is None else trusted
    if UNLABELLED + "features" not in batch:
        return FinetuneLoss(total, parts, trusted)

    features, present = batch[UNLABELLED + "features"], batch[UNLABELLED + "index"] >= 0
    output = net(params, _seen(keys[2], features, settings), rngs=_rngs(keys[3]))
    of_features, found = _with_features(output, features, present, keys[4], settings)
    total = total + of_features
    parts |= {UNLABELLED + name: value for name, value in found.items()}
    if not settings.pseudo_labels_dropped:
        alike = teacher is None and settings.pseudo.student_view == "plain"
        said = output if alike else net(params if teacher is None else teacher, features)
        of_labels, found, trusted = _on_pseudo_labels(output, said, present, trusted, epoch, settings)
        total = total + of_labels
        parts |= {UNLABELLED + name: value for name, value in found.items()}
    return FinetuneLoss(total, parts, trusted)


class PseudoLabels(NamedTuple):
    """Labels of unlabelled videos.

    Attributes:
        labels: [batch, time] int32.
        masks: [batch, time, snippet] float32, 1 or 0.
        counted: [batch, time] bool, snippets that are trusted.
    """

    labels: jax.Array
    masks: jax.Array
    counted: jax.Array


def pseudo_labels(
    output: SpotOutput, present: jax.Array, settings: PseudoLabelSettings, trusted: jax.Array | None = None
) -> PseudoLabels:
    """What the network itself says, without gradient.

    Args:
        output: of the network, on plain videos.
        present: [batch] bool.
        settings: thresholds.
        trusted: [classes + 1] as in `FinetuneLoss`; needed for flexible thresholds.
    """
    logits, masks = jax.lax.stop_gradient((output.logits, output.masks))
    labels = jnp.argmax(logits, axis=2).astype(jnp.int32)
    confidence = jax.nn.softmax(logits, axis=2).max(axis=2)
    needed = settings.min_confidence
    if settings.flexible:
        if trusted is None:
            raise ValueError("flexible thresholds need the counts of the steps before; pass trusted")
        needed = flexible_thresholds(trusted, needed)[labels]
    counted = (confidence >= needed) & present[:, None]
    return PseudoLabels(labels, (masks >= settings.min_mask).astype(jnp.float32), counted)


def flexible_thresholds(trusted: jax.Array, highest: float) -> jax.Array:
    """Confidence asked for of every class, from how often it was trusted: [classes + 1] float32, up to `highest`."""
    learnt = trusted / jnp.maximum(trusted.max(), 1)
    return highest * learnt / (2 - learnt)


def pseudo_label_loss(output: SpotOutput, labels: PseudoLabels, settings: DetectionSettings) -> DetectionLoss:
    """The detection loss on pseudo-labels."""
    return detection_loss(output.logits, output.masks, labels.labels, labels.masks, labels.counted, settings)


def _with_features(
    output: SpotOutput, features: jax.Array, present: jax.Array, key: jax.Array | None, settings: FinetuneSettings
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reconstruction and contrast, which need no labels: their weighted sum, and both."""
    total, parts = jnp.zeros(()), {}
    if settings.reconstruction_weight:
        parts["reconstruction"] = reconstruction_loss(output.features, features, present)
        total = total + settings.reconstruction_weight * parts["reconstruction"]
    if settings.contrast_weight:
        (keep,) = keep_masks(_rngs(key), settings.mining.hidden, 1, features.shape[:2])
        parts["contrast"] = boundary_contrast(output, present, settings.mining, keep)
        total = total + settings.contrast_weight * parts["contrast"]
    return total, parts


def _on_pseudo_labels(
    output: SpotOutput,
    said: SpotOutput,
    present: jax.Array,
    trusted: jax.Array,
    epoch: jax.Array | float,
    settings: FinetuneSettings,
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """Losses that compare the student's `output` with what was `said`: weighted sum, parts, counts after the step."""
    pseudo, said = settings.pseudo, jax.lax.stop_gradient(said)
    labels = pseudo_labels(said, present, pseudo, trusted)
    loss = pseudo_label_loss(output, labels, settings.detection)
    every = jnp.maximum(present.sum() * labels.labels.shape[1], 1)
    parts = {"classes": loss.classes, "masks": loss.masks, "trusted": labels.counted.sum() / every}
    total = pseudo.weight * loss.total
    if pseudo.consistency_weight:
        classes = optional_losses.class_consistency(output.logits, jax.nn.softmax(said.logits, axis=2), present)
        parts["consistency"] = optional_losses.mask_consistency(output.masks, said.masks, present) + classes
        ramp = optional_losses.ramp_up(epoch, pseudo.consistency_ramp)
        total = total + pseudo.consistency_weight * ramp * parts["consistency"]
    sure = jnp.where(labels.counted[:, :, None], jax.nn.one_hot(labels.labels, len(trusted)), 0)
    return total, parts, trusted + sure.sum(axis=(0, 1))


def _seen(key: jax.Array | None, features: jax.Array, settings: FinetuneSettings) -> jax.Array:
    """The unlabelled videos as the network sees them in training."""
    if settings.pseudo_labels_dropped or key is None:
        return features
    return view(settings.pseudo.student_view)(key, features)


def _rngs(key: jax.Array | None) -> nnx.Rngs | None:
    return None if key is None else nnx.Rngs(dropout=key)
