"""The demo of a config with networks as small as they get, for tests of the loop."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import synthetic_video_detection


def tiny_config(name: str = "tst_gtea", **changes: Any) -> ConfigDict:
    """`configs/<name>.py:demo` shrunk to two epochs of tiny networks.

    Args:
        name: of the config.
        changes: fields with `__` for dots, such as `tst__epochs=3`.
    """
    config = importlib.import_module(f"configs.{name}").get_config("demo")
    if config.backbone.kind == "diffact":
        config.backbone.encoder.update({"num_layers": 2, "width": 8, "feature_layers": (0, 1)})
        config.backbone.decoder.update({"num_layers": 2, "width": 8, "time_dim": 8})
        config.backbone.diffusion.sampling_steps = 2
        config.diffact.update({"epochs": 2, "evaluate_every": 2, "batch_size": 8})
    else:
        config.backbone.update({"num_layers": 2, "width": 8})
        config.asformer.update({"epochs": 2, "evaluate_every": 2, "batch_size": 8})
        config.finetune.update({"epochs": 1, "evaluate_every": 1, "batch_size": 8})
    config.refiner.update({"inner_dim": 8, "segment_dim": 8, "num_layers": 3})
    config.tst.update({"epochs": 2, "evaluate_every": 2, "batch_size": 8})
    config.cache.update({"seeds": 2, "batch_size": 4})
    config.decode.batch_size = 4
    config.eval.timelines = 1
    return _changed(config, changes)


def tiny_asot(name: str = "asot_50salads", **changes: Any) -> ConfigDict:
    """`configs/<name>.py:demo` of the system ASOT shrunk to two epochs of a small encoder; changes as above."""
    config = importlib.import_module(f"configs.{name}").get_config("demo")
    config.network.layers = (64, 16, 12)
    config.asot.update({"epochs": 2, "frames": 64, "evaluate_every": 2})
    config.eval.timelines = 1
    return _changed(config, changes)


def tiny_fustal(name: str = "fustal_thumos", **changes: Any) -> ConfigDict:
    """`configs/<name>.py:demo` of the system FuSTAL shrunk to a few steps of tiny networks; changes as above."""
    config = importlib.import_module(f"configs.{name}").get_config("demo")
    if name == "fustal_thumos":
        config.network.generator.width = 16
        config.generator.update({"steps": 16, "evaluate_every": 8, "snippets": 80, "batch_size": 8})
        config.student.distil_from = 1
    student = config.network.student
    student.update({"width": 16, "neck_width": 16, "head_width": 16, "stem_blocks": 1, "branch_blocks": 1})
    student.update({"embedding_layers": 1, "head_layers": 1, "max_length": 128})
    if student.block == "sgp":
        student.update({"sgp_hidden": 16, "bins": 8})
    config.student.update({"epochs": 2, "warmup_epochs": 1, "batch_size": 8, "ranges": ((0, 12), (12, 10000))})
    config.student.update({"evaluate_from": 0, "evaluate_every": 1, "distil_labels": 32, "distil_candidates": 64})
    config.decode.update({"per_level": 50, "max_detections": 100, "batch_size": 1})
    config.data.max_buckets = 1
    config.eval.timelines = 1
    return _changed(config, changes)


def tiny_spot(name: str = "spot_anet", **changes: Any) -> ConfigDict:
    """`configs/<name>.py:demo` of the system SPOT shrunk to a few steps of a tiny network; changes as above."""
    config = importlib.import_module(f"configs.{name}").get_config("demo")
    config.stages = ("labelled_only", "pretrain", "finetune")
    config.finetune.pretrained = True
    config.data.update({"feature_dim": 32, "steps": 24})
    config.network.update({"heads": 2, "mask_width": 8, "positions": 24})
    config.mining.update({"easy": 5, "hard": 5})
    config.pretrain.update({"epochs": 1, "batch_size": 96})
    config.finetune.update({"epochs": 2, "batch_size": 8, "unlabelled_batch": 16, "evaluate_every": 1})
    config.finetune.update({"min_mask": 0.5, "flexible": True, "teacher": True, "ema_decay": 0.5})
    config.decode.batch_size = 2
    config.eval.timelines = 1
    return _changed(config, changes)


def tiny_tallformer(name: str = "tallformer_thumos", **changes: Any) -> ConfigDict:
    """`configs/<name>.py:demo` of the system TALLFormer shrunk to an epoch of tiny networks; changes as above."""
    config = importlib.import_module(f"configs.{name}").get_config("demo")
    config.data.frame_size, config.clip.crop = (20, 20), (16, 16)
    config.network.backbone.update({"width": 8, "depths": (1,), "heads": (2,)})
    config.network.detector.update({"width": 8, "heads": 2})
    if config.network.kind == "anchors":
        config.network.detector.update({"windows": (5,), "window_heads": 2, "head_layers": 1, "pyramid_width": 8})
    config.train.update({"epochs": 1, "batch_size": 2, "threads": 0, "evaluate_every": 0})
    config.decode.batch_size = 2
    config.eval.timelines = 1
    return _changed(config, changes)


TALLFORMER_KINDS = {"anchors": "tallformer_thumos", "afsd": "tallformer_anet"}


def tiny_tallformer_training(root: epath.PathLike, kind: str = "anchors", **changes: Any) -> ConfigDict:
    """The demo of the system TALLFormer shrunk to five steps of tiny networks on seven tiny videos; changes as above.

    Published optimizers, stochastic depth and dropout; with fewer videos than windows in a batch, one comes twice.

    Args:
        root: where the videos are rendered, if they are not there.
        kind: of the detector.
        changes: fields with `__` for dots.
    """
    lengths = {"anchors": (100, 260), "afsd": (40, 64)}[kind]
    videos = synthetic_video_detection.Settings(7, 2, *lengths, side=20)
    config = importlib.import_module(f"configs.{TALLFORMER_KINDS[kind]}").get_config("demo")
    config.data.source, config.data.root = "folder", str(synthetic_video_detection.write_folder(root, videos))
    config.data.frame_size, config.clip.crop, config.clip.frames = (20, 20), (16, 16), 64
    config.network.backbone.update({"width": 8, "depths": (1,), "heads": (2,), "drop_path": 0.2})
    config.network.detector.update({"width": 16, "heads": 2, "drop_path": 0.1})
    if kind == "anchors":
        detector = {"windows": (5,), "window_heads": 2, "head_layers": 1, "pyramid_width": 8, "dropout": 0.1}
        config.network.detector.update(detector)
        config.train.update({"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_backbone": 0.04})
    else:
        config.network.detector.update({"groups": 4, "levels": 2})
        config.loss.ranges = ((0, 30), (15, 64))
        config.train.update({"learning_rate": 1e-4, "learning_rate_backbone": 4e-5})
    config.memory.fill_chunks = 8
    config.train.update({"epochs": 5, "threads": 0, "log_steps": 1, "warmup_steps": 2, "evaluate_every": 0})
    config.eval.update({"timelines": 0, "select": None})
    return _changed(config, changes)


def _changed(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    for field, value in changes.items():
        *groups, name = field.split("__")
        group = config
        for each in groups:
            group = group[each]
        group[name] = value
    return config


class RandomVideos:
    """A source of videos in memory: noise around a prototype for each of `actions` actions, one after another.

    Attributes:
        lengths: frames of each video.
    """

    def __init__(self, lengths: tuple[int, ...], *, channels: int = 64, actions: int = 6, seed: int = 0) -> None:
        self.lengths = lengths
        rng = np.random.default_rng(seed)
        prototypes = rng.standard_normal([actions, channels])
        self._labels = [(np.arange(length) * actions // length).astype(np.int32) for length in lengths]
        self._features = [
            (prototypes[labels] + 0.5 * rng.standard_normal([len(labels), channels])).astype(np.float32)
            for labels in self._labels
        ]

    def __len__(self) -> int:
        return len(self.lengths)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """One video."""
        del epoch
        features, labels = self._features[position], self._labels[position]
        return {"video": f"video_{position}", "index": position, "features": features, "labels": labels}

    __getitem__ = record
