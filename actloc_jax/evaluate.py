"""Evaluation: a checkpoint's answers on a split, against the ground truth, the paper and chance."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import systems, workdirs
from actloc_jax.results import RESULTS, pages
from actloc_jax.results.types import Result
from actloc_jax.systems import api
from actloc_jax.systems.runner import Runner
from actloc_jax.training import checkpoints, sharding

log = logging.getLogger(__name__)


class Evaluator:
    """A predictor whose compiled program is kept between evaluations of one data set."""

    def __init__(self, system: api.System, predictor: api.Predictor, dataset: api.Dataset, config: ConfigDict) -> None:
        self._results = RESULTS[system.task]
        self._runner = Runner(predictor)
        self._dataset, self._config = dataset, config

    def predict(self, model: Any, split: str) -> dict[str, list[Result]]:
        """Results of all videos of a split by source, gathered over processes."""
        return self._runner.run(model, self._dataset.source(split), seed=self._config.eval.seed)

    def scores(self, model: Any, split: str) -> dict[str, dict[str, float]]:
        """Metrics by source."""
        return self.score(self.predict(model, split), split)

    def score(self, results: dict[str, list[Result]], split: str) -> dict[str, dict[str, float]]:
        """Metrics by source, of given results; then those of the data set's other evaluations of the first source."""
        return _scores(self._results, self._dataset, results, split, self._config.eval)

    def rehearse(self, model: Any) -> dict[str, dict[str, float]]:
        """Predicts and scores one batch, so that a broken evaluation is found before the training and not after."""
        split = self._config.eval.selection_split
        results = self._runner.run(model, self._dataset.source(split), seed=0, limit=1)
        return self.score(results, split)


def _scores(
    task: Any, dataset: api.Dataset, results: dict[str, list[Result]], split: str, options: ConfigDict
) -> dict[str, dict[str, float]]:
    """Metrics by source, then of the first source by the data set's other evaluations."""

    def score(rows: Sequence[Result], truth: dict[str, Any]) -> dict[str, float]:
        known = [row for row in rows if row.video in truth]
        return task.score(known, truth, dataset.class_names, options)

    metrics = {source: score(rows, dataset.truth(split)) for source, rows in results.items()}
    source, own = next(iter(results.items()))
    others = {f"{source}, {name}": score(own, truth) for name, truth in dataset.also_scored(split).items()}
    return metrics | others


