"""Run by test_memory_bank.py with eight fake devices: prints as JSON what it found.

python -m tests.distributed.bank_program <folder>
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.training import checkpoints, sharding
from actloc_jax.training.state import Gradients, LossOutput, create, gradient_step, without
from benchmarks import memory_bank

COUNTS = (70, 1500, 9, 800, 333)
CHANNELS, BATCH, CHUNKS, KEPT = 16, 8, 5, 2
STEPS = 4


def video_features(video: int) -> np.ndarray:
    """The features that the bank is filled with."""
    return np.random.default_rng(video).standard_normal([COUNTS[video], CHANNELS]).astype(np.float32)


def make(devices: int, layout: banks.Layout) -> tuple[banks.BankPlan, jax.sharding.Mesh, banks.MemoryBank]:
    """A filled bank on the first devices."""
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    plan = banks.BankPlan(COUNTS, CHANNELS, "float32", devices, layout)
    return plan, mesh, banks.fill(plan, mesh, video_features)


def run(bank: banks.MemoryBank, mesh, layout: banks.Layout, first: int, last: int) -> tuple[banks.MemoryBank, list]:
    """Steps with the same random windows whatever the devices; videos come twice in a batch, windows stick out."""
    step = jax.jit(memory_bank.bank_step(banks.BankAccess(mesh, layout, 16)), donate_argnums=0)
    read = []
    for number in range(first, last):
        rng = np.random.default_rng(number)
        order = np.stack([rng.permutation(CHUNKS) for _ in range(BATCH)]).astype(np.int32)
        batch = {
            "videos": rng.integers(-1, len(COUNTS), BATCH).astype(np.int32),
            "keep": order[:, :KEPT],
            "drop": order[:, KEPT:],
            "shifts": rng.integers(-20, 400, BATCH).astype(np.int32),
            "features": rng.standard_normal([BATCH, KEPT, 16, CHANNELS]).astype(np.float32),
        }
        placed = sharding.put_batch(batch, mesh)
        bank, found = step(bank, *placed.values(), jnp.int32(number + 1))
        read.append(jax.device_get(found))
    return bank, read


def same(first, second) -> bool:
    """Whether two trees hold the same numbers."""
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def restored(folder: pathlib.Path, bank: banks.MemoryBank, devices: int, layout: banks.Layout):
    """The bank saved and restored onto another number of devices and another layout."""
    runs = checkpoints.RunCheckpoints(folder)
    runs.save({"extra": {"bank": bank}}, step=1, iterator_state=0, meta={})
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    shapes = jax.eval_shape(
        lambda: {"extra": {"bank": banks.empty(banks.BankPlan(COUNTS, CHANNELS, "float32", 1, "rows"))}}
    )
    places = sharding.state_shardings(shapes, mesh, banks.shardings(layout))
    template = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, places)
    state, _, _ = runs.restore(template)
    runs.close()
    return banks.MemoryBank(*state["extra"]["bank"]), mesh


def main() -> None:
    """Runs everything and prints the findings."""
    found: dict[str, object] = {"devices": len(jax.devices())}
    _, mesh, bank = make(1, "rows")
    expected_bank, expected_read = jax.device_get(run(bank, mesh, "rows", 0, STEPS))
    for layout in ("rows", "channels"):
        plan, mesh, bank = make(8, layout)
        found[f"{layout}_parts"] = sorted({shard.data.nbytes for shard in bank.rows.addressable_shards})
        found[f"{layout}_planned"] = plan.bytes_per_device
        donated = bank.rows
        bank, read = run(bank, mesh, layout, 0, STEPS)
        found[f"{layout}_donated"] = donated.is_deleted()
        found[f"{layout}_same"] = same(bank, expected_bank) and same(read, expected_read)
    _, mesh, bank = make(8, "channels")
    half, _ = run(bank, mesh, "channels", 0, STEPS // 2)
    half, mesh = restored(pathlib.Path(sys.argv[1]), half, 4, "rows")
    found["restored_parts"] = len(half.rows.addressable_shards)
    bank, read = run(half, mesh, "rows", STEPS // 2, STEPS)
    found["restored_same"] = same(bank, expected_bank) and same(read, expected_read[STEPS // 2 :])
    found["large"] = large_bank()
    found["loop"] = loop_step()
    print(json.dumps(found))


def large_bank() -> dict[str, int]:
    """Compiles a step on a bank of ActivityNet's size: 15.8 GB, of which a device has far less."""
    setting = memory_bank.SETTINGS["activitynet"]
    plan = banks.BankPlan(memory_bank.row_counts(setting), 1024, "float32", 8, banks.best_layout(1024, 8))
    compiled = memory_bank.compiled_step(plan, setting, jax.devices())
    memory, measured = compiled.memory_analysis(), memory_bank.measured(compiled, 8)
    traffic = plan.traffic(batch_size=8, rows_read=16 * setting.dropped, rows_written=16 * setting.kept)
    return {
        "bank": plan.bytes,
        "arguments": memory.argument_size_in_bytes,
        "beside": measured.beside,
        "received": measured.received,
        "planned": traffic.received_to_read + traffic.received_to_write,
    }


def loop_step() -> dict[str, object]:
    """The half of a train step that sees the batch, as the loop compiles it, with a bank in `extra`."""
    mesh = sharding.make_mesh()
    plan = banks.BankPlan((3000,) * 20, 64, "float32", 8, "rows")
    access = banks.BankAccess(mesh, plan.layout, rows_per_chunk=4)

    def loss(params, state, batch, key) -> LossOutput:
        bank = state.extra["bank"]
        features = batch["frames"] * params["scale"]
        numbers = [
            access.row_numbers(bank, batch["index"], batch[name], batch["first_row"]) for name in ("drop", "keep")
        ]
        read = access.read(bank, numbers[0], state.step)
        window = banks.compose(features, read.features, batch["keep"], batch["drop"], CHUNKS)
        bank = access.write(bank, numbers[1], features, state.step, after=read)
        return LossOutput((window**2).mean(), banks.staleness(read.ages), {}, {"bank": bank})

    tx = optax.sgd(0.1)
    step = gradient_step(loss, tx)
    shapes = jax.eval_shape(lambda: create({"scale": jnp.ones(64)}, tx, extra={"bank": banks.empty(plan)}))
    places = sharding.state_shardings(shapes, mesh, banks.shardings(plan.layout))
    chunks = {"keep": KEPT, "drop": CHUNKS - KEPT}
    batch = {name: jax.ShapeDtypeStruct([BATCH, count], jnp.int32) for name, count in chunks.items()}
    batch |= {name: jax.ShapeDtypeStruct([BATCH], jnp.int32) for name in ("index", "first_row")}
    batch["frames"] = jax.ShapeDtypeStruct([BATCH, KEPT, 4, 64], jnp.float32)
    everywhere = sharding.replicated(mesh)
    compiled = (
        jax.jit(
            step.gradients,
            donate_argnums=0,
            in_shardings=(
                places.extra,
                without(places, "extra", "opt_state"),
                sharding.batch_sharding(mesh),
                everywhere,
            ),
            out_shardings=Gradients(places.params, places.batch_stats, places.extra, everywhere),
        )
        .lower(shapes.extra, without(shapes, "extra", "opt_state"), batch, jax.eval_shape(lambda: jax.random.key(0)))
        .compile()
    )
    return {"part": plan.bytes_per_device, "beside": compiled.memory_analysis().temp_size_in_bytes}


if __name__ == "__main__":
    main()
