"""What tests of bad input share: the message of what fails, and models that were never trained."""

from __future__ import annotations

import pathlib
import types
from collections.abc import Sequence
from typing import Any

import pytest
from ml_collections import ConfigDict

from actloc_jax import predict, splits, train, workdirs
from actloc_jax.training import checkpoints

BAD_INPUT = (ValueError, FileNotFoundError)


def training_error(config: ConfigDict, workdir: pathlib.Path) -> str:
    """The message of a training that cannot begin; it must not leave a model."""
    before = sorted(workdir.rglob("best"))
    with pytest.raises(BAD_INPUT) as raised:
        splits.each(config, workdir, train.train)
    assert sorted(workdir.rglob("best")) == before
    return str(raised.value)


def prediction_error(
    checkpoint: pathlib.Path | None, *inputs: pathlib.Path, out: pathlib.Path, config: ConfigDict | None = None
) -> str:
    """The message of a prediction that cannot begin; it must not leave the folder `out`."""
    with pytest.raises(BAD_INPUT) as raised:
        predict.predict(checkpoint, [str(path) for path in inputs], out, config=config)
    assert not out.exists()
    return str(raised.value)


def write_untrained(
    folder: pathlib.Path,
    config: ConfigDict,
    stage: str,
    class_names: Sequence[str],
    params: Any,
    *,
    batch_stats: Any = None,
    stage_index: int = 0,
    frame_rate: float = 0.0,
) -> pathlib.Path:
    """A model folder as the training of `stage` leaves it, without the training.

    Args:
        folder: of the model; it is returned.
        config: of the experiment, for one split.
        stage: name of the stage.
        class_names: of the data set.
        params: of the network.
        batch_stats: its running statistics; None: it has none.
        stage_index: its number in the experiment.
        frame_rate: of the data set; 0: unknown.
    """
    dataset = types.SimpleNamespace(class_names=class_names, frame_rate=frame_rate)
    meta = workdirs.model_meta(config, dataset, stage, stage_index) | {"score": None}
    checkpoints.save_model(folder, {"params": params, "batch_stats": batch_stats or {}}, meta)
    return folder
