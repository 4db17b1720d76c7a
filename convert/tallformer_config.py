"""What kind of TALLFormer file this is, and the config of a model with its sizes.

Detectors and backbones are told apart by their keys, and their sizes by the shapes of their arrays. What neither tells
(the reach of the band attention, its heads, groups of norms, frames of a chunk) comes from an experiment file. Names:
`klauscc/TALLFormer:vedatad/models`, `AFSD/anet_video_cls/BDNet.py`; `SwinTransformer/Video-Swin-Transformer`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.backbones.video_swin import PRESETS, VideoSwinSizes
from actloc_jax.ops.video_windows import Triple, table_rows
from actloc_jax.systems.tallformer.settings import FINEST_STRIDE
from actloc_jax.systems.tallformer.videos import AFSD, ANCHORS
from convert import experiments
from convert.checked import other_commands
from convert.mapping import Table, shape_text
from convert.tallformer_head_tables import ACTIVITYNET, AFSD_PREFIX, THUMOS
from convert.tallformer_tables import BACKBONE_PREFIX, VIDEO_SWIN

PREFIX = "module."  # what PyTorch's wrapper for several devices puts before every key
SWIN = ("patch_embed.", "layers.0.blocks.")
WINDOW = "network.backbone.window"
PATCH = "network.backbone.patch"
TABLE = "attn.relative_position_bias_table"
INDEX = "attn.relative_position_index"

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: for people.
        marks: starts of keys, without prefix, that only this kind has.
        detector: `config.network.kind`; "" for a backbone alone.
        names: table of all its arrays, without prefix.
        experiments: files in `configs/` that such a model may start from; the first unless the user names one.
        assumed: config fields that shapes do not tell and that a prediction depends on.
        left_out: regular expression of keys, without prefix, of parts that no detector has.
    """

    name: str
    marks: tuple[str, ...]
    detector: str
    names: Table
    experiments: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    left_out: str = r"(?!)"

    def table(self, prefix: str) -> Table:
        """The table of a file whose keys have this prefix."""
        return Table(self.names.under(prefix, ""))

    def backbone_prefix(self, prefix: str) -> str:
        """What stands before the keys of the backbone in such a file."""
        return prefix + BACKBONE_PREFIX if self.detector else prefix


KINDS = (
    Kind("TALLFormer with anchors", ("neck.0.", "head.retina_", "head.cls_convs."), ANCHORS, THUMOS,
         ("tallformer_thumos",),
         ("network.detector.windows", "network.detector.window_heads", "network.anchor_scale", "clip.chunk",
          "clip.crop", "data.fps")),
    Kind("TALLFormer without anchors", (AFSD_PREFIX,), AFSD, ACTIVITYNET, ("tallformer_anet", "tallformer_hacs"),
         ("network.detector.groups", "clip.chunk", "clip.crop", "data.max_frames", "decode.classes_per_segment")),
    Kind("Video Swin, a backbone", (*SWIN, *(BACKBONE_PREFIX + name for name in SWIN)), "", VIDEO_SWIN,
         ("tallformer_thumos", "tallformer_anet", "tallformer_hacs"), left_out=r"(cls_head|head)\..*"),
)  # fmt: skip


