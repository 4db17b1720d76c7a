"""What the experiment files share: the arguments behind the colon, and groups that do not differ between data sets."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

group = ConfigDict  # a named group of fields: group(dict(...)) or group({...})


def parse(arg: str | None, **defaults: Any) -> ConfigDict:
    """Reads `demo,split=2` into `defaults`; a bare name means True.

    Raises:
        ValueError: an argument is unknown or has a value of another type; the known ones are listed.
    """
    values = ConfigDict(defaults, type_safe=False)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            known = ", ".join(f"{key} (default {value!r})" for key, value in defaults.items())
            raise ValueError(f"Unknown config argument {name!r}; known: {known}.")
        values[name] = _typed(name, text, defaults[name])
    return values


def _typed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("", "true", "false"):
            raise ValueError(f"Config argument {name}={text!r} must be true or false.")
        return text.lower() != "false"
    if not text:
        raise ValueError(f"Config argument {name!r} needs a value, for example {name}={default}.")
    return text


def splits(text: str, known: tuple[int, ...]) -> str:
    """The split that the argument asks for: one of `known`, or `all`.

    Raises:
        ValueError: there is no such split.
    """
    if text not in (*map(str, known), "all"):
        raise ValueError(f"split={text} does not exist; this data set has {', '.join(map(str, known))} and all.")
    return text


def tst_quirks(fixed: bool) -> ConfigDict:
    """The switches that `docs/quirks.md` explains: True reproduces the original, False is the sane choice."""
    names = (
        "median_over_class_indices",
        "test_set_selection",
        "frozen_backbone_dropout",
        "first_offset_only",
        "keep_overhang",
        "diffact_last_frame_uncounted",
        "asformer_window_pattern",
        "asrf_softmax_over_time",
        "boundary_tie_keeps_previous",
    )
    return ConfigDict(dict.fromkeys(names, not fixed))


def tst_refiner(inner_dim: int) -> ConfigDict:
    """The `refiner` group: TST's own networks."""
    return ConfigDict({"inner_dim": inner_dim, "segment_dim": 256, "num_layers": 10, "dropout": 0.1})


def tst_stage(learning_rate: float, learning_rate_transformer: float, inputs: str) -> ConfigDict:
    """The `tst` group: how the refiner is trained on a frozen backbone."""
    return ConfigDict(
        {
            "inputs": inputs,  # live: sample the backbone in every step | cached: the draws that stage `cache` wrote
            "backbone_checkpoint": "",  # a converted folder or a workdir; empty: the backbone stage of this workdir
            "epochs": 60,
            "learning_rate": learning_rate,
            "learning_rate_transformer": learning_rate_transformer,  # of the attention blocks
            "weight_decay": 1e-4,
            "schedule": "cosine",  # cosine | halving | constant
            "warmup_epochs": 0.0,
            "batch_size": 1,
            "accumulate": 1,
            "no_action_weight": 0.1,
            "evaluate_every": 0,  # epochs; 0: after epochs 0-30, then every 5th, as published
        }
    )


def tst_finetune() -> ConfigDict:
    """The `finetune` group: everything trainable at one rate (stage 3)."""
    return ConfigDict(
        {
            "checkpoint": "",  # a model of stage 2; empty: the stage tst of this workdir
            "epochs": 20,
            "learning_rate": 5e-6,
            "weight_decay": 1e-4,
            "batch_size": 1,
            "accumulate": 1,
            "no_action_weight": 0.1,
            "evaluate_every": 0,
        }
    )


def tst_cache() -> ConfigDict:
    """The `cache` group: noise draws of the frozen backbone on disk."""
    return ConfigDict({"seeds": 60, "batch_size": 1, "folder": ""})  # folder: empty for <workdir>/cache


