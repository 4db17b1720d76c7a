"""What TALLFormer's memory bank costs: arithmetic beside what the compiled step says, on 1 to 8 (fake) devices.

    python -m benchmarks.memory_bank [--dataset=thumos14] [--devices=1,2,4,8] [--dtype=float32] [--layout=rows,channels]

Compiles a step that reads and writes the bank and nothing else, at the full size of the data set, without allocating
it. One row per layout and number of devices: bytes of the bank and of each device's part; what a step needs beside the
bank (a copy of it would show here); bytes that each device receives from others in a step, by arithmetic and as the
collectives of the compiled program add up (with the numbers of the rows, which the arithmetic leaves out).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

# Read when jax starts its backend; as many fake devices as the table has at most.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.training import sharding


class Setting(NamedTuple):
    """Size of a bank and of a step: videos, their rows together, rows of the longest; windows of a batch, chunks."""

    videos: int
    rows: int
    longest: int
    batch_size: int
    kept: int
    dropped: int


SETTINGS = {
    "thumos14": Setting(200, 314_816, 10_576, batch_size=16, kept=2, dropped=13),
    "activitynet": Setting(10_024, 3_849_216, 384, batch_size=8, kept=9, dropped=16),
    "hacs": Setting(37_613, 14_443_392, 384, batch_size=8, kept=9, dropped=16),
}
ROWS_PER_CHUNK = 16
CHANNELS = 1024
WIDTHS = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "s8": 1, "u8": 1}


class Measured(NamedTuple):
    """What a compiled step says, in bytes per device: what it needs beside its arguments, and what it receives."""

    beside: int
    received: int


def row_counts(setting: Setting) -> tuple[int, ...]:
    """Rows of each video: one of the longest, the others alike, together as many as the data set has."""
    others = np.diff(np.linspace(0, setting.rows - setting.longest, setting.videos).astype(int))
    return (setting.longest, *map(int, others))


def bank_step(access: banks.BankAccess):
    """A step that only uses the bank: `(bank, videos, keep, drop, shifts, features, step) -> (bank, read)`."""

    def step(bank, videos, keep, drop, shifts, features, number):
        read = access.read(bank, access.row_numbers(bank, videos, drop, shifts), number)
        written = access.row_numbers(bank, videos, keep, shifts)
        return access.write(bank, written, features, number, after=read), read

    return step


def compiled_step(plan: banks.BankPlan, setting: Setting, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """`bank_step` compiled for these devices from shapes alone, with the bank donated."""
    mesh = sharding.make_mesh(devices=devices)
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    bank = jax.eval_shape(lambda: {"extra": {"bank": banks.empty(plan)}})
    places = sharding.state_shardings(bank, mesh, banks.shardings(plan.layout))["extra"]["bank"]
    batch = setting.batch_size
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ([batch], [batch, setting.kept], [batch, setting.dropped])
    ]
    features = jax.ShapeDtypeStruct([batch, setting.kept, ROWS_PER_CHUNK, plan.channels], jnp.float32)
    step = jax.jit(
        bank_step(banks.BankAccess(mesh, plan.layout, ROWS_PER_CHUNK)),
        donate_argnums=0,
        in_shardings=(places, *[rows] * 5, everywhere),
        out_shardings=(places, banks.BankRead(rows, everywhere)),
    )
    number = jax.ShapeDtypeStruct([], jnp.int32)
    return step.lower(bank["extra"]["bank"], *shapes, shapes[0], features, number).compile()


def measured(compiled: jax.stages.Compiled, devices: int) -> Measured:
    """Reads memory and collectives of a compiled step."""
    memory = compiled.memory_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Measured(memory.temp_size_in_bytes + fresh, received_bytes(compiled.as_text(), devices))


def received_bytes(program: str, devices: int) -> int:
    """Bytes that each device receives from others in the collectives of a compiled program.

    A collective over one device moves nothing; over more, each receives the result less its own share of it
    (`all-gather`, `all-to-all`), the other devices' contributions to its share (`reduce-scatter`), or both.
    """
    share = {"all-gather": 1, "all-to-all": 1, "reduce-scatter": devices, "all-reduce": 2, "collective-permute": 1}
    total = 0.0
    for result, name in re.findall(rf"= (\S.*?) ({'|'.join(share)})(?:-start)?\(", program):
        for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", result):
            size = WIDTHS[kind] * int(np.prod([int(number) for number in sizes.split(",") if number]))
            total += size * share[name] * (1 if name == "collective-permute" else (devices - 1) / devices)
    return round(total)


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="thumos14", choices=SETTINGS)
    parser.add_argument("--devices", default="1,2,4,8", help="numbers of devices, at most those that jax sees")
    parser.add_argument("--dtype", default="float32", choices=banks.DTYPES)
    parser.add_argument("--layout", default="rows,channels", help="what is split over the devices")
    parser.add_argument("--channels", type=int, default=CHANNELS, help="width of a row: 1024 Swin-B, 768 Swin-T")
    arguments = parser.parse_args()
    setting = SETTINGS[arguments.dataset]
    counts = row_counts(setting)
    first = banks.BankPlan(counts, arguments.channels, arguments.dtype, 1, "rows")
    print(
        f"{arguments.dataset}: {len(counts)} videos, {sum(counts):,} rows of {arguments.channels} {arguments.dtype}; "
        f"{first.bytes / 1e9:.2f} GB, rectangular {first.rectangular_bytes / 1e9:.2f} GB"
    )
    print(f"{'layout':10}{'devices':>8}{'GB/device':>11}{'MB beside':>11}{'MB moved, arithmetic':>22}{'compiled':>10}")
    for layout in arguments.layout.split(","):
        for devices in map(int, arguments.devices.split(",")):
            plan = banks.BankPlan(counts, arguments.channels, arguments.dtype, devices, layout)
            found = measured(compiled_step(plan, setting, jax.devices()[:devices]), devices)
            traffic = plan.traffic(
                batch_size=setting.batch_size,
                rows_read=setting.dropped * ROWS_PER_CHUNK,
                rows_written=setting.kept * ROWS_PER_CHUNK,
            )
            moved = traffic.received_to_read + traffic.received_to_write
            print(
                f"{layout:10}{devices:8}{plan.bytes_per_device / 1e9:11.3f}{found.beside / 1e6:11.2f}"
                f"{moved / 1e6:22.3f}{found.received / 1e6:10.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
