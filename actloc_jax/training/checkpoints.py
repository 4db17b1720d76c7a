"""Checkpoints on Orbax: the state of a run to resume from, and models that `predict` needs nothing beside.

A model checkpoint holds flat parameter paths (`params/encoder/layers/03/conv/kernel`) and a JSON `meta`: format,
package version, system, stage, config, class names, sample rate. Both kinds are written under a temporary name and
renamed, so that a killed run leaves the last complete one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

import actloc_jax
from actloc_jax.layers.functional import flatten, unflatten

FORMAT = 1


def _manager(folder: epath.PathLike, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(keep), enable_async_checkpointing=False, create=True
    )
    return ocp.CheckpointManager(epath.Path(folder).resolve(), options=options)


class RunCheckpoints:
    """The checkpoints of one stage of a run; the newest `keep` are preserved.

    Attributes:
        latest_step: step of the newest complete checkpoint, or None.
    """

    def __init__(self, folder: epath.PathLike, *, keep: int = 2) -> None:
        self._manager = _manager(folder, keep)

    @property
    def latest_step(self) -> int | None:
        """Of the newest checkpoint; None without any."""
        return self._manager.latest_step()

    def save(self, state: Any, *, step: int, iterator_state: Any, meta: dict[str, Any]) -> None:
        """Writes the state (pytree of arrays, sharded or not) and the JSON-able rest as checkpoint `step`."""
        if self._manager.latest_step() == step:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                iterator=ocp.args.JsonSave({"state": iterator_state}),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def restore(self, template: Any) -> tuple[Any, Any, dict[str, Any]]:
        """The newest checkpoint as (state, iterator state, meta), placed like `template` (arrays or shapes).

        Raises:
            ValueError: the checkpoint does not hold what `template` asks for, or cannot be read.
        """
        step = self.latest_step
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract),
                    iterator=ocp.args.JsonRestore(),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, FileNotFoundError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{self._manager.directory}/{step} cannot be restored: it is damaged, or was written with "
                f"another config than this run's. Use another --workdir, or delete this folder to start the stage "
                f"again.\n{error}"
            ) from error
        return restored.state, restored.iterator["state"], restored.meta

    def close(self) -> None:
        """Releases the manager's threads."""
        self._manager.close()


def save_model(folder: epath.PathLike, model: dict[str, Any], meta: dict[str, Any], *, step: int = 0) -> None:
    """Writes a model checkpoint; an older one in `folder` goes once the new one is complete.

    Args:
        folder: created where missing.
        model: `{"params": nested dict of arrays, "batch_stats": nested dict}`, and what else the system needs.
        meta: JSON-able; `system`, `stage`, `config` and `class_names` are what `predict` reads.
        step: number under which the checkpoint is kept.
    """
    meta = {**meta, "format": FORMAT, "version": actloc_jax.__version__, "step": step}
    manager = _manager(folder, keep=1)
    try:
        if step in manager.all_steps():
            manager.delete(step)
        manager.save(
            step,
            args=ocp.args.Composite(model=ocp.args.StandardSave(flatten(model)), meta=ocp.args.JsonSave(meta)),
        )
    finally:
        manager.close()


def load_model(folder: epath.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a model checkpoint written by `save_model`, on whatever devices it was written: host arrays come back.

    Returns:
        (model, meta): what was saved, at least `params` and `batch_stats`, as nested dicts of numpy arrays, and the
        JSON meta.

    Raises:
        FileNotFoundError: there is no model checkpoint in `folder`.
        ValueError: it is truncated or of a newer format.
    """
    folder = epath.Path(folder).resolve()
    if not has_model(folder):
        raise FileNotFoundError(
            f"{folder} holds no model checkpoint. Expected a folder written by training "
            f"(<workdir>/checkpoints/<stage>/best) or by `python -m convert`."
        )
    try:
        meta = load_meta(folder)
        step = int(_newest(folder).name)
        handlers = {"model": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        options = ocp.CheckpointManagerOptions(read_only=True)
        with ocp.CheckpointManager(folder, item_handlers=handlers, options=options) as manager:
            stored = manager.item_metadata(step).model
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            template = {
                path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
                for path, leaf in dict(stored).items()
            }
            flat = manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(template))).model
    except Exception as error:
        raise ValueError(
            f"{folder} is not a readable model checkpoint (truncated, or written by something else): "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. "
            f"Copy it again, or convert or train it again."
        ) from error
    if meta.get("format", 0) > FORMAT:
        raise ValueError(
            f"{folder} was written by actloc_jax {meta.get('version')} in checkpoint format {meta['format']}; this "
            f"version reads up to format {FORMAT}. Update actloc_jax."
        )
    model = unflatten(jax.tree.map(np.asarray, flat))
    return {"batch_stats": {}, **model}, meta


def has_model(folder: epath.PathLike) -> bool:
    """Whether `folder` holds a complete model checkpoint."""
    folder = epath.Path(folder)
    return folder.is_dir() and any(path.name.isdigit() and (path / "model").exists() for path in folder.iterdir())


def load_meta(folder: epath.PathLike) -> dict[str, Any]:
    """The JSON meta of the model checkpoint in `folder`."""
    return json.loads((_newest(epath.Path(folder)) / "meta" / "metadata").read_text())


def _newest(folder: epath.Path) -> epath.Path:
    return max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def find_model(path: epath.PathLike, stages: Sequence[str] = ()) -> epath.Path:
    """The model checkpoint that a user means by `path`: itself, or the last trained stage of a workdir.

    Args:
        path: a model folder or a workdir.
        stages: where the workdir has some of them, the last of these is meant.

    Raises:
        FileNotFoundError: neither is there.
    """
    path = epath.Path(path).resolve()
    if has_model(path):
        return path
    trained = (path / "checkpoints").iterdir() if (path / "checkpoints").is_dir() else ()
    candidates = [stage / "best" for stage in trained if has_model(stage / "best")]
    if not candidates:
        raise FileNotFoundError(
            f"{path} holds no model checkpoint and is no workdir with one in checkpoints/<stage>/best. Train first, "
            f"convert a published file (`python -m convert --help`), or correct --checkpoint."
        )

    def rank(folder: epath.Path) -> tuple[int, int, float]:
        stage = folder.parent.name
        asked = stages.index(stage) if stage in stages else -1
        # Stages that were run one by one are each the first of their run: the newest is meant.
        return asked, load_meta(folder)["stage_index"], (_newest(folder) / "meta" / "metadata").stat().mtime

    return max(candidates, key=rank)


def fitted(params: Any, expected: Any, folder: epath.PathLike, advice: str = "") -> Any:
    """`params` as device arrays, if they have the names and shapes of `expected`.

    Args:
        params: nested dict of a checkpoint.
        expected: nested dict of arrays or shapes, what a network needs.
        folder: of the checkpoint, for messages.
        advice: what to do where they differ, a sentence.

    Raises:
        ValueError: they differ; all differences are named.
    """
    found, wanted = flatten(params), flatten(expected)
    wrong = [f"missing {path}" for path in wanted.keys() - found.keys()]
    wrong += [f"unexpected {path}" for path in found.keys() - wanted.keys()]
    wrong += [
        f"{path} has shape {found[path].shape}, the config needs {wanted[path].shape}"
        for path in wanted.keys() & found.keys()
        if found[path].shape != wanted[path].shape
    ]
    if wrong:
        shown = "\n  ".join(sorted(wrong)[:20]) + (f"\n  ... and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise ValueError(f"{folder} does not fit this config{': ' + advice if advice else ':'}\n  {shown}")
    return jax.tree.map(jnp.asarray, params)
