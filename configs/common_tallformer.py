"""What the experiments of TALLFormer share; the values are those of THUMOS14 unless said otherwise."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs import common

NAMES_THUMOS14 = "class_names.txt"  # one per line, the published order
MEMORIES = ("bank", "momentum", "computed")
AFSD_RANGES = ((0, 30), (15, 60), (30, 120), (60, 240), (96, 768), (256, 768))


def quirks(fixed: bool, kind: str) -> ConfigDict:
    """The switches of `:fixed`: True reproduces the original, False is the sane choice."""
    shared = ("bank_filled_in_training_mode", "reads_one_row_early", "test_set_selection")
    own = {
        "anchors": ("odd_starts", "windows_without_segments", "claims_without_overlap"),
        "afsd": ("overlap_moves_segments", "last_candidate_lost"),
    }
    return ConfigDict(dict.fromkeys((*shared, *own[kind]), not fixed))


def data(**changes: Any) -> ConfigDict:
    """The `data` group: where videos and annotations lie, and how frames are taken."""
    fields = {
        "source": "folder",  # folder | synthetic
        "root": "dataset/thumos",
        "videos": "videos",  # holds video files, folders of images, .npy or ArrayRecord files; {subset}: a folder each
        "missing_videos": "error",  # error | skip: also of those that cannot be read
        "annotations": "annotations",  # under the root: ActivityNet's JSON, or a folder of a file per subset (THUMOS14)
        "classes": "",  # file with one class per line under the root; empty: those of the annotations
        "first_label_id": 0,  # of annotations that number their classes; 1: TALLFormer's video_info_train_val.json
        "train_subsets": "val",
        "test_subsets": "test",
        "fps": 15.0,  # frames per second; 0: those of the video file, of decoded frames what the annotation says
        "max_frames": 0,  # lowers the rate of longer videos; 0: no limit
        "frame_size": (256, 256),  # height and width; the aspect ratio is not kept
        "open_ended": True,  # segments behind the end of their video are a warning
        "split": "1",
        "splits": ("1",),
        "train_split": "train",
        "test_split": "test",
        "sample_rate": 1,
    }
    return ConfigDict({**fields, **changes})


def backbone(**changes: Any) -> ConfigDict:
    """The backbone: a published size, and fields of backbones/video_swin.py that are changed."""
    fields = {"size": "base", "drop_path": 0.2, "frozen_stages": 2, "checkpoint": True}
    return ConfigDict({**fields, **changes})


def anchor_network() -> ConfigDict:
    """The `network` group with anchors; fields of the detector as in backbones/daotad.py."""
    return ConfigDict(
        {
            "kind": "anchors",
            "backbone": backbone(),
            "backbone_weights": "",  # a converted folder or a workdir; empty: random
            "anchor_scale": 2.0,  # shortest anchor of a level in its strides
            "detector": {
                "width": 512,
                "pyramid_width": 256,
                "heads": 16,
                "num_layers": 3,
                "drop_path": 0.1,
                "windows": (7, 7, 5, 5),
                "window_heads": 8,
                "dropout": 0.1,
                "anchors": 5,
                "head_layers": 4,
            },
        }
    )


def afsd_network() -> ConfigDict:
    """The `network` group without anchors; fields of the detector as in backbones/afsd.py."""
    detector = {
        "width": 512,
        "heads": 16,
        "num_layers": 3,
        "drop_path": 0.1,
        "levels": 6,
        "groups": 32,
        "video_dropout": 0.5,
    }
    return ConfigDict(
        {"kind": "afsd", "backbone": backbone(frozen_stages=-1), "backbone_weights": "", "detector": detector}
    )


def clip(**changes: Any) -> ConfigDict:
    """The `clip` group: windows and chunks, in frames."""
    fields = {"frames": 480, "chunk": 32, "crop": (224, 224), "threshold": 0.75}  # of a segment inside a window
    return ConfigDict({**fields, **changes})


def memory(**changes: Any) -> ConfigDict:
    """The `memory` group."""
    fields = {
        "kind": "bank",  # bank | momentum (written by a slower backbone) | computed (no bank: all chunks, each step)
        "keep_ratio": 0.15,  # share of the chunks that a step trains; the others come from the bank; 0: none
        "choice": "random",  # random | uniform | jitter | distinct_jitter
        "dtype": "float32",  # of the bank: float32 | bfloat16
        "layout": "auto",  # what of it is split over devices: rows | channels
        "frozen": False,  # never renewed
        "momentum": 0.999,  # of the slower backbone, per step; the original leaves it open
        "recompute": False,  # of "computed": compute trained chunks again for their gradient, with less memory
        "fill_chunks": 8,  # chunks at once when it is filled
    }
    return ConfigDict({**fields, **changes})


def augmentation(**changes: Any) -> ConfigDict:
    """The `augmentation` group; fields as in data/video_augmentation.py."""
    return ConfigDict({"distort": 0.5, "rotate": 0.5, "angle": 45.0, "flip": 0.5, **changes})


def anchor_loss() -> ConfigDict:
    """The `loss` group with anchors."""
    return ConfigDict(
        {
            "positive": 0.6,  # least overlap with a segment
            "negative": 0.4,  # background below
            "alpha": 0.25,
            "gamma": 2.0,
            "segment_loss": "diou",
            "class_weight": 1.0,
            "segment_weight": 1.0,
        }
    )


def afsd_loss() -> ConfigDict:
    """The `loss` group without anchors."""
    return ConfigDict(
        {
            "ranges": AFSD_RANGES,  # frames, of each level
            "overlap": 0.6,
            "background": 0.25,
            "gamma": 2.0,
            "distance_weight": 1.0,
            "class_weight": 1.0,
            "row_weight": 0.1,
        }
    )


def anchor_decode() -> ConfigDict:
    """The `decode` group with anchors."""
    return ConfigDict(
        {
            "overlap": 0.25,  # share of a window that the next one covers again
            "per_level": 1000,
            "min_score": 0.005,
            "suppression": "nmw",  # nmw (merges, as published) | nms | soft_linear | soft_gaussian
            "threshold": 0.5,  # least overlap of what is merged; of nms and soft_linear: what exceeds it is suppressed
            "sigma": 0.5,  # of soft_gaussian
            "soft_min_score": 0.001,  # of both soft ones: what falls below is removed
            "max_detections": 1200,
            "classifier": "own",  # own | external | truth: who says which classes a video shows; own: all count
            "video_scores": "",  # of external: JSON with another model's scores of whole videos
            "classes_per_video": 1,  # of external and truth: only detections of so many classes are kept
            "batch_size": 1,  # windows at once
            "chunks_at_once": 0,  # of these windows, in the backbone; 0: all
            "backbone": "trained",  # with memory.kind=momentum also: slow | both
        }
    )


def afsd_decode(**changes: Any) -> ConfigDict:
    """The `decode` group without anchors."""
    fields = {
        "min_score": 1e-9,
        "nms_sigma": 0.85,
        "max_detections": 5000,
        "classifier": "own",  # own | external | truth: who says which classes a video shows
        "video_scores": "",  # of external: JSON with another model's scores of whole videos
        "classes_per_segment": 2,  # the best ones of the video; of truth the one of its first segment
        "batch_size": 1,
        "chunks_at_once": 0,
        "backbone": "trained",
    }
    return ConfigDict({**fields, **changes})


def with_memory(config: ConfigDict, kind: str) -> ConfigDict:
    """The experiment with another kind of memory than the bank.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in MEMORIES:
        raise ValueError(f"memory={kind!r} is unknown; use memory={', memory='.join(MEMORIES)}.")
    config.memory.kind = kind
    if kind == "computed":
        config.stages = ("train",)
    if kind == "momentum":
        config.decode.backbone = "slow"  # as the original does unless told otherwise
    return config


