"""Video Swin Transformer (Liu et al., CVPR 2022, arXiv 2106.13230), for whole clips and for clips cut into chunks.

Sources: `SwinTransformer/Video-Swin-Transformer:mmaction/models/backbones/swin_transformer.py`, and for chunks
`klauscc/TALLFormer:vedatad/models/backbones/chunk_model.py`. Axes are [batch, time, height, width, channels].
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop
from actloc_jax.layers.masked import FrameNorm
from actloc_jax.layers.temporal import Dense
from actloc_jax.layers.video_patches import PatchEmbedding, PatchMerging, normalised
from actloc_jax.layers.window_attention3d import WindowAttention3D
from actloc_jax.ops.video_windows import Triple, end_padding, fitted, merge, pad_end, partition, regions

NO_SHIFT = (0, 0, 0)
MLP_ROWS = 1024  # tokens that a perceptron takes at a time on CPUs, at most


@dataclasses.dataclass(frozen=True)
class VideoSwinSizes:
    """What defines a Video Swin; the defaults are those that all published ones share.

    Attributes:
        width: channels after the patch embedding; every further stage doubles them.
        depths: blocks per stage.
        heads: attention heads per stage.
        patch: frames, rows and columns of one patch.
        window: tokens along time, height and width that attend to each other.
        mlp_ratio: hidden channels of a block's perceptron per channel.
        patch_norm: normalise the embedded patches.
        in_channels: of the video.
        drop_path: probability of dropping a residual path of the last block in training; grows from 0 block by block.
        frozen_stages: -1: everything is trained; 0: the patch embedding is frozen; k: the first k stages as well.
        checkpoint: keep only the input of each trained block for its gradient and compute the rest again.
        attention: a key of `actloc_jax.layers.window_attention3d.IMPLEMENTATIONS`; None: what suits the backend.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: Triple = (2, 4, 4)
    window: Triple = (8, 7, 7)
    mlp_ratio: float = 4.0
    patch_norm: bool = True
    in_channels: int = 3
    drop_path: float = 0.2
    frozen_stages: int = -1
    checkpoint: bool = False
    attention: str | None = None

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.heads):
            raise ValueError(f"{len(self.depths)} depths and {len(self.heads)} numbers of heads; give one per stage.")
        if not -1 <= self.frozen_stages <= len(self.depths):
            raise ValueError(f"frozen_stages is {self.frozen_stages}; there are {len(self.depths)} stages (-1: none).")

    @property
    def features(self) -> int:
        """Channels of the output."""
        return self.width * 2 ** (len(self.depths) - 1)

    @property
    def frames_per_row(self) -> int:
        """Frames that one time step of the output stands for."""
        return self.patch[0]

    def is_frozen(self, path: str) -> bool:
        """Whether the parameter with this flat path, such as `layers/00/blocks/01/norm1/scale`, is never trained."""
        room, number, *_ = *path.split("/"), ""
        if room == "patch_embed":
            return self.frozen_stages >= 0
        return room == "layers" and int(number) < self.frozen_stages


