"""FuSTAL as a system: what the loop knows of it, and of the detectors that are its student."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from actloc_jax.systems.api import Dataset, Predictor, Stage, System
from actloc_jax.systems.fustal import generator_stage, settings, student_predictor, videos
from actloc_jax.systems.fustal.filter_stage import filter_stage
from actloc_jax.systems.fustal.student_stage import student_stage

STAGES = {
    "generator": lambda config, dataset, workdir: generator_stage.generator_stage(config, dataset),
    "proposals": generator_stage.proposals_stage,
    "filter": filter_stage,
    "student": student_stage,
}


def make_stages(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> Sequence[Stage]:
    """The stages that `config.stages` names, in that order; `videos.open_dataset` has checked the names."""
    return [STAGES[name](config, dataset.seen_by(videos.VIEW_OF_STAGE[name]), workdir) for name in config.stages]


def make_predictor(config: ConfigDict, class_names: Sequence[str], stage: str) -> Predictor:
    """The predictor of a checkpoint that was written by `stage`."""
    if stage == "generator":
        network = settings.generator_network(config, len(class_names))
        return generator_stage.generator_predictor(config, network, len(class_names))
    sizes = settings.detector_sizes(config, len(class_names))
    return student_predictor.student_predictor(config, settings.detector_network(config, sizes), sizes)


SYSTEM = System(
    name="fustal",
    task="detection",
    dataset=videos.open_dataset,
    stages=make_stages,
    inputs=videos.open_inputs,
    predictor=make_predictor,
    recipe=lambda config, stage: config.data[videos.VIEW_OF_STAGE[stage]].get("recipe", ""),
)
