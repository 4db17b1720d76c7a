"""Parity of RAFT, large and small: its parts, and the flow of whole pairs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.raft import PRESETS, RaftSizes, UpdateBlock, network, shapes
from actloc_jax.layers.flow_update import MotionEncoder
from actloc_jax.layers.functional import Network, Params, unflatten
from actloc_jax.layers.image_encoder import Encoder
from actloc_jax.ops import correlation, flow_fields
from convert.raft import COUNTER, TWIN
from convert.raft_tables import RAFT
from tests.parity.features_weights import drawn
from tests.parity.harness import Case, parity


def within(case: Case) -> dict[str, float]:
    """The tolerance of a case."""
    return {key: case.meta["tolerance"][key] for key in ("rtol", "atol")}


def close(case: Case, ours: Any, expected: np.ndarray, name: str) -> None:
    """At the tolerance of the case; ours is [pairs, ..., channels], the case's [pairs, channels, ...]."""
    np.testing.assert_allclose(np.moveaxis(np.asarray(ours), -1, 1), expected, err_msg=name, **within(case))


def raft_params(state: dict[str, np.ndarray]) -> Params:
    """Parameters and running statistics, united, without counters and what is stored twice."""
    once = {key: array for key, array in state.items() if TWIN not in key and not key.endswith(COUNTER)}
    return unflatten(RAFT.convert_all(once))


def channels_last(array: np.ndarray) -> jax.Array:
    """[images, channels, height, width] to [images, height, width, channels]."""
    return jnp.asarray(np.moveaxis(array, 1, -1))


@parity("features", "raft_blocks")
def check_raft_blocks(case: Case) -> None:
    """Encoders, correlations and windows of them, one update, both ways to upsample, reading outside, padding."""
    arrays = case.arrays
    for name, sizes in PRESETS.items():
        given = case.config[name]
        assert (sizes.hidden, sizes.context) == (given["hidden"], given["context"])
        assert (sizes.radius, sizes.levels) == (given["radius"], given["levels"])
        params = raft_params(drawn(case.meta["weights_recipes"][name]))
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes(network(sizes)))
        own = {key.split("/")[1]: array for key, array in arrays.items() if key.startswith(f"{name}/")}
        images = [channels_last(arrays[image]) for image in ("image1", "image2")]
        check_parts(case, sizes, params, jnp.concatenate(images), own, name)

    field, logits = (channels_last(arrays[f"convex/{part}"]) for part in ("flow", "mask"))
    close(case, flow_fields.upsampled_convex(field, logits), arrays["convex/out"], "convex upsampling")
    check_reading(case)
    close(case, flow_fields.pad(channels_last(arrays["pad/x"])), arrays["pad/y"], "padding")
    for size, modes in case.config["padding_amounts"].items():
        for mode in flow_fields.PADDINGS:
            rows, columns = flow_fields.margins(*map(int, size.split("x")), mode)
            assert [*columns, *rows] == modes[f"{mode}_left_right_top_bottom"], (size, mode)


def check_parts(
    case: Case, sizes: RaftSizes, params: Params, images: jax.Array, expected: dict[str, np.ndarray], name: str
) -> None:
    """The parts of one network, each on what the golden one before it gave where all of that is known."""

    def encoder(norm: str, out_features: int) -> Network:
        options = {"bottleneck": sizes.bottleneck, "norm": norm, "dtype": jnp.float32, "param_dtype": jnp.float32}
        return Network(lambda rngs: Encoder(sizes.stem, sizes.stages, out_features, rngs=rngs, **options))

    scaled = 2 * images.astype(jnp.float32) / 255 - 1
    features = jax.jit(encoder("instance", sizes.features))(params["fnet"], scaled)
    seen = jax.jit(encoder(sizes.context_norm, sizes.hidden + sizes.context))(params["cnet"], scaled[:1])
    close(case, features[:1, ..., ::8], expected["fmap1_every8"], f"{name} features")
    close(case, features[1:, ..., ::8], expected["fmap2_every8"], f"{name} features")
    close(case, seen[..., ::8], expected["context_every8"], f"{name} context")

    maps = correlation.pyramid(features[:1], features[1:], sizes.levels)
    for level, each in enumerate(maps):
        rows = expected[f"corr_level{level}_first_rows"]
        np.testing.assert_allclose(each[0, : len(rows)], rows, err_msg=f"{name} level {level}", **within(case))

    flow = channels_last(expected["flow_lowres_in"])
    positions = flow_fields.positions(*flow.shape[1:3]) + flow
    windows = correlation.windows(correlation.padded(maps, sizes.radius), positions.reshape(1, -1, 2), sizes.radius)
    windows = windows.reshape(*flow.shape[:3], -1)
    close(case, windows[..., ::8], expected["corr_lookup_every8"], f"{name} windows")
    np.testing.assert_allclose(windows[:, 2, 3], expected["corr_lookup_y2x3"], err_msg=name, **within(case))
    check_update(case, sizes, params["update_block"], (windows, seen, flow), expected, name)


