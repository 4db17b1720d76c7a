"""TALLFormer's memory bank: arithmetic, reading and writing, ages, errors; over devices in tests/distributed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.training import sharding

COUNTS = (10, 3, 30)


def small_bank(dtype: str = "float32") -> tuple[banks.BankAccess, banks.MemoryBank]:
    """Three videos; the value of a row is 100 * video + row."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan = banks.BankPlan(COUNTS, 2, dtype, 1, "rows")
    bank = banks.fill(plan, mesh, lambda video: (100 * video + np.arange(COUNTS[video]))[:, None] + np.zeros([1, 2]))
    return banks.BankAccess(mesh, "rows", rows_per_chunk=4), bank


def numbers(access, bank, videos, chunks, shifts) -> jax.Array:
    return access.row_numbers(bank, *(jnp.asarray(values, jnp.int32) for values in (videos, chunks, shifts)))


def test_rows_beyond_a_video_are_zero_and_never_those_of_its_neighbours() -> None:
    access, bank = small_bank()
    wanted = numbers(access, bank, [1, 2, -1], [[0, 1], [-1, 7], [0, 1]], [-2, 0, 0])
    read = access.read(bank, wanted, jnp.int32(0))
    expected = [[[0, 0, 100, 101], [102, 0, 0, 0]], [[0, 0, 0, 0], [228, 229, 0, 0]], [[0] * 4] * 2]
    np.testing.assert_array_equal(read.features[..., 0], expected)
    np.testing.assert_array_equal(read.ages >= 0, np.array(expected) > 0)


def test_the_last_write_of_a_row_stays_and_rows_beyond_the_video_are_not_written() -> None:
    access, bank = small_bank()
    wanted = numbers(access, bank, [1, 1], [[0], [0]], [0, 1])
    values = jnp.arange(8.0).reshape(2, 1, 4, 1) + jnp.zeros([1, 1, 1, 2])
    nothing = access.read(bank, wanted[:, :0], jnp.int32(1))
    written = jax.jit(access.write)(bank, wanted, values, jnp.int32(7), after=nothing)
    before, after = np.array(bank.rows[:, 0]), np.array(written.rows[:, 0])
    np.testing.assert_array_equal(after[10:13], [0, 4, 5])
    after[10:13] = before[10:13]
    np.testing.assert_array_equal(after, before)
    assert np.flatnonzero(written.written == 7).tolist() == [10, 11, 12]


def test_ages_count_the_steps_since_a_row_was_written() -> None:
    access, bank = small_bank()
    wanted = numbers(access, bank, [0], [[0, 1, 2]], [0])
    read = access.read(bank, wanted[:, 1:], jnp.int32(3))
    bank = access.write(bank, wanted[:, :1], jnp.ones([1, 1, 4, 2]), jnp.int32(3), after=read)
    ages = access.read(bank, wanted, jnp.int32(5)).ages
    assert ages.reshape(-1).tolist() == [2] * 4 + [5] * 6 + [-1] * 2
    scalars = banks.staleness(ages)
    assert float(scalars["count/bank_age"]) == pytest.approx((2 * 4 + 5 * 6) / 10)
    assert float(scalars["count/bank_age_max"]) == 5
    assert float(banks.staleness(ages[:, :0])["count/bank_age"]) == 0


def test_features_are_kept_in_the_type_of_the_bank() -> None:
    access, bank = small_bank("bfloat16")
    wanted = numbers(access, bank, [0], [[0]], [0])
    nothing = access.read(bank, wanted[:, :0], jnp.int32(0))
    values = jnp.full([1, 1, 4, 2], 1.001)
    bank = access.write(bank, wanted, values, jnp.int32(1), after=nothing)
    assert bank.rows.dtype == jnp.bfloat16
    np.testing.assert_array_equal(access.read(bank, wanted, jnp.int32(1)).features, values.astype(jnp.bfloat16))


def test_compose_puts_chunks_in_their_places_and_gradient_flows_into_the_computed_ones_only() -> None:
    kept, frozen = jnp.full([1, 2, 3, 1], 1.0), jnp.full([1, 2, 3, 1], 2.0)
    keep, drop = jnp.array([[3, 1]]), jnp.array([[0, -1]])

    def total(kept: jax.Array, frozen: jax.Array) -> jax.Array:
        return banks.compose(kept, frozen, keep, drop, 4).sum()

    composed = banks.compose(kept * jnp.array([1, 10]).reshape(1, 2, 1, 1), frozen, keep, drop, 4)
    np.testing.assert_array_equal(composed[0, :, 0], np.repeat([2, 10, 0, 1], 3))
    of_kept, of_frozen = jax.grad(total, (0, 1))(kept, frozen)
    assert of_kept.min() == 1
    assert of_frozen.max() == 0


def test_a_ragged_bank_is_as_large_as_the_paper_and_its_longest_video_say() -> None:
    counts = (10_576, *[1528] * 198, 1_696)  # THUMOS14: 200 videos, 314 816 rows
    plan = banks.BankPlan(counts, 1024, "float32", 8, banks.best_layout(1024, 8))
    assert sum(counts) == 314_816
    assert plan.bytes < 1.003 * 314_816 * 4096
    assert plan.rectangular_bytes == 200 * 10_576 * 4096
    assert plan.bytes_per_device * 8 == plan.bytes
    traffic = plan.traffic(batch_size=16, rows_read=13 * 16, rows_written=2 * 16)
    assert (traffic.read, traffic.written) == (13_631_488, 2_097_152)
    rows = banks.BankPlan(counts, 1024, "float32", 8, "rows").traffic(batch_size=16, rows_read=208, rows_written=32)
    assert rows.received_to_read == 8 * traffic.received_to_read == 13_631_488 * 7 // 8
    assert banks.best_layout(1024, 16) == "rows"
    assert banks.rows_of_video(33, chunk_frames=32, rows_per_chunk=16) == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": 3}, "3 devices do not divide the 1024 rows"),
        ({"devices": 4, "layout": "channels"}, "4 devices do not divide the 2 channels"),
        ({"dtype": "float16"}, "float32, bfloat16"),
        ({"layout": "videos"}, "rows, channels"),
        ({"counts": ()}, "0 videos"),
    ],
)
def test_a_bank_that_does_not_fit_says_why(change: dict, message: str) -> None:
    valid = {"counts": COUNTS, "channels": 2, "dtype": "float32", "devices": 1, "layout": "rows"}
    with pytest.raises(ValueError, match=message):
        banks.BankPlan(**valid | change)


def test_features_of_another_backbone_are_refused() -> None:
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(
        ValueError, match=r"video 0 are \[10, 3\], the memory bank expects \[10, 2\].*Extract them again"
    ):
        banks.fill(banks.BankPlan(COUNTS, 2, "float32", 1, "rows"), mesh, lambda video: np.zeros([COUNTS[video], 3]))
