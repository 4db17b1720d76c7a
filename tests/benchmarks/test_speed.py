"""The speed benchmarks run, at sizes too small to measure anything."""

from __future__ import annotations

from actloc_jax.systems.tst.refiner import RefinerSizes
from benchmarks import diffact, refiner
from benchmarks.timing import print_rows
from configs import tst_gtea


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


def test_refiner() -> None:
    sizes = RefinerSizes(num_classes=5, feature_dim=8, inner_dim=8)
    names = [row.name for row in refiner.rows(sizes, batch=1, frames=40, segments=4, repeat=1)]
    assert names == ["refiner", "train"]
