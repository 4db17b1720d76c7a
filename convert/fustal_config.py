"""What kind of detection checkpoint this is, and the config of a model with its sizes.

FuSTAL's generator, its student, TriDet and ActionFormer are told apart by their keys, and their sizes by the shapes of
their arrays. What neither tells (the window of attention, the length that videos are padded to, the grid of the
features) comes from an experiment file. Names: `fqhank/FuSTAL:Student-Training/libs/modeling/`,
`dingfengshi/TriDet:libs/modeling/`, `happyharrycn/actionformer_release:libs/modeling/`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from convert import experiments, fustal_tables
from convert.checked import other_commands
from convert.mapping import Table

PREFIX = "module."  # what PyTorch's wrapper for several devices puts before every key
OPENTAD = ("projection.", "rpn_head.")
GRID_FIELDS = ("grid.stride", "grid.window", "grid.fps")

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of file.

    Attributes:
        name: for people.
        mark: regular expression of the start of a key, without prefix, that only this family has.
        block: `config.network.student.block`; "" for the generator.
        names: table of all its arrays, without prefix.
        experiments: files in `configs/` that such a model may start from; the first unless the user names one.
    """

    name: str
    mark: str
    block: str
    names: Table
    experiments: tuple[str, ...]

    @property
    def stage(self) -> str:
        """The stage of FuSTAL that ends with such a model."""
        return "student" if self.block else "generator"

    def table(self, prefix: str) -> Table:
        """The table of a file whose keys have this prefix."""
        return Table(self.names.under(prefix, ""))


_BLOCK = r"backbone\.(stem|branch)\.\d+\."
FAMILIES = (
    Family("FuSTAL's generator", r"aness_module\.", "", fustal_tables.GENERATOR, ("fustal_thumos",)),
    Family("TriDet", _BLOCK + r"psi\.", "sgp", fustal_tables.TRIDET, ("fustal_thumos", "tridet_thumos")),
    Family("ActionFormer", _BLOCK + r"attn\.", "transformer", fustal_tables.ACTIONFORMER,
           ("actionformer_thumos", "fustal_thumos")),
    Family("convolutional detector", _BLOCK + r"conv1\.", "conv", fustal_tables.CONV_DETECTOR,
           ("fustal_thumos", "tridet_thumos")),
)  # fmt: skip


def prefix_of(keys: Iterable[str]) -> str:
    """What stands before the names of the network's arrays: `PREFIX` or nothing."""
    return PREFIX if any(key.startswith(PREFIX) for key in keys) else ""


def family_of(keys: Sequence[str], source: epath.Path) -> Family:
    """The family of a file with these keys, given without prefix.

    Raises:
        ValueError: it is of none that is known.
    """
    for family in FAMILIES:
        if any(re.match(family.mark, key) for key in keys):
            return family
    if any(key.startswith(OPENTAD) for key in keys):
        raise ValueError(
            f"{source} has the layout of OpenTAD ({', '.join(OPENTAD)}), which is not read; expected that of the "
            "original repositories (backbone., neck., cls_head., reg_head.)"
        )
    raise ValueError(
        f"{source} holds no model of FuSTAL, TriDet or ActionFormer: expected keys such as "
        f"aness_module.f_embed.0.weight or module.backbone.embd.0.conv.weight; its keys begin "
        f"{', '.join(sorted(keys)[:4])}. {other_commands('fustal')}"
    )


def num_classes(family: Family, shapes: Shapes) -> int | None:
    """Number of classes, from the first array that tells it; None if none does."""
    heads = [f"{head}_head.cls_head.conv.{part}" for head in ("cls", "start", "end") for part in ("weight", "bias")]
    told = (_size(shapes, key, 0) for key in (heads if family.block else ["aness_module.f_cls.0.weight"]))
    return next((number for number in told if number is not None), None)


