"""Inflated 3-D Inception (I3D; Carreira and Zisserman, CVPR 2017, arXiv 1705.07750): video to features.

Two networks, one per stream: RGB frames (3 channels) and optical flow (2 channels). Sources:
`google-deepmind/kinetics-i3d:i3d.py`, and the two ports to PyTorch that published features were made with (`PORTS`):
`piergiaj/pytorch-i3d:pytorch_i3d.py` and `v-iashin/video_features:models/i3d/i3d_src/i3d_net.py`. The ports differ in
how they pad and in the epsilon of their batch norms. Axes are [batch, time, height, width, channels].

    model = load_i3d("checkpoints/i3d_rgb")
    features = jax.jit(model.network)(model.params, windows)  # [batch, 1024]
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.functional import Network, Params, united
from actloc_jax.layers.video_conv import VideoUnit, fold
from actloc_jax.ops.video_pooling import PADDINGS, STATIC_SAME, TF_SAME, max_pool
from actloc_jax.ops.video_windows import Triple
from actloc_jax.training import checkpoints

SYSTEM = "i3d"  # in model checkpoints
STREAMS = {3: "rgb", 2: "flow"}
"""Channels of the video -> the name of the stream."""

POOL = (2, 7, 7)  # of the average before the logits


class Port(NamedTuple):
    """What a published port decides: the rule of padding, and the epsilon of its batch norms."""

    padding: str
    norm_epsilon: float


PORTS = {"pytorch-i3d": Port(TF_SAME, 1e-3), "video_features": Port(STATIC_SAME, 1e-5)}
"""The ports by the repositories that their features come from; `pytorch-i3d` computes what the original does."""


@dataclasses.dataclass(frozen=True)
class I3DSizes:
    """What defines an I3D.

    Attributes:
        in_channels: 3 for RGB, 2 for optical flow.
        num_classes: logits.
        padding: one of `actloc_jax.ops.video_pooling.PADDINGS`.
        norm_epsilon: added to variances.
        divisor: divides all published widths (64, 192, ..., 1024), for small networks.
    """

    in_channels: int = 3
    num_classes: int = 400
    padding: str = TF_SAME
    norm_epsilon: float = 1e-3
    divisor: int = 1

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise ValueError(f"padding={self.padding!r} is unknown; use one of {', '.join(PADDINGS)}.")

    @property
    def features(self) -> int:
        """Channels of the features: 1024 as published."""
        return 1024 // self.divisor


class Branches(NamedTuple):
    """Widths of an Inception block: 1x1x1; 1x1x1, 3x3x3; 1x1x1, 3x3x3; maximum, 1x1x1."""

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int


# Name of the end point -> (kernel, stride) of a maximum, (kernel, stride, width) of a unit, or the widths of a block.
_LAYERS: dict[str, Branches | tuple[Triple, Triple] | tuple[Triple, Triple, int]] = {
    "conv3d_1a_7x7": ((7, 7, 7), (2, 2, 2), 64),
    "maxpool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "conv3d_2b_1x1": ((1, 1, 1), (1, 1, 1), 64),
    "conv3d_2c_3x3": ((3, 3, 3), (1, 1, 1), 192),
    "maxpool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "mixed_3b": Branches(64, 96, 128, 16, 32, 32),
    "mixed_3c": Branches(128, 128, 192, 32, 96, 64),
    "maxpool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "mixed_4b": Branches(192, 96, 208, 16, 48, 64),
    "mixed_4c": Branches(160, 112, 224, 24, 64, 64),
    "mixed_4d": Branches(128, 128, 256, 24, 64, 64),
    "mixed_4e": Branches(112, 144, 288, 32, 64, 64),
    "mixed_4f": Branches(256, 160, 320, 32, 128, 128),
    "maxpool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    "mixed_5b": Branches(256, 160, 320, 32, 128, 128),
    "mixed_5c": Branches(384, 192, 384, 48, 128, 128),
}
END_POINTS = tuple(_LAYERS)
"""Names of the end points in order, those of the original in lower case."""


class I3DOutput(NamedTuple):
    """What an I3D says of windows.

    Attributes:
        features: float32 [batch, features], the mean of `steps` over time.
        steps: float32 [batch, steps, features], the averages of 2 x 7 x 7 positions before the logits.
        logits: float32 [batch, steps, num_classes].
    """

    features: jax.Array
    steps: jax.Array
    logits: jax.Array


class InceptionBlock(nnx.Module):
    """Four branches, joined along channels.

    Attributes (names of `pytorch-i3d`): the units `b0`, `b1a`, `b1b`, `b2a`, `b2b`, `b3b`.
    """

    def __init__(self, in_features: int, widths: Branches, *, padding: str, **options: Any):
        """Makes the block; `options` are those of `VideoUnit`."""
        cube, options = (3, 3, 3), {"padding": padding, **options}
        self.b0 = VideoUnit(in_features, widths.b0, **options)
        self.b1a = VideoUnit(in_features, widths.b1a, **options)
        self.b1b = VideoUnit(widths.b1a, widths.b1b, kernel_size=cube, **options)
        self.b2a = VideoUnit(in_features, widths.b2a, **options)
        self.b2b = VideoUnit(widths.b2a, widths.b2b, kernel_size=cube, **options)
        self.b3b = VideoUnit(in_features, widths.b3b, **options)
        self.padding = padding

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, height, width, in_features] to [..., sum of the branches' last widths]."""
        largest = max_pool(x, (3, 3, 3), (1, 1, 1), self.padding)
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(largest)
        return jnp.concatenate(branches, axis=-1)


