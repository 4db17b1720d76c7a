"""TST as a system: what the loop knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.systems.api import Dataset, Predictor, Stage, System, check_stages
from actloc_jax.systems.tst import adapters, cache, predictors, stages, videos

STAGES = {
    "diffact": lambda config, dataset, workdir: stages.diffact_stage(config, dataset),
    "asformer": lambda config, dataset, workdir: stages.asformer_stage(config, dataset),
    "cache": cache.cache_stage,
    "tst": stages.tst_stage,
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
    """The predictor of a checkpoint that was written by `stage`."""
    del class_names
    adapter = adapters.make(config)
    if stage == "diffact":
        return predictors.diffact_predictor(config, adapter)
    if stage == "asformer":
        return predictors.frame_predictor(config, adapter, "ASFormer")
    return predictors.tst_predictor(config, adapter, adapters.refiner_network(config, adapter.feature_dim))


SYSTEM = System(
    name="tst",
    task="segmentation",
    dataset=videos.open_dataset,
    stages=make_stages,
    inputs=videos.open_inputs,
    predictor=make_predictor,
)