def kind_of(keys: Iterable[str], source: epath.Path) -> tuple[Kind, str]:
    """The kind of a file with these keys, and what stands before the names of its arrays.

    The prefix of a backbone alone includes `backbone.`, where the file has it.

    Raises:
        ValueError: it is of none that is known.
    """
    listing = sorted(keys)
    prefix = PREFIX if any(key.startswith(PREFIX) for key in listing) else ""
    names = [key.removeprefix(prefix) for key in listing]
    kind = next((kind for kind in KINDS if any(name.startswith(kind.marks) for name in names)), None)
    if kind is None:
        raise ValueError(
            f"{source} holds no model of TALLFormer and no Swin Transformer: expected keys such as neck.0.conv1.weight "
            f"or backbone.patch_embed.proj.weight; its keys begin {', '.join(listing[:4])}. "
            f"{other_commands('tallformer')}"
        )
    of_backbone = [name for name in names if name.startswith(BACKBONE_PREFIX)]
    if kind.detector and not any(name.removeprefix(BACKBONE_PREFIX).startswith(SWIN) for name in of_backbone):
        raise ValueError(
            f"{source} ({kind.name}) holds no Video Swin: expected keys such as "
            f"{prefix}backbone.patch_embed.proj.weight; the keys of its backbone begin "
            f"{', '.join(of_backbone[:4]) or '(there are none)'}. Other backbones are not read."
        )
    return kind, prefix if kind.detector or not of_backbone else prefix + BACKBONE_PREFIX


def num_classes(kind: Kind, shapes: Shapes) -> int | None:
    """Number of classes without background, from the first array that tells it; None if none does.

    Args:
        kind: of the file, a detector.
        shapes: PyTorch key without prefix -> shape.
    """
    if kind.detector == AFSD:
        rows = _first(shapes, [f"{AFSD_PREFIX}action_head.cls.{part}" for part in ("weight", "bias")])
        return rows - 1 if rows else None
    rows = _first(shapes, ["head.retina_cls.weight", "head.retina_cls.bias"])
    anchors = _anchors(shapes)
    return rows // anchors if rows and anchors else None


def config_for(
    kind: Kind, shapes: Shapes, dataset: str | None, settings: Mapping[str, Any]
) -> tuple[ConfigDict, list[str]]:
    """The config of a converted model: an experiment file with the sizes of the file and the user's own settings.

    Args:
        kind: of the file.
        shapes: PyTorch key without prefix -> shape.
        dataset: name of the experiment file to start from, with its arguments behind a colon; None for the kind's
            first.
        settings: config fields that the user gives; they go before what the shapes say. Every field of
            `VideoSwinSizes` may stand below `network.backbone`.

    Returns:
        The config, and notes of what was taken on trust.

    Raises:
        ValueError: such a file cannot start from that experiment, or a setting is unknown or contradicts the file.
    """
    name, _, argument = (dataset or kind.experiments[0]).partition(":")
    if name not in kind.experiments:
        raise ValueError(
            f"--dataset={dataset} is not for files of this kind ({kind.name}); use {' or '.join(kind.experiments)}"
        )
    config = experiments.experiment(name, argument or None)
    notes = [f"starting from the experiment {dataset or name}"]
    below = kind.backbone_prefix("")
    swin = {key.removeprefix(below): shape for key, shape in shapes.items() if key.startswith(below)}
    own = backbone_fields(swin, settings)
    before = dict(config.network.backbone)
    config.network.backbone = ConfigDict(_backbone_group(before, own))
    changed = [f"network.backbone.{field}={value}" for field, value in config.network.backbone.items()
               if before.get(field) != value]  # fmt: skip
    fields = {ANCHORS: anchor_fields, AFSD: afsd_fields}.get(kind.detector, lambda shapes: {})(shapes)
    changed += [f"{field}={fields[field]}" for field in experiments.differing(config, fields)]
    if changed:
        notes.append(f"sizes of the file that are not those of the experiment: {', '.join(changed)}")
    config.network.detector = ConfigDict({**config.network.detector, **_group(fields, "network.detector.")})
    for field, value in ({f: v for f, v in fields.items() if f.startswith("clip.")} | dict(settings)).items():
        _set(config, field, value)
    if kind.detector == ANCHORS:
        _check_levels(config, shapes)
    assumed = [field for field in kind.assumed if field not in settings]
    notes += [f"assumed, because shapes do not tell, from the experiment {name}:"] if assumed else []
    return config, notes + [f"  {field} = {experiments.value(config, field)}" for field in assumed]


