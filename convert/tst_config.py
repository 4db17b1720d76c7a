"""What kind of TST file this is, and the config of a model with its sizes.

The family of a file is told by its keys and its sizes by its shapes. What shapes cannot tell (which encoder layers are
the condition, how to sample, the sample rate) comes from the experiment file of the data set whose sizes these are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from convert import experiments, tst_tables
from convert.checked import other_commands
from convert.mapping import Table

DATASETS = ("gtea", "50salads", "breakfast")
_ASSUMED = (  # what a network needs and its shapes do not tell
    "backbone.encoder.feature_layers",
    "backbone.encoder.use_instance_norm",
    "backbone.diffusion.sampling_steps",
    "backbone.diffusion.eta",
    "backbone.diffusion.scale",
    "data.sample_rate",
    "decode.postprocess",
    "decode.postprocess_size",
)


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of published file.

    Attributes:
        name: for people.
        mark: start of a key that only this family has.
        backbone: `config.backbone.kind`.
        prefix: what stands before the backbone's keys.
        table: names of all its arrays.
        stage: the stage of our training that ends with such a model.
    """

    name: str
    mark: str
    backbone: str
    prefix: str
    table: Table
    stage: str

    @property
    def refined(self) -> bool:
        """Whether the TST refiner is in the file."""
        return self.stage == "tst"


FAMILIES = (
    Family("TST on DiffAct", "adapter.backbone.decoder.module.", "diffact", "adapter.backbone.",
           tst_tables.combined(tst_tables.DIFFACT), "tst"),
    Family("TST on ASFormer", "adapter.backbone.shared_layers.", "asformer", "adapter.backbone.",
           tst_tables.combined(tst_tables.ASRF), "tst"),
    Family("DiffAct", "decoder.module.", "diffact", "", tst_tables.alone(tst_tables.DIFFACT), "diffact"),
    Family("ASFormer with ASRF", "shared_layers.", "asformer", "", tst_tables.alone(tst_tables.ASRF), "asformer"),
    Family("ASFormer", "decoders.", "asformer_plain", "", tst_tables.alone(tst_tables.ASFORMER), "asformer"),
)  # fmt: skip


def family_of(state: Mapping[str, Any], source: epath.Path) -> Family:
    """The family of a state dict.

    Raises:
        ValueError: its keys are of none that is known.
    """
    for family in FAMILIES:
        if any(key.startswith(family.mark) for key in state):
            return family
    known = "; ".join(f"{family.name} ({family.mark}...)" for family in FAMILIES)
    raise ValueError(
        f"{source} is of no known family; its keys begin {sorted(state)[:4]}. Known: {known}. {other_commands('tst')}"
    )


