"""What the experiment files of ASOT share: the published settings that do not differ between data sets."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs import common


def quirks(fixed: bool) -> ConfigDict:
    """The switches that `docs/quirks.md` explains: True reproduces the original, False is the sane choice."""
    names = (
        "step_over_batch",
        "window_of_padded_length",
        "band_weight_by_radius",
        "clusters_normalised_in_training_only",
        "standardise_after_sampling",
        "last_frame_never_drawn",
    )
    return ConfigDict(dict.fromkeys(names, not fixed))


def data(root: str, clusters: dict[str, int], *, feature_dim: int, split: str, **changes: Any) -> ConfigDict:
    """The `data` group; `changes` are fields that differ from the usual.

    What other systems call a split is an activity here: one model is trained for each, on all of its videos and
    without labels, and evaluated on the same videos.
    """
    known = tuple(clusters)
    if split not in (*known, "all"):
        raise ValueError(f"activity={split} does not exist; this data set has {', '.join(known)} and all.")
    fields = {
        "source": "folder",  # folder | synthetic
        "root": root,
        "mapping": "mapping/mapping.txt",
        "activity_of": "none",  # what of a file's name is its activity: suffix | prefix (at the last `_`) | none
        "exclude_id": None,  # id in the mapping whose frames are no part of the evaluation
        "standardise": False,
        "feature_dim": feature_dim,
        "recipe": "",  # of the features, to make those of videos: --recipe=list; empty: unknown
        "split": split,
        "splits": known,
        "train_split": "{split}",
        "test_split": "{split}",
        "sample_rate": 1,
        "frame_rate": 15.0,  # of the labels, for time axes; 0 shows frames
        "max_buckets": 6,  # padded lengths, each compiled once
    }
    return ConfigDict({**fields, **changes})


def network(*layers: int) -> ConfigDict:
    """The `network` group."""
    return ConfigDict({"layers": layers, "temperature": 0.1, "learn_clusters": True})


def transport(*, rho: float, lambda_actions: float, alpha: float = 0.3, radius: float = 0.04) -> ConfigDict:
    """The `transport` group: the problem that gives pseudo-labels to train on (actloc_jax/ops/transport)."""
    return ConfigDict(
        {
            "mode": "pmd",  # pmd | gw | prox
            "epsilon": 0.07,
            "alpha": alpha,
            "radius": radius,
            "rho": rho,  # weight of the prior that clusters come in the order of their numbers
            "relax_frames": False,
            "relax_actions": True,
            "lambda_frames": 0.05,
            "lambda_actions": lambda_actions,
            "iterations": 25,
            "inner_iterations": 1,
            "step": 0.0,  # 0: chosen from the first gradient
        }
    )


def decode(training: ConfigDict, *, alpha: float = 0.6) -> ConfigDict:
    """The `decode` group: the problem whose plan is the segmentation. What is not named here follows the training's."""
    config = ConfigDict(
        {
            "mode": "pmd",
            "epsilon": 0.04,
            "alpha": alpha,
            "lambda_frames": 0.05,
            "lambda_actions": 0.01,
            "iterations": 25,
            "inner_iterations": 1,
        }
    )
    for name in ("radius", "rho", "relax_frames", "relax_actions", "step"):
        config[name] = training.get_oneway_ref(name)
    config.batch_size = 8  # videos per call
    return config


def stage(epochs: int) -> ConfigDict:
    """The `asot` group: how the encoder and the clusters are trained."""
    return ConfigDict(
        {
            "epochs": epochs,
            "batch_size": 2,
            "frames": 256,  # sampled of each video
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "kmeans": True,  # start the clusters from k-means of the untrained encoder's features
            "evaluate_every": 5,  # epochs; 0: at the end alone
            "checkpoint": "",  # a converted folder or a workdir to start from; no k-means then
        }
    )


def evaluation() -> ConfigDict:
    """The `eval` group."""
    return ConfigDict(
        {
            "select": None,  # metric by which the best epoch is kept; None, as published: the last epoch
            "selection_split": "{split}",
            "seed": 0,  # of the frames that the sampled F1 looks at
            "timelines": 10,  # figures of that many videos
        }
    )


def experiment(config: ConfigDict, args: ConfigDict) -> ConfigDict:
    """Adds the groups that are the same everywhere, and applies the arguments."""
    config.system = "asot"
    config.quirks = quirks(args.fixed)
    config.eval = evaluation()
    config.train = common.tst_train()
    config.train.update({"seed": 0, "log_steps": 10})
    return demo(config) if args.get("demo") else config


def demo(config: ConfigDict) -> ConfigDict:
    """The same experiment on data that the project generates: one activity of six actions, about a minute on a CPU."""
    config.name += "_demo"
    config.paper = {}
    config.data.update(
        {
            "source": "synthetic",
            "root": "",
            "mapping": "mapping/mapping.txt",
            "activity_of": "suffix",
            "exclude_id": None,
            "standardise": False,
            "feature_dim": 64,
            "recipe": "generated",
            "split": "tea",
            "splits": ("tea",),
            "frame_rate": 15.0,
            "max_buckets": 2,
        }
    )
    config.clusters = ConfigDict({"tea": 6})
    config.network.layers = (64, *config.network.layers[1:])
    config.asot.epochs = 15
    return config
