"""Parity of training FuSTAL's student: on given labels, and on labels of its own average."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from actloc_jax.data.grid import Grid
from actloc_jax.layers.functional import flatten
from actloc_jax.ops import nms
from actloc_jax.systems.fustal import student_losses
from actloc_jax.systems.fustal.decode import DecodeSettings, decode
from actloc_jax.systems.fustal.distillation import DistillationSettings, OwnLabels, own_labels
from actloc_jax.systems.fustal.points import assign, make_points
from actloc_jax.training import ema, optimizers, state
from actloc_jax.training.state import LossOutput
from convert import fustal_tables
from tests.parity.fustal_student import network_of, padded
from tests.parity.harness import Case, parity
from tests.parity.params import state_of, student_params

DECAY = 0.999


class Videos:
    """The videos of a case, padded, with a batch for every step."""

    def __init__(self, case: Case):
        self.config, arrays = case.config, case.arrays
        self.sizes, self.net, self.params = network_of(case, "state_dict")
        self.average = student_params(case.weights()["state_dict_ema"])
        number = len(arrays["labels_video"])
        inputs = [padded(arrays[f"b{i}_feats"], self.sizes) for i in range(number)]
        self.features, self.masks = (np.concatenate(parts) for parts in zip(*inputs, strict=True))
        self.video_labels = arrays["labels_video"]
        self.pseudo_labels = arrays.get("n_pseudo", [])
        self.labels = [(arrays[f"b{i}_segments"], arrays[f"b{i}_labels"]) for i in range(number)]
        ranges = [tuple(each) for each in self.config["model"]["regression_range"]]
        self.points = make_points(self.features.shape[1], self.sizes.strides, ranges)
        test = self.config["test_cfg"]
        self.decoding = DecodeSettings(test["pre_nms_thresh"], test["pre_nms_topk"], test["duration_thresh"])
        rule = dataclasses.replace(nms.ACTIONFORMER_SOFT, min_score=test["min_score"], sigma=test["nms_sigma"])
        self.distilling = DistillationSettings(self.sizes.num_classes, rule, labels=test["max_seg_num"])
        meta = self.config.get("meta", {"fps": 30.0, "duration": 40.0, "feat_stride": 4, "feat_num_frames": 16})
        self.end = Grid(meta["feat_stride"], meta["feat_num_frames"], meta["fps"]).to_grid(meta["duration"])
        self.distil = jax.jit(self._distil)

    def of_step(self, step: int) -> list[int]:
        """The videos of a step: the batches follow one another and begin again."""
        size = self.config["batch_size"]
        first = step * size % len(self.features)
        return list(range(first, first + size))

    def batch(self, videos: list[int], labels: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        slots = max([*map(len, (names for _, names in self.labels)), *np.ravel(self.pseudo_labels)])
        segments = np.zeros((len(videos), slots, 2), np.float32)
        classes = np.full((len(videos), slots), -1, np.int32)
        for row, (found, names) in enumerate(labels):
            segments[row, : len(names)], classes[row, : len(names)] = found, names
        return {
            "features": self.features[videos], "mask": self.masks[videos], "segments": segments, "labels": classes,
            "video_labels": self.video_labels[videos],
        }  # fmt: skip

    def _distil(self, average: Any, features: jax.Array, mask: jax.Array) -> OwnLabels:
        """What the average says of a batch; segments end with the whole video, as published."""
        candidates = decode(self.net(average, features, mask), self.points, self.decoding)
        return own_labels(candidates, jnp.full(len(mask), self.end, jnp.float32), self.distilling)


def check_training(case: Case) -> None:
    """Losses, rates, normalisers, gradient norms, parameters and average of every step."""
    videos, arrays, config = Videos(case), case.arrays, case.config
    net, points, train, optimizer = videos.net, videos.points, config["train_cfg"], config["opt"]
    radius = train["center_sample_radius"] if train["center_sample"] == "radius" else None
    settings = student_losses.DetectionLossSettings(
        regression_weight=train["loss_weight"],
        iou_power=config["model"]["iou_weight_power"],
        label_smoothing=train["label_smoothing"],
    )

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> LossOutput:
        output = net(params, batch["features"], batch["mask"])
        targets = assign(points, batch["segments"], batch["labels"], videos.sizes.num_classes, radius=radius)
        found = student_losses.detection_loss(output, targets, state.extra["normaliser"], settings)
        total = found.total + student_losses.student_video_loss(output, batch["video_labels"])
        metrics = {"class": found.classification, "regression": found.regression}
        return LossOutput(total, metrics, {}, {"normaliser": found.normaliser})

    rate = optimizers.warmup_cosine(
        optimizer["learning_rate"], optimizer["eta_min"], config["warmup_steps"],
        float(optimizer["epochs"]) * config["warmup_steps"],
    )  # fmt: skip
    tx = optax.chain(
        optimizers.clip_by_norm(train["clip_grad_l2norm"]), optimizers.decay_kernels(rate, optimizer["weight_decay"])
    )
    step = jax.jit(state.gradient_step(loss, tx, ema_decay=DECAY))
    extra = {"normaliser": student_losses.initial_normaliser(train["init_loss_norm"])}
    current = state.create(videos.params, tx, extra=extra, ema=True)._replace(ema=ema.init(videos.average))
    for number in range(config["steps"]):
        chosen = videos.of_step(number)
        labels = [videos.labels[video] for video in chosen]
        if "n_pseudo" in arrays:
            labels = _own_labels(case, videos, current.ema, number, chosen)
        current, scalars = step(current, videos.batch(chosen, labels), jax.random.key(0))
        ours = [scalars[name] for name in ("class", "regression", "loss")]
        np.testing.assert_allclose(ours, arrays["losses"][number], rtol=1e-4, err_msg=f"step {number}")
        np.testing.assert_allclose(rate(number), arrays["lrs"][number], rtol=1e-9)
        np.testing.assert_allclose(current.extra["normaliser"], arrays["loss_normalizer"][number], rtol=1e-6)
        np.testing.assert_allclose(scalars["grad_norm"], arrays["grad_norm"][number], rtol=1e-3)
    _check_parameters(case, current)


def _own_labels(
    case: Case, videos: Videos, average: Any, step: int, chosen: list[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the average says of the videos of a step, held against the golden's labels."""
    own = jax.device_get(videos.distil(average, videos.features[chosen], videos.masks[chosen]))
    assert own.found.all()
    assert not own.lost.any()
    labels = []
    for row in range(len(chosen)):
        given = own.labels[row] >= 0
        segments, classes = own.segments[row, given], own.labels[row, given]
        assert len(classes) == case.arrays["n_pseudo"][step, row]
        name = f"step{step}_video{row}_pseudo"
        np.testing.assert_array_equal(classes, case.arrays[f"{name}_labels"], err_msg=name)
        np.testing.assert_allclose(segments, case.arrays[f"{name}_segments"], rtol=2e-4, atol=2e-3, err_msg=name)
        labels.append((segments, classes))
    return labels


def _check_parameters(case: Case, current: state.TrainState) -> None:
    tolerance = case.meta["tolerance"]
    for prefix, params in (("final", current.params), ("ema", current.ema)):
        ours = state_of(fustal_tables.TRIDET, {path: np.asarray(value) for path, value in flatten(params).items()})
        for name, expected in case.arrays.items():
            if name.startswith(f"{prefix}."):
                got = ours[name.removeprefix(f"{prefix}.")]
                np.testing.assert_allclose(got, expected, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=name)
        keys = case.config["sorted_keys_for_abs_sum"]
        sums = [np.abs(ours[key]).sum(dtype=float) for key in keys]
        np.testing.assert_allclose(sums, case.arrays[f"{prefix}_abs_sum"], rtol=tolerance["rtol"], atol=1e-3)


for _kind in ("student_train_steps", "student_train_distill"):
    parity("fustal", _kind)(check_training)
