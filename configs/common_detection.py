"""What the experiment files of FuSTAL, TriDet and ActionFormer share: features, detector, training, decoding."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs import common

THUMOS14_RANGES = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))

QUIRKS = (
    "select_on_test",
    "tails_extrapolated",
    "nms_one_second_longer",
    "borders_off_centre",
    "filter_pools_classes",
    "padding_is_seen",
    "ends_score_zero_outside",
    "video_steps_of_batch",
    "first_rate_zero",
)


def quirks(fixed: bool) -> ConfigDict:
    """The switches that `docs/quirks.md` explains: True reproduces the original, False is the sane choice.

    The last two are defects of the published training that are repaired by default.
    """
    names = dict.fromkeys(QUIRKS, not fixed)
    return ConfigDict({**names, "empty_prediction_ends_distillation": False, "own_labels_beyond_crop": False})


def features(root: str, **changes: Any) -> ConfigDict:
    """One set of features of the videos and the annotations beside it; `changes` are fields that differ from these."""
    fields = {
        "root": root,
        "annotations": "annotations.json",
        "features": "features/{video}.npy",
        "streams": (),  # values of {stream} in the pattern, joined in this order
        "feature_dim": 2048,
        "recipe": "",  # of the features, to make those of videos: --recipe=list; empty: unknown
        # Frames from row to row, frames of a row, frames per second of all videos (0: each has its own), and what an
        # integer position is: centre | start. A stride of 0: the rows cover each video evenly.
        "grid": {"stride": 4.0, "window": 16.0, "fps": 0.0, "align": "centre"},
        "train_subsets": "validation",  # of the annotations; several with commas
        "test_subsets": "test",
        "train_list": "",  # file under root with one video per line; empty: the whole subset
        "test_list": "",
        "unknown_durations": False,  # whether a video may have none
    }
    return ConfigDict({**fields, **changes})


def thumos14(**changes: Any) -> ConfigDict:
    """ActionFormer's package of THUMOS14: I3D features of 16 frames, every 4 frames."""
    return features(
        "dataset/thumos",
        annotations="annotations/thumos14.json",
        features="i3d_features/{video}.npy",
        recipe="actionformer",
        **changes,
    )


def data(**views: ConfigDict) -> ConfigDict:
    """The `data` group: where videos lie, and `views`, the features that stages read."""
    return ConfigDict(
        {
            "source": "folder",  # folder | prepared | synthetic
            "classes": "",  # file with one class per line under the root; empty: classes.txt, else the annotations
            "missing_features": "error",  # error | skip
            "segments_outside": "warning",  # error | warning: of segments that lie outside their video
            **views,
            "split": "1",
            "splits": ("1",),
            "train_split": "train",
            "test_split": "test",
            "sample_rate": 1,
            "max_buckets": 6,  # padded lengths, each compiled once
        }
    )


def tridet(**changes: Any) -> ConfigDict:
    """The network of TriDet on THUMOS14, which is FuSTAL's student; fields as in backbones/detector.py."""
    fields = {
        "block": "sgp",
        "width": 512,
        "neck_width": 512,
        "head_width": 512,
        "embedding_layers": 2,
        "stem_blocks": 2,
        "branch_blocks": 5,
        "embedding_kernel": 3,
        "windows": 1,
        "sgp_factor": 5.0,
        "sgp_hidden": 768,
        "sgp_pooling": "max",  # max | avg
        "position_encoding": False,
        "neck": "identity",  # identity | fpn
        "head_layers": 3,
        "head_kernel": 3,
        "bins": 16,  # of the Trident head; 0: distances directly
        "drop_path": 0.1,
        "input_noise": 0.0005,
        "max_length": 2304,
    }
    return ConfigDict({**fields, **changes})


def actionformer(**changes: Any) -> ConfigDict:
    """The network of ActionFormer on THUMOS14."""
    fields = {
        "block": "transformer",
        "width": 512,
        "neck_width": 512,
        "head_width": 512,
        "embedding_layers": 2,
        "stem_blocks": 2,
        "branch_blocks": 5,
        "embedding_kernel": 3,
        "windows": 19,
        "heads": 4,
        "position_bias": False,
        "position_encoding": False,
        "neck": "identity",
        "head_layers": 3,
        "head_kernel": 3,
        "bins": 0,
        "drop_path": 0.1,
        "max_length": 2304,
    }
    return ConfigDict({**fields, **changes})


