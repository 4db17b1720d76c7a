"""One command over several values of a config field: every value in its own folder, then a table and a figure."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from actloc_jax import workdirs
from actloc_jax.evaluate import table
from actloc_jax.plotting.curves import sweep_curves
from actloc_jax.results.files import save_figure

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]


def each(
    config: ConfigDict, workdir: epath.Path, sweep: str, run: Callable[[ConfigDict, epath.Path], Scores]
) -> dict[str, Scores]:
    """Runs the experiment once for each value of a field, in `workdir/<field>=<value>`.

    Writes `sweep.json` and `sweep.png` (the system's own metrics over the values). A second call goes on where the
    first one stopped, as the runs themselves do.

    Args:
        config: of the experiment; left as it is.
        workdir: root of the runs.
        sweep: `<field>=<value>,<value>,...`, such as `transport.radius=0.02,0.04`.
        run: train or evaluate, `(config, workdir) -> metrics by source`.

    Returns:
        metrics by source, by value as written.

    Raises:
        ValueError: there is no such field, or a value is not of its type.
    """
    field, values = _parse(config, sweep)
    scores = {}
    for text, value in values.items():
        chosen = copy.deepcopy(config)
        chosen.update_from_flattened_dict({field: value})
        log.info("sweep: %s=%s", field, text)
        scores[text] = run(chosen, workdir / f"{field}={text}")
    compared = {f"{source}, {text}": row for text, rows in scores.items() for source, row in rows.items()}
    if not compared:
        log.warning("sweep over %s: no run of it ended with scores, there is nothing to compare", field)
        return scores
    log.info("sweep over %s\n%s", field, table(compared))
    if jax.process_index() == 0:
        workdirs.write_json(workdir / "sweep.json", {"field": field, "scores": scores})
        own = {text: next(iter(rows.values())) for text, rows in scores.items() if rows}
        save_figure(sweep_curves(field, own, title=config.name), workdir / "sweep.png")
    return scores


def _parse(config: ConfigDict, sweep: str) -> tuple[str, dict[str, Any]]:
    """The field, and its values by how they were written."""
    field, _, text = sweep.partition("=")
    node: Any = config
    for name in field.split("."):
        if not isinstance(node, ConfigDict) or name not in node:
            raise ValueError(f"--sweep={sweep}: the config has no field {field!r}; write <field>=<value>,<value>.")
        node = node[name]
    if isinstance(node, ConfigDict) or not text:
        raise ValueError(f"--sweep={sweep}: write one field and its values, such as transport.radius=0.02,0.04.")
    return field, {word: _typed(field, word, node) for word in text.split(",")}


def _typed(field: str, word: str, current: Any) -> Any:
    """A value of the type that the field has."""
    if isinstance(current, str):
        return word
    try:
        value = json.loads(word.lower() if isinstance(current, bool) else word)
    except json.JSONDecodeError:
        value = word
    if current is None:
        return value
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(current):
        raise ValueError(f"--sweep: {word!r} is no value for {field}, which is {current!r} now.")
    return value
