"""What the benchmarks share: compiling and timing a function, printing the figures, labels to feed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np


class Row(NamedTuple):
    """One measurement: its name, seconds to compile, milliseconds per call."""

    name: str
    compile_seconds: float
    milliseconds: np.ndarray


def measure(name: str, function: Callable[..., Any], arguments: tuple, repeat: int) -> Row:
    """Compiles the function for its arguments, calls it once, then `repeat` times."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(*arguments))
    calls = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        calls.append(1000 * (time.perf_counter() - start))
    return Row(name, compile_seconds, np.array(calls))


def print_rows(title: str, rows: Iterable[Row]) -> None:
    """Prints the device and `title`, then each row as soon as it is measured."""
    print(f"{jax.devices()[0].device_kind}, {title}")
    print(f"{'':14} {'compile s':>10} {'median ms':>10} {'least ms':>10} {'most ms':>10}")
    for row in rows:
        ms = row.milliseconds
        print(
            f"{row.name:14} {row.compile_seconds:10.1f} {np.median(ms):10.1f} {ms.min():10.1f} {ms.max():10.1f}",
            flush=True,
        )


def random_labels(rng: np.random.Generator, frames: int, segments: int, num_classes: int) -> np.ndarray:
    """int32 [frames] labels with that many runs."""
    cuts = np.sort(rng.choice(np.arange(1, frames), segments - 1, replace=False))
    steps = rng.integers(1, num_classes, segments)  # never 0, so that neighbours differ
    lengths = np.diff([0, *cuts, frames])
    return np.repeat(np.cumsum(steps) % num_classes, lengths).astype(np.int32)