def student(**changes: Any) -> ConfigDict:
    """The `student` group: how the detector is trained; the values are FuSTAL's."""
    fields = {
        "labels": "filtered",  # filtered: what the stage filter left | annotated: full supervision
        "checkpoint": "",  # a converted folder or a workdir to start from
        "epochs": 101,
        "warmup_epochs": 1,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "schedule": "constant",  # after the warm-up: constant | cosine | multistep
        "least_rate": 1e-8,  # of cosine
        "milestones": (),  # of multistep: epochs after the warm-up
        "milestone_factor": 0.1,
        "weight_decay": 0.05,
        "clip_norm": 1.0,
        "ema_decay": 0.999,
        "crop_ratio": (0.9, 1.0),  # of videos that fit; equal values: no crop
        "crop_threshold": 0.5,  # least share of a segment inside a crop
        "crop_margin": False,  # whether crops reach half a window further, as in ActionFormer
        "ranges": THUMOS14_RANGES,  # distances that each level regresses, in steps of the features
        "centre_radius": 1.5,  # steps around a segment's centre that are trained on; 0: all inside
        "regression_weight": 1.0,
        "iou_power": 0.2,
        "label_smoothing": 0.0,
        "initial_normaliser": 100.0,
        "video_weight": 1.0,  # of the loss on the classes of the video; 0: none
        "video_dropout": 0.7,
        "distil_from": 61,  # epoch from which the average of the network gives the labels; -1: never
        "distil_score": 0.4,
        "distil_labels": 256,  # room for labels of a video
        "distil_candidates": 512,  # of each class, that enter the suppression
        "evaluate_from": 60,  # epoch
        "evaluate_every": 10,  # epochs; 0: at the end alone
    }
    return ConfigDict({**fields, **changes})


def decode(**changes: Any) -> ConfigDict:
    """The `decode` group: from the outputs of the detector to detections."""
    fields = {
        "min_score": 0.001,
        "per_level": 2000,
        "min_length": 0.05,  # steps of the features
        "nms": "soft",  # soft | hard | none
        "nms_threshold": 0.1,  # of hard
        "nms_sigma": 0.5,  # of soft
        "nms_min_score": 0.001,
        "class_aware": True,
        "vote": 0.0,  # least tIoU of what is averaged with a detection; 0: nothing (only where not class_aware)
        "max_detections": 2000,
        "video_scores": "",  # JSON {video: [score of each class]} of another model, which then names the classes
        "video_score_segments": 200,
        "video_score_classes": 2,
        "batch_size": 1,  # videos per call
        "fps": 0.0,  # predict: frames per second of videos whose features come without an annotation
    }
    return ConfigDict({**fields, **changes})


def evaluation(**changes: Any) -> ConfigDict:
    """The `eval` group; the values are those of weakly supervised methods on THUMOS14."""
    fields = {
        "tiou": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
        "averages": ((0.1, 0.5), (0.3, 0.7)),  # further means over thresholds
        "protocol": "fustal",
        "select": None,  # metric by which the best evaluation is kept; None: the last
        "selection_split": "test",
        "seed": 0,
        "timelines": 10,  # figures of that many videos
    }
    return ConfigDict({**fields, **changes})


def train(seed: int) -> ConfigDict:
    """The `train` group."""
    config = common.tst_train()
    config.update({"seed": seed, "log_steps": 25})
    return config


def demo_features(steps_per_video: str = "centre") -> ConfigDict:
    """Features of the generated videos."""
    return features(
        "",
        feature_dim=64,
        recipe="generated",
        grid=ConfigDict({"stride": 16.0, "window": 16.0, "fps": 25.0, "align": steps_per_video}),
        train_subsets="train",
    )


def demo_detector(config: ConfigDict) -> None:
    """A network that trains in a minute on two CPU cores."""
    config.update({"width": 64, "neck_width": 64, "head_width": 64, "branch_blocks": 3, "max_length": 320})
    if config.block == "sgp":
        config.sgp_hidden = 96
        config.input_noise = 0.3  # as few generated videos need
    else:
        config.windows = 9


def published(*at_tiou: float, mean: float) -> ConfigDict:
    """A paper's mAP at tIoU 0.3, 0.4, ... and its mean; pairs, as names in configs cannot hold dots."""
    rows = [(f"mAP@0.{3 + place}", value) for place, value in enumerate(at_tiou)]
    return ConfigDict({"paper on THUMOS14": (*rows, ("mAP", mean))})


def supervised(config: ConfigDict, args: ConfigDict) -> ConfigDict:
    """The rest of a fully supervised experiment: FuSTAL's third stage alone, on annotated segments.

    `max_detections`, 2000 in TriDet, is the only value that the caller may have to change.
    """
    config.system = "fustal"  # whose student this detector is
    config.stages = ("student",)
    config.quirks = quirks(args.fixed)
    config.data = data(student=thumos14())
    config.student.update({"labels": "annotated", "batch_size": 2, "schedule": "cosine", "video_weight": 0.0})
    config.student.update({"distil_from": -1, "evaluate_from": 0, "evaluate_every": 5})
    config.decode = decode()
    config.eval = evaluation(tiou=(0.3, 0.4, 0.5, 0.6, 0.7), averages=(), protocol="activitynet")
    config.train = train(seed=1234567891)
    if args.demo:
        config.name += "_demo"
        config.paper = {}
        config.data.source = "synthetic"
        config.data.student = demo_features()
        config.data.max_buckets = 2
        demo_detector(config.network.student)
        config.student.update({"epochs": 32, "warmup_epochs": 3, "batch_size": 6, "learning_rate": 1e-3})
        config.student.update({"ema_decay": 0.99, "ranges": THUMOS14_RANGES[:3] + ((16, 10000),)})
        config.student.evaluate_every = 16
        config.decode.batch_size = 8
    return config
