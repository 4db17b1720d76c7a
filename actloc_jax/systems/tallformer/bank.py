"""The long memory of TALLFormer: features of all chunks of all training videos, spread over the devices.

Arithmetic first (`BankPlan`, plain Python): how many rows and bytes, on how many devices, and what one step moves.
Then the state (`MemoryBank`), which lies in `TrainState.extra`, and the pure functions that a jitted step calls.
Paper: section 3.3. Original: memory-mapped files on disk, `klauscc/TALLFormer:vedatad/partial_feedback`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from actloc_jax.ops import memory_bank
from actloc_jax.ops.memory_bank import Layout

AXIS = "data"
"""Mesh axis over which the bank and the batch are split."""

ROW_MULTIPLE = 1024
"""Rows are allocated in multiples of this, whatever the devices: a checkpoint fits every number that divides it."""

LANES = 128
"""Fewer channels than this per device fill the registers of a TPU only in part, and memory is padded up to them."""

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class BankPlan:
    """How large a bank is and where its parts lie.

    Attributes:
        counts: rows of each video.
        channels: width of a row.
        dtype: "float32" (published) or "bfloat16".
        devices: devices along the mesh axis `data`.
        layout: what is split over them, "rows" or "channels"; see `best_layout`.

    Raises:
        ValueError: the devices do not divide the bank, or an unknown option.
    """

    counts: tuple[int, ...]
    channels: int
    dtype: str
    devices: int
    layout: Layout

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"bank dtype {self.dtype!r} is unknown; use one of {', '.join(DTYPES)}")
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"a bank needs videos of at least one row each; got {len(self.counts)} videos")
        split = {"rows": self.rows, "channels": self.channels}
        if self.layout not in split:
            raise ValueError(f"bank layout {self.layout!r} is unknown; use one of {', '.join(split)}")
        if split[self.layout] % self.devices:
            raise ValueError(
                f"{self.devices} devices do not divide the {split[self.layout]} {self.layout} of the memory bank. Use "
                f"another number of devices or the other layout (--config.memory.layout=rows or channels)."
            )

    @property
    def rows(self) -> int:
        """Rows allocated: those of all videos, rounded up to `ROW_MULTIPLE`."""
        return -(-sum(self.counts) // ROW_MULTIPLE) * ROW_MULTIPLE

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.channels * (4 if self.dtype == "float32" else 2)

    @property
    def bytes(self) -> int:
        """Bytes of the whole bank."""
        return self.rows * self.row_bytes

    @property
    def bytes_per_device(self) -> int:
        """Bytes of one device's part; the parts are equal."""
        return self.bytes // self.devices

    @property
    def rectangular_bytes(self) -> int:
        """Bytes if every video had as many rows as the longest."""
        return len(self.counts) * max(self.counts) * self.row_bytes

    def traffic(self, *, batch_size: int, rows_read: int, rows_written: int) -> StepTraffic:
        """What one step moves.

        Args:
            batch_size: windows of a global batch.
            rows_read: rows read for each window.
            rows_written: rows written for each window.
        """
        read, written = (batch_size * rows * self.row_bytes for rows in (rows_read, rows_written))
        # Split rows: all rows of the batch pass every device, less what it holds itself. Split channels: a device needs
        # the rows of its own windows only, less the channels that it holds of them.
        others = self.devices - 1
        parts = self.devices if self.layout == "rows" else self.devices**2
        return StepTraffic(read, written, read * others // parts, written * others // parts)


@dataclasses.dataclass(frozen=True)
class StepTraffic:
    """Bytes that one step moves.

    Attributes:
        read: rows read, of the global batch.
        written: rows written, of the global batch.
        received_to_read: what each device receives from others so that it has the rows of its windows.
        received_to_write: what each device receives from others to write into its part.
    """

    read: int
    written: int
    received_to_read: int
    received_to_write: int


def best_layout(channels: int, devices: int) -> Layout:
    """The layout that moves least: "channels" moves `devices` times fewer bytes, as long as each has full lanes."""
    return "channels" if channels % (devices * LANES) == 0 else "rows"


class MemoryBank(NamedTuple):
    """The state.

    Attributes:
        rows: [rows, channels], all videos behind one another.
        offsets: [videos + 1] int32, first row of each video and the end of the last.
        written: [rows] int32, the step that wrote each row; 0 for those from the filling.
    """

    rows: jax.Array
    offsets: jax.Array
    written: jax.Array


def shardings(layout: Layout) -> tuple[tuple[str, PartitionSpec], ...]:
    """Rules for `TrainStage.shardings`, for a bank that lies in `extra` under "bank"; the small tables are replicated.

    The step of each row (4 bytes beside 4096) is needed by all devices, as each sees the numbers of the whole batch.
    """
    return (("extra/bank/rows", _spec(layout)),)


def empty(plan: BankPlan) -> MemoryBank:
    """A bank of zeros; traceable, so that `jax.jit(..., out_shardings=...)` allocates no more than each part."""
    offsets = np.concatenate([[0], np.cumsum(plan.counts)]).astype(np.int32)
    return MemoryBank(
        jnp.zeros([plan.rows, plan.channels], plan.dtype), jnp.asarray(offsets), jnp.zeros(plan.rows, jnp.int32)
    )


def fill(plan: BankPlan, mesh: Mesh, read: Callable[[int], np.ndarray]) -> MemoryBank:
    """Places a bank on the mesh; each process reads the rows of its own devices, and never holds more than one part.

    Args:
        plan: of the bank.
        mesh: with as many devices along `data` as the plan has.
        read: number of a video -> its features [rows, channels], best memory-mapped.

    Raises:
        ValueError: the features of a video have another shape than planned: the bank was made with another backbone,
            frame rate or chunk length.
    """
    if mesh.shape[AXIS] != plan.devices:
        raise ValueError(f"the bank is planned for {plan.devices} devices, the mesh has {mesh.shape[AXIS]} along data")
    starts = np.concatenate([[0], np.cumsum(plan.counts)])

    def part(index: tuple[slice, slice]) -> np.ndarray:
        first, end, _ = index[0].indices(plan.rows)
        values = np.zeros([end - first, len(range(*index[1].indices(plan.channels)))], jnp.dtype(plan.dtype))
        for video in range(np.searchsorted(starts, first, "right") - 1, len(plan.counts)):
            start, rows = int(starts[video]), plan.counts[video]
            if start >= end:
                break
            features = read(video)
            if features.shape != (rows, plan.channels):
                raise ValueError(
                    f"the features of video {video} are {list(features.shape)}, the memory bank expects "
                    f"{[rows, plan.channels]}: they were made with another backbone, frame rate or chunk length. "
                    f"Extract them again with this config."
                )
            low, high = max(start, first), min(start + rows, end)
            values[low - first : high - first] = features[low - start : high - start, index[1]]
        return values

    everywhere = NamedSharding(mesh, PartitionSpec())
    rows = jax.make_array_from_callback(
        (plan.rows, plan.channels), NamedSharding(mesh, _spec(plan.layout)), part, dtype=jnp.dtype(plan.dtype)
    )
    small = (starts.astype(np.int32), np.zeros(plan.rows, np.int32))
    offsets, written = (
        jax.make_array_from_callback(table.shape, everywhere, lambda index, table=table: table[index])
        for table in small
    )
    return MemoryBank(rows, offsets, written)


class BankRead(NamedTuple):
    """What a step reads of the bank.

    Attributes:
        features: [batch, chunks, rows_per_chunk, channels] of the bank's type, zero beyond the videos; the batch is
            split over `data`.
        ages: [batch, chunks, rows_per_chunk] int32, steps since each row was written (since the filling for those that
            training has not written yet); -1 beyond the videos.
    """

    features: jax.Array
    ages: jax.Array


@dataclasses.dataclass(frozen=True)
class BankAccess:
    """Reads and writes a bank inside a jitted step.

    Attributes:
        mesh: where the bank lies.
        layout: what of it is split over the devices.
        rows_per_chunk: rows that one chunk has.
    """

    mesh: Mesh
    layout: Layout
    rows_per_chunk: int

    def row_numbers(self, bank: MemoryBank, videos: jax.Array, chunks: jax.Array, shifts: jax.Array) -> jax.Array:
        """Numbers of the rows of chunks, see `ops.memory_bank.window_rows`: [batch, chunks, rows_per_chunk] int32."""
        return memory_bank.window_rows(bank.offsets, videos, chunks, shifts, self.rows_per_chunk)

    def read(self, bank: MemoryBank, numbers: jax.Array, step: jax.Array) -> BankRead:
        """Rows for the windows of a batch.

        Args:
            bank: the state.
            numbers: [batch, chunks, rows_per_chunk] int32, from `row_numbers`; devices divide the batch.
            step: scalar int32, this step.
        """

        def part(rows: jax.Array, numbers: jax.Array) -> jax.Array:
            return memory_bank.read_shard(rows, numbers, axis=AXIS, layout=self.layout)

        features = jax.shard_map(
            part,
            mesh=self.mesh,
            in_specs=(_spec(self.layout), PartitionSpec()),
            out_specs=PartitionSpec(AXIS),
        )(bank.rows, numbers)
        exists = numbers < bank.rows.shape[0]
        return BankRead(features, jnp.where(exists, step - memory_bank.read_rows(bank.written, numbers), -1))

    def write(
        self, bank: MemoryBank, numbers: jax.Array, features: jax.Array, step: jax.Array, *, after: BankRead
    ) -> MemoryBank:
        """The bank after writing; donated, it is changed in place.

        Args:
            bank: the state.
            numbers: as for `read`; where a row occurs twice, the last value in order of the batch stays.
            features: [batch, chunks, rows_per_chunk, channels] of any float type, split over `data`; no gradient
                flows into them.
            step: scalar int32, remembered for the rows written.
            after: what the same step has read; of no chunks if it reads nothing.
        """

        def part(rows: jax.Array, numbers: jax.Array, features: jax.Array, read: jax.Array) -> jax.Array:
            numbers = memory_bank.after(numbers, read)
            return memory_bank.write_shard(rows, numbers, features, axis=AXIS, layout=self.layout)

        rows = jax.shard_map(
            part,
            mesh=self.mesh,
            in_specs=(_spec(self.layout), PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(AXIS)),
            out_specs=_spec(self.layout),
        )(bank.rows, numbers, jax.lax.stop_gradient(features), jax.lax.stop_gradient(after.features))
        numbers = memory_bank.after(numbers, after.ages).reshape(-1)
        return bank._replace(rows=rows, written=memory_bank.write_rows(bank.written, numbers, step))


def staleness(ages: jax.Array) -> dict[str, jax.Array]:
    """How old the rows are that a step reads.

    Args:
        ages: [batch, chunks, rows_per_chunk] int32, of `BankRead`.

    Returns:
        `count/bank_age` and `count/bank_age_max`, mean and largest number of steps since a row was written; float32
        scalars, 0 where no row is read.
    """
    exists = ages >= 0
    total = jnp.where(exists, ages, 0).astype(jnp.float32).sum()
    return {
        "count/bank_age": total / jnp.maximum(exists.sum(), 1),
        "count/bank_age_max": jnp.max(ages, initial=0).astype(jnp.float32),
    }


def rows_of_video(frames: int, *, chunk_frames: int, rows_per_chunk: int) -> int:
    """Rows of a video in the bank: its frames are filled up to whole chunks.

    THUMOS14 at 15 frames per second: 16 * ceil(frames / 32).
    """
    return -(-frames // chunk_frames) * rows_per_chunk


def compose(kept: jax.Array, frozen: jax.Array, keep: jax.Array, drop: jax.Array, num_chunks: int) -> jax.Array:
    """One sequence of features from chunks that were computed and chunks that were read.

    Args:
        kept: [batch, kept, rows_per_chunk, channels]; gradient flows into them.
        frozen: [batch, dropped, rows_per_chunk, channels], constants.
        keep: [batch, kept] int32, places of `kept` among the chunks of the window; -1 leaves one out.
        drop: [batch, dropped] int32, places of `frozen`; -1 leaves one out.
        num_chunks: chunks of a window; those in neither list are zero.

    Returns:
        [batch, num_chunks * rows_per_chunk, channels], of the type of `kept`.
    """

    def one(kept: jax.Array, frozen: jax.Array, keep: jax.Array, drop: jax.Array) -> jax.Array:
        places = jnp.concatenate([drop, keep])
        places = jnp.where(places < 0, num_chunks, places)
        features = jnp.concatenate([jax.lax.stop_gradient(frozen).astype(kept.dtype), kept])
        window = jnp.zeros([num_chunks, *kept.shape[1:]], kept.dtype).at[places].set(features, mode="drop")
        return window.reshape(-1, kept.shape[-1])

    return jax.vmap(one)(kept, frozen, keep, drop)


def _spec(layout: Layout) -> PartitionSpec:
    return PartitionSpec(AXIS, None) if layout == "rows" else PartitionSpec(None, AXIS)
