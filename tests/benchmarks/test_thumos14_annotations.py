"""Counting THUMOS14's annotations: agreeing readers pass, and a lost action is found."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

from benchmarks import thumos14_annotations

DATA = pathlib.Path(os.environ.get("ACTLOC_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")) / "thumos14"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real annotations are not here")


def test_readers_agree_with_the_published_counts(capsys: pytest.CaptureFixture) -> None:
    assert thumos14_annotations.main(["--data", str(DATA)]) == 0
    said = capsys.readouterr().out
    assert "Diving                   499     388" in said
    assert "test: 213 videos, 212 of them with an action" in said


def test_a_lost_action_is_found(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(DATA / "annotations", tmp_path / "annotations", copy_function=shutil.copyfile)
    shutil.copyfile(DATA / "thumos14_actionformer.json.gz", tmp_path / "thumos14_actionformer.json.gz")
    (tmp_path / "annotations" / "val").chmod(0o755)
    path = tmp_path / "annotations" / "val" / "Diving_val.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    assert thumos14_annotations.main(["--data", str(tmp_path)]) == 1
    assert "text files, val: (200, 3006) videos and actions, published (200, 3007)" in capsys.readouterr().out
