"""What the training stage of TALLFormer refuses: banks of other settings, banks that the mesh does not divide."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from actloc_jax import workdirs
from actloc_jax.data.json_files import write_json
from actloc_jax.systems.tallformer import filling, stages
from actloc_jax.systems.tallformer.system import SYSTEM
from tests.tiny import tiny_tallformer_training


def _filled(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Leaves a bank of noise as if the config had filled it."""
    source = SYSTEM.dataset(config, epath.Path(workdir)).source("train")
    folder = filling.bank_folder(epath.Path(workdir))
    folder.mkdir()
    write_json(folder / filling.MADE_WITH, filling.facts(config, source))
    for video, rows in zip(source.videos, filling.row_counts(config, source), strict=True):
        np.save(filling.feature_file(folder, video.video), np.ones([rows, 8], np.float32))


def _start(config: ConfigDict, workdir: pathlib.Path) -> Any:
    """The state that a training without the stage fill_bank begins with."""
    config.stages = ("train",)
    (stage,) = SYSTEM.stages(config, SYSTEM.dataset(config, epath.Path(workdir)), epath.Path(workdir))
    return stage.warm_start(jax.jit(stage.scratch)(jax.random.key(0)))


def test_a_bank_is_taken_as_it_was_filled(tmp_path: pathlib.Path) -> None:
    config = tiny_tallformer_training(tmp_path / "videos")
    with pytest.raises(FileNotFoundError, match=r"memory bank has not been filled. Add the stage fill_bank"):
        _start(config, tmp_path)
    _filled(config, tmp_path)
    bank = _start(config, tmp_path).extra["bank"]
    assert int(bank.rows[:, 0].sum()) == int(bank.offsets[-1])
    next(filling.bank_folder(epath.Path(tmp_path)).glob("*.npy")).unlink()
    with pytest.raises(FileNotFoundError, match="has not been filled to the end"):
        _start(config, tmp_path)


@pytest.mark.parametrize(
    ("group", "changes", "named"),
    [
        ("network.backbone", {"width": 16}, "backbone"),
        ("network", {"backbone_weights": "swin"}, "weights"),
        ("clip", {"chunk": 32}, "chunk, rows"),
        ("clip", {"crop": (12, 12)}, "crop"),
        ("data", {"fps": 5.0}, "frames"),
        ("train", {"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_a_bank_of_other_settings_is_refused(
    tmp_path: pathlib.Path, group: str, changes: dict[str, Any], named: str
) -> None:
    config = tiny_tallformer_training(tmp_path / "videos")
    _filled(config, tmp_path)
    node = config
    for name in group.split("."):
        node = node[name]
    node.update(changes)
    source = SYSTEM.dataset(config, epath.Path(tmp_path)).source("train")
    with pytest.raises(ValueError, match=rf"different: {named}\).*Add the stage fill_bank .* another --workdir"):
        filling.stored_features(config, source, epath.Path(tmp_path))


def test_a_run_does_not_go_on_with_clips_of_another_length(tmp_path: pathlib.Path) -> None:
    config = tiny_tallformer_training(tmp_path / "videos")
    workdirs.prepare(epath.Path(tmp_path), config)
    config.clip.chunk = 32
    with pytest.raises(ValueError, match=r"holds a run of another config \(different: clip\)"):
        workdirs.prepare(epath.Path(tmp_path), config)


def test_devices_must_divide_the_bank_and_the_batch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.sharding, "make_mesh", lambda **options: AbstractMesh((3, 1), ("data", "model")))
    config = tiny_tallformer_training(tmp_path / "videos")
    with pytest.raises(ValueError, match=r"batch_size=8 does not divide over 3 devices"):
        _start(config, tmp_path)
    config.train.batch_size = 9
    with pytest.raises(ValueError, match=r"3 devices do not divide the 1024 rows .*--config.memory.layout="):
        _start(config, tmp_path)
    config.memory.layout = "channels"
    with pytest.raises(ValueError, match="3 devices do not divide the 8 channels"):
        _start(config, tmp_path)
