"""The config of an ASOT model: sizes from the shapes of its arrays, the rest from the hyper-parameters beside them.

Lightning stores what the constructor of the model was given. What it was not given (how features are prepared, how
often to evaluate) comes from the experiment file of the data set whose sizes these are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from convert import experiments
from convert.checked import other_commands

# Hyper-parameter of `mingu6/action_seg_ot:src/train.py` -> config field. The two problems' fields that are not named
# for both belong to both: `decode` follows `transport` in the experiment files.
FIELDS = {
    "temp": "network.temperature",
    "learn_clusters": "network.learn_clusters",
    "train_eps": "transport.epsilon",
    "alpha_train": "transport.alpha",
    "radius_gw": "transport.radius",
    "rho": "transport.rho",
    "ub_frames": "transport.relax_frames",
    "ub_actions": "transport.relax_actions",
    "lambda_frames_train": "transport.lambda_frames",
    "lambda_actions_train": "transport.lambda_actions",
    "step_size": "transport.step",
    "eval_eps": "decode.epsilon",
    "alpha_eval": "decode.alpha",
    "lambda_frames_eval": "decode.lambda_frames",
    "lambda_actions_eval": "decode.lambda_actions",
    "n_frames": "asot.frames",
    "lr": "asot.learning_rate",
    "weight_decay": "asot.weight_decay",
    "exclude_cls": "data.exclude_id",
}
# Numbers of outer and inner iterations, in one list.
_ITERATIONS = {"n_ot_train": "transport", "n_ot_eval": "decode"}
_SIZES = ("layer_sizes", "n_clusters")  # told by shapes; only compared
_WITHOUT_EFFECT = ("visualize",)
_ASSUMED = ("data.standardise", "data.frame_rate")  # neither shapes nor hyper-parameters tell

DATASETS = ("desktop_assembly", "50salads", "yti", "breakfast")
_GRANULARITIES = {"50salads": ("eval", "mid")}  # data sets whose variants are not activities


class Sizes(NamedTuple):
    """Widths of the layers, input first, and the number of clusters."""

    layers: tuple[int, ...]
    clusters: int


def sizes_of(state: Mapping[str, np.ndarray], hyper: Mapping[str, Any], source: epath.Path) -> Sizes:
    """The sizes of a network, each from the first array that tells it; hyper-parameters help where arrays are missing.

    Raises:
        ValueError: it is not an ASOT model, or neither tells a size.
    """
    _refuse_others(state, source)
    found = [re.fullmatch(r"mlp\.(\d+)\.(0\.)?(?:weight|bias)", key) for key in state]
    plain = [int(match[1]) for match in found if match and not match[2]]  # only the last layer has no activation
    inner = [int(match[1]) for match in found if match and match[2]]
    count = max(plain) + 1 if plain else max(inner) + 2
    said = hyper.get("layer_sizes") or ()
    shapes = {key: np.shape(array) for key, array in state.items()}

    def size(key: str, axis: int) -> int | None:
        shape = shapes.get(key, ())
        return shape[axis] if axis < len(shape) else None

    layers: list[int | None] = []
    for position in range(count + 1):
        below, above = (layer_key(layer, count) for layer in (position - 1, position))
        tellers = [size(f"{below}.weight", 0), size(f"{below}.bias", 0), size(f"{above}.weight", 1)]
        if position == count:
            tellers.append(size("clusters", 1))
        if len(said) == count + 1:
            tellers.append(said[position])
        layers.append(next((teller for teller in tellers if teller is not None), None))
    clusters = size("clusters", 0) or hyper.get("n_clusters")
    if None in layers or clusters is None:
        raise ValueError(
            f"{source}: neither its arrays nor its hyper-parameters tell the widths of the {count} layers and the "
            f"number of clusters; found layers {layers}, clusters {clusters} (None: unknown)"
        )
    return Sizes(tuple(layers), clusters)


def layer_key(layer: int, count: int) -> str:
    """What stands before `.weight` and `.bias` of a layer: all but the last of `count` stand beside a ReLU."""
    return f"mlp.{layer}" if layer == count - 1 else f"mlp.{layer}.0"


def _refuse_others(state: Mapping[str, np.ndarray], source: epath.Path) -> None:
    """Files that hold no ASOT model, or hold it below a prefix."""
    if any(re.fullmatch(r"mlp\.\d+\.(0\.)?(weight|bias)", key) for key in state):
        return
    listing = ", ".join(sorted(state)[:4])
    for key in state:
        found = re.fullmatch(r"(.+\.)mlp\.\d+\.(?:0\.)?(?:weight|bias)", key)
        if found and f"{found[1]}clusters" in state:
            raise ValueError(
                f"{source}: its keys stand below {found[1]!r} ({listing}, ...); expected mlp.0.0.weight, ..., "
                "clusters. Save the model itself, not the module around it"
            )
    raise ValueError(
        f"{source} holds no ASOT model: expected the keys mlp.0.0.weight, mlp.0.0.bias, ..., clusters; its keys begin "
        f"{listing}. {other_commands('asot')}"
    )


def contradictions(sizes: Sizes, hyper: Mapping[str, Any]) -> list[str]:
    """One line per size that the hyper-parameters give otherwise than the arrays."""
    found = {"layer_sizes": list(sizes.layers), "n_clusters": sizes.clusters}
    said = {name: hyper[name] for name in _SIZES if name in hyper}
    return [
        f"contradictory {name} is {value} in hyper_parameters; the arrays have {found[name]}"
        for name, value in said.items()
        if (list(value) if isinstance(value, list | tuple) else value) != found[name]
    ]


def config_for(
    sizes: Sizes,
    hyper: Mapping[str, Any],
    dataset: str | None,
    settings: Mapping[str, Any],
    source: epath.Path,
) -> tuple[ConfigDict, list[str]]:
    """The config of a converted model.

    Args:
        sizes: of the network.
        hyper: hyper-parameters of the file; may be empty.
        dataset: one of `DATASETS`; None for the one whose experiment has these sizes, or none of them.
        settings: config fields that the user gives; they go before what the file says.
        source: the file, for messages.

    Returns:
        The config, and notes of what was taken from where.

    Raises:
        ValueError: a data set, field or value that cannot be.
    """
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"--dataset={dataset} is unknown; use one of {', '.join(DATASETS)}")
    told = _told(hyper, source) | {"data.feature_dim": sizes.layers[0], "network.layers": sizes.layers}
    config, notes = _start(sizes, told, dataset, "data.split" in settings)
    _fill(config, told, settings, source)
    config.clusters[config.data.split] = sizes.clusters
    absent = [name for name in (*FIELDS, *_ITERATIONS) if name not in hyper]
    if absent:
        notes.append("hyper-parameters that the file lacks, from the experiment unless set:")
        notes += [f"  {_shown(config, name)}" for name in absent]
    known = (*FIELDS, *_ITERATIONS, *_SIZES, *_WITHOUT_EFFECT)
    notes += [f"not used: hyper-parameter {name} = {value}" for name, value in hyper.items() if name not in known]
    assumed = [f"  {field} = {experiments.value(config, field)}" for field in _ASSUMED if field not in settings]
    return config, notes + ["assumed, because the file does not tell:", *assumed] if assumed else notes


def _told(hyper: Mapping[str, Any], source: epath.Path) -> dict[str, Any]:
    """Config field -> value for all hyper-parameters that are in the file."""
    told = {field: hyper[name] for name, field in FIELDS.items() if name in hyper}
    if told.get("transport.step", 0.0) is None:
        told["transport.step"] = 0.0  # chosen from the first gradient
    for name, group in _ITERATIONS.items():
        if name in hyper:
            if not isinstance(hyper[name], list | tuple) or len(hyper[name]) != 2:
                raise ValueError(f"{source}: hyper-parameter {name} is {hyper[name]}; expected [outer, inner]")
            told[f"{group}.iterations"], told[f"{group}.inner_iterations"] = hyper[name]
    return told


def _start(
    sizes: Sizes, told: Mapping[str, Any], dataset: str | None, split_known: bool
) -> tuple[ConfigDict, list[str]]:
    """The experiment to start from, of those with these sizes the one that differs least, and notes about it."""
    candidates = [config for name in ([dataset] if dataset else DATASETS) for config in _experiments(name)]
    fitting = [config for config in candidates if _fits(config, sizes)]
    if not fitting and dataset is None:
        config = experiments.experiment("asot_desktop_assembly")
        config.name, config.paper, config.data.root = "asot", ConfigDict(), ""
        what = f"{sizes.layers[0]} channels and {sizes.clusters} clusters"
        return config, [f"no experiment has {what}; starting from the settings of Desktop Assembly"]
    ranked = sorted(fitting or candidates, key=lambda config: len(experiments.differing(config, told)))
    config = ranked[0]
    notes = [f"starting from the experiment {config.name}, split {config.data.split}"]
    if not fitting:
        notes.append(f"it has {config.data.feature_dim} channels and {config.clusters[config.data.split]} clusters, "
                     f"the file {sizes.layers[0]} and {sizes.clusters}")  # fmt: skip
    fewest = len(experiments.differing(config, told))
    equals = [
        f"{other.name} {other.data.split}" for other in ranked[1:]
        if fitting and len(experiments.differing(other, told)) == fewest
    ]  # fmt: skip
    if equals and not split_known:
        notes.append(f"just as near: {', '.join(equals)}; choose with --dataset and --set 'data.split=\"...\"'")
    return config, notes + [
        f"  {field} = {told[field]} in the file, {experiments.value(config, field)} in the experiment"
        for field in experiments.differing(config, told)
    ]


def _experiments(dataset: str) -> list[ConfigDict]:
    """The experiments of a data set: one for each activity or granularity."""
    name = f"asot_{dataset}"
    activities = [f"activity={activity}" for activity in experiments.experiment(name).clusters]
    return [experiments.experiment(name, argument) for argument in _GRANULARITIES.get(dataset, activities)]


def _fits(config: ConfigDict, sizes: Sizes) -> bool:
    return (config.data.feature_dim, config.clusters[config.data.split]) == (sizes.layers[0], sizes.clusters)


def _fill(config: ConfigDict, told: Mapping[str, Any], settings: Mapping[str, Any], source: epath.Path) -> None:
    """Sets what the file says, then what the user says; `decode` follows `transport` in what is not said of it."""
    said = {field: (value, f"{source}:") for field, value in told.items()}
    said |= {field: (value, "--set") for field, value in settings.items()}
    ours, decoding = {}, {}
    for field, value in said.items():
        (decoding if field.startswith("decode.") else ours)[field] = value
    for field, (value, said_by) in ours.items():
        experiments.replace(config, field, value, said_by)
    # From here on the two are apart: a value for `decode` must not reach `transport` through the reference.
    config.decode = config.decode.copy_and_resolve_references()
    for field, (value, said_by) in decoding.items():
        experiments.replace(config, field, value, said_by)


def _shown(config: ConfigDict, name: str) -> str:
    """A hyper-parameter with the field that it is here and its value."""
    group = _ITERATIONS.get(name)
    fields = [FIELDS[name]] if group is None else [f"{group}.iterations", f"{group}.inner_iterations"]
    return f"{name}: " + ", ".join(f"{field} = {experiments.value(config, field)}" for field in fields)