def sizes_of(family: Family, shapes: Shapes) -> dict[str, Any]:
    """Config field -> value, for all that shapes tell; an array that is absent tells nothing.

    Args:
        family: kind of file.
        shapes: PyTorch key without prefix -> shape.
    """
    if not family.block:
        embedding = "aness_module.f_embed.0.weight"
        return _known(
            {
                "data.generator.feature_dim": _size(shapes, embedding, 1),
                "network.generator.width": _size(shapes, embedding, 0),
            }
        )
    own = {"sgp": _sgp_sizes, "transformer": _attention_sizes}.get(family.block, lambda shapes: {})(shapes)
    trident = any(key.startswith(("start_head.", "end_head.")) for key in shapes)
    outputs = _size(shapes, "reg_head.offset_head.conv.weight", 0)
    network = {
        "block": family.block,
        "width": _size(shapes, "backbone.embd.0.conv.weight", 0),
        "neck_width": _size(shapes, "neck.fpn_norms.0.weight", 1),
        "head_width": _size(shapes, "cls_head.cls_head.conv.weight", 1),
        "embedding_layers": _count(shapes, r"backbone\.embd\.(\d+)\."),
        "stem_blocks": _count(shapes, r"backbone\.stem\.(\d+)\."),
        "branch_blocks": _count(shapes, r"backbone\.branch\.(\d+)\."),
        "embedding_kernel": _size(shapes, "backbone.embd.0.conv.weight", 2),
        "neck": "fpn" if _any(shapes, r"neck\.lateral_convs\.") else "identity",
        "head_layers": (_count(shapes, r"cls_head\.head\.(\d+)\.") or 0) + 1,
        "head_kernel": _size(shapes, "cls_head.cls_head.conv.weight", 2),
        "bins": None if trident and outputs is None else outputs // 2 - 1 if trident else 0,
        # Blocks whose paths are never dropped have no scales of the paths either.
        "drop_path": None if family.block == "conv" or _any(shapes, _BLOCK + r"drop_path_") else 0.0,
    } | own
    fields = {f"network.student.{name}": value for name, value in network.items()}
    return _known({"data.student.feature_dim": _size(shapes, "backbone.embd.0.conv.weight", 1), **fields})


def config_for(
    family: Family, shapes: Shapes, dataset: str | None, settings: Mapping[str, Any]
) -> tuple[ConfigDict, list[str]]:
    """The config of a converted model: an experiment file with the sizes of the file and the user's own settings.

    Args:
        family: kind of file.
        shapes: PyTorch key without prefix -> shape.
        dataset: name of the experiment file to start from; None for the family's first.
        settings: config fields that the user gives; they go before what the shapes say.

    Returns:
        The config, and notes of what was taken on trust.

    Raises:
        ValueError: such a file cannot start from that experiment, or a setting is unknown.
    """
    if dataset not in (None, *family.experiments):
        raise ValueError(
            f"--dataset={dataset} is not for files of this kind ({family.name}); use {' or '.join(family.experiments)}"
        )
    name = dataset or family.experiments[0]
    config = experiments.experiment(name)
    notes = [f"starting from the experiment {name}"]
    if dataset is None and len(family.experiments) > 1:
        notes[0] += f" (another with such a network: --dataset={family.experiments[1]})"
    if family.block == "transformer" and config.network.student.block != "transformer":
        config.network.student = experiments.experiment("actionformer_thumos").network.student
    sizes = sizes_of(family, shapes)
    differing = [f"{field}={sizes[field]}" for field in experiments.differing(config, sizes)]
    if differing:
        notes.append(f"sizes of the file that are not those of the experiment: {', '.join(differing)}")
    for field, value in (sizes | dict(settings)).items():
        _replace(config, field, value)
    if family.block and "student.ranges" not in settings:
        notes += _fit_ranges(config)
    assumed = [field for field in _not_in_shapes(family, sizes) if field not in settings]
    notes += [f"assumed, because shapes do not tell, from the experiment {name}:"] if assumed else []
    return config, notes + [f"  {field} = {experiments.value(config, field)}" for field in assumed]


def _not_in_shapes(family: Family, sizes: Mapping[str, Any]) -> list[str]:
    """The fields that matter for the answers of the model and that no array tells."""
    if not family.block:
        return ["generator.snippets", *(f"data.generator.{field}" for field in GRID_FIELDS)]
    network = ["max_length", "position_encoding"]
    if family.block == "transformer" and "network.student.heads" not in sizes:
        network += ["heads", "windows"]
    return [f"network.student.{name}" for name in network] + [f"data.student.{field}" for field in GRID_FIELDS]