class I3D(nnx.Module):
    """One stream; see `I3DSizes`. It evaluates only: no dropout, batch norms use their running statistics.

    Attributes: the units and blocks of `END_POINTS` (maxima have no parameters), `logits`.
    """

    def __init__(
        self,
        sizes: I3DSizes,
        *,
        folded: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the network.

        Args:
            sizes: what defines it.
            folded: its parameters are those that `fold` returns; else those of checkpoints.
            dtype: of the computation; averages and what is returned are float32.
            param_dtype: of the parameters.
            rngs: of the initial values.
        """
        options = {"padding": sizes.padding, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        epsilon = None if folded else sizes.norm_epsilon
        width = sizes.in_channels
        for name, layer in _LAYERS.items():
            if isinstance(layer, Branches):
                widths = Branches(*(number // sizes.divisor for number in layer))
                setattr(self, name, InceptionBlock(width, widths, norm_epsilon=epsilon, **options))
                width = widths.b0 + widths.b1b + widths.b2b + widths.b3b
            elif len(layer) == 3:
                kernel, stride, out = layer
                out //= sizes.divisor
                unit = {"kernel_size": kernel, "stride": stride, "norm_epsilon": epsilon}
                setattr(self, name, VideoUnit(width, out, **unit, **options))
                width = out
        # the logits are computed in float32: they are few, and are compared with each other
        options["dtype"] = jnp.float32
        self.logits = VideoUnit(width, sizes.num_classes, norm_epsilon=None, relu=False, **options)
        self.sizes = sizes
        self.dtype = dtype

    def __call__(self, windows: jax.Array) -> jax.Array:
        """Features of windows.

        Args:
            windows: [batch, time, height, width, in_channels]; height and width 224 (193 to 224 will do), time at
                least 10 frames. Floats are values in [-1, 1]; uint8 are levels, of which level v means 2v/255 - 1.

        Returns:
            float32 [batch, 1024], the mean over the steps.
        """
        return self.outputs(windows).features

    def outputs(self, windows: jax.Array) -> I3DOutput:
        """Features, what they are the mean of, and logits of windows [batch, time, height, width, channels]."""
        x = self._scaled(windows)
        for name in END_POINTS:
            x = self._layer(name, x)
        if x.shape[2:4] != POOL[1:] or x.shape[1] < POOL[0]:
            raise ValueError(
                f"windows of {_size_text(windows)} become {_size_text(x)} positions; expected at least 2 x 7 x 7, "
                "and 7 rows and columns: give at least 10 frames of 224 x 224"
            )
        return self.pooled(x)

    def end_points(self, windows: jax.Array) -> dict[str, jax.Array]:
        """Every end point by its name in `END_POINTS`, each [batch, time, height, width, channels]."""
        x, points = self._scaled(windows), {}
        for name in END_POINTS:
            x = points[name] = self._layer(name, x)
        return points

    def pooled(self, last: jax.Array) -> I3DOutput:
        """What `outputs` makes of the last end point [batch, time, 7, 7, channels]."""
        frames = last.astype(jnp.float32).mean(axis=(2, 3))
        steps = (frames[:, :-1] + frames[:, 1:]) / POOL[0]
        logits = self.logits(steps[:, :, None, None, :])[:, :, 0, 0]
        return I3DOutput(steps.mean(axis=1), steps, logits)

    def _layer(self, name: str, x: jax.Array) -> jax.Array:
        if hasattr(self, name):
            return getattr(self, name)(x)
        kernel, stride = _LAYERS[name]
        return max_pool(x, kernel, stride, self.sizes.padding)

    def _scaled(self, windows: jax.Array) -> jax.Array:
        if windows.ndim != 5 or windows.shape[-1] != self.sizes.in_channels:
            raise ValueError(
                f"windows have the shape {windows.shape}; expected [batch, time, height, width, "
                f"{self.sizes.in_channels}] for the {STREAMS.get(self.sizes.in_channels, 'only')} stream"
            )
        if windows.dtype == jnp.uint8:
            windows = 2 * windows.astype(jnp.float32) / 255 - 1
        return windows.astype(self.dtype)


def _size_text(x: jax.Array) -> str:
    """`16 x 224 x 224`, of [batch, time, height, width, channels]."""
    return " x ".join(map(str, x.shape[1:4]))


class LoadedI3D(NamedTuple):
    """An I3D that is ready to compute.

    Attributes:
        network: `network(params, windows)` is `I3D.__call__`: a pure function, to be put into `jax.jit`. With
            `method="outputs"` it gives an `I3DOutput`, with `method="end_points"` all layers.
        params: folded, nested dict of host arrays.
        sizes: of the network.
        meta: of the checkpoint: `meta["i3d"]` has `stream` (rgb or flow), `port`, `padding`, `norm_epsilon`;
            `meta["source"]` has `file`, `sha256` and `md5` of the published file.
    """

    network: Network
    params: Params
    sizes: I3DSizes
    meta: dict[str, Any]

    @property
    def stream(self) -> str:
        """`"rgb"` or `"flow"`."""
        return self.meta["i3d"]["stream"]


def load_i3d(folder: epath.PathLike, *, stream: str | None = None, dtype: DTypeLike = jnp.float32) -> LoadedI3D:
    """Reads a model folder that `python -m convert i3d` wrote.

    Args:
        folder: the model folder.
        stream: the stream that is wanted, "rgb" or "flow"; None: either.
        dtype: of the computation, such as `jnp.bfloat16`.

    Raises:
        FileNotFoundError: there is no model in `folder`.
        ValueError: it cannot be read, is another model, or of the other stream.
    """
    model, meta = checkpoints.load_model(folder)
    if meta["system"] != SYSTEM:
        raise ValueError(
            f"{folder} holds a model of system {meta['system']!r}, no I3D; make one with: python -m convert i3d "
            f"rgb_imagenet.pt FOLDER"
        )
    sizes = sizes_of(meta)
    if stream not in (None, meta["i3d"]["stream"]):
        raise ValueError(
            f"{folder} holds the {meta['i3d']['stream']} stream of I3D ({sizes.in_channels} channels); expected the "
            f"{stream} stream: give its own folder"
        )
    network = i3d_network(sizes, folded=True, dtype=dtype)
    params = fold(united(model["params"], model["batch_stats"]), sizes.norm_epsilon)
    checkpoints.fitted(params, network.shapes(), folder)
    return LoadedI3D(network, params, sizes, meta)


def i3d_network(sizes: I3DSizes, **options: Any) -> Network:
    """The network of these sizes; `options` are `folded` and `dtype` of `I3D`."""
    return Network(lambda rngs: I3D(sizes, rngs=rngs, **options))


def sizes_of(meta: dict[str, Any]) -> I3DSizes:
    """The sizes that a model checkpoint's meta gives."""
    names = {field.name for field in dataclasses.fields(I3DSizes)}
    return I3DSizes(**{name: value for name, value in meta["i3d"].items() if name in names})