def check_update(
    case: Case,
    sizes: RaftSizes,
    params: Params,
    given: tuple[jax.Array, jax.Array, jax.Array],
    expected: dict[str, np.ndarray],
    name: str,
) -> None:
    """Motion, state, change of the flow, and the flow at full size."""
    windows, seen, flow = given
    layers = {"correlations": sizes.correlations, "motions": sizes.motions, "motion": sizes.motion}
    encoder = Network(lambda rngs: MotionEncoder(windows.shape[-1], rngs=rngs, **layers))
    motion = jax.jit(encoder)(params["encoder"], windows, flow)
    close(case, motion[..., ::8], expected["motion_every8"], f"{name} motion")
    close(case, motion[..., -2:], expected["motion_last2"], f"{name} flow in the motion")

    state, context = jnp.tanh(seen[..., : sizes.hidden]), jax.nn.relu(seen[..., sizes.hidden :])
    close(case, state[..., ::8], expected["net_in_every8"], f"{name} state")
    block = Network(lambda rngs: UpdateBlock(sizes, rngs=rngs))
    gates = block(params, context, method="prepared")
    state = jax.jit(lambda *inputs: block(params, *inputs, method="recur"))(state, motion, gates)
    close(case, state[..., ::8], expected["net_out_every8"], f"{name} next state")
    change = block(params, state, method="flow_change")
    close(case, change, expected["delta_flow"], f"{name} change")
    if not sizes.convex:
        close(case, flow_fields.upsampled_bilinear(flow), expected["flow_up"], f"{name} upsampled")
        return
    mask = block(params, state, method="mask")
    close(case, mask[..., ::48], expected["mask_every48"], f"{name} mask")
    close(case, flow_fields.upsampled_convex(flow, mask), expected["flow_up"], f"{name} upsampled")


def check_reading(case: Case) -> None:
    """Bilinear, zeros outside: windows of one position."""
    images, places = case.arrays["sampler/image"], case.arrays["sampler/coords_xy"]
    batch, channels = images.shape[:2]
    count = places[0, ..., 0].size
    maps = np.repeat(images, count, axis=1)  # every channel for every place
    positions = np.tile(places.reshape(batch, count, 2), (1, channels, 1))
    read = correlation.windows(correlation.padded([jnp.asarray(maps)], 0), jnp.asarray(positions), 0)
    expected = case.arrays["sampler/out"]
    np.testing.assert_allclose(read.reshape(expected.shape), expected, err_msg="reading", **within(case))


@parity("features", "raft_full")
def check_raft_full(case: Case) -> None:
    """The flow of pairs after several numbers of iterations, and from a given coarse flow."""
    for run in case.config["runs"]:
        name, size = run["name"], f"{run['height']}x{run['width']}"
        frames = jnp.concatenate([channels_last(case.arrays[f"{size}/image{number}"]) for number in (1, 2)])
        params = raft_params(drawn(case.meta["weights_recipes"][run["model"]]))
        net = network(PRESETS[run["model"]])
        expected = {
            key.removeprefix(f"{name}/"): array for key, array in case.arrays.items() if key.startswith(f"{name}/")
        }
        padded = flow_fields.pad(frames)
        initial = channels_last(expected["flow_init"])
        # One program for any number of iterations.
        run_net = jax.jit(lambda *inputs, net=net: net(*inputs[:2], iterations=inputs[2], initial=inputs[3]))
        wanted = [(f"flow_iter{count}", count, jnp.zeros_like(initial)) for count in (1, 2, 6, 12, 20)]
        for key, iterations, start in [*wanted, ("flow_from_init_iter2", 2, initial)]:
            flow = flow_fields.unpad(run_net(params, padded, iterations, start), run["height"], run["width"])
            step = round(run["width"] / expected[key].shape[-1])
            close(case, flow[:, ::step, ::step], expected[key], f"{name} {key}")
