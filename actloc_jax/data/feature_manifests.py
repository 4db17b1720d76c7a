"""What lies beside extracted features and says how they were made: `<video>.json` (numpy only).

A model trained on features of one recipe is wrong on those of another, and nothing in a `.npy` file shows it. So
prediction compares this file with the recipe that the checkpoint names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from actloc_jax.data.feature_recipes import OUT_OF_REACH, PER_FRAME, Recipe, recipe_of, said_as
from actloc_jax.data.json_files import read_json, write_json

FORMAT = 1
STREAM_FILES = ("_rgb", "_flow")
"""What `video_features` appends to the name of a video, one file for each stream."""

_ALIKE = {"optical_flow": {"tvl1": "tvl1_opencv", "tvl1_opencv": "tvl1"}}
_HARMLESS = ("files", "layer")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """How the features of a video were made.

    Attributes:
        recipe: `name` and all fields.
        video: `name`, `sha256` of the content, `frames` and `fps` of the file.
        frames: at the rate of the recipe.
        fps: that rate.
        rows: of the features.
        channels: of the features.
        networks: stream, or "optical_flow", -> what computed it, with the `sha256` of its weights.
        version: of this package.
        notes: what is doubtful.
    """

    recipe: dict[str, Any]
    video: dict[str, Any]
    frames: int
    fps: float
    rows: int
    channels: int
    networks: dict[str, dict[str, Any]]
    version: str
    notes: Sequence[str] = ()

    def made_as(self, other: Manifest) -> bool:
        """Whether both describe the same features: same content, recipe and networks."""
        return all(
            json.dumps(getattr(self, field), sort_keys=True) == json.dumps(getattr(other, field), sort_keys=True)
            for field in ("recipe", "networks", "rows", "frames")
        ) and (self.video["sha256"] == other.video["sha256"])

    @property
    def covered_seconds(self) -> float:
        """From the start of the first window to the end of the last one."""
        if self.recipe["windows"] in PER_FRAME:
            return self.frames / self.fps
        return ((self.rows - 1) * self.recipe["stride"] + self.recipe["window"]) / self.fps

    def write(self, path: epath.PathLike) -> None:
        """Writes the file whole or not at all."""
        write_json(path, {"format": FORMAT, **dataclasses.asdict(self)})


def read_manifest(path: epath.PathLike) -> Manifest | None:
    """The manifest in a file; None if there is no file, or it is something else.

    Raises:
        ValueError: it is no JSON, or of a newer version.
    """
    path = epath.Path(path)
    if not path.exists():
        return None
    content = read_json(path, what="how features were made")
    names = {field.name for field in dataclasses.fields(Manifest)}
    if not isinstance(content, dict) or not names <= content.keys():
        return None
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {content.get('format')}, this version reads {FORMAT}; update actloc_jax")
    return Manifest(**{name: content[name] for name in names})


def manifest_of(features: epath.PathLike) -> Manifest | None:
    """The manifest beside a feature file; None if nothing says how it was made."""
    path = epath.Path(features)
    stems = [path.stem, *(path.stem.removesuffix(end) for end in STREAM_FILES if path.stem.endswith(end))]
    return next(filter(None, (read_manifest(path.parent / f"{stem}.json") for stem in stems)), None)


def key_of(recipe: Recipe, networks: Mapping[str, Any]) -> str:
    """A name for everything but the video that features depend on."""
    content = json.dumps([recipe.name, recipe.fields(), networks], sort_keys=True)
    return f"{recipe.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def differences(found: Mapping[str, Any], wanted: str) -> tuple[list[str], list[str]]:
    """How features differ from those of a recipe.

    Args:
        found: the `recipe` of a manifest.
        wanted: the recipe, as configs name it (`recipe_of`), one that can be made here.

    Returns:
        (differences of another kind of features, differences that only shift them), each "field this instead of that".
    """
    fields = recipe_of(wanted).fields()
    wrong = sorted(name for name in fields if found.get(name) != fields[name] and name not in _HARMLESS)
    wrong = [name for name in wrong if _ALIKE.get(name, {}).get(fields[name]) != found.get(name)]
    shifting = {"optical_flow", "port", *(("stride",) if fields["windows"] in PER_FRAME else ())}
    texts = {
        name: f"{name} {said_as(name, found.get(name))} instead of {said_as(name, fields[name])}" for name in wrong
    }
    return [texts[name] for name in wrong if name not in shifting], [texts[name] for name in wrong if name in shifting]


def misfit(found: Mapping[str, Any], trained_on: str) -> tuple[str, str]:
    """What speaks against features, for a model that was trained on those of a recipe.

    Args:
        found: the `recipe` of a manifest.
        trained_on: the recipe as the model's config names it; "" where it is not known.

    Returns:
        (why they must not be used, what makes the results worse), each empty if there is nothing.
    """
    if not trained_on:
        return "", ""
    here = f"these features are of recipe {found['name']}"
    if trained_on.partition(":")[0] in OUT_OF_REACH:
        return f"the checkpoint was trained on features {trained_on!r} ({OUT_OF_REACH[trained_on]}), {here}", ""
    harder, softer = differences(found, trained_on)
    error = f"the checkpoint was trained on features of recipe {trained_on}, {here}: {', '.join(harder)}"
    warning = f"features differ from those that the checkpoint was trained on ({trained_on}): {', '.join(softer)}"
    return error if harder else "", warning if softer else ""
