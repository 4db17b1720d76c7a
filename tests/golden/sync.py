"""Keeps tests/golden in step with the golden root: small cases without real data, so that a clone alone proves parity.

    python tests/golden/sync.py GOLDEN_ROOT [--system tst ...] [--check]

Copies every case of at most 500 kB whose case.json says "real_data": false; removes copies that are gone from the root.
With --check nothing is written; differences are listed and the exit status is 1.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
LIMIT_BYTES = 500_000


def files_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Relative path -> file, for every file below `folder`."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def wanted(root: pathlib.Path, systems: list[str]) -> dict[str, pathlib.Path]:
    """Relative path -> source file, for the cases that belong into the repository."""
    files: dict[str, pathlib.Path] = {}
    for case_json in sorted(root.glob("*/*/case.json")):
        case = case_json.parent
        own = files_of(case)
        small = sum(file.stat().st_size for file in own.values()) <= LIMIT_BYTES
        if case.parent.name in systems and small and json.loads(case_json.read_text())["real_data"] is False:
            files |= {f"{case.parent.name}/{case.name}/{name}": file for name, file in own.items()}
    return files


def copied(systems: list[str]) -> dict[str, pathlib.Path]:
    """Relative path -> file, for the copies present now."""
    return {f"{system}/{name}": file for system in systems for name, file in files_of(HERE / system).items()}


def sync(root: pathlib.Path, systems: list[str], check: bool) -> list[str]:
    """Brings the copies in step, or only lists what differs; returns the relative paths concerned."""
    source, present = wanted(root, systems), copied(systems)
    same = {name for name in source.keys() & present if filecmp.cmp(source[name], present[name], shallow=False)}
    changed = [name for name in source if name not in same]
    gone = [name for name in present if name not in source]
    if not check:
        for name in changed:
            target = HERE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source[name], target)  # the content alone: the originals may be read-only
        for name in gone:
            present[name].unlink()
    return changed + gone


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--system", nargs="+", help="default: every system of the root")
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    systems = args.system or sorted(path.name for path in args.root.iterdir() if path.is_dir())
    differing = sync(args.root, systems, args.check)
    for name in differing:
        print(("differs: " if args.check else "updated: ") + name)
    print(f"{len(differing)} files {'differ' if args.check else 'updated'}")
    return int(args.check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
