"""Runs every golden case through the check of its system and kind, in float32."""

from __future__ import annotations

import fnmatch
import importlib
import pathlib

import jax
import pytest

from tests.parity import harness
from tests.parity.harness import Case

HERE = pathlib.Path(__file__).parent
NOT_CHECKS = {"__init__", "harness", "params", "recipe"}

for _module in sorted(HERE.glob("*.py")):
    if _module.stem not in NOT_CHECKS and not _module.stem.startswith("test_"):
        importlib.import_module(f"tests.parity.{_module.stem}")


def pending() -> list[tuple[str, str]]:
    """The (system, kind pattern) pairs of `pending.txt`: what is not reproduced yet."""
    lines = [line.split("#")[0].split() for line in (HERE / "pending.txt").read_text().splitlines()]
    return [(system, kind) for system, kind in filter(None, lines)]


def is_pending(case: Case) -> bool:
    return any(case.system == system and fnmatch.fnmatch(case.kind, kind) for system, kind in pending())


LONG = ("thumos_i3d_features", "end_to_end_video_features", "diffact_model_b", "diffact_losses_b")
"""Names of cases that take long; their parts, or smaller cases of their kind, are checked by others."""

CASES = harness.all_cases()
DUE = [case for case in CASES if (case.system, case.kind) in harness.CHECKS or not is_pending(case)]


def test_there_are_cases() -> None:
    assert CASES, f"no golden case under {harness.root()}: expected <system>/<case>/case.json"


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.id, marks=[pytest.mark.slow] if case.meta["case"] in LONG else []) for case in DUE],
)
def test_parity(case: Case) -> None:
    check = harness.CHECKS.get((case.system, case.kind))
    assert check is not None, f"no @parity({case.system!r}, {case.kind!r}) in tests/parity"
    with jax.default_matmul_precision("float32"):
        check(case)


def test_pending_names_only_kinds_that_exist_and_have_no_check() -> None:
    kinds = {(case.system, case.kind) for case in CASES + harness.all_cases(harness.COPIES)}
    for system, pattern in pending():
        named = {kind for kind in kinds if kind[0] == system and fnmatch.fnmatch(kind[1], pattern)}
        everything = harness.root() != harness.COPIES  # the copies leave out cases that are large or real
        assert named or not everything, f"pending.txt names '{system} {pattern}', which no golden case has"
        done = named & set(harness.CHECKS)
        assert not done, f"pending.txt still names {sorted(done)}, which have checks"
