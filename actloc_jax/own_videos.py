"""A person's own videos as input of systems that read features: extracted as the checkpoint's recipe says, and cached.

Which features a model was trained on is written in its config (`data.recipe`). Features that come with a manifest are
held against it, too.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence

from etils import epath

from actloc_jax.data.feature_manifests import manifest_of, misfit
from actloc_jax.data.feature_recipes import OUT_OF_REACH, RECIPES, recipe_of
from actloc_jax.data.video_files import VIDEO_SUFFIXES
from actloc_jax.extract import Networks, extract

log = logging.getLogger(__name__)

CACHE = os.path.join(os.path.expanduser("~"), ".cache", "actloc_jax", "features")
"""Where features of videos are kept, by content of the video, recipe and networks."""


def as_features(inputs: Sequence[str], recipe: str, networks: Networks) -> list[str]:
    """Inputs for a model that reads features: videos are replaced by their features, extracted where they are not yet.

    Args:
        inputs: feature files, video files, or folders of either.
        recipe: of the features that the model was trained on, as its config names it; "" if unknown.
        networks: what extracts features.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: the recipe is not known or cannot be made here, features are of another one, or a video failed.
    """
    _check_features(inputs, recipe)
    videos = [name for name in inputs if _is_video(name)]
    if not videos:
        return list(inputs)
    if not recipe:
        raise ValueError(
            f"{videos[0]} is a video, and this checkpoint does not say which features it was trained on, so they "
            "cannot be extracted. If you know, extract them (--mode=extract; --recipe=list shows the recipes) and give "
            "the feature files; a model of your own says it with --config.data.recipe=... in training."
        )
    name = recipe.partition(":")[0]
    if name in OUT_OF_REACH:
        raise ValueError(
            f"{videos[0]} is a video, and this checkpoint was trained on features {name!r}: {OUT_OF_REACH[name]}. Give "
            f"such feature files, or train on features that can be extracted here ({', '.join(RECIPES)})."
        )
    wanted = dataclasses.replace(recipe_of(recipe), files="time_first")
    found = extract(wanted, videos, CACHE, networks, by_content=True)
    if found.failed:
        raise ValueError("The videos cannot be used:\n  " + "\n  ".join(found.failed.values()))
    log.info("features of %d videos by recipe %s are in %s", len(found.features), recipe, CACHE)
    return [*(name for name in inputs if name not in videos), *map(os.fspath, found.features.values())]


def _is_video(name: str) -> bool:
    """Whether an input is a video file, or a folder of them without features."""
    path = epath.Path(name)
    if not path.is_dir():
        return path.suffix.lower() in VIDEO_SUFFIXES
    suffixes = {child.suffix.lower() for child in path.iterdir()}
    return bool(suffixes & set(VIDEO_SUFFIXES)) and not suffixes & {".npy", ".npz", ".csv", ".h5"}


def _check_features(inputs: Sequence[str], recipe: str) -> None:
    """Holds features that say how they were made against the recipe. Raises ValueError that names all that misfit."""
    paths = [epath.Path(name) for name in inputs]
    files = [child for path in paths for child in (sorted(path.glob("*.npy")) if path.is_dir() else [path])]
    errors, doubts = [], {}
    for file in files:
        manifest = None if file.suffix.lower() in VIDEO_SUFFIXES else manifest_of(file)
        if manifest is None:
            continue
        error, doubt = misfit(manifest.recipe, recipe)
        errors += [f"{file}: {error}"] if error else []
        doubts |= {doubt: file} if doubt else {}
    if errors:
        raise ValueError("The features are not those that the checkpoint needs:\n  " + "\n  ".join(errors))
    for doubt, file in doubts.items():
        log.warning("%s: %s", file, doubt)
