"""RAFT, optical flow by a recurrent search in all correlations (Teed and Deng, ECCV 2020, arXiv 2003.12039).

Source: `princeton-vl/RAFT:core`; the large network is `raft-sintel.pth` and its kin, the small one `raft-small.pth`.
Images are [images, height, width, channels], flow is [pairs, height, width, 2] in pixels, x (to the right) before y
(down), from each frame to the next.

    model = load_raft("checkpoints/raft_sintel")
    flow = jax.jit(functools.partial(flow_of_frames, model.network))(model.params, frames)  # [frames - 1, h, w, 2]
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.flow_update import ConvGru, Gates, Head, MotionEncoder
from actloc_jax.layers.functional import Network, Params, united
from actloc_jax.layers.image_encoder import Encoder
from actloc_jax.ops import correlation, flow_fields
from actloc_jax.training import checkpoints

SYSTEM = "raft"  # in model checkpoints
ITERATIONS = 20  # of the published features; the original's demo takes as many
SMALLEST = 128  # pixels: below, the coarsest correlations are one position wide, where the original gives NaN


@dataclasses.dataclass(frozen=True)
class RaftSizes:
    """What differs between the two published networks.

    Attributes:
        stem: channels after the first convolution of an encoder.
        stages: channels of its three stages.
        bottleneck: blocks of three convolutions instead of two.
        features: channels of a correlated position.
        hidden: channels of the recurrent state.
        context: channels of the first image that every iteration sees.
        radius: of the window of correlations, on each level.
        correlations: channels of the convolutions after the correlations.
        motions: channels of the two convolutions after the flow.
        motion: channels of what both become, before the flow is appended.
        head: hidden channels of the flow head.
        context_norm: "batch" or "none"; the other encoder always has an instance norm.
        convex: upsampling by weights that the network gives; otherwise it is bilinear.
    """

    stem: int = 64
    stages: tuple[int, int, int] = (64, 96, 128)
    bottleneck: bool = False
    features: int = 256
    hidden: int = 128
    context: int = 128
    radius: int = 4
    correlations: tuple[int, ...] = (256, 192)
    motions: tuple[int, int] = (128, 64)
    motion: int = 126
    head: int = 256
    context_norm: str = "batch"
    convex: bool = True
    levels: int = dataclasses.field(default=4, init=False)


LARGE = RaftSizes()
SMALL = RaftSizes(
    stem=32,
    stages=(32, 64, 96),
    bottleneck=True,
    features=128,
    hidden=96,
    context=64,
    radius=3,
    correlations=(96,),
    motions=(64, 32),
    motion=80,
    head=128,
    context_norm="none",
    convex=False,
)
PRESETS = {"large": LARGE, "small": SMALL}
"""The published networks."""


class LoadedRaft(NamedTuple):
    """A network with its weights.

    Attributes:
        network: takes `params`.
        params: parameters and running statistics, united.
        sizes: of the network.
        meta: of the model checkpoint; `source` says which file it was made of.
    """

    network: Network
    params: Params
    sizes: RaftSizes
    meta: dict[str, Any]


def load_raft(folder: epath.PathLike, *, dtype: DTypeLike = jnp.float32) -> LoadedRaft:
    """Reads a model folder that `python -m convert raft` wrote.

    Args:
        folder: the model folder.
        dtype: of the convolutions, such as `jnp.bfloat16`.

    Raises:
        FileNotFoundError: there is no model in `folder`.
        ValueError: it cannot be read, or is another model.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != SYSTEM:
        raise ValueError(
            f"{folder} holds a model of system {meta['system']!r}, no RAFT; make one with: python -m convert raft "
            "raft-sintel.pth FOLDER"
        )
    sizes = PRESETS[meta["raft"]["size"]]
    net = network(sizes, dtype=dtype)
    params = checkpoints.fitted(united(model["params"], model["batch_stats"]), shapes(net), folder)
    return LoadedRaft(net, params, sizes, meta)


def shapes(net: Network) -> Params:
    """Shapes of the parameters and running statistics of a network, united; nothing is allocated."""
    return united(net.shapes(), jax.eval_shape(net.init_statistics))


