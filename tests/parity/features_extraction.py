"""From frames to features, through the windows, pictures and networks that extraction uses, against the extractors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from unittest import mock

import numpy as np

from actloc_jax.backbones import raft
from actloc_jax.backbones.feature_pass import FeaturePass, StreamNetwork
from actloc_jax.backbones.optical_flow import optical_flow
from actloc_jax.data import window_stream
from actloc_jax.data.feature_recipes import Recipe, recipe_of
from tests.parity.features_i3d import PORT_OF_PADDING, network_and_params
from tests.parity.features_raft import raft_params
from tests.parity.features_weights import drawn
from tests.parity.harness import Case, parity

PADDINGS = {port: padding for padding, port in PORT_OF_PADDING.items()}


def networks(case: Case, recipe: Recipe, files: dict[str, str]) -> dict[str, StreamNetwork]:
    """The networks of the streams, of the weights that the case gives for each file."""
    found = {}
    for stream, file in files.items():
        if recipe.has(stream):
            run = {"port": PADDINGS[recipe.port], "stream": stream}
            network, params = network_and_params(run, drawn(case.meta["weights_recipes"][file]))
            found[stream] = StreamNetwork(network, params, 1024)
    return found


def features(
    recipe: Recipe,
    frames: np.ndarray,
    streams: dict[str, StreamNetwork],
    flow: window_stream.Flow | None,
    wanted: Collection[int] | None = None,
) -> np.ndarray:
    """[crops, rows, channels] of a video; of the rows that are wanted, None for all."""
    compute = FeaturePass(streams, {"rgb": 0.0, "flow": recipe.no_motion})
    rows = window_stream.rows_of_video(0, frames, len(frames), recipe, flow)
    rows = (row for row in rows if wanted is None or row.row in wanted)
    found = {}
    for block in window_stream.blocks(rows, recipe, shards=compute.shards, at_once=1):
        values = np.asarray(compute(block.pictures, block.windows))
        for shard, places in enumerate(block.rows):
            found |= {row: values[shard, window] for window, (_, row) in enumerate(places)}
    return np.stack([found[row] for row in sorted(found)], axis=1)


def given_flow(fields: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Gives the fields [fields, height, width, 2] one after another, as frames are asked for."""
    given = iter(fields)
    return lambda frames: np.stack([next(given) for _ in frames[1:]])


def close(case: Case, ours: np.ndarray, expected: np.ndarray, name: str) -> None:
    """At the tolerance of the case."""
    tolerance = {key: case.meta["tolerance"][key] for key in ("rtol", "atol")}
    np.testing.assert_allclose(ours, expected, err_msg=name, **tolerance)


@parity("features", "mstcn_features")
def check_mstcn(case: Case) -> None:
    """One row per frame of a small video, with the windows of the published program and with centred ones."""
    config, frames = case.config, case.arrays["frames"]
    count, height, width = config["T"], config["height"], config["width"]
    coarse = np.random.default_rng(124).standard_normal((count - 1, 2, height // 8, width // 8))
    assert "default_rng(124)" in case.meta["input_recipe"]
    flow = (coarse * 8).repeat(8, axis=2).repeat(8, axis=3).astype(np.float32).transpose(0, 2, 3, 1)
    files = {"rgb": "rgb_imagenet.pt", "flow": "flow_imagenet.pt"}
    recipe = recipe_of(f"mstcn:window={config['window']}")
    streams = networks(case, recipe, files)
    for name, number in (("crop_frame0", 0), ("crop_last", -1)):
        np.testing.assert_array_equal(recipe.rgb_pictures(recipe.resized(frames[number]))[0], case.arrays[name])
    step = 224 // case.arrays["flow_crop_0_1"].shape[0]
    close(case, recipe.flow_pictures(flow[0])[0, ::step, ::step], case.arrays["flow_crop_0_1"], "flow_crop_0_1")
    for name, windows in (("features", "shifted"), ("features_centred", "centred")):
        recipe = recipe_of(f"mstcn:window={config['window']},windows={windows}")
        found = features(recipe, frames, streams, given_flow(flow), config["rows"])
        close(case, found[0], case.arrays[name], name)


@parity("features", "thumos_i3d_features")
def check_thumos(case: Case) -> None:
    """Centre, ten crops and squashed frames, of either stream and of both."""
    config = case.config
    size = (config["T"], config["height"], config["width"])
    rng = np.random.default_rng(111)
    assert "default_rng(111)" in case.meta["input_recipe"]
    frames = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    levels = np.stack([rng.integers(0, 256, (size[0] - 1, *size[1:]), dtype=np.uint8) for _ in range(2)], axis=-1)
    flow = (levels * (40 / 255) - 20).astype(np.float32)  # becomes the same levels again
    files = {"rgb": "rgb_imagenet.pt", "flow": "flow_imagenet.pt"}
    grid = f"actionformer:window={config['chunk']},stride={config['frequency']}"
    streams = networks(case, recipe_of(grid), files)
    crops = {"center_crop": "centre", "oversample": "ten", "resize": "squash"}
    for name, expected in case.arrays.items():
        if not name.endswith("/feature"):
            continue
        stream, _, mode = name.removesuffix("/feature").partition("_")
        recipe = recipe_of(f"{grid},streams={stream},crop={crops[mode]}")
        found = features(recipe, frames, {stream: streams[stream]}, given_flow(flow))
        close(case, found, expected, name)
    found = features(recipe_of(grid), frames, streams, given_flow(flow))
    close(case, found[0], case.arrays["concatenated_2048"], "both")


@parity("features", "end_to_end_video_features")
def check_video_features(case: Case) -> None:
    """Resizing, RAFT, levels of flow and both networks; and the time stamps of the rows."""
    config, arrays = case.config, case.arrays
    recipe = recipe_of(f"video_features:window={config['stack_size']},stride={config['step_size']}")
    model = raft.LoadedRaft(
        raft.network(), raft_params(drawn(case.meta["weights_recipes"]["raft-sintel.pth"])), raft.LARGE, {}
    )
    with mock.patch.object(raft, "load_raft", return_value=model):
        flow = optical_flow("raft", weights="given", at_once=2, unpadded=not recipe.flow_padded)
    streams = networks(case, recipe, {"rgb": "i3d_rgb.pt", "flow": "i3d_flow.pt"})
    found = features(recipe, arrays["frames"], streams, flow)[0]
    width = arrays["rgb"].shape[1]
    close(case, found[:, :width], arrays["rgb"], "rgb")
    close(case, found[:, width:], arrays["flow"], "flow")
    times = (np.arange(len(found)) * recipe.stride + recipe.window) / config["fps"] * 1000
    np.testing.assert_allclose(times, arrays["timestamps_ms"])
