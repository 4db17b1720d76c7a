"""The one-stage temporal detector of ActionFormer and TriDet: embedding, blocks, pyramid, neck, heads.

Both are the same network with other blocks and heads, and the student of FuSTAL is TriDet. Source:
`dingfengshi/TriDet:libs/modeling/{backbones,meta_archs}.py`, which derives from ActionFormer's.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.backbones.actionformer import TransformerBlock
from actloc_jax.backbones.tridet import ConvBlock, Pooling, SGPBlock
from actloc_jax.layers.detection_heads import ClassHead, OffsetHead, join, join_frames, split
from actloc_jax.layers.dropout import keep_masks
from actloc_jax.layers.masked import FrameNorm, Frames, MaskedConv, sinusoids
from actloc_jax.layers.pyramid import FeaturePyramid, IdentityNeck

BlockType = Literal["sgp", "transformer", "conv"]


@dataclasses.dataclass(frozen=True)
class DetectorSizes:
    """Everything that decides the shapes and the arithmetic of a `Detector`. The defaults are FuSTAL's student.

    Attributes:
        input_dim: channels of the features.
        num_classes: classes.
        block: "sgp" is TriDet, "transformer" ActionFormer, "conv" a residual network.
        width: channels of embedding and blocks.
        neck_width: channels of neck and heads' input.
        head_width: channels inside the heads.
        embedding_layers: convolutions before the blocks.
        stem_blocks: blocks on the finest level.
        branch_blocks: blocks that make a coarser level each.
        scale: how much coarser a level is than the one before.
        embedding_kernel: taps of the embedding's convolutions.
        windows: SGP's narrow kernel or attention's window, one for all levels or one per level; an attention window of
            at most 1 sees everything.
        sgp_factor: how much wider SGP's wide kernel is.
        sgp_hidden: channels of SGP's perceptrons.
        sgp_pooling: how SGP makes a coarser level.
        sgp_init_std: standard deviation of the initial taps of SGP's convolutions.
        heads: attention heads.
        position_bias: attention learns a bias per distance.
        position_encoding: sinusoids are added to the embedding.
        max_length: length of the sinusoid table; it is stretched for longer inputs.
        neck: "identity" or "fpn".
        head_layers: convolutions of a head, the last one included.
        head_kernel: their taps.
        bins: of the Trident head; None for a head that gives distances directly.
        drop_path: rate of dropping residual paths; 0: the paths are not scaled either.
        input_noise: standard deviation of the noise on the input in training.
        prior: initial probability of every class.
        empty_classes: classes without data, which start with probability 1e-6.
    """

    input_dim: int
    num_classes: int
    block: BlockType = "sgp"
    width: int = 512
    neck_width: int = 512
    head_width: int = 512
    embedding_layers: int = 2
    stem_blocks: int = 2
    branch_blocks: int = 5
    scale: int = 2
    embedding_kernel: int = 3
    windows: int | tuple[int, ...] = 1
    sgp_factor: float = 5
    sgp_hidden: int = 768
    sgp_pooling: Pooling = "max"
    sgp_init_std: float = 0.0
    heads: int = 4
    position_bias: bool = False
    position_encoding: bool = False
    max_length: int = 2304
    neck: Literal["identity", "fpn"] = "identity"
    head_layers: int = 3
    head_kernel: int = 3
    bins: int | None = 16
    drop_path: float = 0.1
    input_noise: float = 0.0
    prior: float = 0.01
    empty_classes: tuple[int, ...] = ()

    @property
    def levels(self) -> int:
        """Number of levels of the pyramid."""
        return 1 + self.branch_blocks

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames of the input per step of each level."""
        return tuple(self.scale**level for level in range(self.levels))

    @property
    def window_of_level(self) -> tuple[int, ...]:
        """`windows`, one per level."""
        windows = (self.windows,) * self.levels if isinstance(self.windows, int) else tuple(self.windows)
        if len(windows) != self.levels:
            raise ValueError(f"windows has {len(windows)} entries; expected one for each of the {self.levels} levels")
        return windows

    @property
    def length_multiple(self) -> int:
        """The published code pads inputs to a multiple of this many frames."""
        reach = [window if self.block == "sgp" else window // 2 * 2 for window in self.window_of_level]
        return max(stride * max(frames, 1) for stride, frames in zip(self.strides, reach, strict=True))


class DetectorOutput(NamedTuple):
    """What the heads say, one array per level.

    Attributes:
        classes: logits, [batch, time of the level, classes].
        offsets: [batch, time, 2] distances to start and end in steps of the level; with a Trident head
            [batch, time, 2 * (bins + 1)] logits of them.
        starts: start logits, [batch, time, classes]; empty without a Trident head.
        ends: end logits, likewise.
        masks: [batch, time] bool, True on the frames of the video.
    """

    classes: tuple[jax.Array, ...]
    offsets: tuple[jax.Array, ...]
    starts: tuple[jax.Array, ...]
    ends: tuple[jax.Array, ...]
    masks: tuple[jax.Array, ...]


class PyramidBackbone(nnx.Module):
    """Embedding, stem and branch: features to a pyramid.

    Attributes (the names of the original): `embd`, `embd_norm`, `stem`, `branch`.
    """

    def __init__(
        self,
        sizes: DetectorSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embd = nnx.List(
            MaskedConv(
                sizes.input_dim if i == 0 else sizes.width,
                sizes.width,
                kernel_size=sizes.embedding_kernel,
                bias=False,
                **options,
            )
            for i in range(sizes.embedding_layers)
        )
        self.embd_norm = nnx.List(
            FrameNorm(sizes.width, param_dtype=param_dtype) for _ in range(sizes.embedding_layers)
        )
        self.stem = nnx.List(_block(sizes, 0, **options) for _ in range(sizes.stem_blocks))
        self.branch = nnx.List(_block(sizes, 1 + i, **options) for i in range(sizes.branch_blocks))
        self.sizes = sizes

    def __call__(
        self, x: jax.Array, frames: Frames, *, rngs: nnx.Rngs | None = None
    ) -> tuple[list[jax.Array], list[Frames]]:
        """Runs the backbone.

        Args:
            x: [batch, time, input_dim]; `time` is a multiple of the coarsest stride.
            frames: of `x`.
            rngs: makes stochastic depth active; None for evaluation.

        Returns:
            One array [batch, time / stride, width] per level, and their frames.
        """
        for conv, norm in zip(self.embd, self.embd_norm, strict=True):
            x = nnx.relu(norm(conv(x, frames)))
        if self.sizes.position_encoding:
            x = x + frames.only_valid(_position_encoding(frames, self.sizes).astype(x.dtype))
        blocks = [*self.stem, *self.branch]
        keeps = keep_masks(rngs, self.sizes.drop_path, len(blocks), (2, x.shape[0]))
        pyramid, frames_of = [], []
        for number, (block, keep) in enumerate(zip(blocks, keeps, strict=True), start=1):
            x, frames = block(x, frames, keep if block.has_paths else None)
            if number >= len(self.stem):
                pyramid.append(x)
                frames_of.append(frames)
        return pyramid, frames_of


class Detector(nnx.Module):
    """The whole network.

    Attributes (the names of the original): `backbone`, `neck`, `cls_head`, `reg_head`, and with a Trident head
    `start_head` and `end_head`, which give no gradient to what they read.
    """

    def __init__(
        self,
        sizes: DetectorSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.backbone = PyramidBackbone(sizes, **options)
        if sizes.neck == "fpn":
            self.neck = FeaturePyramid(sizes.width, sizes.neck_width, sizes.levels, scale=sizes.scale, **options)
        else:
            self.neck = IdentityNeck(sizes.neck_width, sizes.levels, param_dtype=param_dtype)
        head = {"num_layers": sizes.head_layers, "kernel_size": sizes.head_kernel, **options}
        of_class = (sizes.neck_width, sizes.head_width, sizes.num_classes)
        prior = {"prior": sizes.prior, "empty_classes": sizes.empty_classes, **head}
        self.cls_head = ClassHead(*of_class, **prior)
        if sizes.bins is not None:
            self.start_head = ClassHead(*of_class, **prior)
            self.end_head = ClassHead(*of_class, **prior)
        outputs = 2 if sizes.bins is None else 2 * (sizes.bins + 1)
        self.reg_head = OffsetHead(sizes.neck_width, sizes.head_width, outputs, num_levels=sizes.levels, **head)
        self.sizes = sizes
        self.dtype = dtype

    def features(
        self, x: jax.Array, mask: jax.Array, *, seen: jax.Array | None = None, rngs: nnx.Rngs | None = None
    ) -> tuple[list[jax.Array], list[jax.Array], list[Frames]]:
        """What `__call__` gives to the heads: levels of the backbone, levels of the neck, and their frames.

        Args:
            x, mask, seen, rngs: as for `__call__`.

        Returns:
            Arrays [batch, time / stride, width], arrays [batch, time / stride, neck_width], and frames whose masks are
            [batch, time / stride]: one of each per level.

        Raises:
            ValueError: the time is no multiple of the coarsest stride.
        """
        sizes, frames = self.sizes, Frames(mask, seen)
        if x.shape[1] % sizes.strides[-1]:
            raise ValueError(f"the input has {x.shape[1]} frames; expected a multiple of {sizes.strides[-1]}")
        if rngs is not None and sizes.input_noise > 0:
            x = x + (sizes.input_noise * normal_noise(rngs.dropout(), x.shape)).astype(x.dtype)
        pyramid, levels = self.backbone(x.astype(self.dtype), frames, rngs=rngs)
        return pyramid, self.neck(pyramid, levels), levels

    def __call__(
        self, x: jax.Array, mask: jax.Array, *, seen: jax.Array | None = None, rngs: nnx.Rngs | None = None
    ) -> DetectorOutput:
        """Runs the network.

        Args:
            x: [batch, time, input_dim], zeros outside `mask`; `time` is a multiple of the coarsest stride.
            mask: [batch, time] bool, True on the frames of the video.
            seen: [batch, time] bool, the frames that count in norms and at borders, a superset of `mask`. None: all, as
                published, which makes the length of the padding part of the result; `mask`: padding changes nothing.
            rngs: makes stochastic depth and input noise active; None for evaluation.
        """
        _, features, levels = self.features(x, mask, seen=seen, rngs=rngs)
        lengths = [feature.shape[1] for feature in features]
        gap = self.sizes.head_kernel // 2
        joined, frames = join(features, gap), join_frames(levels, gap)
        level = np.concatenate([[0] * gap, *([number] * (n + gap) for number, n in enumerate(lengths))])
        detached = jax.lax.stop_gradient(joined)
        trident = self.sizes.bins is not None
        return DetectorOutput(
            classes=tuple(split(self.cls_head(joined, frames), lengths, gap)),
            offsets=tuple(split(self.reg_head(joined, frames, level), lengths, gap)),
            starts=tuple(split(self.start_head(detached, frames), lengths, gap)) if trident else (),
            ends=tuple(split(self.end_head(detached, frames), lengths, gap)) if trident else (),
            masks=tuple(frames_of_level.valid for frames_of_level in levels),
        )


def _block(sizes: DetectorSizes, level: int, **options: object) -> nnx.Module:
    """A block of the stem (level 0) or the one that makes `level`."""
    stride = 1 if level == 0 else sizes.scale
    window = sizes.window_of_level[level]
    drop_path = sizes.drop_path or None
    if sizes.block == "sgp":
        # In the stem the narrow kernel has one tap whatever the windows are, and paths are never dropped.
        return SGPBlock(
            sizes.width,
            window=window if level else 1,
            factor=sizes.sgp_factor,
            hidden=sizes.sgp_hidden,
            stride=stride,
            pooling=sizes.sgp_pooling,
            drop_path=drop_path if level else None,
            init_std=sizes.sgp_init_std,
            **options,
        )
    if sizes.block == "transformer":
        local = window > 1
        return TransformerBlock(
            sizes.width,
            heads=sizes.heads,
            window=window if local else None,
            stride=stride,
            position_bias=sizes.position_bias and local,
            drop_path=drop_path,
            **options,
        )
    if sizes.block == "conv":
        return ConvBlock(sizes.width, stride=stride, **options)
    raise ValueError(f"block is {sizes.block!r}; expected sgp, transformer or conv")


def normal_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal numbers, float32 of this shape, of 16 random bits each.

    It takes half the time of `jax.random.normal`, and none is beyond 4.2.
    """
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    numbers = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].astype(jnp.float32)
    return math.sqrt(2) * jax.lax.erf_inv((numbers + 0.5) / 2**15 - 1).reshape(shape)


def _position_encoding(frames: Frames, sizes: DetectorSizes) -> jax.Array:
    """Sinusoids [batch, time, width] scaled by 1 / sqrt(width).

    Where more than `max_length` frames are seen, the table is stretched over them linearly.
    """
    table = jnp.asarray(sinusoids(sizes.max_length, sizes.width) / math.sqrt(sizes.width))
    step, length = jnp.arange(frames.valid.shape[1], dtype=jnp.float32), frames.count()[:, None]
    stretched = (step + 0.5) * (sizes.max_length / length) - 0.5
    position = jnp.clip(jnp.where(length > sizes.max_length, stretched, step), 0, sizes.max_length - 1)
    before = jnp.floor(position).astype(jnp.int32)
    after = jnp.minimum(before + 1, sizes.max_length - 1)
    share = (position - before)[:, :, None]
    return (1 - share) * table[before] + share * table[after]
