"""Runs a predictor over videos: for evaluation, for prediction, and for stages that need an earlier stage's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from actloc_jax.data.subset import Subset
from actloc_jax.results.types import Result
from actloc_jax.systems.api import Predictor
from actloc_jax.training import sharding


class Runner:
    """Runs a predictor over a source on this process's devices; every process takes its share of the videos."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._mesh = sharding.make_mesh(devices=jax.local_devices())
        everywhere, rows = sharding.replicated(self._mesh), sharding.batch_sharding(self._mesh)
        self._predict = jax.jit(
            predictor.predict, in_shardings=(everywhere, rows, everywhere), out_shardings=everywhere
        )

    def run(self, model: Any, source: Sequence[Any], *, seed: int, limit: int | None = None) -> dict[str, list[Result]]:
        """Results by source name, of all videos of `source` (of `limit` batches where given)."""
        model = jax.device_put(sharding.to_host(model), sharding.replicated(self._mesh))
        key = jax.random.key(seed)
        share = Subset(source, range(jax.process_index(), len(source), jax.process_count()))
        results: dict[str, list[Result]] = {}
        batches = self._predictor.batches(share) if len(share) else ()  # fewer videos than processes
        for index, batch in enumerate(batches):
            if limit is not None and index == limit:
                break
            arrays = jax.device_put(batch.arrays, sharding.batch_sharding(self._mesh))
            outputs = jax.device_get(self._predict(model, arrays, key))
            for name, rows in self._predictor.decode(outputs, batch.rows).items():
                results.setdefault(name, []).extend(rows)
        return _gather(results)


def _gather(results: dict[str, list[Result]]) -> dict[str, list[Result]]:
    everyone: dict[str, list[Result]] = {}
    for name, row in sharding.gather_objects([(name, row) for name, rows in results.items() for row in rows]):
        everyone.setdefault(name, []).append(row)
    return {name: sorted(rows, key=lambda row: row.video) for name, rows in everyone.items()}
