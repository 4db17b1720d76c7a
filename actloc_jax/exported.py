"""Runs an exported model with jax and numpy alone. A copy of this file, `run.py`, lies beside every export.

python run.py video.npy other.npy --output=results         (features [time, channels], or .npz of the named inputs)

model = load("out/export")
outputs = model({"features": features[None]})               (dict of arrays, those of `metadata.json`)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import numpy as np

METADATA, BATCH, TIME, MASK, INDEX = "metadata.json", "batch", "time", "mask", "index"
PLATFORM_OF_BACKEND = {"gpu": "cuda"}


class Exported:
    """A model that was written by `--mode=export`.

    Attributes:
        metadata: what the export says of itself: classes, inputs, outputs, rates, versions, platforms.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        self._folder = pathlib.Path(folder)
        if not (self._folder / METADATA).exists():
            raise FileNotFoundError(f"{self._folder} holds no {METADATA}; expected a folder that --mode=export wrote.")
        self.metadata = json.loads((self._folder / METADATA).read_text())
        self._check_platform()
        with np.load(self._checked(self.metadata["params"])) as stored:
            self._params = jax.device_put({name: stored[name] for name in stored.files})
        self._compiled: dict[str, Callable[..., dict[str, jax.Array]]] = {}

    def __call__(self, arrays: Mapping[str, np.ndarray], *, seed: int | None = None) -> dict[str, np.ndarray]:
        """Runs the shortest program that holds the arrays, padded to its size, and cuts the outputs back.

        Args:
            arrays: the inputs that `metadata` names, each [batch, ...]. `mask` [batch, time] is True everywhere and
                `index` [batch] counts the rows where they are not given.
            seed: of what is sampled; by default the one that the checkpoint was evaluated with.

        Returns:
            the outputs that `metadata` names.

        Raises:
            ValueError: an input is missing, of another shape, or longer than any program.
        """
        arrays, batch, time = self._complete(dict(arrays))
        program = self._program(time)
        sizes = {BATCH: program[BATCH], TIME: program[TIME]}
        results: list[dict[str, np.ndarray]] = []
        for start in range(0, batch, sizes[BATCH]):
            rows = {name: array[start : start + sizes[BATCH]] for name, array in arrays.items()}
            padded = {name: _pad(rows[name], self._axes(name), sizes) for name in rows}
            chosen = self.metadata["seed"] if seed is None else seed
            outputs = self._run(program)(self._params, padded, np.uint32(chosen))
            results.append(jax.device_get(outputs))
        joined = {name: np.concatenate([row[name] for row in results])[:batch] for name in results[0]}
        axes = {name: output["axes"] for name, output in self.metadata["outputs"].items()}
        cut = {name: tuple(slice(time if axis == TIME else None) for axis in axes[name]) for name in joined}
        return {name: value[cut[name]] for name, value in joined.items()}

    def _axes(self, name: str) -> list[str]:
        return self.metadata["inputs"][name]["axes"]

    def _complete(self, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int, int | None]:
        """All inputs in their dtypes, the rows, and the length of the axis time."""
        inputs = self.metadata["inputs"]
        missing = sorted(inputs.keys() - arrays.keys() - {MASK, INDEX})
        unknown = sorted(arrays.keys() - inputs.keys())
        if missing or unknown or not arrays:
            raise ValueError(f"The model takes {', '.join(inputs)}; missing {missing}, unknown {unknown}.")
        found: dict[str, int] = {}
        for name, array in arrays.items():
            wanted = inputs[name]["shape"]
            for axis, size in zip(wanted, np.shape(array), strict=False):
                if isinstance(axis, str):
                    axis, size = found.setdefault(axis, size), size
                if axis != size or np.ndim(array) != len(wanted) or 0 in np.shape(array):
                    raise ValueError(f"{name} has shape {list(np.shape(array))}; the model takes {wanted}.")
        batch, time = found[BATCH], found.get(TIME)
        made = {MASK: lambda: np.ones([batch, time], bool), INDEX: lambda: np.arange(batch)}
        arrays |= {name: made[name]() for name in inputs.keys() - arrays.keys()}
        return {name: np.asarray(arrays[name], inputs[name]["dtype"]) for name in inputs}, batch, time

    def _program(self, time: int | None) -> dict[str, Any]:
        programs = self.metadata["programs"]
        fitting = [program for program in programs if time is None or program[TIME] >= time]
        if not fitting:
            longest = max(program[TIME] for program in programs)
            raise ValueError(f"{time} steps do not fit: the longest program has {longest}. Export it with --lengths.")
        return min(fitting, key=lambda program: program[TIME] or 0)

    def _run(self, program: dict[str, Any]) -> Callable[..., dict[str, jax.Array]]:
        if program["file"] not in self._compiled:
            content = self._checked(program).read_bytes()
            self._compiled[program["file"]] = jax.jit(jax.export.deserialize(bytearray(content)).call)
        return self._compiled[program["file"]]

    def _checked(self, entry: dict[str, Any]) -> pathlib.Path:
        """The file of an entry, if it is the one that was written."""
        path = self._folder / entry["file"]
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise ValueError(
                f"{path} is missing or damaged: it is not the file that {METADATA} describes. Copy it again."
            )
        return path

    def _check_platform(self) -> None:
        backend = jax.default_backend()
        platform, known = PLATFORM_OF_BACKEND.get(backend, backend), self.metadata["platforms"]
        if platform not in known:
            raise ValueError(f"{self._folder} was exported for {', '.join(known)}, and jax runs on {platform} here.")


def load(folder: str | pathlib.Path) -> Exported:
    """The exported model in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file is damaged, or the model was exported for other platforms than this machine's.
    """
    return Exported(folder)


def _pad(array: np.ndarray, axes: list[str], sizes: Mapping[str, int | None]) -> np.ndarray:
    """Zeros behind the rows and the steps, up to `sizes`."""
    wanted = [sizes.get(axis) or size for axis, size in zip(axes, array.shape, strict=True)]
    return np.pad(array, [(0, after - before) for before, after in zip(array.shape, wanted, strict=True)])


def main() -> None:
    """Runs the model beside this file on files of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help=".npy files of features [time, channels], or .npz of all inputs")
    parser.add_argument("--model", default=str(pathlib.Path(__file__).parent), help="folder of the export")
    parser.add_argument("--output", default="outputs", help="folder for an .npz of the outputs of each file")
    arguments = parser.parse_args()
    try:
        model = load(arguments.model)
        folder = pathlib.Path(arguments.output)
        folder.mkdir(parents=True, exist_ok=True)
        for path in map(pathlib.Path, arguments.inputs):
            stored = np.load(path)
            arrays = {"features": stored[None]} if isinstance(stored, np.ndarray) else dict(stored)
            outputs = model(arrays)
            np.savez(folder / f"{path.stem}.npz", **outputs)
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
            print(f"{folder / path.stem}.npz: {shapes}")
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