def evaluate(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    checkpoint: epath.PathLike | None = None,
    predictions: epath.PathLike | None = None,
    videos: Sequence[epath.PathLike] = (),
    dataset: api.Dataset | None = None,
    earlier: dict[str, dict[str, float]] | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluates a checkpoint on `config.data.test_split`; writes predictions, figures and a report into the workdir.

    Args:
        config: names the data and how to decode and score; the networks come from the checkpoint.
        workdir: where files go, and where the checkpoint is looked for.
        checkpoint: a model folder or another workdir.
        predictions: a results file or folder of the task's format, to evaluate instead of a checkpoint; no features
            are needed then.
        videos: files or folders of the videos, to be shown in their pages.
        dataset: given by the training loop, which has checked it.
        earlier: scores of earlier stages, given by the training loop, for the table.

    Returns:
        metrics by source, the system's own answer first.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is of another system, or does not fit the data.
    """
    workdir = epath.Path(workdir)
    system = systems.of(config)
    if predictions is not None:
        return _evaluate_predictions(system, config, epath.Path(predictions), workdir, pages.find_videos(videos))
    folder = checkpoints.find_model(checkpoint or workdir, config.get("stages", ()))
    model, meta = checkpoints.load_model(folder)
    workdirs.check_system(meta, config.system, folder)
    if dataset is None:
        workdirs.prepare(workdir, config)
        with sharding.first_process_first():  # the demo's data are generated into the workdir
            dataset = system.dataset(config, workdir)
        workdirs.check_splits(dataset.seen_by(meta["stage"]), (config.data.test_split,))
    dataset = dataset.seen_by(meta["stage"])
    workdirs.check_classes(meta, dataset.class_names, folder)
    log.info("evaluating %s (stage %s) on %s", folder, meta["stage"], config.data.test_split)

    predictor = system.predictor(workdirs.checkpoint_config(meta, config), meta["class_names"], meta["stage"])
    evaluator = Evaluator(system, predictor, dataset, config)
    results = evaluator.predict(model, config.data.test_split)
    metrics = evaluator.score(results, config.data.test_split)
    if jax.process_index() == 0:
        references = {**workdirs.paper_numbers(config), "chance": dataset.chance(config.data.test_split)}
        references = {**(earlier or {}), **references}
        _publish(system, config, dataset, results, metrics, references, workdir, pages.find_videos(videos))
    return metrics


def _evaluate_predictions(
    system: api.System, config: ConfigDict, path: epath.Path, workdir: epath.Path, media: Mapping[str, epath.Path]
) -> dict[str, dict[str, float]]:
    """`evaluate` of results that were predicted before, here or elsewhere."""
    workdirs.prepare(workdir, config)
    with sharding.first_process_first():  # the demo's data are generated into the workdir
        dataset = system.dataset(config, workdir)
    truth, task = dataset.truth(config.data.test_split), RESULTS[system.task]
    found = task.read(path, dataset.class_names)
    rows = [row for row in found if row.video in truth]
    if not rows:
        raise ValueError(
            f"{path} has results of {len(found)} videos, none of which is among the {len(truth)} of the split "
            f"{config.data.test_split!r}; they are of another data set or split."
        )
    missing = sorted(truth.keys() - {row.video for row in rows})
    if len(rows) < len(found) or missing:
        log.warning(
            "%s: %d results of other videos are left out; %d of %d videos have none%s",
            path, len(found) - len(rows), len(missing), len(truth), f", e.g. {missing[0]}" if missing else "",
        )  # fmt: skip
    source = path.name.split(".")[0]
    results = {source: rows}
    metrics = _scores(task, dataset, {source: found}, config.data.test_split, config.eval)
    if jax.process_index() == 0:
        references = {**workdirs.paper_numbers(config), "chance": dataset.chance(config.data.test_split)}
        _publish(system, config, dataset, results, metrics, references, workdir, media)
    return metrics


def _publish(
    system: api.System,
    config: ConfigDict,
    dataset: api.Dataset,
    results: dict[str, list[Result]],
    metrics: dict[str, dict[str, float]],
    references: dict[str, dict[str, float]],
    workdir: epath.Path,
    media: Mapping[str, epath.Path],
) -> None:
    """Writes what a user looks at: prediction files, evaluation.json, figures, report, pages; prints the table."""
    task = RESULTS[system.task]
    source = next(iter(results))
    task.write(results[source], dataset.class_names, workdir / "predictions")
    log.info("predictions of %d videos: %s", len(results[source]), workdir / "predictions")
    workdirs.write_json(workdir / "evaluation.json", {"metrics": metrics, **references})
    truth = dataset.truth(config.data.test_split)
    known = {name: [row for row in rows if row.video in truth] for name, rows in results.items()}
    title = f"{config.name}, {config.data.test_split}"
    report = task.report(
        known,
        truth,
        dataset.class_names,
        metrics,
        references,
        title=title,
        frame_rate=dataset.frame_rate,
        workdir=workdir,
        options=config.eval,
    )
    timelines = task.video_timelines(
        known, dataset.class_names, frame_rate=dataset.frame_rate, options=config.eval, truth=truth
    )
    index = pages.write_pages(
        (pages.with_media(timeline, media, config=config.name) for timeline in timelines),
        workdir, title=title, videos=len(known[source]), scores={**metrics, **references},
        links={"All scores and figures": os.path.basename(report)}, most=pages.MOST_PAGES,
    )  # fmt: skip
    log.info("report: %s; its videos: %s", report, index)
    log.info("results on %s\n%s", config.data.test_split, table({**metrics, **references}))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Metrics as text: a row per source, a column per metric; a dash where a source has none."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max([len(name) for name in rows] + [6])
    widths = {name: max(9, len(name) + 2) for name in columns}  # two blanks, so that long names do not run together
    lines = [" " * width + "".join(f"{name:>{widths[name]}}" for name in columns)]
    for name, row in rows.items():
        values = {column: row.get(column, np.nan) for column in columns}
        cells = {column: f"{value:.2f}" if np.isfinite(value) else "-" for column, value in values.items()}
        lines.append(f"{name:<{width}}" + "".join(f"{cells[column]:>{widths[column]}}" for column in columns))
    return "\n".join(lines)
