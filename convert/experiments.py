"""The experiment files in `configs/` as the source of what a published file does not tell."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def experiment(name: str, argument: str | None = None) -> ConfigDict:
    """The config of `configs/<name>.py`, with the argument that stands behind its colon on the command line."""
    try:
        return importlib.import_module(f"configs.{name}").get_config(argument)
    except ModuleNotFoundError as err:
        raise ValueError(f"configs/{name}.py cannot be imported: run the command from the repository's root") from err


def value(config: ConfigDict, field: str) -> Any:
    """The value of a dotted field, None where it is absent."""
    node: Any = config
    for part in field.split("."):
        node = node.get(part) if isinstance(node, ConfigDict) else None
    return node


def differing(config: ConfigDict, values: Mapping[str, Any]) -> list[str]:
    """The fields whose values in the config are not these."""
    return [field for field, wanted in values.items() if value(config, field) != wanted]


def replace(config: ConfigDict, field: str, new: Any, said_by: str = "--set") -> None:
    """Sets a dotted field that exists; a list becomes a tuple, as in the experiment files.

    Raises:
        ValueError: there is no such field, or it holds another type.
    """
    *groups, last = field.split(".")
    node = config
    for part in groups:
        node = node.get(part) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or last not in node:
        raise ValueError(f"{said_by} {field}: the config has no such field")
    try:
        node[last] = tuple(new) if isinstance(new, list) else new
    except TypeError as err:
        raise ValueError(f"{said_by} {field}: {err}") from err