def sizes_of(family: Family, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Config field -> value, for all that the shapes in a file tell; a key that is absent tells nothing."""
    found: dict[str, Any] = {}

    def take(field: str, key: str, axis: int, less: int = 0) -> None:
        shape = np.shape(state.get(key, ()))
        if axis < len(shape):
            found[field] = shape[axis] - less

    def count(field: str, pattern: str, more: int = 0) -> None:
        numbers = [int(match[1]) for key in state if (match := re.match(pattern, key))]
        if numbers:
            found[field] = max(numbers) + 1 + more

    prefix, escaped = family.prefix, re.escape(family.prefix)
    if family.backbone == "diffact":
        take("data.num_classes", f"{prefix}encoder.conv_out.weight", 0)
        take("data.feature_dim", f"{prefix}encoder.conv_in.weight", 1)
        for part, layers in (("encoder", "encoder.encoder.layers"), ("decoder", "decoder.module.layers")):
            take(f"backbone.{part}.width", f"{prefix}{part}.conv_in.weight", 0)
            take(f"backbone.{part}.kernel_size", f"{prefix}{layers}.0.conv_block.0.weight", 2)
            count(f"backbone.{part}.num_layers", rf"{escaped}{re.escape(layers)}\.(\d+)\.")
        take("backbone.decoder.time_dim", f"{prefix}decoder.time_in.0.weight", 1)
        take("backbone.diffusion.timesteps", f"{prefix}betas", 0)
    elif family.backbone == "asformer":
        take("data.num_classes", f"{prefix}conv_cls.weight", 0)
        take("data.feature_dim", f"{prefix}shared_layers.conv_1x1.weight", 1)
        take("backbone.width", f"{prefix}shared_layers.conv_1x1.weight", 0)
        count("backbone.num_layers", rf"{escaped}shared_layers\.layers\.(\d+)\.")
        count("backbone.class_stages", rf"{escaped}asb\.(\d+)\.", more=1)
        count("backbone.boundary_stages", rf"{escaped}brb\.(\d+)\.", more=1)
    else:
        take("data.num_classes", f"{prefix}encoder.conv_out.weight", 0)
        take("data.feature_dim", f"{prefix}encoder.conv_1x1.weight", 1)
        take("backbone.width", f"{prefix}encoder.conv_1x1.weight", 0)
        count("backbone.num_layers", rf"{escaped}encoder\.layers\.(\d+)\.")
        count("backbone.num_decoders", rf"{escaped}decoders\.(\d+)\.")
    if family.refined:
        take("refiner.inner_dim", "refiner.feat_down.weight", 0)
        take("refiner.segment_dim", "refiner.feat_proj.weight", 0)
        count("refiner.num_layers", r"refiner\.pixel_decoder\.layers\.(\d+)\.")
    return found


def config_for(
    family: Family,
    state: Mapping[str, np.ndarray],
    dataset: str | None,
    settings: Mapping[str, Any],
    source: epath.Path,
) -> tuple[ConfigDict, list[str]]:
    """The config of a converted model: an experiment file with the sizes of the file and the user's own settings.

    Args:
        family: kind of file.
        state: PyTorch key -> array.
        dataset: one of `DATASETS`; None for the one whose experiment has these sizes.
        settings: config fields that the user gives.
        source: the file, for messages.

    Returns:
        The config, and notes of what was taken on trust.

    Raises:
        ValueError: no experiment file has these sizes and none was named; a setting is unknown; or the feature layers
            do not add up to the width of the decoder's condition.
    """
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"--dataset={dataset} is unknown; use one of {', '.join(DATASETS)}")
    sizes = sizes_of(family, state)
    candidates = {name: _experiment(family, name) for name in ([dataset] if dataset else DATASETS)}
    fitting = [name for name, config in candidates.items() if not experiments.differing(config, sizes)]
    if not fitting and dataset is None:
        found = ", ".join(f"{field}={size}" for field, size in sizes.items())
        raise ValueError(
            f"{source} ({family.name}) has the sizes of none of {', '.join(DATASETS)}: {found}. Name the nearest with "
            "--dataset, and say with --set what else differs, e.g. --set backbone.encoder.feature_layers=[5,7,9]"
        )
    name = fitting[0] if fitting else dataset
    config = candidates[name]
    differing = [f"{field}={sizes[field]}" for field in experiments.differing(config, sizes)]
    for field, value in (sizes | dict(settings)).items():
        experiments.replace(config, field, value)
    _check_condition(family, state, config, source)
    assumed = [field for field in _ASSUMED if field not in settings and experiments.value(config, field) is not None]
    notes = (
        [f"sizes of the file that are not those of the {name} experiment: {', '.join(differing)}"] if differing else []
    )
    notes += [f"assumed, because shapes do not tell, from the {name} experiment:"]
    return config, notes + [f"  {field} = {experiments.value(config, field)}" for field in assumed]


def _experiment(family: Family, dataset: str) -> ConfigDict:
    """The experiment of a data set with the family's backbone.

    One experiment file has ASFormer as its backbone; its networks are the same on every data set, which gives the rest.
    """
    config = experiments.experiment(f"tst_{dataset}")
    if family.backbone == "diffact":
        return config
    asformer = experiments.experiment("tst_asformer_50salads")
    if asformer.data.num_classes != config.data.num_classes:
        asformer.data, asformer.eval = config.data, config.eval
    if family.backbone == "asformer_plain":
        group = asformer.backbone
        asformer.backbone = ConfigDict(
            {
                "kind": "asformer_plain",
                "num_layers": group.num_layers,
                "width": group.width,
                "num_decoders": group.class_stages - 1,
                "channel_dropout": group.channel_dropout,
            }
        )
    return asformer


def _check_condition(family: Family, state: Mapping[str, np.ndarray], config: ConfigDict, source: epath.Path) -> None:
    """DiffAct's decoder attends with its own channels and the condition's; the feature layers make up the latter."""
    names = ("decoder.module.layers.0.att_linear_q.weight", "decoder.conv_in.weight")
    query, own = (state.get(family.prefix + name) for name in names)
    if family.backbone != "diffact" or query is None or own is None or query.ndim < 2:
        return
    width = query.shape[1] - own.shape[0]
    extra = {-1: config.data.feature_dim, -2: config.data.num_classes}  # the input, the encoder's prediction
    layers = tuple(config.backbone.encoder.feature_layers)
    encoder = config.backbone.encoder
    known = all(-2 <= layer < encoder.num_layers for layer in layers)
    if not known or sum(extra.get(layer, encoder.width) for layer in layers) != width:
        raise ValueError(
            f"{source}: the condition has {width} channels, which the feature layers {layers} of an encoder with "
            f"{encoder.num_layers} layers of width {encoder.width} do not make up. Say which layers it has: "
            "--set backbone.encoder.feature_layers=[...] (-1: the input, -2: the encoder's prediction)"
        )
