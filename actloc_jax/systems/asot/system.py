"""ASOT as a system: what the loop knows of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.systems.api import Dataset, Predictor, Stage, System
from actloc_jax.systems.asot import network, predictor, stage, videos


def make_stages(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> Sequence[Stage]:
    """The one stage of ASOT."""
    del workdir
    return [stage.asot_stage(config, dataset)]


def make_predictor(config: ConfigDict, class_names: Sequence[str], stage_name: str) -> Predictor:
    """The predictor of a checkpoint, or of stored affinities."""
    del class_names, stage_name
    if videos.decodes_matrices(config):
        return predictor.affinity_predictor(config)
    return predictor.encoder_predictor(config, network.encoder_network(config, stage.num_clusters(config)))


def without_model(config: ConfigDict) -> dict[str, Any] | None:
    """The meta that stands for a checkpoint's where the config decodes stored affinities; else None."""
    if not videos.decodes_matrices(config):
        return None
    return {"stage": "asot", "class_names": [], "frame_rate": config.data.frame_rate}


SYSTEM = System(
    name="asot",
    task="unsupervised segmentation",
    dataset=videos.open_dataset,
    stages=make_stages,
    inputs=videos.open_inputs,
    predictor=make_predictor,
    without_model=without_model,
)