PRESETS = {
    "tiny": VideoSwinSizes(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), drop_path=0.1),
    "small": VideoSwinSizes(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "base": VideoSwinSizes(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "large": VideoSwinSizes(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
}
"""The published sizes T, S, B and L."""


class Mlp(nnx.Module):
    """A perceptron applied to every token: linear, exact GELU, linear (names of the original)."""

    def __init__(self, features: int, hidden: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        options = {
            "kernel_init": nnx.initializers.normal(0.02),
            "bias_init": nnx.initializers.zeros,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        self.fc1 = Dense(features, hidden, **options)
        self.fc2 = Dense(hidden, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] to the same shape."""
        return self.fc2(gelu(self.fc1(x)))


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, any shape; its gradient keeps `x` alone.

    As PyTorch writes it: that of `jax.nn`, with erfc, takes twice the time on CPUs.
    """
    return x * _normal_cdf(x)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


def _gradient_of_gelu(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    density = jnp.exp(-0.5 * jnp.square(x)) * (2 * math.pi) ** -0.5
    return (dy * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gradient_of_gelu)


class SwinBlock(nnx.Module):
    """Attention inside windows and a perceptron, each behind a norm and with a residual path."""

    def __init__(
        self,
        sizes: VideoSwinSizes,
        *,
        features: int,
        heads: int,
        shifted: bool,
        drop_path: float,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the block.

        Args:
            sizes: window, perceptron and way of attention are taken from them.
            features: channels.
            heads: of the attention.
            shifted: whether windows are moved by half their size.
            drop_path: probability of dropping each of the two paths in training.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: of the initial values.
        """
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.norm1 = FrameNorm(features, param_dtype=param_dtype)
        self.attn = WindowAttention3D(
            features, heads=heads, window=sizes.window, implementation=sizes.attention, **options
        )
        self.norm2 = FrameNorm(features, param_dtype=param_dtype)
        self.mlp = Mlp(features, int(features * sizes.mlp_ratio), **options)
        self.window = sizes.window
        self.shift = tuple(extent // 2 for extent in sizes.window) if shifted else NO_SHIFT
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """Runs the block.

        Args:
            x: [batch, time, height, width, features].
            keep: [2, batch] bool, which clips keep the first and the second path; None for evaluation.

        Returns:
            The shape and dtype of `x`.
        """
        first, second = (None, None) if keep is None else keep
        x = x + self._dropped(self._attended(normalised(self.norm1, x)), first)
        return x + self._dropped(self._transformed(x), second)

    def _transformed(self, x: jax.Array) -> jax.Array:
        """The perceptron of normalised tokens; where attention goes by windows (CPUs), some tokens after the other.

        For the same reason: what is hidden in the perceptron stays in the cache, and gradients compute it again.
        """

        def transform(tokens: jax.Array) -> jax.Array:
            return self.mlp(normalised(self.norm2, tokens))

        rows = max(number for number in range(1, MLP_ROWS + 1) if (x.size // x.shape[-1]) % number == 0)
        if self.attn.implementation_of(x.dtype) != "by_window" or 2 * rows < MLP_ROWS:
            return transform(x)
        return jax.lax.map(jax.checkpoint(transform), x.reshape(-1, 1, rows, x.shape[-1])).reshape(x.shape)

    def _attended(self, x: jax.Array) -> jax.Array:
        """Pads with zeros, which take part, rolls, attends inside windows, and undoes the first two."""
        _, time, height, width, _ = x.shape
        window, shift = fitted((time, height, width), self.window, self.shift)
        x = pad_end(x, end_padding((time, height, width), window))
        size, axes = x.shape[1:4], (1, 2, 3)
        if not any(shift):
            y = merge(self.attn(partition(x, window)), window, size)
        else:
            x = jnp.roll(x, [-step for step in shift], axes)
            y = merge(self.attn(partition(x, window), regions(size, window, shift)), window, size)
            y = jnp.roll(y, shift, axes)
        return y[:, :time, :height, :width]

    def _dropped(self, x: jax.Array, keep: jax.Array | None) -> jax.Array:
        if keep is None:
            return x
        return drop(x, jnp.broadcast_to(keep[:, None, None, None, None], x.shape), self.drop_path)


class SwinStage(nnx.Module):
    """Blocks, plain and shifted in turn, and a patch merging unless the stage is the last."""

    def __init__(
        self,
        sizes: VideoSwinSizes,
        stage: int,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        features = sizes.width * 2**stage
        rates = np.linspace(0, sizes.drop_path, sum(sizes.depths))[sum(sizes.depths[:stage]) :]
        self.blocks = nnx.List(
            SwinBlock(
                sizes,
                features=features,
                heads=sizes.heads[stage],
                shifted=number % 2 == 1,
                drop_path=float(rates[number]),
                **options,
            )
            for number in range(sizes.depths[stage])
        )
        self.is_last = stage == len(sizes.depths) - 1
        if not self.is_last:
            self.downsample = PatchMerging(features, **options)
        self.checkpoint = sizes.checkpoint and stage >= sizes.frozen_stages

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """[batch, time, height, width, features] to half the height and width and twice the features, or the same.

        `keep`: [blocks, 2, batch] bool, see `SwinBlock`; None for evaluation.
        """
        for number, block in enumerate(self.blocks):
            run = jax.checkpoint(block.__call__) if self.checkpoint else block
            x = run(x, None if keep is None else keep[number])
        return x if self.is_last else self.downsample(x)


class VideoSwin(nnx.Module):
    """The backbone; see `VideoSwinSizes` and `PRESETS`.

    Attributes (the names of the original): `patch_embed`, `layers` (the stages), `norm`.
    """

    def __init__(
        self,
        sizes: VideoSwinSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.patch_embed = PatchEmbedding(
            sizes.in_channels, sizes.width, patch=sizes.patch, norm=sizes.patch_norm, **options
        )
        self.layers = nnx.List(SwinStage(sizes, stage, **options) for stage in range(len(sizes.depths)))
        self.norm = FrameNorm(sizes.features, param_dtype=param_dtype)
        self.sizes = sizes

    def __call__(self, video: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Features of clips that are read whole.

        Args:
            video: [batch, time, height, width, in_channels], normalised.
            rngs: gives the key "dropout" that paths of trained stages are dropped by; None for evaluation.

        Returns:
            [batch, time / 2, height / 32, width / 32, features], rounded up, in the compute dtype.
        """
        return normalised(self.norm, self.stages(video, rngs)[-1])

    def stages(self, video: jax.Array, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """The embedded patches and the output of each stage, before the last norm; arguments as of `__call__`.

        Each is [batch, time, height, width, channels] in the compute dtype: positions and channels of its stage.
        """
        if video.shape[-1] != self.sizes.in_channels:
            raise ValueError(f"the video has {video.shape[-1]} channels, expected {self.sizes.in_channels} at the end.")
        frozen = self.sizes.frozen_stages
        keeps = self._kept_paths(video.shape[0], rngs)
        x = self.patch_embed(video)
        outputs = [jax.lax.stop_gradient(x) if frozen >= 0 else x]
        for number, (stage, keep) in enumerate(zip(self.layers, keeps, strict=True)):
            is_frozen = number < frozen
            x = stage(outputs[-1], None if is_frozen else keep)
            outputs.append(jax.lax.stop_gradient(x) if is_frozen else x)
        return outputs

    def chunk_features(
        self, chunks: jax.Array, rngs: nnx.Rngs | None = None, *, pool: bool = True, at_once: int | None = None
    ) -> jax.Array:
        """Features of chunks of videos; chunks do not see each other.

        Args:
            chunks: [chunks, batch, frames, height, width, in_channels], normalised.
            rngs: as of `__call__`; every chunk drops its own paths.
            pool: take the float32 mean over height and width.
            at_once: how many of the chunks * batch to hold in memory at a time, for evaluation; None: all.

        Returns:
            [chunks, batch, rows, features] float32, or without pooling [chunks, batch, rows, height, width, features].
        """
        features = self._each(chunks.reshape(-1, *chunks.shape[2:]), rngs, at_once)
        return _pooled(features.reshape(*chunks.shape[:2], *features.shape[1:]), pool)

    def clip_features(
        self,
        video: jax.Array,
        chunk_frames: int,
        rngs: nnx.Rngs | None = None,
        *,
        pool: bool = True,
        at_once: int | None = None,
    ) -> jax.Array:
        """Features of videos that are cut into chunks, zeros after the last frame.

        Args:
            video: [batch, time, height, width, in_channels], normalised.
            chunk_frames: frames of a chunk.
            rngs: as of `__call__`.
            pool: as of `chunk_features`.
            at_once: as of `chunk_features`.

        Returns:
            [batch, rows, features] float32, or without pooling [batch, rows, height, width, features]: the rows of all
            chunks but those that only padding would give.
        """
        batch, frames = video.shape[:2]
        padding = -frames % chunk_frames
        chunks = pad_end(video, (padding, 0, 0)).reshape(-1, chunk_frames, *video.shape[2:])
        features = self._each(chunks, rngs, at_once)
        features = features.reshape(batch, -1, *features.shape[2:])
        rows = features.shape[1] - padding // self.sizes.frames_per_row
        return _pooled(features[:, :rows], pool)

    def _each(self, clips: jax.Array, rngs: nnx.Rngs | None, at_once: int | None) -> jax.Array:
        if at_once is None:
            return self(clips, rngs)
        if rngs is not None:
            raise ValueError("at_once saves memory in evaluation; a training step needs all chunks, leave it None.")
        count = len(clips)
        clips = jnp.pad(clips, [(0, -count % at_once)] + [(0, 0)] * (clips.ndim - 1))
        features = jax.lax.map(self.__call__, clips.reshape(-1, at_once, *clips.shape[1:]))
        return features.reshape(-1, *features.shape[2:])[:count]

    def _kept_paths(self, batch: int, rngs: nnx.Rngs | None) -> list[jax.Array | None]:
        """Per stage: which clips keep the paths of its blocks, bool [blocks, 2, batch], or None in evaluation."""
        depths = self.sizes.depths
        if rngs is None or not self.sizes.drop_path:
            return [None] * len(depths)
        rates = np.linspace(0, self.sizes.drop_path, sum(depths), dtype=np.float32)
        draws = jax.random.uniform(rngs.dropout(), (sum(depths), 2, batch))
        return jnp.split(draws >= rates[:, None, None], np.cumsum(depths)[:-1])


def _pooled(features: jax.Array, pool: bool) -> jax.Array:
    """[..., height, width, features] to [..., features] float32 where `pool` says so."""
    return features.astype(jnp.float32).mean(axis=(-3, -2)) if pool else features
