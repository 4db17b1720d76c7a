"""Whether extracted features that a model is to be trained on are those that its config names (numpy only)."""

from __future__ import annotations

from etils import epath

from actloc_jax.data.feature_manifests import differences, read_manifest
from actloc_jax.data.feature_recipes import OUT_OF_REACH, recipe_of, text_of
from actloc_jax.data.problems import Problem


def find_problems(folder: epath.PathLike, recipe: str, *, field: str = "data.recipe") -> list[Problem]:
    """Holds what lies beside features against the recipe of the config, which the checkpoint will name.

    Features that do not say how they were made are taken as they are.

    Args:
        folder: of the features.
        recipe: as the config names it; "" if unknown.
        field: of the config that says so, for messages.

    Returns:
        A problem for each recipe that is found and is not that of the config.
    """
    folder = epath.Path(folder)
    made: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        manifest = read_manifest(path)
        if manifest is not None:
            made.setdefault(text_of(manifest.recipe), []).append(path.stem)
    found = []
    for text, videos in made.items():
        about = f"{folder}: the features of {len(videos)} videos, e.g. {videos[0]}, were made by recipe {text}"
        advice = f"Set --config.{field}={text}, which the model then asks for"
        if not recipe:
            found.append(Problem("warning", f"{about}, which the config does not say. {advice} when it gets a video"))
            continue
        if recipe.partition(":")[0] in OUT_OF_REACH:
            found.append(Problem("error", f"{about}, but config.{field} is {recipe}. {advice}"))
            continue
        unlike, shifted = differences(recipe_of(text).fields(), recipe)
        if unlike or shifted:
            other = f", but config.{field} is {recipe} ({', '.join([*unlike, *shifted])})"
            found.append(Problem("error" if unlike else "warning", f"{about}{other}. {advice}, or extract them again"))
    return found
