"""Golden cases: what the original PyTorch code computed, and the checks that hold ours against it.

A case is a folder `<root>/<system>/<case>/` with `case.json`, `io.npz` and sometimes `weights.pth`. The root is
`$ACTLOC_GOLDEN`, else `../shared/golden` beside the repository, else `tests/golden`. A check is a function of one
`Case` registered for a system and a kind; `test_parity.py` runs it on every case of that kind.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from convert import torch_reader
from tests.parity import recipe

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
COPIES = REPOSITORY / "tests" / "golden"

Check = Callable[["Case"], None]
CHECKS: dict[tuple[str, str], Check] = {}


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden case.

    Attributes:
        path: its folder.
        meta: the content of `case.json`.
    """

    path: pathlib.Path
    meta: dict[str, Any] = dataclasses.field(repr=False, compare=False)

    @property
    def system(self) -> str:
        """`"tst"`, `"asot"`, ..."""
        return self.meta["system"]

    @property
    def kind(self) -> str:
        """What is checked; several cases may share a kind."""
        return self.meta["kind"]

    @property
    def id(self) -> str:
        """`<system>-<kind>-<case>`."""
        return f"{self.system}-{self.kind}-{self.meta['case']}"

    @property
    def config(self) -> dict[str, Any]:
        """Sizes and hyper-parameters of the case."""
        return self.meta["config"]

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of `io.npz` by name; their axes are given in `case.json` (usually [batch, channels, time])."""
        with np.load(self.path / "io.npz") as file:
            return {name: file[name] for name in file.files}

    def weights(self) -> dict[str, Any]:
        """The PyTorch state dict of the case: key -> array in PyTorch's layout.

        It is read from the case's own file, drawn by its recipe, or read from the sibling case that its notes name.
        """
        if (self.path / "weights.pth").exists():
            return dict(torch_reader.read(self.path / "weights.pth"))
        if "weights_recipe" in self.meta:
            return recipe.draw(self.meta)
        sibling = re.search(r"(\w+)/weights\.pth", str(self.meta.get("notes", "")))
        if sibling and (self.path.parent / sibling[1] / "weights.pth").exists():
            return dict(torch_reader.read(self.path.parent / sibling[1] / "weights.pth"))
        raise FileNotFoundError(f"{self.path} has no weights.pth, no weights_recipe, and no sibling case with weights")

    def tolerance(self, after: str = "atol") -> float:
        """The number that follows `after` in the case's tolerance text, e.g. `tolerance("ddim outputs atol")`."""
        found = re.search(re.escape(after) + r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)", self.meta["tolerance"])
        if not found:
            raise ValueError(f"{self.path}: no number after {after!r} in the tolerance {self.meta['tolerance']!r}")
        return float(found[1])


def parity(system: str, kind: str) -> Callable[[Check], Check]:
    """Registers a check for all cases of (system, kind)."""

    def register(check: Check) -> Check:
        if (system, kind) in CHECKS:
            raise ValueError(f"two checks for {system} {kind}: {CHECKS[system, kind].__name__}, {check.__name__}")
        CHECKS[system, kind] = check
        return check

    return register


def root() -> pathlib.Path:
    """The folder that holds the golden cases."""
    if "ACTLOC_GOLDEN" in os.environ:
        return pathlib.Path(os.environ["ACTLOC_GOLDEN"])
    beside = REPOSITORY.parent / "shared" / "golden"
    return beside if beside.is_dir() else COPIES


def all_cases(folder: pathlib.Path | None = None) -> list[Case]:
    """Every case under `folder` (default: the root), in order of its path."""
    files = sorted((folder or root()).glob("*/*/case.json"))
    return [Case(file.parent, json.loads(file.read_text())) for file in files]


def cases(system: str, kind: str) -> list[Case]:
    """The cases of one system and kind."""
    return [case for case in all_cases() if (case.system, case.kind) == (system, kind)]
