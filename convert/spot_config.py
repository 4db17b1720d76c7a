"""Which SPOT file this is, and the config of a model with its sizes.

Names: `sauradip/SPOT:spot_model.py`, `spot_train.py`. The four kinds of files hold the same network; those after
pre-training also hold the state of their optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from convert import experiments
from convert.checked import other_commands
from convert.spot_tables import PREFIX, Sizes

EXPERIMENTS = ("spot_anet", "spot_thumos")
MARKS = ("embedding.w_", "clip_trans.w_", "global_mask.")
_ASSUMED = ("data.labels", "decode.row_seconds")


def prefix_of(keys: Iterable[str]) -> str:
    """What stands before the names of the network's arrays: `PREFIX` or nothing."""
    return PREFIX if any(key.startswith(PREFIX) for key in keys) else ""


def refuse_others(keys: Iterable[str], source: epath.Path) -> None:
    """Ends the conversion of a file with none of SPOT's keys; they are given without prefix.

    Raises:
        ValueError: it is such a file.
    """
    listing = sorted(keys)
    if not any(key.startswith(MARKS) for key in listing):
        raise ValueError(
            f"{source} holds no model of SPOT: expected keys such as module.embedding.w_qs.weight and "
            f"module.global_mask.0.weight; its keys begin {', '.join(listing[:4])}. {other_commands('spot')}"
        )


def stage_of(wrapper: Mapping[str, Any], source: epath.Path) -> tuple[str, str]:
    """The stage that ends with such a file, and what tells it."""
    if "optimizer" in wrapper:
        return "pretrain", "it holds the state of an optimizer"
    if "pretrain" in source.name.lower():
        return "pretrain", "its name says so"
    return "finetune", "it holds no state of an optimizer, and its name does not say 'pretrain'"


def config_for(
    sizes: Sizes, positions: int | None, stage: str, dataset: str | None, settings: Mapping[str, Any]
) -> tuple[ConfigDict, list[str]]:
    """The config of a converted model: an experiment file with the sizes of the file and the user's own settings.

    Args:
        sizes: of the network.
        positions: rows of the file's position tables; None without any: as many as the experiment has, or snippets.
        stage: that ends with such a file.
        dataset: name of the experiment file to start from, with its arguments behind a colon; None for the one that
            differs least in its sizes.
        settings: config fields that the user gives; they go before what the shapes say.

    Returns:
        The config, and notes of what was taken on trust.

    Raises:
        ValueError: there is no such experiment, it lacks the stage, or a setting is unknown.
    """
    fields = {
        "data.feature_dim": sizes.input_dim, "data.steps": sizes.time,
        "network.heads": sizes.heads, "network.mask_width": sizes.mask_width,
    }  # fmt: skip
    name, _, argument = (dataset or _nearest(fields)).partition(":")
    if name not in EXPERIMENTS:
        raise ValueError(
            f"--dataset={dataset} is not for files of SPOT; use {' or '.join(EXPERIMENTS)}, with arguments as in "
            "spot_anet:labels=60"
        )
    config = experiments.experiment(name, argument or None)
    if stage not in config.stages:
        raise ValueError(
            f"--dataset={dataset}: that experiment has the stages {', '.join(config.stages)}, the file is of stage "
            f"{stage!r}; leave out stage={config.stages[-1]}"
        )
    fields["network.positions"] = positions or max(sizes.time, config.network.positions)
    notes = [f"starting from the experiment {dataset or name}"]
    if differing := [f"{field}={fields[field]}" for field in experiments.differing(config, fields)]:
        notes.append(f"sizes of the file that are not those of the experiment: {', '.join(differing)}")
    # Scores of another model are of certain videos, and name classes as they are called there.
    config.decode.video_scores = ""
    for field, value in (fields | dict(settings)).items():
        experiments.replace(config, field, value)
    if not config.decode.video_scores:
        notes.append(
            "decode.video_scores is empty: the network itself says which class a video is of; an evaluation takes the "
            "file that its own config names"
        )
    assumed = [field for field in _ASSUMED if field not in settings]
    notes += [f"assumed, because shapes do not tell, from the experiment {name}:"] if assumed else []
    return config, notes + [f"  {field} = {experiments.value(config, field)}" for field in assumed]


def _nearest(fields: Mapping[str, Any]) -> str:
    """The experiment with most of these sizes; the first of several."""
    return min(EXPERIMENTS, key=lambda name: len(experiments.differing(experiments.experiment(name), fields)))
