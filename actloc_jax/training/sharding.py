"""Devices: one mesh with axes `data` and `model`, and where state and batches lie on it."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import re
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Rules = Sequence[tuple[str, PartitionSpec]]

TPU_HOSTS_URL = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
"""Where a Cloud TPU VM says which hosts its slice has, separated by commas."""

TPU_DEVICE_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
"""Device files of TPU chips, up to v4 and from v5e on."""


def initialise_distributed() -> None:
    """Joins a multi-process job when the environment describes one; must come before anything else that jax does.

    A job is described by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, by SLURM, or by the machine
    being one of the hosts of a Cloud TPU, where JAX asks the machine itself for the others.

    Raises:
        ValueError: JAX_COORDINATOR_ADDRESS is set and the other two are not, or are no numbers.
    """
    if jax.distributed.is_initialized():
        return
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        try:
            count, index = (int(os.environ[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        except (KeyError, ValueError) as error:
            raise ValueError(
                "JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID (0 to that number less one) "
                f"must be set too; missing or no number: {error}"
            ) from error
        jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], count, index)
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 or _on_several_tpu_hosts():
        jax.distributed.initialize()


def _on_several_tpu_hosts() -> bool:
    """Whether this machine is one of several hosts of a Cloud TPU.

    GKE tells it in the environment. A TPU VM tells it to who asks its metadata server, as `jax.distributed` does; the
    server is asked only where libtpu is installed and TPU chips are there.
    """
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    if hosts:
        return len(hosts.split(",")) > 1
    if not _has_tpu():
        return False
    request = urllib.request.Request(TPU_HOSTS_URL, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return len(answer.read().decode().split(",")) > 1
    except OSError:  # no TPU VM: a TPU in a container or a notebook, one host
        return False


def _has_tpu() -> bool:
    chips = [path for pattern in TPU_DEVICE_FILES for path in glob.glob(pattern)]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def wait_for_all(what: str) -> None:
    """Returns once every process of the job has come here; a no-op in a single process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Process 0 runs the block before the others, which then find the files it wrote; a no-op in a single process.

    The others go on even if process 0 fails in the block: they fail for the same reason then, and do not wait for ever.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax.experimental import multihost_utils

    if jax.process_index() != 0:
        multihost_utils.sync_global_devices("first process first")
    try:
        yield
    finally:
        if jax.process_index() == 0:
            multihost_utils.sync_global_devices("first process first")


def make_mesh(*, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices as a mesh `[data, model]`.

    Args:
        model: number of devices along `model`; the rest go along `data`.
        devices: the devices to use, all by default.

    Raises:
        ValueError: the number of devices is not a multiple of `model`.
    """
    devices = list(jax.devices() if devices is None else devices)
    if len(devices) % model:
        raise ValueError(f"train.model_parallel={model} does not divide the {len(devices)} devices of this job.")
    return jax.make_mesh(
        (len(devices) // model, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def state_shardings(state: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """A tree like `state` of NamedShardings: the first rule whose pattern is found in a leaf's path, else replicated.

    Args:
        state: pytree of arrays or shapes.
        mesh: axes `data` and `model`.
        rules: (regular expression, PartitionSpec) pairs; paths read `params/encoder/conv_in/kernel`, `extra/bank`.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
        spec = next((spec for pattern, spec in rules if re.search(pattern, name)), PartitionSpec())
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over `data` along their first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves a host batch onto the mesh; in a multi-process job each process brings its own rows `[local batch, ...]`.

    Raises:
        ValueError: the rows do not divide over the devices.
    """
    shards = mesh.shape["data"]
    for name, array in batch.items():
        rows = array.shape[0] * jax.process_count()
        if rows % shards:
            raise ValueError(
                f"A batch of {rows} ({name}) does not divide over {shards} devices. Set the batch_size of the stage "
                f"(--config.<stage>.batch_size) to a multiple of {shards}."
            )
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def put_state(state: Any, shardings: Any) -> Any:
    """Places a host or single-device state as `shardings` say; works in multi-process jobs, where all hold the same.

    What is split over devices and lies there already stays: it may be larger than a device or a host. All else is
    copied, as leaves of a fresh state may share memory, which a step that donates them must not see.
    """

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        placed = isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        if placed and not leaf.is_fully_replicated:
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, state, shardings)


def to_host(tree: Any) -> Any:
    """Arrays that this process holds whole (on its devices, replicated over a job, or already on the host) as numpy."""

    def fetch(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)
        return np.asarray(leaf)

    return jax.tree.map(fetch, tree)


def gather_objects(items: list[Any]) -> list[Any]:
    """Concatenates every process's list, in process order; a no-op in a single-process job. Items must pickle."""
    if jax.process_count() == 1:
        return items
    import pickle

    from jax.experimental import multihost_utils

    payload = np.frombuffer(pickle.dumps(items), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([payload.size]))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: payload.size] = payload
    everyone = multihost_utils.process_allgather(padded)
    return [
        item for row, size in zip(everyone, sizes.ravel(), strict=True) for item in pickle.loads(row[:size].tobytes())
    ]
