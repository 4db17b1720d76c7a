"""TALLFormer's memory bank and choice of chunks against the original."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from actloc_jax.data import video_chunks
from actloc_jax.systems.tallformer import bank as banks
from actloc_jax.training import sharding
from tests.parity.harness import Case, parity


def one_device() -> Mesh:
    """A mesh of one device: the cases have batches of one."""
    return sharding.make_mesh(devices=jax.devices()[:1])


def filled(rows: np.ndarray, rows_per_chunk: int) -> tuple[banks.BankAccess, banks.MemoryBank]:
    """A bank of one video with these rows [rows, channels], and how to reach it."""
    mesh = one_device()
    plan = banks.BankPlan((len(rows),), rows.shape[1], "float32", 1, "rows")
    return banks.BankAccess(mesh, plan.layout, rows_per_chunk), banks.fill(plan, mesh, lambda video: rows)


@parity("tallformer", "membank_script")
def check_membank_script(case: Case) -> None:
    """Every choice of chunks with the original's random numbers, and both scripts of reads and writes, exactly."""
    arrays, config = case.arrays, case.config
    _check_choices(case)
    for name, prefix, script in (("bank0", "s", "script"), ("anet_bank0", "a", "anet_script")):
        access, bank = filled(arrays[name], config["feat_rows_per_chunk"])
        read_bank, write_bank = jax.jit(access.read), jax.jit(access.write)
        for number, entry in enumerate(config[script]):
            step = f"{prefix}{number}"
            shift = entry["tshift"] // 2 if "tshift" in entry else None
            reads = access.row_numbers(bank, *_chunks(entry["drop"], entry.get("read_offset", shift)))
            writes = access.row_numbers(bank, *_chunks(entry["keep"], entry.get("write_offset", shift)))
            read = read_bank(bank, reads, jnp.int32(number))
            np.testing.assert_array_equal(_published(read.features), arrays[f"{step}/read"], err_msg=step)
            values = jnp.asarray(arrays[f"{step}/write"].transpose(0, 2, 1)[None])
            bank = write_bank(bank, writes, values, jnp.int32(number), after=read)
            found = bank.rows[: len(arrays[name])]
            np.testing.assert_array_equal(found, arrays[f"{step}/bank_after"], err_msg=step)


def _check_choices(case: Case) -> None:
    for number, entry in enumerate(case.config["generators"]):
        rng, chunks = np.random.RandomState(entry["np_seed"]), entry["num_frames"] // entry["chunk"]
        keep, drop = video_chunks.choose(entry["mode"], chunks, entry["keep_ratio"], rng)
        _same(case, f"gen{number}", keep, drop)
    for number, entry in enumerate(case.config["anet_jitter"]):
        rng = np.random.RandomState(entry["np_seed"])
        keep, drop = video_chunks.choose("distinct_jitter", entry["num_chunks"], entry["keep_ratio"], rng)
        _same(case, f"jit{number}", keep, drop)
    for number, entry in enumerate(case.config["graddrop_modes"]):
        mode = {"uniform_jitter": "jitter"}.get(entry["mode"], entry["mode"])
        rng = np.random.RandomState(entry["np_seed"])
        keep, drop = video_chunks.choose(mode, entry["num_chunks"], entry["keep_ratio"], rng)
        _same(case, f"tgd{number}", keep, drop)


def _same(case: Case, name: str, keep: np.ndarray, drop: np.ndarray) -> None:
    np.testing.assert_array_equal(keep, case.arrays[f"{name}/keep"], err_msg=name)
    np.testing.assert_array_equal(drop, case.arrays[f"{name}/drop"], err_msg=name)


def _chunks(chunks: list[int], shift: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Video 0, its chunks and shift as a batch of one."""
    return jnp.zeros(1, jnp.int32), jnp.asarray([chunks], jnp.int32), jnp.asarray([shift], jnp.int32)


def _published(features: jax.Array) -> np.ndarray:
    """[1, chunks, rows, channels] as the original has it: [chunks, channels, rows]."""
    return np.asarray(features[0].transpose(0, 2, 1))
