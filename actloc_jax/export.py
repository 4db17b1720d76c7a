"""Export of a checkpoint: its inference function as StableHLO, which runs without this package.

A folder with a program per length (`jax.export`), the parameters, `metadata.json` and `run.py`, which needs jax and
numpy alone. The parameters lie beside the programs and not in them: all lengths share them, and a program compiles
without folding them as constants. Lengths are fixed, as all shapes of this package are; inputs are padded to the next
one. What follows on the host (suppression, seconds, full frame rate) is not part of it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from etils import epath
from ml_collections import ConfigDict

import actloc_jax
from actloc_jax import exported, systems, workdirs
from actloc_jax.layers.functional import flatten, unflatten
from actloc_jax.systems.api import Inputs, Predictor
from actloc_jax.training import checkpoints

log = logging.getLogger(__name__)

PLATFORMS = ("cpu", "cuda", "tpu")
FORMAT = 1


def export(
    checkpoint: epath.PathLike | None,
    workdir: epath.PathLike,
    *,
    config: ConfigDict | None = None,
    lengths: Sequence[int] = (),
    batch_size: int = 1,
    platforms: Sequence[str] = PLATFORMS,
) -> epath.Path:
    """Writes `<workdir>/export`, whole or not at all; an earlier one is replaced.

    Args:
        checkpoint: a model folder, or a workdir whose last stage is meant.
        workdir: made where missing.
        config: where given, its `decode` and `eval` groups replace the checkpoint's.
        lengths: steps of time to compile for; those that suit the system by default.
        batch_size: videos (TALLFormer: windows) per call.
        platforms: some of `PLATFORMS`; one program serves all of them.

    Returns:
        the folder.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the checkpoint predicts nothing, or an argument makes no sense for it.
    """
    if checkpoint is None:
        raise ValueError("--mode=export needs --checkpoint=<model folder or workdir>.")
    _check_platforms(platforms)
    source = checkpoints.find_model(checkpoint)
    model, meta = checkpoints.load_model(source)
    workdirs.check_predicts(meta, source)
    if config is not None:
        workdirs.check_system(meta, config.system, source)
    settings = workdirs.checkpoint_config(meta, config)
    system = systems.of(settings)
    predictor = system.predictor(settings, meta["class_names"], meta["stage"])
    if predictor.inputs is None:
        raise ValueError(f"{source} (stage {meta['stage']}) cannot be exported: its inputs are no features or frames.")
    chosen = _lengths(predictor.inputs, lengths)
    if batch_size < 1:
        raise ValueError(f"--batch={batch_size} must be at least 1.")

    params = flatten(jax.tree.map(np.asarray, model))
    programs = {}
    for length in chosen:
        log.info("exporting %s (stage %s)%s", source, meta["stage"], f", {length} steps" if length else "")
        programs[length] = _program(predictor, params, predictor.inputs.shapes(batch_size, length), platforms)
    metadata = {
        "format": FORMAT,
        **{name: meta[name] for name in ("system", "stage", "class_names", "frame_rate", "sample_rate")},
        "task": system.task,
        "seed": int(settings.eval.seed),
        "inputs": _describe_inputs(predictor.inputs),
        "outputs": _describe_outputs(programs, batch_size),
        "platforms": list(platforms),
        "checkpoint": str(source),
        "versions": {"actloc_jax": actloc_jax.__version__}
        | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        "config": meta["config"],
    }
    folder = epath.Path(workdir) / "export"
    _write(folder, programs, params, metadata, batch_size)
    log.info("exported for %s: %s", ", ".join(platforms), folder)
    return folder


def _check_platforms(platforms: Sequence[str]) -> None:
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ValueError(
            f"--platforms={','.join(platforms)}: {', '.join(unknown) or 'nothing'} is no platform; use some of "
            f"{', '.join(PLATFORMS)}."
        )


def _lengths(inputs: Inputs, asked: Sequence[int]) -> tuple[int | None, ...]:
    """Steps of time of every program; None where the shapes have no free axis of time."""
    if not inputs.lengths:
        if asked:
            raise ValueError("--lengths: the inputs of this model have one size; leave it out.")
        return (None,)
    wrong = [length for length in asked if length < inputs.least or length % inputs.multiple]
    if wrong:
        raise ValueError(
            f"--lengths={wrong[0]}: this model takes multiples of {inputs.multiple} from {inputs.least} on, "
            f"such as {inputs.lengths[0]}."
        )
    return tuple(sorted(set(asked))) or inputs.lengths


def _program(predictor: Predictor, params: Any, shapes: Any, platforms: Sequence[str]) -> jax.export.Exported:
    """`(flat params, arrays, seed) -> outputs` as an exported function."""

    def run(params: dict[str, jax.Array], arrays: dict[str, jax.Array], seed: jax.Array) -> dict[str, jax.Array]:
        model = {"batch_stats": {}, **unflatten(params)}
        return predictor.predict(model, predictor.inputs.complete(arrays), jax.random.key(seed))

    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    traced: Callable[..., jax.export.Exported] = jax.export.export(jax.jit(run), platforms=tuple(platforms))
    try:
        return traced(abstract, shapes, jax.ShapeDtypeStruct((), np.uint32))
    except NotImplementedError as error:  # a kernel of this machine's backend
        raise ValueError(
            f"The network as it runs on {jax.default_backend()} cannot be exported for {', '.join(platforms)}: "
            f"{error}. Export on a machine of that kind, or for fewer --platforms."
        ) from error


def _describe_inputs(inputs: Inputs) -> dict[str, Any]:
    return {
        name: {
            "axes": list(array.axes),
            "shape": [axis if size is None else size for axis, size in array.axes.items()],
            "dtype": array.dtype,
        }
        for name, array in inputs.arrays.items()
    }


def _describe_outputs(programs: dict[int | None, jax.export.Exported], batch_size: int) -> dict[str, Any]:
    """Axes by name where they are the batch or grow with the steps of time, else by size; and dtypes."""
    by_length = {
        length: jax.tree.unflatten(program.out_tree, program.out_avals) for length, program in programs.items()
    }
    described = {}
    for name, first in next(iter(by_length.values())).items():
        shapes = {length: outputs[name].shape for length, outputs in by_length.items()}
        axes: list[str | int] = [exported.BATCH]
        for axis, size in list(enumerate(first.shape))[1:]:
            sizes = {length: shape[axis] for length, shape in shapes.items()}
            if all(length == found for length, found in sizes.items()):
                axes.append(exported.TIME)
            else:
                axes.append(size if len(set(sizes.values())) == 1 else "candidates")
        described[name] = {"axes": axes, "dtype": str(first.dtype)}
    return described


def _write(
    folder: epath.Path,
    programs: dict[int | None, jax.export.Exported],
    params: dict[str, np.ndarray],
    metadata: dict[str, Any],
    batch_size: int,
) -> None:
    """Writes everything under another name first, then renames."""
    unfinished, old = folder.parent / f"{folder.name}.unfinished", folder.parent / f"{folder.name}.old"
    for left in (unfinished, old):
        if left.exists():
            left.rmtree()
    unfinished.mkdir(parents=True)
    entries = []
    for length, program in programs.items():
        path = unfinished / (f"predict_{length}.jaxexport" if length else "predict.jaxexport")
        path.write_bytes(bytes(program.serialize()))
        entries.append({"file": path.name, "batch": batch_size, "time": length, "sha256": _sha256(path)})
    with (unfinished / "params.npz").open("wb") as file:
        np.savez(file, **params)
    metadata = {
        **metadata,
        "programs": entries,
        "params": {"file": "params.npz", "sha256": _sha256(unfinished / "params.npz")},
    }
    (unfinished / exported.METADATA).write_text(json.dumps(metadata, indent=1))
    (unfinished / "run.py").write_text(epath.Path(exported.__file__).read_text())
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    if old.exists():
        old.rmtree()


def _sha256(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
