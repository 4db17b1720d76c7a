"""TALLFormer as a system: what the loop knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.systems.api import Dataset, Predictor, Stage, System
from actloc_jax.systems.tallformer import filling, settings, videos
from actloc_jax.systems.tallformer.predictor import tallformer_predictor
from actloc_jax.systems.tallformer.stages import train_stage

STAGES = {
    "fill_bank": lambda config, dataset, workdir: filling.fill_stage(
        config, dataset.source(config.data.train_split), workdir
    ),
    "train": train_stage,
}


def make_stages(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> Sequence[Stage]:
    """The stages that `config.stages` names, in that order.

    Raises:
        ValueError: a name that is no stage.
    """
    unknown = [name for name in config.stages if name not in STAGES]
    if unknown or not config.stages:
        raise ValueError(f"config.stages={tuple(config.stages)} is unknown; use some of {', '.join(STAGES)}.")
    return [STAGES[name](config, dataset, workdir) for name in config.stages]


def make_predictor(config: ConfigDict, class_names: Sequence[str], stage: str) -> Predictor:
    """The predictor of a checkpoint."""
    del stage
    sizes = settings.detector_sizes(config, len(class_names))
    detector = settings.detector_network(config, sizes)
    return tallformer_predictor(config, settings.backbone_network(config), detector, sizes, class_names)


SYSTEM = System(
    name="tallformer",
    task="detection",
    dataset=videos.open_dataset,
    stages=make_stages,
    inputs=videos.open_inputs,
    predictor=make_predictor,
)
