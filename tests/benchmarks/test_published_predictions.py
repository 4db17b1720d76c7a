"""The program that scores published predictions and counts data sets notices what is wrong."""

from __future__ import annotations

import gzip
import json
import tarfile

import numpy as np
import pytest

from benchmarks import published_predictions as program
from benchmarks.published_predictions import Expected, Published


@pytest.fixture
def data(tmp_path):
    """A data set "tiny" of two videos, labels packed, with predictions for two splits."""
    root = tmp_path / "tiny"
    (root / "splits").mkdir(parents=True)
    (root / "predictions").mkdir()
    (root / "groundTruth").mkdir()
    (root / "mapping.txt").write_text("0 take\n1 background\n2 pour\n")
    labels = {"v1": ["background"] * 4 + ["take"] * 4, "v2": ["take"] * 6 + ["pour"] * 6}
    for number, (video, names) in enumerate(labels.items(), start=1):
        (root / "groundTruth" / f"{video}.txt").write_text("\n".join(names))
        other = next(name for name in labels if name != video)
        (root / "splits" / f"test.split{number}.bundle").write_text(f"{video}.txt\n")
        (root / "splits" / f"train.split{number}.bundle").write_text(f"{other}.txt\n")
        truth = np.array([sorted(["take", "background", "pour"]).index(name) for name in names])[::2]
        np.savez(root / "predictions" / f"net_split{number}.npz", **{f"{video}/Y": truth, f"{video}/P": 0 * truth + 2})
    with tarfile.open(root / "groundTruth.tar.gz", "w:gz") as tar:
        tar.add(root / "groundTruth", "groundTruth")
    points = {"v1.txt": [1, 3], "v2.txt": [2, 5]}  # at half the frame rate
    (root / "timestamps.json.gz").write_bytes(gzip.compress(json.dumps(points).encode()))
    return tmp_path


@pytest.fixture
def folder(data, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return program.open_folder(data / "tiny", scratch)


EXPECTED = Expected(2, 20, 3, 8, 12, ((1, 1), (1, 1)), frames_per_timestamp=2)


def test_counts_are_compared_with_the_expected(data, folder, monkeypatch, capsys):
    monkeypatch.setitem(program.EXPECTED, "tiny", EXPECTED)
    assert program.print_count("tiny", data / "tiny", folder)
    assert capsys.readouterr().out.split() == ["tiny", "2", "20", "4", "3", "8..12", "2", "yes", "1/1,", "1/1"]
    monkeypatch.setitem(program.EXPECTED, "tiny", Expected(2, 21, 3, 8, 12, ((1, 1), (1, 1)), frames_per_timestamp=2))
    assert not program.print_count("tiny", data / "tiny", folder)
    assert "DIFFERS: found" in capsys.readouterr().out


def test_a_point_outside_its_segment_is_noticed(data, folder, monkeypatch):
    monkeypatch.setitem(program.EXPECTED, "tiny", EXPECTED)
    points = {"v1.txt": [1, 3], "v2.txt": [3, 5]}
    (data / "tiny" / "timestamps.json.gz").write_bytes(gzip.compress(json.dumps(points).encode()))
    assert not program.print_count("tiny", data / "tiny", folder)


def test_scores_are_means_over_splits(data):
    ours, splits = program.score(Published("tiny", "predictions", "net", (0,), ()), data)
    assert splits == 2
    # Every frame is predicted as "take". Background ignored, v1 has one of one segments, v2 one of two.
    np.testing.assert_allclose(ours, [50, 75, 250 / 3, 250 / 3, 250 / 3])


def test_scores_that_differ_are_noticed(data, monkeypatch):
    right = (50.0, 75.0, 83.33, 83.33, 83.33)
    monkeypatch.setattr(program, "PUBLISHED", (Published("tiny", "predictions", "net", (0,), right),))
    assert program.print_scores(data)
    monkeypatch.setattr(program, "PUBLISHED", (Published("tiny", "predictions", "net", (0,), (50.1, *right[1:])),))
    assert not program.print_scores(data)


def test_the_truth_beside_the_predictions_is_compared_frame_by_frame(data, folder):
    paths = sorted((data / "tiny" / "predictions").glob("*.npz"))
    assert program.differing_frames(folder, paths, every=2) == (0, 10)
    assert program.differing_frames(folder, paths, every=1)[0] > 0
