"""TALLFormer as a system: what the loop knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.systems.api import Dataset, Predictor, Stage, System, check_stages
from actloc_jax.systems.tallformer import filling, settings, videos
from actloc_jax.systems.tallformer.predictor import tallformer_predictor
from actloc_jax.systems.tallformer.stages import train_stage

BACKBONE_STAGE = "backbone"  # in checkpoints that hold a backbone alone, as `python -m convert tallformer` makes them
STAGES = {
    "fill_bank": lambda config, dataset, workdir: filling.fill_stage(
        config, dataset.source(config.data.train_split), workdir
    ),
    "train": train_stage,
}


def make_stages(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> Sequence[Stage]:
    """The stages that `config.stages` names, in that order.

    Raises:
        ValueError: a name that is no stage, or a memory bank is to be filled that there is not.
    """
    check_stages(config, STAGES)
    if "fill_bank" in config.stages and not settings.has_bank(config):
        raise ValueError(
            "config.memory.kind=computed has no memory bank to fill; leave that out: --config.stages=train,"
        )
    return [STAGES[name](config, dataset, workdir) for name in config.stages]


def make_predictor(config: ConfigDict, class_names: Sequence[str], stage: str) -> Predictor:
    """The predictor of a checkpoint.

    Raises:
        ValueError: it holds a backbone alone.
    """
    if stage == BACKBONE_STAGE:
        raise ValueError(
            "This checkpoint holds a backbone without a detector: it predicts nothing. Train a detector on it: "
            "--mode=train --config=configs/tallformer_thumos.py --config.network.backbone_weights=<its folder>."
        )
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
    recipe=lambda config, stage: None,
)
