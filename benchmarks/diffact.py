"""How fast DiffAct is on random features: sampling, a batch of videos against one after the other, a training step.

    python -m benchmarks.diffact [--config=gtea] [--frames=1100] [--rows=sample,batch,train] [--batch=8] [--repeat=20]

Prints one row per measurement: seconds to compile, then the median, least and largest time of a call in milliseconds;
at the end the largest memory of the process. `sample` is one video through the encoder and all sampling steps; `one by
one` is that for each of --batch videos, `batch` all of them in one call; `train` is one micro-batch of one video (loss,
gradient, accumulation or Adam; with dropout).
"""

from __future__ import annotations

import argparse
import importlib
import resource
from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.backbones.diffact import DiffAct
from actloc_jax.data import boundaries
from actloc_jax.layers.functional import Network, Params
from actloc_jax.systems.tst import adapters, diffact_losses
from actloc_jax.training import optimizers
from actloc_jax.training.state import Batch, LossOutput, TrainState, create, gradient_step
from benchmarks.timing import Row, measure, measure_train_step, print_rows, random_labels

ROWS = ("sample", "batch", "train")


def sampling_rows(config: ConfigDict, frames: int, batch: int, repeat: int, wanted: Collection[str]) -> Iterator[Row]:
    """The rows "sample", "one by one" and "batch"."""
    sizes = adapters.diffact_sizes(config)
    network = Network(lambda rngs: DiffAct(sizes, rngs=rngs))
    params = network.init(jax.random.key(0))

    def sample(params: Params, *inputs: jax.Array) -> jax.Array:
        return network(params, *inputs, method="sample")

    def timed(name: str, videos: int, repeat: int) -> Row:
        features = jax.device_put(
            np.random.default_rng(0).standard_normal((videos, frames, sizes.input_dim), np.float32)
        )
        keys = jax.random.split(jax.random.key(1), videos)
        return measure(name, sample, (params, features, jnp.ones((videos, frames), bool), keys), repeat)

    if "sample" in wanted:
        yield timed("sample", 1, repeat)
    if "batch" in wanted:
        single = timed(f"{batch} one by one", 1, batch * repeat)
        yield single._replace(milliseconds=single.milliseconds.reshape(repeat, batch).sum(axis=1))
        yield timed(f"batch of {batch}", batch, repeat)


def training_row(config: ConfigDict, frames: int, repeat: int) -> Row:
    """The row "train"."""
    sizes, options = adapters.diffact_sizes(config), config.diffact
    network = Network(lambda rngs: DiffAct(sizes, rngs=rngs))
    params = network.init(jax.random.key(0))
    labels = random_labels(np.random.default_rng(0), frames, max(frames // 30, 2), sizes.num_classes)
    batch = {
        "features": jax.random.normal(jax.random.key(1), (1, frames, sizes.input_dim)),
        "labels": jnp.asarray(labels)[None],
        "boundary": jnp.asarray(np.diff(labels, prepend=labels[:1]) != 0, jnp.float32)[None],
        "mask": jnp.ones((1, frames), bool),
    }
    if options.soft_label_sigma:
        soft = boundaries.soft_labels(labels, sizes.num_classes, options.soft_label_sigma)
        batch["soft_labels"] = jnp.asarray(soft)[None]
    adam = optimizers.adam(options.learning_rate, weight_decay=options.weight_decay)
    tx = optimizers.accumulate(adam, options.accumulate)

    def loss(params: Params, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        draw_key, dropout_key = jax.random.split(key)
        draws = diffact_losses.draw(sizes, batch, draw_key, options.conditions)
        rngs = nnx.Rngs(dropout=dropout_key)
        total, parts = diffact_losses.diffact_loss(
            network, params, batch, draws, sizes=sizes, weights=options.losses, rngs=rngs
        )
        return LossOutput(total, parts, {}, {})

    return measure_train_step(gradient_step(loss, tx), create(params, tx), batch, repeat)


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", default="gtea", choices=("gtea", "50salads", "breakfast"), help="sizes of the networks"
    )
    parser.add_argument("--frames", type=int, default=1100, help="frames per video")
    parser.add_argument("--rows", default=",".join(ROWS), help="what to measure")
    parser.add_argument("--batch", type=int, default=8, help="videos of the row `batch`")
    parser.add_argument("--repeat", type=int, default=20, help="calls to time")
    arguments = parser.parse_args()
    wanted = arguments.rows.split(",")
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"--rows has {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    config = importlib.import_module(f"configs.tst_{arguments.config}").get_config()

    def rows() -> Iterator[Row]:
        yield from sampling_rows(config, arguments.frames, arguments.batch, arguments.repeat, wanted)
        if "train" in wanted:
            yield training_row(config, arguments.frames, arguments.repeat)

    print_rows(f"{arguments.config}, {arguments.frames} frames", rows())
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
