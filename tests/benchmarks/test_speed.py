"""The speed benchmarks run, at sizes too small to measure anything."""

from __future__ import annotations

import pytest

from actloc_jax.systems.tst.refiner import RefinerSizes
from benchmarks import detection, diffact, i3d, refiner
from benchmarks.timing import print_rows
from configs import fustal_thumos, tst_gtea


@pytest.mark.slow
def test_diffact(capsys) -> None:
    config = tst_gtea.get_config()
    config.data.feature_dim = 8
    config.backbone.encoder.update({"num_layers": 2, "width": 8, "feature_layers": (0, 1)})
    config.backbone.decoder.update({"num_layers": 2, "width": 8, "time_dim": 8})
    rows = [*diffact.sampling_rows(config, 40, 3, 2, diffact.ROWS), diffact.training_row(config, 40, 2)]
    print_rows("a title", rows)
    lines = capsys.readouterr().out.splitlines()
    assert "a title" in lines[0]
    assert [line[:10].strip() for line in lines[2:]] == ["sample", "3 one by o", "batch of 3", "train"]
    assert all(row.milliseconds.shape == (2,) for row in rows)


@pytest.mark.slow
def test_refiner() -> None:
    sizes = RefinerSizes(num_classes=5, feature_dim=8, inner_dim=8)
    names = [row.name for row in refiner.rows(sizes, batch=1, frames=40, segments=4, repeat=1)]
    assert names == ["refiner", "train"]


@pytest.mark.slow
def test_detection(capsys) -> None:
    config = fustal_thumos.get_config("demo")
    student, config.generator.snippets, config.generator.batch_size = config.network.student, 40, 2
    student.max_length = 2**student.branch_blocks * 4
    wanted = ("student", "train", "generator", "nms")
    rows = [*detection.rows(config, wanted, 1, videos=1, candidates=5), detection.evaluation_row(2000, 5, 1)]
    assert [row.name for row in rows] == ["product", *wanted, "mAP"]
    assert all(row.operations > 0 for row in rows[:4])
    detection.print_rates(rows)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["product", "student", "train", "generator"]
    assert lines[1].endswith("100%")


@pytest.mark.slow
def test_i3d(capsys) -> None:
    row = i3d.stream_row("flow", frames=10, batch=1, dtype="float32", repeat=2, divisor=16)
    assert (row.name, row.milliseconds.shape) == ("flow", (2,))
    i3d.print_windows([row], batch=1)
    assert capsys.readouterr().out.splitlines()[1].startswith("flow")
