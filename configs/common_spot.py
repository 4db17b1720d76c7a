"""What the experiment files of SPOT share."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs import common

DATA_QUIRKS = (
    "last_segment_only", "long_segments_only", "filter_unlabelled", "filter_evaluation", "inherit_empty",
    "shave_targets", "pretrain_on_labelled",
)  # fmt: skip
TRAINING_QUIRKS = (
    "order_ignores_transformer", "focal_on_mean", "dice_without_factor_two", "compares_channels", "hidden_score_zero",
    "masks_of_whole_input", "reconstructs_normalised", "pseudo_labels_dropped", "last_epoch_kept",
)  # fmt: skip
DECODE_QUIRKS = ("ends_at_last_snippet", "overlap_exceeds_iou", "last_candidate_lost", "overlap_raises_scores")


def quirks(fixed: bool) -> ConfigDict:
    """The switches that `docs/quirks.md` explains: True reproduces the original, False is the sane choice."""
    return ConfigDict(dict.fromkeys((*DATA_QUIRKS, *TRAINING_QUIRKS, *DECODE_QUIRKS), not fixed))


def labels(text: str) -> float:
    """The share of labelled videos in per cent.

    Raises:
        ValueError: no number above 0 and up to 100.
    """
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 100:
        raise ValueError(f"labels={text} must be the share of labelled videos in per cent, such as labels=10.")
    return share


def data(root: str, labelled: float, **changes: Any) -> ConfigDict:
    """The `data` group; `changes` are fields that differ from ActivityNet's."""
    fields = {
        "source": "spot",  # spot: the files of its release | folder | prepared | synthetic
        "root": root,
        "annotations": "anet_anno_action.json",
        "video_info": "video_info_new.csv",  # source spot: subsets of the videos, and the same for each share of labels
        "ratio_files": "video_info_new_{unlabelled}.csv",
        "classes": "class_index.json",
        "features": "csv/{video}.csv",
        "streams": (),
        "feature_dim": 400,
        "recipe": "tsn",  # of the features, to make those of videos: --recipe=list; empty: unknown
        # Source folder: frames from row to row, of a row, per second (0: each video's own); stride 0: rows cover each
        # video evenly.
        "grid": {"stride": 0.0, "window": 0.0, "fps": 0.0, "align": "start"},
        "train_subsets": "training",
        "test_subsets": "validation",
        "missing_features": "error",  # error | skip
        "keep_in_memory": True,  # features at `steps` rows, once they are read
        "steps": 100,  # rows that every video is resized to
        "labels": labelled,  # per cent of the training videos that are labelled
        "labels_seed": 0,  # of the division, where no file states one
        "split": "1",
        "splits": ("1",),
        "train_split": "train",
        "test_split": "val",
        "sample_rate": 1,
    }
    return ConfigDict({**fields, **changes})


def network() -> ConfigDict:
    """The `network` group."""
    return ConfigDict({"heads": 4, "mask_width": 256, "positions": 400, "dropout": 0.3, "order_dropout": 0.5})


def stages(config: ConfigDict) -> None:
    """The groups `loss`, `mining`, `pretrain`, `finetune` and `decode`."""
    config.loss = ConfigDict({"class_weight": 0.5, "entropy_share": 0.4})
    config.mining = ConfigDict({"easy": 10, "hard": 20, "narrow": 4, "wide": 8, "hidden": 0.3, "temperature": 0.07})
    config.pretrain = ConfigDict(
        {
            "epochs": 30,
            "batch_size": 100,
            "learning_rate": 4e-4,
            "weight_decay": 0.005,
            "input_dropout": 0.1,
            "foregrounds": 2,
            "reconstruction_weight": 2.0,
            "order_weight": 1.0,
        }
    )
    config.finetune = ConfigDict(
        {
            "pretrained": True,  # start from the stage pretrain, its optimizer included
            "checkpoint": "",  # a converted folder or a workdir to start from instead
            "unlabelled": True,  # use unlabelled videos, where there are any
            "unlabelled_batch": 0,  # of them in a batch; 0: as published, 4 to 24 by the share of labels
            "epochs": 25,
            "batch_size": 100,
            "learning_rate": 4e-4,
            "decay_every": 10,  # epochs, after which the rate is multiplied
            "decay_factor": 0.2,
            "weight_decay": 0.005,
            "reconstruction_weight": 1.0,
            "contrast_weight": 1.0,
            "pseudo_weight": 1.0,  # of the loss on pseudo-labels
            "min_confidence": 0.7,
            "min_mask": 0.7,
            "flexible": False,  # thresholds by class, as in FlexMatch
            "student_view": "plain",  # what the network sees of unlabelled videos (systems/spot/perturbations.py)
            "teacher": False,  # pseudo-labels of the average of the network, which is then also the result
            "ema_decay": 0.999,
            "consistency_weight": 0.0,
            "consistency_ramp": 5.0,
            "evaluate_every": 5,  # epochs; 0: at the end alone
        }
    )
    config.decode = ConfigDict(
        {
            "top_snippets": 10,
            "mask_thresholds": (0.0, 0.2, 0.4, 0.6, 0.8),
            "class_thresholds": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
            "min_run": 0.02,
            "nms_divisor": 0.6,
            "nms_sigma": 0.1,
            "max_detections": 100,
            "video_scores": "",  # file with another model's class of every video; empty: the network's own
            "row_seconds": 0.64,  # predict: seconds from one row of features to the next
            "batch_size": 64,  # videos per call
        }
    )


def experiment(config: ConfigDict, args: ConfigDict) -> ConfigDict:
    """Adds the groups that are the same everywhere, and applies the arguments."""
    config.system = "spot"
    known = ("pretrain", "finetune")
    if args.stage not in (*known, "all"):
        raise ValueError(f"stage={args.stage} does not exist; the stages are {', '.join(known)} and all.")
    config.stages = known if args.stage == "all" else (args.stage,)
    config.network = network()
    stages(config)
    config.eval = ConfigDict(
        {
            "tiou": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
            "averages": (),
            "protocol": "activitynet",
            "select": None if config.quirks.last_epoch_kept else "mAP",
            "selection_split": "val",
            "seed": 0,
            "timelines": 10,
        }
    )
    config.train = common.tst_train()
    config.train.update({"seed": 1, "log_steps": 25})
    return demo(config) if args.demo else config


def demo(config: ConfigDict) -> ConfigDict:
    """The paper's second stage (quirks off) on generated videos, without and with the unlabelled ones.

    The first stage is left out: on data as simple as these what it learns does not help.
    """
    config.name += "_demo"
    config.paper = {}
    config.quirks = quirks(fixed=True)
    config.eval.select = "mAP"
    config.data.update({"source": "synthetic", "root": "", "feature_dim": 64, "features": "features/{video}.npy"})
    config.data.recipe = "generated"
    config.data.update({"steps": 48, "labels": 10.0})
    config.network.update({"heads": 2, "mask_width": 64, "positions": 48})
    if config.stages == ("pretrain", "finetune"):
        config.stages = ("labelled_only", "finetune")
        config.finetune.pretrained = False
    config.pretrain.update({"epochs": 10, "batch_size": 50, "learning_rate": 1e-3})
    config.finetune.update({"epochs": 80, "batch_size": 10, "unlabelled_batch": 40, "learning_rate": 1e-3})
    config.finetune.update({"decay_every": 40, "evaluate_every": 0, "student_view": "without channels"})
    config.finetune.update({"min_confidence": 0.8, "contrast_weight": 0.02, "reconstruction_weight": 0.05})
    config.mining.hard = 10
    return config