def backbone_fields(shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `VideoSwinSizes` that shapes tell; an array that is absent tells nothing.

    Args:
        shapes: PyTorch key of the backbone, without prefix -> shape.
        settings: config fields that the user gives.

    Raises:
        ValueError: the window cannot be told, or is not that of the settings.
    """
    stages = range(_count(shapes, r"layers\.(\d+)\.") or 0)
    tables = [_table(shapes, rf"layers\.{stage}\.blocks\.\d+\.") for stage in stages]
    kernel = shapes.get("patch_embed.proj.weight", ())
    width = _first(shapes, [f"patch_embed.{name}" for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")])
    hidden = _first(shapes, ["layers.0.blocks.0.mlp.fc1.weight", "layers.0.blocks.0.mlp.fc1.bias"])
    fields = {
        "width": width,
        "depths": tuple(_count(shapes, rf"layers\.{stage}\.blocks\.(\d+)\.") or 0 for stage in stages),
        "heads": tuple(table[1] for table in tables) if all(tables) else None,
        "patch": kernel[2:] if len(kernel) == 5 else None,
        "in_channels": kernel[1] if len(kernel) == 5 else None,
        "mlp_ratio": hidden / width if hidden and width else None,
        "patch_norm": any(key.startswith("patch_embed.norm.") for key in shapes),
    }
    known = next((table for table in tables if table), None)
    if known:
        tokens = next((shape[0] for key, shape in shapes.items() if key.endswith(INDEX) and shape), None)
        fields["window"] = _window(known[0], tokens, settings)
    return _known(fields)


def anchor_fields(shapes: Shapes) -> dict[str, Any]:
    """Config field -> value, for all that shapes tell of the detector with anchors."""
    table = _table(shapes, r"neck\.1\.encoder\.layers\.\d+\.")
    return _known(
        {
            "network.detector.width": _first(shapes, ["neck.0.conv1.weight", "neck.0.conv1.bias"]),
            "network.detector.pyramid_width": _first(shapes, ["neck.3.lateral_convs.0.conv.weight"]),
            "network.detector.heads": table[1] if table else None,
            "network.detector.num_layers": _count(shapes, r"neck\.1\.encoder\.layers\.(\d+)\."),
            "network.detector.anchors": _anchors(shapes),
            "network.detector.head_layers": _count(shapes, r"head\.cls_convs\.(\d+)\."),
            "clip.frames": FINEST_STRIDE * ((table[0] + 1) // 2) if table else None,
        }
    )


def afsd_fields(shapes: Shapes) -> dict[str, Any]:
    """Config field -> value, for all that shapes tell of the detector without anchors."""
    own = {key.removeprefix(AFSD_PREFIX): shape for key, shape in shapes.items() if key.startswith(AFSD_PREFIX)}
    table = _table(own, r"pyramids\.1\.encoder\.layers\.\d+\.")
    return _known(
        {
            "network.detector.width": _first(own, ["pyramids.0.conv1.weight", "pyramids.0.conv1.bias"]),
            "network.detector.heads": table[1] if table else None,
            "network.detector.num_layers": _count(own, r"pyramids\.1\.encoder\.layers\.(\d+)\."),
            "network.detector.levels": _count(own, r"pyramids\.2\.layer(\d+)\."),  # layer1 leads to the second level
            "clip.frames": FINEST_STRIDE * ((table[0] + 1) // 2) if table else None,
        }
    )


def _backbone_group(before: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The group `network.backbone`: how the experiment trains it, and the sizes of the file, by name if published."""
    training = {field: before[field] for field in ("drop_path", "frozen_stages", "checkpoint") if field in before}
    alike = ("width", "depths", "heads")
    published = [
        name
        for name, sizes in PRESETS.items()
        if all(getattr(sizes, field) == own[field] for field in alike if field in own)
    ]
    size = published[0] if published else before["size"]
    changed = {field: value for field, value in own.items() if getattr(PRESETS[size], field) != value}
    return {"size": size, **training, **changed}


def _window(rows: int, tokens: int | None, settings: Mapping[str, Any]) -> Triple:
    """The window whose table of relative positions has so many rows.

    Args:
        rows: of the table.
        tokens: of the window, where the file holds the index of its pairs.
        settings: may give the window.

    Raises:
        ValueError: several or none have such a table, or the settings name another one.
    """
    usual = VideoSwinSizes.window
    square = [
        ((rows // (2 * side - 1) ** 2 + 1) // 2, side, side)
        for side in itertools.takewhile(lambda side: (2 * side - 1) ** 2 <= rows, itertools.count(2))
        if rows % (2 * side - 1) ** 2 == 0 and rows // (2 * side - 1) ** 2 % 2
    ]
    fitting = [(t, h, w) for t, h, w in square if tokens in (None, t * h * w)]
    if WINDOW in settings:
        told = tuple(np.atleast_1d(settings[WINDOW]).tolist())
        if len(told) == 3 and table_rows(told) == rows:
            return told
        of_file = f"that of a window of {shape_text(fitting[0])}" if len(fitting) == 1 else "not that of this window"
        raise ValueError(
            f"--set {WINDOW}={list(told)}: the file's tables of relative positions have {rows} rows, {of_file}. Tables "
            "of a video network are not resized: the original leaves such tables at random values"
        )
    if tokens is None and usual in fitting:
        return usual
    alike = [window for window in fitting if window[1:] == usual[1:]] or fitting
    if len(alike) != 1:
        raise ValueError(
            f"tables of relative positions with {rows} rows do not tell the size of the window; give its time, height "
            f"and width, e.g. --set {WINDOW}={list(usual)}"
        )
    return alike[0]


def _set(config: ConfigDict, field: str, value: Any) -> None:
    """Sets a field as `experiments.replace`; the backbone may have fields that the experiment leaves as published."""
    group, _, name = field.rpartition(".")
    fields = {each.name for each in dataclasses.fields(VideoSwinSizes)}
    if group == "network.backbone" and name in fields and name not in config.network.backbone:
        config.network.backbone[name] = tuple(value) if isinstance(value, list) else value
    else:
        experiments.replace(config, field, value)


def _check_levels(config: ConfigDict, shapes: Shapes) -> None:
    """The reach of attention must be known on every coarser level; only their number can be seen in the file."""
    levels, windows = _count(shapes, r"neck\.2\.trans_layers\.(\d+)\."), config.network.detector.windows
    if levels is not None and levels != len(windows):
        raise ValueError(
            f"the file has {levels} levels above the finest one, the config {len(windows)} windows of attention, "
            f"{tuple(windows)}; give one for each level, e.g. --set network.detector.windows={[7] * levels}"
        )


def _anchors(shapes: Shapes) -> int | None:
    rows = _first(shapes, ["head.retina_reg.weight", "head.retina_reg.bias"])
    return rows // 2 if rows else None


def _table(shapes: Shapes, block: str) -> tuple[int, ...] | None:
    """The shape of the first table of relative positions in a block with this name, a regular expression."""
    pattern = re.compile(block + re.escape(TABLE))
    return next((shape for key, shape in shapes.items() if pattern.fullmatch(key) and len(shape) == 2), None)


def _first(shapes: Shapes, keys: Iterable[str]) -> int | None:
    """The first axis of the first of these arrays that is there."""
    return next((shapes[key][0] for key in keys if shapes.get(key)), None)


def _count(shapes: Shapes, pattern: str) -> int | None:
    """One more than the largest number that the pattern finds at the start of a key."""
    numbers = [int(match[1]) for key in shapes if (match := re.match(pattern, key))]
    return max(numbers) + 1 if numbers else None


def _group(fields: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {field.removeprefix(prefix): value for field, value in fields.items() if field.startswith(prefix)}


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if value is not None}
