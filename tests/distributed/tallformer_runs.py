"""Tiny trainings of TALLFormer for the tests of this folder, and what they leave.

python -m tests.distributed.tallformer_runs <workdir> <kind> <epochs> [<field>=<value> ...]
"""

from __future__ import annotations

import ast
import logging
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from actloc_jax import train
from actloc_jax.systems.tallformer.system import SYSTEM
from actloc_jax.training import checkpoints, sharding
from tests.runs import skip_evaluations
from tests.tiny import tiny_tallformer_training

ROOT = pathlib.Path(__file__).parents[2]


def run(workdir: pathlib.Path, kind: str, *, devices: int, epochs: int = 5, **changes: object) -> str:
    """Trains in a process of its own with fake devices, without evaluations; returns what it said.

    Args:
        workdir: of the run; the videos lie beside it.
        kind: of the detector.
        devices: their number.
        epochs: one step each.
        changes: fields of the config with `__` for dots.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    fields = [f"{name}={value!r}" for name, value in changes.items()]
    answer = subprocess.run(
        [sys.executable, "-m", "tests.distributed.tallformer_runs", str(workdir), kind, str(epochs), *fields],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return (workdir / "log.txt").read_text()


def state_of(workdir: pathlib.Path, config) -> dict[str, np.ndarray]:
    """The newest state of a run by path, restored onto the devices of this process; bank and optimizer included."""
    dataset = SYSTEM.dataset(config, epath.Path(workdir))
    stage = SYSTEM.stages(config, dataset, epath.Path(workdir))[-1]
    abstract = jax.eval_shape(stage.scratch, jax.random.key(0))
    places = sharding.state_shardings(abstract, sharding.make_mesh(), stage.shardings)
    template = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract, places
    )
    runs = checkpoints.RunCheckpoints(workdir / "checkpoints" / stage.name / "run")
    state, _, _ = runs.restore(template)
    runs.close()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def main() -> None:
    """Trains as the command line says."""
    logging.basicConfig(level=logging.INFO, force=True)
    workdir, kind, epochs, *fields = sys.argv[1:]
    skip_evaluations(pytest.MonkeyPatch())
    changes = {name: ast.literal_eval(value) for name, _, value in (field.partition("=") for field in fields)}
    config = tiny_tallformer_training(
        pathlib.Path(workdir).parent / f"videos_{kind}", kind, train__epochs=int(epochs), **changes
    )
    train.train(config, epath.Path(workdir))


if __name__ == "__main__":
    main()
