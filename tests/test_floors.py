"""The floors of the house: which room may import which (docs/architecture.md)."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "actloc_jax"
FLOORS = {
    "ops": 0,
    "metrics": 0,
    "plotting": 0,
    "layers": 1,
    "losses": 1,
    "data": 1,
    "backbones": 2,
    "training": 2,
    "results": 3,
    "systems": 4,
    "": 5,  # main, train, evaluate, predict, inspect, splits, workdirs
}
JAX_FREE = ("data", "metrics", "plotting")


def _imports(path: pathlib.Path) -> list[str]:
    """Dotted names of everything that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _room(parts: list[str]) -> str:
    """The room of a dotted name below the package; "" for the files beside the rooms."""
    return parts[0] if parts and parts[0] in FLOORS else ""


def _violations() -> list[str]:
    found = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        own = list(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
        room = _room(own)
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] in ("tests", "configs", "convert", "benchmarks"):
                found.append(f"{path}: the package imports {name}")
            if parts[0] != PACKAGE or len(parts) == 1:
                continue
            other = _room(parts[1:])
            if FLOORS[other] > FLOORS[room] and (other or (ROOT / PACKAGE / f"{parts[1]}.py").exists()):
                found.append(f"{path}: {room} imports {name}, a floor above")
            if (
                room == other == "systems"
                and len(own) > 2
                and len(parts) > 3
                and (ROOT / PACKAGE / "systems" / parts[2]).is_dir()
                and parts[2] != own[1]
            ):
                found.append(f"{path}: system {own[1]} imports system {parts[2]}")
    return found


def test_no_room_imports_a_floor_above() -> None:
    assert _violations() == []


@pytest.mark.parametrize("room", JAX_FREE)
def test_rooms_without_jax_stay_so_through_our_own_modules(room: str) -> None:
    waiting, seen, found = list((ROOT / PACKAGE / room).glob("*.py")), set(), []
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _imports(path):
            if name.split(".")[0] in ("jax", "flax", "optax", "ott"):
                found.append(f"{path} imports {name}")
            parts = name.split(".")
            modules = [ROOT.joinpath(*parts[:length]).with_suffix(".py") for length in range(2, len(parts) + 1)]
            waiting += [module for module in modules if parts[0] == PACKAGE and module.exists()]
    assert found == []


def test_configs_import_nothing_of_the_package() -> None:
    for path in (ROOT / "configs").glob("*.py"):
        foreign = [
            n for n in _imports(path) if not n.startswith(("configs.common", "ml_collections", "typing", "__future__"))
        ]
        assert not foreign, f"{path.name} imports {foreign}"


def test_importing_the_package_touches_no_device() -> None:
    code = f"import sys, {PACKAGE}; assert 'jax' not in sys.modules"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