def train(seed: int, **changes: Any) -> ConfigDict:
    """The `train` group."""
    config = common.tst_train()
    fields = {
        "seed": seed,
        "log_steps": 10,
        "epochs": 1000,
        "batch_size": 16,
        "optimizer": "sgd",  # sgd | adam
        "momentum": 0.9,  # of sgd
        "learning_rate": 0.01,
        "learning_rate_backbone": 0.004,
        "weight_decay": 1e-4,
        "schedule": "cosine_restarts",  # cosine_restarts | multistep
        "period": 100,  # of cosine_restarts, epochs
        "milestones": (),  # of multistep, epochs
        "warmup_steps": 500,
        "evaluate_from": 600,  # epochs
        "evaluate_every": 100,  # 0: at the end alone
    }
    return ConfigDict({**config.to_dict(), **fields, **changes})


def activitynet_train(epochs: int) -> ConfigDict:
    """The `train` group of ActivityNet and HACS."""
    return train(
        seed=2020,
        epochs=epochs,
        batch_size=4,
        optimizer="adam",
        learning_rate=1e-4,
        learning_rate_backbone=4e-6,
        schedule="multistep",
        milestones=(8, 10),
        warmup_steps=0,
        evaluate_from=1,
        evaluate_every=1,
    )


def evaluation(*, test_set_selection: bool, **changes: Any) -> ConfigDict:
    """The `eval` group."""
    fields = {
        "tiou": (0.3, 0.4, 0.5, 0.6, 0.7),
        "averages": (),
        "protocol": "tallformer",
        "select": "mAP" if test_set_selection else None,  # metric by which the best evaluation is kept; None: the last
        "selection_split": "test",
        "seed": 0,
        "timelines": 10,  # figures of that many videos
    }
    return ConfigDict({**fields, **changes})


