"""How fast TST's refiner is, on random input: refined labels of a batch, and a training step on cached features.

    python -m benchmarks.refiner [--frames=1100] [--batch=1] [--segments=33] [--repeat=20]

Prints one row per measurement: seconds to compile, then the median, least and largest time of a call in milliseconds.
The default is GTEA's configuration; `--inner_dim=128 --feature_dim=768 --num_classes=48 --frames=2100` is Breakfast's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from actloc_jax.layers.functional import Network, Params
from actloc_jax.systems.tst import inference, losses
from actloc_jax.systems.tst.refiner import Refiner, RefinerSizes, refiner_group
from actloc_jax.training import optimizers
from actloc_jax.training.state import Batch, LossOutput, TrainState, create, gradient_step
from benchmarks.timing import Row, measure, measure_train_step, print_rows, random_labels


def random_batch(sizes: RefinerSizes, batch: int, frames: int, segments: int) -> tuple[jax.Array, ...]:
    """Features, predictions, labels and mask as `tst_loss` takes them."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch, frames, sizes.feature_dim)).astype(np.float32)
    proposed, truth = (
        np.stack([random_labels(rng, frames, segments, sizes.num_classes) for _ in range(batch)]) for _ in range(2)
    )
    predictions = np.eye(sizes.num_classes, dtype=np.float32)[proposed]
    return tuple(map(jnp.asarray, (features, predictions, truth, np.ones((batch, frames), bool))))


def rows(sizes: RefinerSizes, batch: int, frames: int, segments: int, repeat: int) -> Iterator[Row]:
    """The rows "refiner" (labels of a batch) and "train" (loss, matching, gradient, Adam; with dropout)."""
    network = Network(lambda rngs: Refiner(sizes, rngs=rngs))
    params = network.init(jax.random.key(0))
    features, predictions, labels, mask = random_batch(sizes, batch, frames, segments)

    def refine(params: Params, *inputs: jax.Array) -> inference.Refined:
        return inference.refine(network, params, *inputs)

    yield measure("refiner", refine, (params, features, predictions, mask), repeat)

    adam = optimizers.adam(5e-4, weight_decay=1e-4)
    tx = optimizers.grouped(dict.fromkeys(("pixel_decoder", "transformer", "heads"), adam), refiner_group)

    def loss(params: Params, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        rngs = nnx.Rngs(dropout=key)
        return LossOutput(*losses.tst_loss(network, params, **batch, bg_weight=0.1, rngs=rngs), {}, {})

    batch = {"features": features, "predictions": predictions, "labels": labels, "mask": mask}
    yield measure_train_step(gradient_step(loss, tx), create(params, tx), batch, repeat)


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
    title = f"{arguments.batch} x {arguments.frames} frames, {arguments.segments} segments"
    print_rows(title, rows(sizes, arguments.batch, arguments.frames, arguments.segments, arguments.repeat))


if __name__ == "__main__":
    main()
