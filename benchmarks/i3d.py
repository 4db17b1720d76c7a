"""How fast I3D is at its published size, with random weights.

    python -m benchmarks.i3d [--rows=rgb,flow] [--frames=16] [--batch=1] [--dtype=float32] [--repeat=5]

Prints one row per measurement: seconds to compile, then the median, least and largest time of a call in milliseconds.
`product` is a matrix product of the size of the largest 3 x 3 x 3 convolution; `rgb` and `flow` are the two streams on
windows of 224 x 224, batch norms folded. Below that: windows per second, and the memory that a call needs beside its
arguments. `taskset -c 0` in front gives the times of one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.i3d import STREAMS, I3DSizes, i3d_network
from benchmarks.timing import Row, measure, print_rows

ROWS = {name: channels for channels, name in STREAMS.items()}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PRODUCT = (8 * 56 * 56, 27 * 64, 192)  # positions, taps times channels, channels: of conv3d_2c_3x3 on 16 frames


def product_row(dtype: str, repeat: int) -> Row:
    """The row "product"."""
    positions, inner, channels = PRODUCT
    x, kernel = (
        jax.random.normal(jax.random.key(0), shape, DTYPES[dtype]) for shape in ((positions, inner), (inner, channels))
    )
    return measure("product", jnp.matmul, (x, kernel), repeat)


def stream_row(stream: str, frames: int, batch: int, dtype: str, repeat: int, divisor: int = 1) -> Row:
    """A row of one stream; `divisor` as of `I3DSizes`."""
    sizes = I3DSizes(in_channels=ROWS[stream], divisor=divisor)
    net = i3d_network(sizes, folded=True, dtype=DTYPES[dtype])
    shape = (batch, frames, 224, 224, sizes.in_channels)
    windows = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    params = jax.jit(net.init)(jax.random.key(0))  # one program instead of one per shape
    return measure(stream, net, (params, windows), repeat)


def print_windows(measured: list[Row], batch: int) -> None:
    """Prints windows per second and memory of the rows that are streams."""
    print(f"{'':14} {'windows/s':>10} {'MiB':>10}")
    for row in measured:
        if row.name in ROWS:
            rate = 1000 * batch / np.median(row.milliseconds)
            print(f"{row.name:14} {rate:10.2f} {row.temporary / 2**20:10.0f}")


def main() -> None:
    """Reads the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="what to measure")
    parser.add_argument("--frames", type=int, default=16, help="of a window")
    parser.add_argument("--batch", type=int, default=1, help="windows of a call")
    parser.add_argument("--dtype", default="float32", choices=tuple(DTYPES), help="the networks compute in this")
    parser.add_argument("--repeat", type=int, default=5, help="calls to time")
    arguments = parser.parse_args()
    wanted = arguments.rows.split(",")
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"--rows has {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    measured: list[Row] = []

    def kept() -> Iterator[Row]:
        yield product_row(arguments.dtype, arguments.repeat)
        for stream in wanted:
            row = stream_row(stream, arguments.frames, arguments.batch, arguments.dtype, arguments.repeat)
            measured.append(row)
            yield row

    print_rows(f"{arguments.dtype}, {arguments.batch} windows of {arguments.frames} frames", kept())
    print_windows(measured, arguments.batch)


if __name__ == "__main__":
    main()