def activitynet_evaluation(*, test_set_selection: bool) -> ConfigDict:
    """The `eval` group of ActivityNet and HACS."""
    tiou = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
    return evaluation(test_set_selection=test_set_selection, tiou=tiou, protocol="activitynet")


def without_anchors(config: ConfigDict, args: ConfigDict, *, epochs: int, classes_per_segment: int) -> ConfigDict:
    """The rest of an experiment on whole videos: ActivityNet or HACS."""
    config.system = "tallformer"
    config.stages = ("fill_bank", "train")
    config.quirks = quirks(args.fixed, "afsd")
    config.network = afsd_network()
    config.clip = clip(frames=768)
    config.memory = memory(keep_ratio=0.375, choice="distinct_jitter", fill_chunks=16)
    config.augmentation = augmentation()
    config.loss = afsd_loss()
    config.decode = afsd_decode(classes_per_segment=classes_per_segment)
    config.train = activitynet_train(epochs)
    config.eval = activitynet_evaluation(test_set_selection=config.quirks.test_set_selection)
    with_memory(config, args.memory)
    return afsd_demo(config) if args.demo else config


def anchor_demo(config: ConfigDict) -> ConfigDict:
    """The experiment on THUMOS14 shrunk to about two minutes on two CPU cores, on rendered videos."""
    _demo(config)
    config.clip = clip(frames=128, chunk=16, crop=(32, 32))
    config.network.detector = ConfigDict(
        {"width": 64, "pyramid_width": 64, "heads": 4, "num_layers": 1, "windows": (7, 5), "window_heads": 4,
         "dropout": 0.0, "drop_path": 0.0, "head_layers": 2}
    )  # fmt: skip
    config.memory.update({"keep_ratio": 0.5, "fill_chunks": 32, "momentum": 0.95})
    config.train.update({"epochs": 60, "batch_size": 8, "period": 60, "warmup_steps": 20})
    config.decode.batch_size = 8
    return config


def afsd_demo(config: ConfigDict) -> ConfigDict:
    """The experiments on whole videos shrunk to about two minutes on two CPU cores, on rendered videos."""
    _demo(config)
    config.clip = clip(frames=128, chunk=16, crop=(32, 32))
    config.network.detector = ConfigDict(
        {"width": 64, "heads": 4, "num_layers": 1, "levels": 3, "groups": 8, "drop_path": 0.0, "video_dropout": 0.1}
    )
    config.loss.ranges = ((0, 30), (15, 60), (30, 128))
    config.memory.update({"keep_ratio": 0.5, "fill_chunks": 32, "momentum": 0.95})
    config.train.update({"epochs": 60, "batch_size": 8, "milestones": (45,)})
    config.decode.batch_size = 8
    return config


def _demo(config: ConfigDict) -> None:
    """What both demos change."""
    config.name += "_demo"
    config.paper = {}
    config.data.update(
        {"source": "synthetic", "root": "", "videos": "videos", "annotations": "annotations.json",
         "classes": "classes.txt", "train_subsets": "train", "test_subsets": "test", "fps": 10.0, "max_frames": 0,
         "frame_size": (36, 36), "open_ended": False}
    )  # fmt: skip
    config.network.backbone = ConfigDict(
        {"size": "tiny", "width": 16, "depths": (1, 1), "heads": (2, 4), "window": (4, 4, 4), "drop_path": 0.0}
    )
    config.augmentation = augmentation(distort=0.0, rotate=0.0)
    config.train.update(
        {"optimizer": "adam", "learning_rate": 2e-3, "learning_rate_backbone": 2e-3, "log_steps": 15,
         "evaluate_from": 30, "evaluate_every": 30, "checkpoint_steps": 200}
    )  # fmt: skip
