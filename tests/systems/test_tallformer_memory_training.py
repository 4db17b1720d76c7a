"""TALLFormer's step with the memory: what gets gradient, what is written, where odd starts read."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.layers.functional import Network
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.systems.tallformer.completion import Completed, Computed, Memory, first_row
from actloc_jax.systems.tallformer.memory_training import parameter_group
from actloc_jax.training import sharding

FRAMES, ROWS = 4, 2  # of a chunk
STORED = np.arange(1, 13, dtype=np.float32).reshape(12, 1)  # the rows of the only video


class Brightness(nnx.Module):
    """Stands for the backbone: the mean of every two frames times a weight."""

    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.full((), 100.0))

    def chunk_features(self, chunks: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """[chunks, batch, frames, height, width, channels] to [chunks, batch, frames / 2, 1]."""
        del rngs
        pairs = chunks.mean(axis=(3, 4, 5)).reshape(*chunks.shape[:2], -1, 2).mean(axis=3)
        return pairs[..., None] * self.weight[...]


@functools.cache
def memory(**options: Any) -> tuple[Memory, banks.MemoryBank]:
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan = banks.BankPlan((len(STORED),), 1, "float32", 1, "rows")
    access = banks.BankAccess(mesh, plan.layout, ROWS)
    bank = banks.fill(plan, mesh, lambda video: STORED)
    return Memory(Network(lambda rngs: Brightness()), access, num_chunks=3, **options), bank


def step(
    start: int,
    weight: float = 100.0,
    *,
    keep: tuple[int, ...] = (1, -1),
    drop: tuple[int, ...] = (0, 2, -1),
    slow: float | None = None,
    number: int = 7,
    **options: Any,
) -> tuple[Completed, jax.Array]:
    """A window of three chunks, of which the second is computed, completed; and the gradient of the weight."""
    known, bank = memory(**options)
    extra = {"bank": bank} if slow is None else {"bank": bank, "slow_backbone": {"weight": jnp.float32(slow)}}
    batch = {
        "chunks": np.ones((1, len(keep), FRAMES, 2, 2, 3), np.float32),
        "keep": np.array([keep], np.int32),
        "drop": np.array([drop], np.int32),
        "videos": np.zeros(1, np.int32),
        "starts": np.array([start], np.int32),
    }

    def total(params: Any) -> tuple[jax.Array, Completed]:
        found = known(params, extra, batch, jnp.int32(number))
        return found.features.sum(), found

    gradient, found = jax.jit(jax.grad(total, has_aux=True))({"weight": jnp.float32(weight)})
    return found, gradient["weight"]


def test_computed_chunks_join_remembered_ones_and_are_written_back() -> None:
    found, gradient = step(4)
    np.testing.assert_array_equal(found.features[0, :, 0], [3, 4, 100, 100, 7, 8])
    assert gradient == ROWS  # of the computed rows alone, and not of the unused place
    bank = found.extra["bank"]
    rows = bank.rows[:12, 0]
    np.testing.assert_array_equal(rows, [1, 2, 3, 4, 100, 100, *range(7, 13)])
    np.testing.assert_array_equal(np.flatnonzero(bank.written), [4, 5])
    assert bank.written[4] == 7
    frozen, _ = step(4, frozen=True)
    np.testing.assert_array_equal(frozen.extra["bank"].rows[:12], STORED)


@pytest.mark.parametrize(("round_down", "expected"), [(True, [0, 0, 100, 100, 3, 4]), (False, [0, 1, 100, 100, 4, 5])])
def test_odd_zeros_before_a_video_read_one_row_early_only_as_published(round_down: bool, expected: list[int]) -> None:
    found, _ = step(-3, reads_round_down=round_down)
    np.testing.assert_array_equal(found.features[0, :, 0], expected)
    np.testing.assert_array_equal(
        np.flatnonzero(found.extra["bank"].written), [1, 2]
    )  # writes begin at row -1 either way


def test_none_or_all_of_the_chunks_can_be_computed() -> None:
    found, gradient = step(4, keep=(), drop=(0, 1, 2))
    np.testing.assert_array_equal(found.features[0, :, 0], [3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(found.extra["bank"].rows[:12], STORED)
    assert gradient == 0
    found, gradient = step(4, keep=(0, 1, 2), drop=())
    np.testing.assert_array_equal(found.features[0, :, 0], [100] * 6)
    np.testing.assert_array_equal(np.flatnonzero(found.extra["bank"].written), range(2, 8))
    assert gradient == 3 * ROWS
    assert found.metrics["count/bank_age"] == 0


def test_a_slower_backbone_writes_what_the_trained_one_does_not_see() -> None:
    found, gradient = step(4, slow=20.0, momentum=0.75)
    np.testing.assert_array_equal(found.features[0, :, 0], [3, 4, 100, 100, 7, 8])
    assert gradient == ROWS
    np.testing.assert_array_equal(found.extra["bank"].rows[4:6, 0], [40, 40])  # 0.75 * 20 + 0.25 * 100
    assert found.extra["slow_backbone"]["weight"] == 40
    first, _ = step(4, slow=20.0, momentum=0.75, number=0)
    assert first.extra["slow_backbone"]["weight"] == 100  # begins as a copy


@pytest.mark.parametrize("recompute", [False, True])
def test_without_a_memory_all_chunks_are_computed_and_the_chosen_have_gradient(recompute: bool) -> None:
    complete = Computed(Network(lambda rngs: Brightness()), 4, recompute)
    brightness = np.array([1, 2, 4, 8], np.float32)
    keep, drop = np.array([[2, 0]], np.int32), np.array([[1, 3]], np.int32)
    order = np.concatenate([keep[0], drop[0]])
    batch = {
        "chunks": np.broadcast_to(brightness[order, None, None, None, None], (4, FRAMES, 2, 2, 3))[None],
        "keep": keep,
        "drop": drop,
        "trained": np.array([[True, False]]),
    }

    def total(params: Any) -> tuple[jax.Array, Completed]:
        found = complete(params, {}, batch, jnp.int32(0), jax.random.key(0))
        return found.features.sum(), found

    gradient, found = jax.jit(jax.grad(total, has_aux=True))({"weight": jnp.float32(100)})
    np.testing.assert_array_equal(found.features[0, :, 0], np.repeat(100 * brightness, ROWS))
    assert gradient["weight"] == ROWS * 4  # of chunk 2 alone
    assert found.extra == {}


def test_rows_begin_at_half_the_start_towards_zero() -> None:
    np.testing.assert_array_equal(first_row(jnp.array([5, 4, -4, -5])), [2, 2, -2, -2])


def test_parameters_have_the_groups_of_their_rates() -> None:
    groups = [parameter_group(path, lambda rest: rest == "norm/bias") for path in ("detector/a", "backbone/norm/bias")]
    assert groups == ["detector", "frozen"]
    assert parameter_group("backbone/norm/scale", lambda rest: False) == "backbone"
