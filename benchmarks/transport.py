"""How fast ASOT's transport is, on random costs: three solvers, a padded batch, and growing videos.

    python -m benchmarks.transport [--rows=pmd,prox,gw,batch,scaling] [--frames=5000] [--actions=48] [--repeat=10]

Prints one row per measurement: seconds to compile, then the median, least and largest time of a call in milliseconds;
at the end the largest memory of the process. `batch` is 32 videos of 2000 frames and 20 actions, some of them shorter;
`scaling` is `pmd` from 1,000 to 64,000 frames.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.ops import transport
from benchmarks.timing import Row, measure, print_rows

ROWS = ("pmd", "prox", "gw", "batch", "scaling")
SCALES = (1000, 2000, 4000, 8000, 16000, 32000, 64000)


def random_costs(videos: int, frames: int, actions: int) -> np.ndarray:
    """[videos, frames, actions] float32: actions in order, each cheap in its part of the video, with noise."""
    rng = np.random.default_rng(0)
    place = np.arange(frames)[:, None] * actions // frames == np.arange(actions)
    return (1 - 0.5 * place + 0.2 * rng.standard_normal((videos, frames, actions))).astype(np.float32)


def solver_row(mode: str, frames: int, actions: int, repeat: int, *, name: str = "", videos: int = 1) -> Row:
    """The time of one solve; of several videos, every second one is a tenth shorter than the padded length."""
    settings = transport.Settings(mode=mode, step_scope="video")
    on_cpu = jax.default_backend() == "cpu"
    lengths = np.full(videos, frames)
    lengths[1::2] = frames * 9 // 10
    mask = np.arange(frames) < lengths[:, None]

    def solve(cost: jax.Array, mask: jax.Array, lengths: jax.Array) -> jax.Array:
        found = transport.solve(cost, mask, settings, lengths=lengths, trace=False, one_by_one=on_cpu)
        return found.plan

    arguments = (random_costs(videos, frames, actions), mask, lengths)
    return measure(name or mode, solve, tuple(map(jnp.asarray, arguments)), repeat)


def rows(wanted: tuple[str, ...], frames: int, actions: int, repeat: int) -> Iterator[Row]:
    """The rows asked for."""
    for name in wanted:
        if name == "batch":
            yield solver_row("pmd", 2000, 20, repeat, name="batch of 32", videos=32)
        elif name == "scaling":
            for length in SCALES:
                yield solver_row("pmd", length, actions, repeat, name=f"{length} frames")
        else:
            yield solver_row(name, frames, actions, repeat)


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="what to measure")
    parser.add_argument("--frames", type=int, default=5000, help="frames of the rows pmd, prox and gw")
    parser.add_argument("--actions", type=int, default=48, help="actions of these and of `scaling`")
    parser.add_argument("--repeat", type=int, default=10, help="calls to time")
    arguments = parser.parse_args()
    wanted = tuple(arguments.rows.split(","))
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"--rows has {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    title = f"{arguments.frames} frames, {arguments.actions} actions"
    print_rows(title, rows(wanted, arguments.frames, arguments.actions, arguments.repeat))
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
