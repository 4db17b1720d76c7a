"""How fast detection is on random input: FuSTAL's networks at their published sizes, suppression, mAP.

    python -m benchmarks.detection [--rows=student,train,generator,nms,mAP] [--dtype=float32] [--repeat=5]

Prints one row per measurement: seconds to compile, then the median, least and largest time of a call in milliseconds.
`product` is a matrix product of the size that convolutions of the heads have; `student` the network on one video;
`train` a step of the student (noise, dropout, loss, gradient, AdamW, average); `generator` one of the generator; `nms`
soft suppression of candidates of 20 classes; `mAP` the evaluation of 200,000 detections of 200 classes. Below that: the
operations of each compiled program, their rate, and its share of the rate of `product`; of training steps without the
optimizer. At the end the largest memory of the process. `taskset -c 0` in front gives the times of one thread.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from actloc_jax.layers.dropout import keep_masks
from actloc_jax.metrics import detection
from actloc_jax.metrics.detection_matching import Detections, Instances
from actloc_jax.ops import device_nms, nms
from actloc_jax.systems.fustal import generator, generator_losses, settings, student_losses
from actloc_jax.systems.fustal.points import assign, make_points
from actloc_jax.training import optimizers
from actloc_jax.training.state import Batch, LossOutput, TrainState, create, gradient_step
from benchmarks.timing import Row, measure, measure_host, measure_train_step, print_rows
from configs import fustal_thumos

ROWS = ("student", "train", "generator", "nms", "mAP")
CLASSES = 20
SEGMENTS = 20  # true ones per video


def product_row(config: ConfigDict, repeat: int) -> Row:
    """The row "product": features of all levels of two videos times a kernel of three taps."""
    width, dtype = config.network.student.head_width, settings.compute_dtype(config)
    shape = (4 * config.network.student.max_length, 3 * width)
    x, kernel = (jax.random.normal(jax.random.key(0), size, dtype) for size in (shape, (3 * width, width)))
    return measure("product", jnp.matmul, (x, kernel), repeat)


def student_row(config: ConfigDict, repeat: int) -> Row:
    """The row "student": one video through the network."""
    sizes = settings.detector_sizes(config, CLASSES)
    net = settings.detector_network(config, sizes)
    batch = student_batch(config, 1)
    params = net.init(jax.random.key(0))
    return measure("student", lambda *inputs: net(*inputs), (params, batch["features"], batch["mask"]), repeat)


def student_batch(config: ConfigDict, videos: int) -> Batch:
    """Random features, 85% of each video valid, and segments of one class per video."""
    rng, length = np.random.default_rng(0), config.network.student.max_length
    features = rng.standard_normal((videos, length, config.data.student.feature_dim), np.float32)
    mask = np.broadcast_to(np.arange(length) < 0.85 * length, (videos, length))
    start = rng.uniform(0, 0.6 * length, (videos, SEGMENTS))
    segments = np.stack([start, start + np.exp(rng.uniform(1.5, 5, start.shape))], axis=2)
    label = rng.integers(0, CLASSES, videos)
    batch = {
        "features": features * mask[:, :, None],
        "mask": mask,
        "segments": segments.astype(np.float32),
        "labels": np.broadcast_to(label[:, None].astype(np.int32), (videos, SEGMENTS)),
        "video_labels": np.eye(CLASSES, dtype=np.float32)[label],
    }
    return jax.tree.map(jnp.asarray, batch)


def student_training_row(config: ConfigDict, videos: int, repeat: int) -> Row:
    """The row "train"."""
    sizes, options = settings.detector_sizes(config, CLASSES), config.student
    net = settings.detector_network(config, sizes)
    points = make_points(sizes.max_length, sizes.strides, options.ranges)

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        rngs = nnx.Rngs(dropout=key)
        output = net(params, batch["features"], batch["mask"], rngs=rngs)
        targets = assign(points, batch["segments"], batch["labels"], CLASSES, radius=options.centre_radius)
        found = student_losses.detection_loss(
            output, targets, state.extra["normaliser"], settings.loss_settings(config)
        )
        (keep,) = keep_masks(rngs, options.video_dropout, 1, output.classes[0].shape)
        of_video = student_losses.student_video_loss(output, batch["video_labels"], keep, rate=options.video_dropout)
        return LossOutput(found.total + of_video, {}, {}, {"normaliser": found.normaliser})

    tx = optax.chain(
        optimizers.clip_by_norm(options.clip_norm),
        optimizers.decay_kernels(options.learning_rate, options.weight_decay),
    )
    extra = {"normaliser": student_losses.initial_normaliser(options.initial_normaliser)}
    state = create(net.init(jax.random.key(0)), tx, extra=extra, ema=True)
    step = gradient_step(loss, tx, ema_decay=options.ema_decay)
    return measure_train_step(step, state, student_batch(config, videos), repeat)


def generator_training_row(config: ConfigDict, videos: int, repeat: int) -> Row:
    """The row "generator"."""
    options, mining = config.generator, settings.mining(config)
    net = settings.generator_network(config, CLASSES)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((videos, options.snippets, config.data.generator.feature_dim), np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, 6, videos)]
    batch = {"features": features, "mask": np.ones(features.shape[:2], bool), "labels": labels}

    def loss(params: Any, state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        rngs = nnx.Rngs(dropout=key)
        output = net(params, batch["features"], batch["mask"], rngs=rngs)
        (keep,) = keep_masks(rngs, mining.dropout, 1, output.actionness.shape)
        snippets = generator.gather(output.embeddings, generator.mine(output.actionness, mining, keep))
        scores = generator.video_scores(output.activations, batch["mask"], mining.easy_ratio)
        return LossOutput(generator_losses.generator_loss(scores, batch["labels"], snippets).total, {}, {}, {})

    tx = optimizers.adam(options.learning_rate, weight_decay=options.weight_decay)
    state = create(net.init(jax.random.key(0)), tx)
    row = measure_train_step(gradient_step(loss, tx), state, jax.tree.map(jnp.asarray, batch), repeat)
    return row._replace(name="generator")


def suppression_row(per_class: int, repeat: int) -> Row:
    """The row "nms": candidates around 40 places, as a detector makes them."""
    rng, number = np.random.default_rng(0), per_class * CLASSES
    centre = rng.choice(rng.uniform(0, 2300, 40), number) + rng.normal(0, 15, number)
    length = np.exp(rng.uniform(1, 5, number))
    segments = np.stack([centre - length / 2, centre + length / 2], axis=1).astype(np.float32)
    scores = rng.beta(0.6, 3, number).astype(np.float32)
    labels = np.tile(np.arange(CLASSES), per_class)
    return measure_host(
        "nms", lambda: device_nms.suppress_classes(segments, scores, labels, nms.ACTIONFORMER_SOFT).scores, repeat
    )


def evaluation_row(detections: int, classes: int, repeat: int) -> Row:
    """The row "mAP": as many detections, and a twentieth as many instances, in videos of 200 detections each."""
    rng, instances, videos = np.random.default_rng(0), detections // 20, max(detections // 200, 1)

    def spread(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start = rng.uniform(0, 200, number)
        segments = np.stack([start, start + np.exp(rng.uniform(0, 4, number))], axis=1)
        return rng.integers(0, videos, number), segments, rng.integers(0, classes, number)

    place, segments, labels = spread(detections)
    scores = rng.random(detections)
    true_place, true_segments, true_labels = spread(instances)
    found, truths = {}, {}
    for video in range(videos):
        here, there = place == video, true_place == video
        found[str(video)] = Detections(segments[here], labels[here], scores[here])
        truths[str(video)] = Instances(true_segments[there], true_labels[there])
    return measure_host("mAP", lambda: detection.evaluate(found, truths, detection.ACTIVITYNET_TIOU).thresholds, repeat)


def rows(config: ConfigDict, wanted: tuple[str, ...], repeat: int, *, videos: int, candidates: int) -> Iterator[Row]:
    """The row "product" and those asked for."""
    yield product_row(config, repeat)
    if "student" in wanted:
        yield student_row(config, repeat)
    if "train" in wanted:
        yield student_training_row(config, videos, repeat)
    if "generator" in wanted:
        yield generator_training_row(config, config.generator.batch_size, repeat)
    if "nms" in wanted:
        yield suppression_row(candidates, repeat)
    if "mAP" in wanted:
        yield evaluation_row(200_000, 200, repeat)


def print_rates(measured: list[Row]) -> None:
    """Prints the operations of the compiled programs, and their rates next to that of the first row."""
    best = measured[0].operations / np.median(measured[0].milliseconds)
    print(f"{'':14} {'10^9 op':>10} {'10^9 op/s':>10} {'share':>10}")
    for row in measured:
        if row.operations:
            rate = row.operations / np.median(row.milliseconds)
            print(f"{row.name:14} {row.operations / 1e9:10.1f} {rate / 1e6:10.0f} {rate / best:10.0%}")


def main() -> None:
    """Reads the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="what to measure")
    parser.add_argument("--dtype", default="float32", choices=tuple(settings.DTYPES), help="networks compute in this")
    parser.add_argument("--videos", type=int, default=2, help="videos per training step of the student")
    parser.add_argument("--candidates", type=int, default=2000, help="per class, of the row `nms`")
    parser.add_argument("--repeat", type=int, default=5, help="calls to time")
    arguments = parser.parse_args()
    wanted = tuple(arguments.rows.split(","))
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"--rows has {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    config = fustal_thumos.get_config()
    config.train.dtype = arguments.dtype
    measured: list[Row] = []

    def kept() -> Iterator[Row]:
        counts = {"videos": arguments.videos, "candidates": arguments.candidates}
        for row in rows(config, wanted, arguments.repeat, **counts):
            measured.append(row)
            yield row

    print_rows(f"{arguments.dtype}, {arguments.videos} videos per step of the student", kept())
    print_rates(measured)
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