def network(sizes: RaftSizes = LARGE, *, dtype: DTypeLike = jnp.float32) -> Network:
    """The network of these sizes; its parameters and running statistics are united for `Network.__call__`.

    Args:
        sizes: one of `PRESETS`.
        dtype: of the convolutions; correlations, positions and flow are always float32.
    """
    return Network(lambda rngs: Raft(sizes, dtype=dtype, rngs=rngs))


def flow_of_frames(
    net: Network,
    params: Params,
    frames: jax.Array,
    *,
    iterations: int | jax.Array = ITERATIONS,
    padding: str = "sintel",
    unpadded: bool = True,
) -> jax.Array:
    """The flow from each frame to the next; a pure function, to be jitted.

    Every frame's features are computed once.

    Args:
        net: made by `network`.
        params: its parameters and running statistics, united.
        frames: [frames, height, width, 3] uint8 or float, RGB from 0 to 255, two at least.
        iterations: steps of the search.
        padding: how sizes become multiples of 8: a key of `actloc_jax.ops.flow_fields.PADDINGS`.
        unpadded: cut the flow to the size of the frames; otherwise it has that of the padded ones.

    Returns:
        [frames - 1, height, width, 2] float32.

    Raises:
        ValueError: frames smaller than 128 x 128 after padding, or fewer than two.
    """
    height, width = frames.shape[1:3]
    flow = net(params, flow_fields.pad(frames, padding), iterations=iterations)
    return flow_fields.unpad(flow, height, width, padding) if unpadded else flow


