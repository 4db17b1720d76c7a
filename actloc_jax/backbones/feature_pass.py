"""Networks that turn windows of a video into features, and one compiled pass of them over all local devices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from actloc_jax.backbones.i3d import load_i3d
from actloc_jax.layers.functional import Params
from actloc_jax.training import checkpoints, sharding

Compute = Callable[[Params, jax.Array], jax.Array]
"""`(params, [batch, time, height, width, channels] in [-1, 1]) -> [batch, features]`, pure."""


class StreamNetwork(NamedTuple):
    """A network of one stream.

    Attributes:
        compute: see `Compute`.
        params: nested dict of host arrays.
        channels: of its features.
    """

    compute: Compute
    params: Params
    channels: int


def facts_of(folder: epath.PathLike) -> dict[str, Any]:
    """What a manifest says of a network: where its weights came from, and their sum; the weights stay unread.

    Raises:
        FileNotFoundError: there is no model in `folder`.
    """
    found = checkpoints.find_model(folder)
    meta = checkpoints.load_meta(found)
    source = meta.get("source") or {}
    facts = {"system": meta["system"], "file": source.get("file", ""), "sha256": source.get("sha256", "")}
    if not facts["sha256"]:
        facts["sha256"] = _sum(checkpoints.load_model(found)[0])
    return facts | ({"port": meta["i3d"].get("port", "")} if "i3d" in meta else {})


def _sum(model: Any) -> str:
    """Of weights that were not converted from a file."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        total.update(jax.tree_util.keystr(path).encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def load_stream(folder: epath.PathLike, stream: str) -> StreamNetwork:
    """The I3D of a stream, "rgb" or "flow".

    Raises:
        FileNotFoundError: there is no model in `folder`.
        ValueError: it is another model, or of the other stream.
    """
    model = load_i3d(checkpoints.find_model(folder), stream=stream)
    return StreamNetwork(model.network, model.params, model.sizes.features)


class FeaturePass:
    """Computes blocks of windows on this process's devices, one shard each; compiled once per shape of a block.

    Args:
        networks: stream -> network.
        blanks: stream -> network value of what a window has no picture for.
    """

    def __init__(self, networks: Mapping[str, StreamNetwork], blanks: Mapping[str, float]) -> None:
        mesh = sharding.make_mesh(devices=jax.local_devices())
        everywhere, self._rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        self._params = {name: jax.device_put(network.params, everywhere) for name, network in networks.items()}
        self.shards = mesh.shape["data"]

        def compute(params: Params, pictures: dict[str, jax.Array], windows: dict[str, jax.Array]) -> jax.Array:
            streams = [
                _features(network.compute, params[name], pictures[name], windows[name], blanks[name])
                for name, network in networks.items()
            ]
            return jnp.concatenate(streams, axis=-1)

        self._compute = jax.jit(compute, in_shardings=(everywhere, self._rows, self._rows), out_shardings=everywhere)

    def __call__(self, pictures: Mapping[str, np.ndarray], windows: Mapping[str, np.ndarray]) -> jax.Array:
        """Features of a block, see `actloc_jax.data.window_stream.Block`; returns before they are computed.

        Args:
            pictures: stream -> [shards, pictures, crops, height, width, channels], uint8 levels or network values.
            windows: stream -> [shards, windows, window] int32, the picture at each step, -1 for none.

        Returns:
            [shards, windows, crops, features] float32, the streams one after another.
        """
        return self._compute(self._params, *jax.device_put((dict(pictures), dict(windows)), self._rows))


def _features(compute: Compute, params: Params, pictures: jax.Array, windows: jax.Array, blank: float) -> jax.Array:
    """[shards, windows, crops, features] of one stream."""
    taken = jax.vmap(lambda block, numbers: block[jnp.maximum(numbers, 0)])(pictures, windows)
    if taken.dtype == jnp.uint8:
        taken = 2 * taken.astype(jnp.float32) / 255 - 1
    taken = jnp.where((windows >= 0)[..., None, None, None, None], taken, jnp.float32(blank))
    shards, count, time, crops, *picture = taken.shape
    batch = jnp.moveaxis(taken, 3, 2).reshape(shards * count * crops, time, *picture)
    return compute(params, batch).astype(jnp.float32).reshape(shards, count, crops, -1)
