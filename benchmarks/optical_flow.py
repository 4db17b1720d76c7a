"""Time of optical flow: RAFT, TV-L1, and OpenCV's where it is installed, on a pair of frames of the published size.

    python -m benchmarks.optical_flow [--height=256] [--width=340] [--pairs=1] [--iterations=20] [--repeat=5]

Frames are a random picture that moves by some pixels. For one thread of a CPU:
`XLA_FLAGS=--xla_cpu_multi_thread_eigen=false taskset -c 0 python -m benchmarks.optical_flow`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from scipy import ndimage

from actloc_jax.backbones import optical_flow, raft
from actloc_jax.ops import tvl1
from benchmarks.timing import Row, measure, measure_host, print_rows


def moving_picture(frames: int, height: int, width: int) -> np.ndarray:
    """uint8 [frames, height, width, 3]: a smooth random picture, 3 pixels further right and 1 down in each frame."""
    rng = np.random.default_rng(0)
    picture = ndimage.gaussian_filter(rng.random((height + frames, width + 3 * frames, 3)), (3, 3, 0))
    picture = np.uint8(255 * (picture - picture.min()) / np.ptp(picture))
    starts = [(frames - k, 3 * (frames - k)) for k in range(frames)]
    return np.stack([picture[y : y + height, x : x + width] for y, x in starts])


def raft_rows(frames: np.ndarray, sizes: Sequence[str], *, iterations: int, repeat: int) -> Iterator[Row]:
    """RAFT with random weights, one row per size; times are for all pairs of `frames` together."""
    rng = np.random.default_rng(0)
    for size in sizes:
        net = raft.network(raft.PRESETS[size])
        params = jax.tree.map(lambda leaf: 0.01 * rng.standard_normal(leaf.shape, np.float32), raft.shapes(net))
        run = functools.partial(raft.flow_of_frames, net, iterations=iterations)
        yield measure(f"RAFT {size}", run, (params, frames), repeat)


def variational_rows(frames: np.ndarray, *, repeat: int) -> Iterator[Row]:
    """TV-L1, and OpenCV's algorithms where they are installed; times are for all pairs of `frames` together."""
    yield measure("TV-L1", tvl1.flow, (np.asarray(tvl1.grey(frames)),), repeat)
    for algorithm in ("tvl1_opencv", "dis"):
        try:
            estimate = optical_flow.optical_flow(algorithm)
        except ValueError as err:  # not installed
            print(err)
            continue
        yield measure_host(algorithm, lambda estimate=estimate: estimate(frames), repeat)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one row per way to compute flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=340)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=raft.ITERATIONS)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args(argv)
    frames = moving_picture(args.pairs + 1, args.height, args.width)
    title = f"{args.pairs} pairs of {args.height} x {args.width} pixels, RAFT with {args.iterations} iterations"
    networks = raft_rows(frames, list(raft.PRESETS), iterations=args.iterations, repeat=args.repeat)
    print_rows(title, itertools.chain(networks, variational_rows(frames, repeat=args.repeat)))


if __name__ == "__main__":
    main()