class Raft(nnx.Module):
    """The network; see `RaftSizes`.

    Attributes (the names of the original): `fnet` and `cnet`, the encoders, and `update_block`.
    """

    def __init__(
        self,
        sizes: RaftSizes = LARGE,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        kind = {"bottleneck": sizes.bottleneck, **options}
        self.fnet = Encoder(sizes.stem, sizes.stages, sizes.features, norm="instance", **kind)
        seen = sizes.hidden + sizes.context
        self.cnet = Encoder(sizes.stem, sizes.stages, seen, norm=sizes.context_norm, **kind)
        self.update_block = UpdateBlock(sizes, **options)
        self.sizes = sizes

    def __call__(
        self, frames: jax.Array, *, iterations: int | jax.Array = ITERATIONS, initial: jax.Array | None = None
    ) -> jax.Array:
        """The flow from each frame to the next.

        Args:
            frames: [frames, height, width, 3], RGB from 0 to 255, height and width multiples of 8.
            iterations: steps of the search; an array compiles one program for any number of them.
            initial: [frames - 1, height / 8, width / 8, 2], coarse flow to begin with; None: zeros.

        Returns:
            [frames - 1, height, width, 2] float32.

        Raises:
            ValueError: sizes that do not fit.
        """
        _check(frames)
        features = _one_by_one(self.fnet, _scaled(frames))
        state, context = _one_by_one(self.context, frames[:-1])
        if initial is None:
            initial = jnp.zeros((*context.shape[:3], 2), jnp.float32)
        search = functools.partial(self.search, iterations=iterations)
        return _one_by_one(search, features[:-1], features[1:], state, context, initial)

    def context(self, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        """State before the first iteration, and what every iteration sees of the first images.

        [images, height, width, 3] from 0 to 255 to [..., height / 8, width / 8, hidden] and [..., context].
        """
        state, context = jnp.split(self.cnet(_scaled(frames)), [self.sizes.hidden], axis=-1)
        return jnp.tanh(state), nnx.relu(context)

    def search(
        self,
        first: jax.Array,
        second: jax.Array,
        state: jax.Array,
        context: jax.Array,
        flow: jax.Array,
        *,
        iterations: int | jax.Array = ITERATIONS,
    ) -> jax.Array:
        """The flow between two feature maps.

        Args:
            first: features of the first images, [pairs, height, width, features], an eighth of the images' size.
            second: of the second images, same shape.
            state: [pairs, height, width, hidden], see `context`.
            context: [pairs, height, width, context].
            flow: [pairs, height, width, 2] float32, coarse flow to begin with.
            iterations: as of `__call__`.

        Returns:
            [pairs, 8 * height, 8 * width, 2] float32.
        """
        pairs, height, width, _ = first.shape
        maps = correlation.padded(correlation.pyramid(first, second, self.sizes.levels), self.sizes.radius)
        here = flow_fields.positions(height, width)
        gates = self.update_block.prepared(context)

        def step(_: int, carried: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            state, flow = carried
            seen = correlation.windows(maps, (here + flow).reshape(pairs, -1, 2), self.sizes.radius)
            motion = self.update_block.encoder(seen.reshape(pairs, height, width, -1), flow)
            state = self.update_block.recur(state, motion, gates)
            return state, flow + self.update_block.flow_change(state)

        state, flow = jax.lax.fori_loop(0, iterations, step, (state, flow))
        if not self.sizes.convex:
            return flow_fields.upsampled_bilinear(flow)
        return flow_fields.upsampled_convex(flow, self.update_block.mask(state))


class UpdateBlock(nnx.Module):
    """One iteration: what is seen at the flow's end becomes a change of the flow.

    Attributes: `encoder`, `flow_head` and, where upsampling is convex, `mask_head` (names of the original, which says
    `mask`); `gru_horizontal` and `gru_vertical` (the original's `gru` with kernels 1 x 5 and 5 x 1), or `gru`.
    """

    def __init__(self, sizes: RaftSizes, **options: Any):
        inputs = sizes.context + sizes.motion + 2
        window = sizes.levels * (2 * sizes.radius + 1) ** 2
        self.encoder = MotionEncoder(
            window, correlations=sizes.correlations, motions=sizes.motions, motion=sizes.motion, **options
        )
        if sizes.bottleneck:
            self.gru = ConvGru(sizes.hidden, inputs, kernel_size=(3, 3), **options)
        else:
            self.gru_horizontal = ConvGru(sizes.hidden, inputs, kernel_size=(1, 5), **options)
            self.gru_vertical = ConvGru(sizes.hidden, inputs, kernel_size=(5, 1), **options)
        self.flow_head = Head(sizes.hidden, sizes.head, 2, last_kernel=3, **options)
        if sizes.convex:
            weights = 9 * flow_fields.CELL**2
            self.mask_head = Head(sizes.hidden, sizes.head, weights, last_kernel=1, **options)
        self.is_separable = not sizes.bottleneck

    def prepared(self, context: jax.Array) -> list[Gates]:
        """`ConvGru.prepared` of every unit, of [pairs, height, width, context]."""
        return [unit.prepared(context) for unit in self._units()]

    def recur(self, state: jax.Array, motion: jax.Array, gates: list[Gates]) -> jax.Array:
        """The next state, [pairs, height, width, hidden], from the last one and [pairs, height, width, motion]."""
        for unit, each in zip(self._units(), gates, strict=True):
            state = unit(state, motion, each)
        return state

    def flow_change(self, state: jax.Array) -> jax.Array:
        """What is added to the flow, float32 [pairs, height, width, 2] in positions."""
        return self.flow_head(state).astype(jnp.float32)

    def mask(self, state: jax.Array) -> jax.Array:
        """The logits of `flow_fields.upsampled_convex`, [pairs, height, width, 9 * 64], scaled down as published."""
        return 0.25 * self.mask_head(state)

    def _units(self) -> list[ConvGru]:
        return [self.gru_horizontal, self.gru_vertical] if self.is_separable else [self.gru]


def _one_by_one(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """`function` of arrays [images, ...]: on CPUs image after image, which their caches hold; elsewhere of all."""
    if jax.default_backend() != "cpu":
        return function(*arrays)
    found = jax.lax.map(lambda each: function(*(array[None] for array in each)), arrays)
    return jax.tree.map(lambda array: array[:, 0], found)


def _scaled(frames: jax.Array) -> jax.Array:
    """From 0..255 to -1..1, float32."""
    return 2 * (frames.astype(jnp.float32) / 255) - 1


def _check(frames: jax.Array) -> None:
    count, height, width, channels = frames.shape
    if count < 2 or channels != 3:
        raise ValueError(f"frames {frames.shape} give no flow; RAFT needs [two or more, height, width, 3].")
    if height % flow_fields.CELL or width % flow_fields.CELL:
        raise ValueError(f"frames of {height} x {width} pixels must be padded to multiples of {flow_fields.CELL}.")
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"frames of {height} x {width} pixels are too small for RAFT, which needs {SMALLEST} x {SMALLEST} "
            "after padding; enlarge them, or take flow by tvl1 or dis."
        )
