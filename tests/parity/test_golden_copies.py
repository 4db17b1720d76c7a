"""The copies of golden cases in the repository: small, without real data, and equal to their originals."""

from __future__ import annotations

import json

import pytest

from tests.golden import sync
from tests.parity import harness

COPIED = sorted(harness.COPIES.glob("*/*/case.json"))


def test_there_are_copies_of_every_system() -> None:
    assert {case.parents[1].name for case in COPIED} >= {"asot", "features", "fustal", "spot", "tallformer", "tst"}


@pytest.mark.parametrize("case_json", COPIED, ids=["-".join(path.parts[-3:-1]) for path in COPIED])
def test_copy(case_json) -> None:
    files = sync.files_of(case_json.parent)
    assert sum(file.stat().st_size for file in files.values()) <= sync.LIMIT_BYTES
    assert json.loads(case_json.read_text())["real_data"] is False
    original = harness.root() / case_json.parent.relative_to(harness.COPIES)
    if original.is_dir():
        assert {name: file.read_bytes() for name, file in files.items()} == {
            name: file.read_bytes() for name, file in sync.files_of(original).items()
        }


def test_sync_copies_updates_and_removes(tmp_path, monkeypatch) -> None:
    root, copies = tmp_path / "root", tmp_path / "copies"
    monkeypatch.setattr(sync, "HERE", copies)

    def write(case: str, size: int, real: bool) -> None:
        (root / "tst" / case).mkdir(parents=True, exist_ok=True)
        (root / "tst" / case / "case.json").write_text(json.dumps({"real_data": real}))
        (root / "tst" / case / "io.npz").write_bytes(b"x" * size)

    write("small", 10, False)
    write("large", sync.LIMIT_BYTES, False)
    write("real", 10, True)
    expected = ["tst/small/case.json", "tst/small/io.npz"]
    assert sync.sync(root, ["tst"], check=True) == expected
    assert not copies.exists()
    assert sync.sync(root, ["tst"], check=False) == expected
    assert sync.sync(root, ["tst"], check=True) == []
    write("small", 11, False)
    (copies / "tst" / "small" / "old.npz").write_bytes(b"")
    assert sync.sync(root, ["tst"], check=False) == ["tst/small/io.npz", "tst/small/old.npz"]
    assert sorted(path.name for path in (copies / "tst" / "small").iterdir()) == ["case.json", "io.npz"]
