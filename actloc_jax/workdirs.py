"""What a run leaves beside its checkpoints: config, versions, and the checks that come before the first step.

A workdir holds config.json, versions.json, metrics.jsonl, TensorBoard events, checkpoints/, predictions/,
figures/, log.txt.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

import actloc_jax
from actloc_jax.systems.api import Dataset
from actloc_jax.training.textfiles import replace_text

log = logging.getLogger(__name__)

FEATURE_STAGE = "features"  # in checkpoints of networks that make features of videos, as `python -m convert i3d` writes
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "grain")


def prepare(workdir: epath.Path, config: ConfigDict) -> None:
    """Makes the workdir and writes config.json and versions.json.

    Raises:
        ValueError: it cannot be written, or holds a run of another config.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _refuse_other_run(workdir, config)  # in every process, so that each can say why it ends
        if jax.process_index() == 0:
            replace_text(workdir / "config.json", config.to_json_best_effort(indent=1))
            replace_text(workdir / "versions.json", json.dumps(versions(), indent=1))
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be written: {error.strerror or error}. "
            "Free some space or choose another folder."
        ) from error


def _refuse_other_run(workdir: epath.Path, config: ConfigDict) -> None:
    """A run goes on only with the system, data and networks that it was started with."""
    if not (workdir / "config.json").exists():
        return
    before = json.loads((workdir / "config.json").read_text())
    now = json.loads(config.to_json_best_effort())
    fixed = ("system", "data", "clusters", "network", "backbone", "refiner", "clip")
    changed = [name for name in fixed if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            f"{workdir} holds a run of another config (different: {', '.join(changed)}). "
            f"Choose another --workdir, or delete this one."
        )


def versions() -> dict[str, Any]:
    """Versions of this package, its git revision where there is one, the libraries, Python and the devices."""
    return {
        "actloc_jax": actloc_jax.__version__,
        "git": _git_revision(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
    }


def _git_revision() -> str | None:
    folder = epath.Path(actloc_jax.__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def check_splits(dataset: Dataset, splits: Sequence[str]) -> None:
    """Reports everything that is wrong with the splits at once.

    Raises:
        ValueError: there is an error among the problems; warnings are only logged.
    """
    errors = []
    for split in dict.fromkeys(splits):
        for problem in dataset.problems(split):
            if problem.severity == "error":
                errors.append(f"[{split}] {problem.message}")
            else:
                log.warning("[%s] %s", split, problem.message)
    if errors:
        shown = "\n  ".join(errors[:50]) + (f"\n  ... and {len(errors) - 50} more" if len(errors) > 50 else "")
        raise ValueError(f"The data cannot be used; {len(errors)} problem(s):\n  {shown}")


def model_meta(config: ConfigDict, dataset: Dataset, stage: str, stage_index: int) -> dict[str, Any]:
    """The JSON that a model checkpoint carries, so that `predict` needs nothing beside it."""
    return {
        "system": config.system,
        "stage": stage,
        "stage_index": stage_index,
        "config": json.loads(config.to_json_best_effort()),
        "class_names": list(dataset.class_names),
        "frame_rate": dataset.frame_rate,
        "sample_rate": config.data.sample_rate,
    }


def paper_numbers(config: ConfigDict) -> dict[str, dict[str, float]]:
    """Source -> metrics. In a config they may be pairs, since its names cannot hold dots (`mAP@0.5`)."""
    return {source: dict(numbers) for source, numbers in config.paper.to_dict().items()}


def write_json(path: epath.Path, content: Any) -> None:
    """Writes JSON whole or not at all."""
    replace_text(path, json.dumps(content, indent=1))


def check_predicts(meta: dict[str, Any], folder: epath.Path) -> None:
    """Refuses a checkpoint that makes features and predicts nothing.

    Raises:
        ValueError: it is one.
    """
    if meta["stage"] == FEATURE_STAGE:
        raise ValueError(
            f"{folder} holds {meta['system']!r}, a network that makes features of videos and predicts nothing. "
            f"Extract features with it (--mode=extract), and pass a --checkpoint that was trained on such features."
        )


def check_system(meta: dict[str, Any], system: str, folder: epath.Path) -> None:
    """Refuses a checkpoint of another system.

    Raises:
        ValueError: the checkpoint's system is not `system`.
    """
    check_predicts(meta, folder)
    if meta["system"] != system:
        raise ValueError(
            f"{folder} is a checkpoint of system {meta['system']!r}, but the config is for {system!r}. "
            f"Pass a config of {meta['system']!r}, or another --checkpoint."
        )


def check_classes(meta: dict[str, Any], class_names: Sequence[str], folder: epath.Path) -> None:
    """Refuses a checkpoint whose classes are not the data set's, in the same order.

    A checkpoint without class names was trained without labels and converted without names: it fits any classes.

    Raises:
        ValueError: they differ; the first difference is named.
    """
    stored = meta["class_names"]
    if not stored or list(stored) == list(class_names):
        return
    if len(stored) != len(class_names):
        detail = f"{len(stored)} classes against {len(class_names)}"
    else:
        index = next(i for i, pair in enumerate(zip(stored, class_names, strict=True)) if pair[0] != pair[1])
        detail = f"class {index} is {stored[index]!r} there and {class_names[index]!r} here"
    raise ValueError(f"{folder} was trained on other classes than the data set has: {detail}.")


def checkpoint_config(meta: dict[str, Any], config: ConfigDict | None) -> ConfigDict:
    """The checkpoint's own config, with the ways to decode and evaluate taken from `config` where one is given."""
    stored = ConfigDict(meta["config"])
    if config is not None:
        for group in ("decode", "eval"):
            stored[group] = config[group]
    return stored
