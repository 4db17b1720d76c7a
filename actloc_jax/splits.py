"""One command over all splits of a data set: every split in its own folder, then the mean."""

from __future__ import annotations

import logging
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import workdirs
from actloc_jax.evaluate import table

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]


def each(config: ConfigDict, workdir: epath.Path, run: Callable[[ConfigDict, epath.Path], Scores]) -> Scores:
    """Runs the config's split in `workdir`, or with `data.split="all"` every split in `workdir/split_<k>`.

    Args:
        config: `data.splits` lists the splits; `data.train_split`, `data.test_split` hold `{split}` where it goes.
        workdir: root of the run.
        run: train or evaluate, `(config, workdir) -> metrics by source`.

    Returns:
        metrics by source; arithmetic means over the splits where there are several.
    """
    if config.data.split != "all":
        return run(of_split(config, config.data.split), workdir)
    scores = {k: run(of_split(config, k), workdir / f"split_{k}") for k in chosen(config)}
    mean = {
        source: {name: float(np.mean([rows[source][name] for rows in scores.values()])) for name in metrics}
        for source, metrics in next(iter(scores.values())).items()
    }
    rows = {f"{source}, split {k}": rows[source] for source in mean for k, rows in scores.items()}
    rows |= {f"{source}, mean": metrics for source, metrics in mean.items()} | workdirs.paper_numbers(config)
    log.info("all splits\n%s", table(rows))
    if jax.process_index() == 0:
        workdirs.write_json(workdir / "evaluation.json", {"splits": scores, "mean": mean})
    return mean


def chosen(config: ConfigDict) -> tuple[str, ...]:
    """Numbers of the splits that the config asks for."""
    return tuple(map(str, config.data.splits)) if config.data.split == "all" else (config.data.split,)


def of_split(config: ConfigDict, split: str) -> ConfigDict:
    """The config with `{split}` filled in everywhere."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.split = split
        for name in ("train_split", "test_split"):
            config.data[name] = config.data[name].format(split=split)
        config.eval.selection_split = config.eval.selection_split.format(split=split)
    return config
