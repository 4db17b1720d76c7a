"""What a training step of TALLFormer costs, by the share of the chunks that it trains; and what it recomputes.

    python -m benchmarks.memory_training [--shares=0.07,0.15,0.4,1] [--size=tiny] [--crop=112] [--windows=1]
    python -m benchmarks.memory_training --operations [--size=base] [--crop=224]

The first prints a row per share of the chunks of THUMOS14's windows (480 frames in 15 chunks), each from a process of
its own, with random frames and weights: chunks trained, what the compiled step needs beside its arguments and results,
the peak of the process (compiling included), and the time of a step. With `--memory=computed` the other chunks are
computed as well, without gradient, instead of being read from the bank.

The second compiles the gradient of the backbone for one chunk, with plain attention so that no loop hides its inside,
and prints its floating point operations beside those on paper, for the published setting (two frozen stages, the blocks
of the others checkpointed) and without checkpoints. On paper are matrix products alone; XLA also counts what is done to
each element.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import resource
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from actloc_jax.backbones.video_swin import PRESETS, VideoSwin, VideoSwinSizes
from actloc_jax.layers.functional import Network
from actloc_jax.ops.video_windows import end_padding, fitted
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer import settings
from actloc_jax.systems.tallformer.completion import BANK, Completion, Computed, Memory
from actloc_jax.systems.tallformer.memory_training import anchor_loss_fn
from actloc_jax.training import optimizers, sharding, state
from benchmarks.timing import measure_train_step
from configs import tallformer_thumos

CLASSES, SLOTS = 20, 20  # of THUMOS14; room for segments
NO_SHIFT = (0, 0, 0)


def step_config(share: float, size: str, crop: int, memory: str) -> ConfigDict:
    """The published experiment with another share, backbone and crop."""
    config = tallformer_thumos.get_config(f"keep={share},memory={memory}")
    config.network.backbone.size, config.clip.crop = size, (crop, crop)
    return config


def training_row(config: ConfigDict, windows: int, repeat: int) -> dict[str, Any]:
    """Time and memory of a step on random frames, in this process."""
    choice, clip = settings.chunk_choice(config), settings.clip_size(config)
    rng = np.random.default_rng(0)
    keep, drop = choice.draw(rng)
    rows = settings.rows_per_chunk(config)
    backbone, sizes = settings.backbone_network(config), settings.detector_sizes(config, CLASSES)
    detector = settings.detector_network(config, sizes)
    complete, extra = _completion(config, backbone, windows, choice.num_chunks * rows)
    anchors = settings.window_anchors(config, sizes)
    tx = optimizers.make_optimizer("sgd", 0.01, momentum=0.9, weight_decay=1e-4)
    params = {"backbone": backbone.init(jax.random.key(0)), "detector": detector.init(jax.random.key(1))}
    current = state.create(params, tx, batch_stats=detector.init_statistics(), extra=extra)
    read = len(keep) if settings.has_bank(config) else choice.num_chunks
    starts = rng.uniform(0, clip.frames - 60, [windows, SLOTS, 1])
    batch = {
        "chunks": rng.standard_normal((windows, read, clip.chunk, *clip.crop, 3), dtype=np.float32),
        "keep": np.tile(keep, (windows, 1)).astype(np.int32),
        "drop": np.tile(drop, (windows, 1)).astype(np.int32),
        "trained": np.ones((windows, len(keep)), bool),
        "videos": np.arange(windows, dtype=np.int32),
        "starts": np.zeros(windows, np.int32),
        "segments": np.concatenate([starts, starts + 50], axis=-1).astype(np.float32),
        "labels": rng.integers(0, CLASSES, (windows, SLOTS)).astype(np.int32),
    }
    step = state.gradient_step(anchor_loss_fn(complete, detector, anchors, settings.anchor_loss(config)), tx)
    row = measure_train_step(step, current, batch, repeat)
    return {
        "chunks": len(keep),
        "of": choice.num_chunks,
        "temporary": row.temporary / 1e9,
        "peak": _peak_gigabytes(),
        "seconds": float(np.median(row.milliseconds)) / 1000,
    }


def _completion(config: ConfigDict, backbone: Network, windows: int, rows: int) -> tuple[Completion, dict[str, Any]]:
    """How windows are completed, and the bank with one video for each."""
    chunks = settings.chunk_choice(config).num_chunks
    if not settings.has_bank(config):
        return Computed(backbone, chunks), {}
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan = settings.bank_plan(config, (rows,) * windows, 1)
    features = np.zeros([rows, plan.channels], np.float32)
    access = banks.BankAccess(mesh, plan.layout, settings.rows_per_chunk(config))
    return Memory(backbone, access, chunks), {BANK: banks.fill(plan, mesh, lambda video: features)}


def _peak_gigabytes() -> float:
    """Most memory that this process has had (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# ------------------------------------------------------------------------------------------------- operations


def operations_on_paper(sizes: VideoSwinSizes, frames: int, side: int) -> list[float]:
    """Floating point operations of the matrix products of a forward pass: of the patches, then of each stage.

    Args:
        sizes: of the backbone.
        frames: of the clip.
        side: its height and width, pixels.
    """
    grid = [-(-length // patch) for length, patch in zip((frames, side, side), sizes.patch, strict=True)]
    counts = [2.0 * math.prod(grid) * math.prod(sizes.patch) * sizes.in_channels * sizes.width]
    for stage, depth in enumerate(sizes.depths):
        width = sizes.width * 2**stage
        window, _ = fitted(tuple(grid), sizes.window, NO_SHIFT)
        padded = math.prod(np.add(grid, end_padding(tuple(grid), window)))
        tokens = math.prod(grid)
        attention = 4 * width * width + 2 * math.prod(window) * width  # qkv, out; scores and weighted values
        perceptron = 2 * sizes.mlp_ratio * width * width
        total = 2.0 * depth * (padded * attention + tokens * perceptron)
        if stage < len(sizes.depths) - 1:
            grid = [grid[0], -(-grid[1] // 2), -(-grid[2] // 2)]
            total += 2.0 * math.prod(grid) * 4 * width * 2 * width
        counts.append(total)
    return counts


def gradient_on_paper(sizes: VideoSwinSizes, frames: int, side: int) -> float:
    """Of a training step: frozen parts once; trained ones thrice, checkpointed blocks a fourth time.

    What a gradient with respect to the input of the first trained part would cost is counted although it is not needed.
    """
    parts = operations_on_paper(sizes, frames, side)
    frozen = max(sizes.frozen_stages + 1, 0)
    return sum(parts[:frozen]) + (4 if sizes.checkpoint else 3) * sum(parts[frozen:])


def compiled_gradient(sizes: VideoSwinSizes, frames: int, side: int) -> float:
    """The same as XLA counts it in the compiled gradient."""
    net = Network(lambda rngs: VideoSwin(dataclasses.replace(sizes, attention="plain", drop_path=0.0), rngs=rngs))
    video = jax.ShapeDtypeStruct([1, frames, side, side, 3], jnp.float32)
    gradient = jax.jit(jax.grad(lambda params, video: jnp.square(net(params, video)).sum()))
    return float(gradient.lower(net.shapes(), video).compile().cost_analysis()["flops"])


def print_operations(size: str, side: int, frames: int = 32) -> None:
    """Prints operations on paper and compiled, of the published setting and without checkpoints."""
    print(f"Video Swin {size}, one chunk of {frames} x {side} x {side}: 10^9 floating point operations")
    print(f"{'':30}{'on paper':>10}{'compiled':>10}{'ratio':>8}")
    for name, checkpoint in (("as published", True), ("without checkpoints", False)):
        sizes = dataclasses.replace(PRESETS[size], frozen_stages=2, checkpoint=checkpoint)
        paper, found = gradient_on_paper(sizes, frames, side), compiled_gradient(sizes, frames, side)
        print(f"{name:30}{paper / 1e9:10.1f}{found / 1e9:10.1f}{found / paper:8.2f}", flush=True)


def main() -> None:
    """Reads the command line and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", action="store_true", help="count operations instead")
    parser.add_argument("--shares", default="0.07,0.15,0.4,1", help="of the chunks that are trained")
    parser.add_argument("--size", default="tiny", choices=PRESETS)
    parser.add_argument("--crop", type=int, default=112, help="height and width of the frames")
    parser.add_argument("--windows", type=int, default=1, help="in a batch")
    parser.add_argument("--memory", default="bank", choices=("bank", "computed"))
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--row", type=float, help=argparse.SUPPRESS)  # one share, in this process
    options = parser.parse_args()
    if options.operations:
        print_operations(options.size, options.crop)
        return
    if options.row is not None:
        config = step_config(options.row, options.size, options.crop, options.memory)
        print(json.dumps(training_row(config, options.windows, options.repeat)))
        return
    print(f"Video Swin {options.size}, {options.windows} x 480 x {options.crop} x {options.crop}, {options.memory}")
    print(f"{'share':>6}{'chunks':>10}{'GB of the step':>16}{'GB at peak':>12}{'s per step':>12}")
    for share in options.shares.split(","):
        command = [sys.executable, "-m", "benchmarks.memory_training", *sys.argv[1:], f"--row={share}"]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(
            f"{share:>6}{row['chunks']:>7}/{row['of']}{row['temporary']:16.2f}{row['peak']:12.2f}{row['seconds']:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
