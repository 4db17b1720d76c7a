"""SPOT as a system: what the loop knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.systems.api import Dataset, Predictor, Stage, System, check_stages
from actloc_jax.systems.spot import settings, stages, videos
from actloc_jax.systems.spot.predictor import spot_predictor

STAGES = {
    "labelled_only": stages.labelled_only_stage,
    "pretrain": stages.pretrain_stage,
    "finetune": stages.finetune_stage,
}


def make_stages(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> Sequence[Stage]:
    """The stages that `config.stages` names, in that order.

    Raises:
        ValueError: there is no stage of that name.
    """
    check_stages(config, STAGES)
    return [STAGES[name](config, dataset, workdir) for name in config.stages]


def make_predictor(config: ConfigDict, class_names: Sequence[str], stage: str) -> Predictor:
    """The predictor of a checkpoint of either stage."""
    del stage
    scores = videos.read_scores(config, class_names)
    return spot_predictor(config, settings.spot_network(config, len(class_names)), scores)


SYSTEM = System(
    name="spot",
    task="detection",
    dataset=videos.open_dataset,
    stages=make_stages,
    inputs=videos.open_inputs,
    predictor=make_predictor,
)
