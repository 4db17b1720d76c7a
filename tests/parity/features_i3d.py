"""Parity of I3D: units, maxima and blocks, small networks, networks of the published size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.i3d import PORTS, Branches, I3DSizes, InceptionBlock, i3d_network
from actloc_jax.layers.functional import Network, Params, unflatten
from actloc_jax.layers.video_conv import VideoUnit, fold
from actloc_jax.ops.video_pooling import max_pool
from convert import i3d_tables
from convert.mapping import Table
from tests.parity.features_weights import drawn
from tests.parity.harness import Case, parity

PORT_OF_PADDING = {port.padding: name for name, port in PORTS.items()}
NORMS = {"pytorch-i3d": "bn", "video_features": "batch3d"}
CHANNELS = {"rgb": 3, "flow": 2}


def close(case: Case, ours: Any, expected: np.ndarray, name: str) -> None:
    """At the tolerance of the case; ours is [batch, ..., channels], the case's [batch, channels, ...]."""
    tolerance = {key: case.meta["tolerance"][key] for key in ("rtol", "atol")}
    np.testing.assert_allclose(np.moveaxis(np.asarray(ours), -1, 1), expected, err_msg=name, **tolerance)


@parity("features", "i3d_blocks")
def check_i3d_blocks(case: Case) -> None:
    """Units, maxima of windows and an Inception block of both ports; with norms, and with folded ones."""
    state = case.weights()
    for block in case.config["blocks"]:
        name = block["name"]
        x, y = jnp.asarray(np.moveaxis(case.arrays[f"{name}/x"], 1, -1)), case.arrays[f"{name}/y"]
        if block["type"] == "max_pool":
            close(case, max_pool(x, tuple(block["kernel"]), tuple(block["stride"]), block["padding"]), y, name)
            continue
        params, epsilon = block_params(block, state), block["batch_norm_eps"]
        close(case, jax.jit(block_network(block, epsilon))(params, x), y, name)
        if epsilon is not None:
            folded = fold(params, epsilon)
            close(case, jax.jit(block_network(block, None))(folded, x), y, f"{name} folded")


def block_network(block: dict[str, Any], epsilon: float | None) -> Network:
    """The network of a block; `epsilon` None for folded parameters and for units without a norm."""
    options = {"padding": block["padding"], "norm_epsilon": epsilon}
    if block["type"] == "inception":
        return Network(lambda rngs: InceptionBlock(block["in"], Branches(*block["out"]), rngs=rngs, **options))
    options |= {"kernel_size": tuple(block["kernel"]), "stride": tuple(block["stride"])}
    relu = block["activation"] == "relu"
    return Network(lambda rngs: VideoUnit(block["in"], block["out"], relu=relu, rngs=rngs, **options))


def block_params(block: dict[str, Any], state: dict[str, Any]) -> Params:
    """The parameters of a block; each branch, or the unit itself, is found by the rules of the port's tables."""
    port = PORT_OF_PADDING[block["padding"]]
    branches = {"unit": ""} if block["type"] == "unit3d" else i3d_tables.BRANCHES
    rules = []
    for own, published in branches.items():
        torch = "" if not published else f".{own if port == 'pytorch-i3d' else published}"
        rules += i3d_tables.unit(block["name"] + torch, own, NORMS[port])
    own = {key: value for key, value in state.items() if key.startswith(f"{block['name']}.")}
    params = unflatten(Table(rules).convert_all(own))
    return params["unit"] if block["type"] == "unit3d" else params


def windows(case: Case, run: dict[str, Any]) -> np.ndarray:
    """The input of a run as levels, uint8 [batch, time, height, width, channels]."""
    config = case.config
    shape = (config["batch"], run["T"], config["height"], config["width"], CHANNELS[run["stream"]])
    return np.random.default_rng(run["input_seed"]).integers(0, 256, shape, dtype=np.uint8)


def network_and_params(run: dict[str, Any], state: dict[str, np.ndarray], divisor: int = 1) -> tuple[Network, Params]:
    """The folded network of a run, and its parameters from a state dict in the layout of the run's port."""
    port = PORT_OF_PADDING[run["port"]]
    flat = i3d_tables.TABLES[port].convert_all(
        {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    )
    sizes = I3DSizes(CHANNELS[run["stream"]], flat["logits/bias"].size, *PORTS[port], divisor=divisor)
    net = i3d_network(sizes, folded=True)
    params = fold(unflatten(flat), sizes.norm_epsilon)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, net.shapes())
    return net, params


def check_run(case: Case, run: dict[str, Any], net: Network, params: Params, over: tuple[int, ...]) -> None:
    """Features, logits and the means of all end points over the axes `over` of one run."""
    name, arrays = run["name"], case.arrays

    @jax.jit
    def everything(params: Params, x: jax.Array) -> Any:
        points = net(params, x, method="end_points")
        means = {point: y.mean(axis=over) for point, y in points.items()}
        return net(params, points["mixed_5c"], method="pooled"), means, points["mixed_5c"]

    output, means, last = everything(params, windows(case, run))
    expected = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
    logits = output.logits if expected["logits"].ndim == 3 else output.logits.mean(axis=1)
    ours = {"features": output.steps[:, :, None, None], "logits": logits, "softmax": jax.nn.softmax(logits)}
    ours |= {"Mixed_5c": last, "mixed_5c": last, "feature_mean_over_time": output.features}
    ours |= {key: means[key.removeprefix("end/").lower()] for key in expected if key.startswith("end/")}
    assert len(expected) > len(means)
    for key, array in expected.items():
        close(case, ours[key], array, f"{name}/{key}")


@parity("features", "i3d_small")
def check_i3d_small(case: Case) -> None:
    """Networks of an eighth of the widths, on windows whose length is a multiple of 8 and on such that is not."""
    state = case.weights()
    for run in case.config["runs"]:
        prefix = f"{run['port']}/{run['stream']}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        net, params = network_and_params(run, own, case.config["channel_divisor"])
        check_run(case, run, net, params, over=(2, 3))


@parity("features", "i3d_full_features")
def check_i3d_full_features(case: Case) -> None:
    """Networks of the published size with weights in the published layouts."""
    for run in case.config["runs"]:
        state = drawn(case.meta["weights_recipes"][f"{run['port']}/{run['stream']}"])
        net, params = network_and_params(run, state)
        check_run(case, run, net, params, over=(1, 2, 3))
