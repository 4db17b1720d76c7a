"""How fast TST's refiner is, on random input: refined labels of a batch, and a training step on cached features.

    python -m benchmarks.refiner [--frames=1100] [--batch=1] [--segments=33] [--repeat=20]

Prints one row per measurement: seconds to compile, then the median, least and largest time of a call in milliseconds.
The default is GTEA's configuration; `--inner_dim=128 --feature_dim=768 --num_classes=48 --frames=2100` is Breakfast's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from actloc_jax.layers.functional import Network, Params
from actloc_jax.systems.tst import inference, losses
from actloc_jax.systems.tst.refiner import Refiner, RefinerSizes, refiner_group
from actloc_jax.training import optimizers


class Row(NamedTuple):
    """One measurement: its name, seconds to compile, milliseconds per call."""

    name: str
    compile_seconds: float
    milliseconds: np.ndarray


def random_labels(rng: np.random.Generator, frames: int, segments: int, num_classes: int) -> np.ndarray:
    """int32 [frames] labels with that many runs."""
    cuts = np.sort(rng.choice(np.arange(1, frames), segments - 1, replace=False))
    steps = rng.integers(1, num_classes, segments)  # never 0, so that neighbours differ
    lengths = np.diff([0, *cuts, frames])
    return np.repeat(np.cumsum(steps) % num_classes, lengths).astype(np.int32)


def random_batch(sizes: RefinerSizes, batch: int, frames: int, segments: int) -> tuple[jax.Array, ...]:
    """Features, predictions, labels and mask as `tst_loss` takes them."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch, frames, sizes.feature_dim)).astype(np.float32)
    proposed, truth = (
        np.stack([random_labels(rng, frames, segments, sizes.num_classes) for _ in range(batch)]) for _ in range(2)
    )
    predictions = np.eye(sizes.num_classes, dtype=np.float32)[proposed]
    return tuple(map(jnp.asarray, (features, predictions, truth, np.ones((batch, frames), bool))))


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


def rows(sizes: RefinerSizes, batch: int, frames: int, segments: int, repeat: int) -> Iterator[Row]:
    """The rows "refiner" (labels of a batch) and "tst_train" (loss, matching, gradient, Adam; with dropout)."""
    network = Network(lambda rngs: Refiner(sizes, rngs=rngs))
    params = network.init(jax.random.key(0))
    features, predictions, labels, mask = random_batch(sizes, batch, frames, segments)

    def refine(params: Params, *inputs: jax.Array) -> inference.Refined:
        return inference.refine(network, params, *inputs)

    yield measure("refiner", refine, (params, features, predictions, mask), repeat)

    adam = optimizers.adam(5e-4, weight_decay=1e-4)
    tx = optimizers.grouped(dict.fromkeys(("pixel_decoder", "transformer", "heads"), adam), refiner_group)

    def train_step(params: Params, state: Any, key: jax.Array, *inputs: jax.Array) -> tuple[Params, Any, jax.Array]:
        def loss(params: Params) -> Any:
            return losses.tst_loss(network, params, *inputs, bg_weight=0.1, rngs=nnx.Rngs(dropout=key))

        (total, _), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, total

    inputs = (features, predictions, labels, mask)
    yield measure("tst_train", train_step, (params, tx.init(params), jax.random.key(1), *inputs), repeat)


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1100, help="frames per video")
    parser.add_argument("--batch", type=int, default=1, help="videos per call")
    parser.add_argument("--segments", type=int, default=33, help="predicted and true segments per video")
    parser.add_argument("--repeat", type=int, default=20, help="calls to time")
    parser.add_argument("--num_classes", type=int, default=11, help="action classes")
    parser.add_argument("--feature_dim", type=int, default=192, help="channels of the frame features")
    parser.add_argument("--inner_dim", type=int, default=64, help="channels of the pixel decoder")
    arguments = parser.parse_args()
    sizes = RefinerSizes(
        num_classes=arguments.num_classes, feature_dim=arguments.feature_dim, inner_dim=arguments.inner_dim
    )
    print(
        f"{jax.devices()[0].device_kind}, {arguments.batch} x {arguments.frames} frames, {arguments.segments} segments"
    )
    print(f"{'':10} {'compile s':>10} {'median ms':>10} {'least ms':>10} {'most ms':>10}")
    for row in rows(sizes, arguments.batch, arguments.frames, arguments.segments, arguments.repeat):
        ms = row.milliseconds
        print(f"{row.name:10} {row.compile_seconds:10.1f} {np.median(ms):10.1f} {ms.min():10.1f} {ms.max():10.1f}")


if __name__ == "__main__":
    main()
