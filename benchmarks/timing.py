"""What the benchmarks share: compiling and timing a function, printing the figures, labels to feed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.training.state import Batch, TrainState, TrainStep, without


class Row(NamedTuple):
    """One measurement.

    Attributes:
        name: of what was measured.
        compile_seconds: until the first call can begin.
        milliseconds: of each call.
        operations: floating point operations of a call, as XLA counts them; 0 where it does not.
        temporary: bytes that a call needs beside its arguments and results; 0 where that is unknown.
    """

    name: str
    compile_seconds: float
    milliseconds: np.ndarray
    operations: float = 0.0
    temporary: int = 0


def measure(name: str, function: Callable[..., Any], arguments: tuple, repeat: int) -> Row:
    """Compiles the function for its arguments, calls it once, then `repeat` times."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(*arguments))
    milliseconds = np.array([_milliseconds(lambda: compiled(*arguments)) for _ in range(repeat)])
    return Row(name, compile_seconds, milliseconds, _operations(compiled), _temporary(compiled))


def measure_host(name: str, call: Callable[[], Any], repeat: int) -> Row:
    """Calls a function that compiles for itself; what the first call takes longer than the median is compilation."""
    first = _milliseconds(call)
    milliseconds = np.array([_milliseconds(call) for _ in range(repeat)])
    return Row(name, max(first - float(np.median(milliseconds)), 0.0) / 1000, milliseconds)


def measure_train_step(step: TrainStep, state: TrainState, batch: Batch, repeat: int) -> Row:
    """The row "train": a step as the loop takes it, the state donated; compiled is the half that sees the batch."""
    key = jax.random.key(3)
    state = jax.tree.map(jnp.copy, state)  # leaves of a fresh state may share memory; what is donated must not
    seen = without(state, "extra", "opt_state")
    start = time.perf_counter()
    gradients = jax.jit(step.gradients, donate_argnums=0).lower(state.extra, seen, batch, key).compile()
    compile_seconds = time.perf_counter() - start
    compiled = TrainStep(gradients, jax.jit(step.update, donate_argnums=0))

    def advance() -> TrainState:
        nonlocal state
        state, _ = compiled(state, batch, key)
        return state

    jax.block_until_ready(advance())
    milliseconds = np.array([_milliseconds(advance) for _ in range(repeat)])
    return Row("train", compile_seconds, milliseconds, _operations(gradients), _temporary(gradients))


def _operations(compiled: Any) -> float:
    """Of the compiled program, as XLA counts them; 0 where it does not."""
    return float((compiled.cost_analysis() or {}).get("flops", 0.0))


def _temporary(compiled: Any) -> int:
    """Bytes that the compiled program needs beside its arguments and results; 0 where the backend does not say."""
    memory = compiled.memory_analysis()
    return 0 if memory is None else int(memory.temp_size_in_bytes)


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return 1000 * (time.perf_counter() - start)


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
