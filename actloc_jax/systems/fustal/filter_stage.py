"""Stage 2 of FuSTAL, a job: proposals that are confident and supported become the labels of the training videos."""

from __future__ import annotations

import dataclasses
import logging

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.data import proposals
from actloc_jax.data.activitynet_json import parse_activitynet_json, write_activitynet_json
from actloc_jax.data.annotations import Annotations
from actloc_jax.data.problems import require_no_errors
from actloc_jax.data.proposal_filter import filter_proposals
from actloc_jax.systems.api import Dataset, JobStage
from actloc_jax.systems.fustal import settings
from actloc_jax.systems.fustal.generator_stage import proposals_file
from actloc_jax.training import sharding
from actloc_jax.training.textfiles import replace_text

log = logging.getLogger(__name__)

NOTHING = proposals.ScoredSegments(np.zeros([0, 2]), np.zeros(0), np.zeros(0, np.int32))


def labels_file(workdir: epath.Path) -> epath.Path:
    """Where the student's labels lie: an annotation file of the training videos."""
    return workdir / "proposals" / "filtered.json"


def filter_stage(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> JobStage:
    """Filters the proposals of the training videos; it takes seconds and runs each time.

    Writes the student's annotation file, and `filter.txt` beside it: what survived of every class.
    """

    def run() -> None:
        kept, text = filtered(config, dataset, epath.Path(config.filter.proposals or proposals_file(workdir)))
        if jax.process_index() == 0:
            path = labels_file(workdir)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_activitynet_json(kept, path, version="FuSTAL filter")
            replace_text(path.parent / "filter.txt", text)
            log.info("%s\nlabels of the student: %s", text, path)
        sharding.wait_for_all("proposals are filtered")

    return JobStage("filter", run, done=lambda: False)


def filtered(config: ConfigDict, dataset: Dataset, path: epath.Path) -> tuple[Annotations, str]:
    """The training videos with the proposals that survive as their segments, and a report in words.

    Raises:
        FileNotFoundError: there are no proposals.
        ValueError: they are not of these videos, or none survives; the threshold that did it is named.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected proposals of the training videos. Run the stages generator and proposals "
            "first, or name a file with --config.filter.proposals=<file>."
        )
    source = dataset.source(config.data.train_split)
    found = proposals.read_proposals(path, dataset.class_names)
    durations = {video.video: video.duration for video in source.annotations}
    problems = proposals.fit_problems(found, durations, path=path)
    require_no_errors(problems)
    for problem in problems:
        log.warning("%s", problem.message)
    kept, report = filter_proposals(
        {video: found.videos.get(video, NOTHING) for video in source.videos},
        dataset.class_names,
        settings.filter_thresholds(config),
        per_class=not config.quirks.filter_pools_classes,
    )
    report.require_some()
    videos = {
        video.video: dataclasses.replace(video, segments=kept[video.video].segments, labels=kept[video.video].labels)
        for video in source.annotations
    }
    return Annotations(dataset.class_names, videos), f"{report.describe()}\n{report.table()}\n"


def read_labels(workdir: epath.Path, dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the filter left: video -> segments [n, 2] in seconds and classes [n].

    Raises:
        FileNotFoundError: the filter has not run.
        ValueError: the file cannot be used.
    """
    path = labels_file(workdir)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the stage filter first, it writes the student's labels.")
    annotations, problems = parse_activitynet_json(path, class_names=dataset.class_names, missing_duration="unknown")
    require_no_errors(problems)
    return {name: (video.segments, video.labels) for name, video in annotations.videos.items()}