def tst_decode(postprocess: str, size: int) -> ConfigDict:
    """The `decode` group: from network outputs to frame labels."""
    return ConfigDict(
        {
            "mode": "hardmax",  # hardmax | soft | hybrid
            "num_seeds": 1,  # noise draws that vote per frame
            "seed": 666,
            "diffact_mode": "decoder-agg",  # encoder | decoder-agg | decoder-noagg, for the stage diffact alone
            "boundary_refinement": False,  # ASRF's, for the stage asformer alone
            "boundary_threshold": 0.5,
            "postprocess": postprocess,  # none | median | mode | purge
            "postprocess_size": size,  # window, or longest purged segment, in frames
            "batch_size": 1,  # videos per call
        }
    )


def tst_eval(quirks: ConfigDict, *, background: tuple[str, ...] = (), last_stage: str = "tst") -> ConfigDict:
    """The `eval` group. DiffAct's and ASFormer's own numbers end the last segment one frame early."""
    uncounted = quirks.diffact_last_frame_uncounted and last_stage in ("diffact", "asformer")
    return ConfigDict(
        {
            "background": background,  # classes that are no action in Edit and F1
            "segment_end": "minus_one" if uncounted else "exclusive",
            "select": "F1@50",  # metric by which the best epoch is kept
            "selection_split": "test.split{split}" if quirks.test_set_selection else "val.split{split}",
            "seed": 666,
            "timelines": 10,  # figures of that many videos
        }
    )


def tst_train() -> ConfigDict:
    """The `train` group."""
    return ConfigDict(
        {
            "seed": 666,
            "dtype": "float32",  # compute type of the networks: float32 | bfloat16
            "log_steps": 50,
            "checkpoint_steps": 500,  # also at the end of a stage and when the run is stopped
            "model_parallel": 1,
            "threads": 4,  # that read and prepare batches
            "wandb": "",  # project to log to
            "debug_nans": False,
        }
    )


def tst_on_files(config: ConfigDict) -> ConfigDict:
    """TST on a backbone that has run elsewhere: its outputs lie in `config.cache.folder` (docs/backbones.md)."""
    config.name += "_files"
    config.paper = {}
    config.stages = ("tst",)
    config.backbone = ConfigDict({"kind": "files", "feature_dim": 64})
    config.tst.inputs = "cached"
    return config


def tst_demo(config: ConfigDict) -> ConfigDict:
    """The same experiment shrunk to about a minute on two CPU cores, on data that the project generates."""
    config.name += "_demo"
    config.paper = {}
    config.data.update(
        {
            "source": "synthetic",
            "root": "",
            "feature_dim": 64,
            "recipe": "generated",
            "num_classes": 8,
            "split": "1",
            "sample_rate": 1,
            "frame_rate": 15.0,
            "max_buckets": 1,
        }
    )
    config.eval.background = ("background",)
    config.train.update({"checkpoint_steps": 200, "log_steps": 24})
    if config.backbone.kind == "diffact":
        config.backbone.encoder.update({"num_layers": 6, "width": 24, "feature_layers": (3, 4, 5)})
        config.backbone.decoder.update({"num_layers": 4, "width": 16, "time_dim": 64})
        config.backbone.diffusion.update({"sampling_steps": 6})
        config.diffact.update({"epochs": 40, "evaluate_every": 20, "batch_size": 4, "accumulate": 1})
    else:
        config.backbone.update({"width": 16, "num_layers": 6, "class_stages": 2, "boundary_stages": 2})
        config.asformer.update({"epochs": 20, "evaluate_every": 20, "batch_size": 4, "accumulate": 1})
        config.finetune.update({"epochs": 2, "evaluate_every": 2, "batch_size": 4})
    config.refiner.update({"inner_dim": 24, "segment_dim": 48, "num_layers": 4})
    config.cache.seeds = 4
    config.tst.update(
        {"epochs": 28, "evaluate_every": 14, "batch_size": 4, "learning_rate": 1e-3, "learning_rate_transformer": 3e-4}
    )
    return config