def _replace(config: ConfigDict, field: str, value: Any) -> None:
    """As `experiments.replace`; windows may be one number or one per level."""
    if field == "network.student.windows":
        with config.ignore_type():
            experiments.replace(config, field, value)
    else:
        experiments.replace(config, field, value)


def _fit_ranges(config: ConfigDict) -> list[str]:
    """Makes `student.ranges` as many as there are levels, and says so."""
    levels, ranges = 1 + config.network.student.branch_blocks, config.student.ranges
    if len(ranges) == levels:
        return []
    edges = [0, *(ranges[0][1] * 2**level for level in range(levels - 1)), ranges[-1][1]]
    config.student.ranges = tuple(itertools.pairwise(edges))
    return [f"student.ranges = {config.student.ranges}: one for each of the {levels} levels; only training reads them"]


def _sgp_sizes(shapes: Shapes) -> dict[str, Any]:
    """What the blocks of TriDet tell."""
    branch = range(_count(shapes, r"backbone\.branch\.(\d+)\.") or 0)
    windows = [_size(shapes, f"backbone.branch.{i}.psi.weight", 2) for i in branch]
    known = bool(windows) and None not in windows
    return {
        "sgp_hidden": _size(shapes, "backbone.stem.0.mlp.0.bias", 0),
        "sgp_pooling": "avg" if _any(shapes, r"backbone\.branch\.\d+\.downsample\.1\.") else "max",
        # The stem always has the window 1; the first level is given that of the second.
        "windows": _one_or_all([windows[0], *windows]) if known else None,
        "sgp_factor": _sgp_factor(shapes),
    }


def _sgp_factor(shapes: Shapes) -> float | None:
    """A factor that leads from all narrow kernels of the blocks to their wide ones.

    `wide_kernel` rounds, so that many factors give the same taps: all in an interval, of which this is the middle, or
    5, TriDet's own on THUMOS14, where it lies inside. None where the blocks do not tell.
    """
    narrow = [key for key in shapes if re.fullmatch(_BLOCK + r"psi\.weight", key)]
    kernels = [(_size(shapes, key, 2), _size(shapes, key.replace(".psi.", ".convkw."), 2)) for key in narrow]
    pairs = [pair for pair in kernels if None not in pair]
    if not pairs:
        return None
    low = max((wide - 1.5) / (window + 1) for window, wide in pairs)
    high = min((wide + 0.5) / (window + 1) for window, wide in pairs)
    return 5.0 if low <= 5 < high else (low + high) / 2


def _attention_sizes(shapes: Shapes) -> dict[str, Any]:
    """What the blocks of ActionFormer tell; without a position bias neither heads nor windows can be seen."""
    biases = {key: shape for key, shape in shapes.items() if key.endswith(".attn.rel_pe") and len(shape) == 4}
    if not biases:
        return {"position_bias": False}
    branch = range(_count(shapes, r"backbone\.branch\.(\d+)\.") or 0)
    keys = ["backbone.stem.0.attn.rel_pe", *(f"backbone.branch.{i}.attn.rel_pe" for i in branch)]
    windows = [biases[key][3] if key in biases else -1 for key in keys]  # without a bias a level attends to everything
    return {"position_bias": True, "heads": next(iter(biases.values()))[2], "windows": _one_or_all(windows)}


def _one_or_all(values: Sequence[int]) -> int | tuple[int, ...]:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if value is not None}


def _size(shapes: Shapes, key: str, axis: int) -> int | None:
    shape = shapes.get(key, ())
    return shape[axis] if axis < len(shape) else None


def _count(shapes: Shapes, pattern: str) -> int | None:
    """One more than the largest number that the pattern finds at the start of a key."""
    numbers = [int(match[1]) for key in shapes if (match := re.match(pattern, key))]
    return max(numbers) + 1 if numbers else None


def _any(shapes: Shapes, pattern: str) -> bool:
    return any(re.match(pattern, key) for key in shapes)
