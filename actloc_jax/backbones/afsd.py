"""TALLFormer's detector for ActivityNet and HACS: a temporal neck and AFSD's heads without anchors.

Every row of a pyramid says how far its action reaches to both sides; boundary features around that segment refine it.
Lin et al., "Learning Salient Boundary Feature for Anchor-free Temporal Action Localization" (CVPR 2021); source:
`klauscc/TALLFormer:AFSD/anet_video_cls/BDNet.py`. A video is 768 frames, which enter as 384 rows of features.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.conv_norm import Conv, ConvNorm, TopDownPyramid, stretch
from actloc_jax.layers.temporal import Dense
from actloc_jax.layers.temporal_attention import DistanceTransformer, dropped
from actloc_jax.layers.temporal_reduction import TemporalReduction
from actloc_jax.ops.boundary_pooling import boundary_max_pool

FRAMES_PER_ROW = 8  # of the finest level: 2 of the backbone, 4 of the reduction
HEAD_STD = 0.01
LARGEST = 4.0  # strides that a coarse distance can reach
CLASSES = 2  # background, action
VIDEO_DROPOUT = 0.5


@dataclasses.dataclass(frozen=True)
class AfsdSizes:
    """Everything that decides the shapes and the arithmetic of an `Afsd`. The defaults are the published.

    Attributes:
        input_dim: channels of the backbone.
        num_classes: classes of the video classifier, background (0) included.
        width: channels of neck and heads.
        heads: attention heads of the transformer.
        num_layers: its layers.
        max_length: rows that it sees at most.
        drop_path: its rate of dropping residual paths.
        levels: of the pyramid.
        groups: of every GroupNorm.
        frames: of a video; distances are in frames.
        video_dropout: on the input of the video classifier.
    """

    input_dim: int = 1024
    num_classes: int = 201
    width: int = 512
    heads: int = 16
    num_layers: int = 3
    max_length: int = 96
    drop_path: float = 0.1
    levels: int = 6
    groups: int = 32
    frames: int = 768
    video_dropout: float = VIDEO_DROPOUT

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames per row of each level."""
        return tuple(FRAMES_PER_ROW * 2**level for level in range(self.levels))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each level."""
        return tuple(self.frames // stride for stride in self.strides)

    @property
    def priors(self) -> np.ndarray:
        """Centres of all rows as parts of the video, float32 [rows].

        Windows end on halves of frames where a distance is at its limit, so that the rounding of this quotient counts.
        """
        return np.concatenate([(np.arange(length) + 0.5) / length for length in self.lengths]).astype(np.float32)

    @property
    def level_of_row(self) -> np.ndarray:
        """The level of every row, int [rows]."""
        return np.repeat(np.arange(self.levels), self.lengths)


class AfsdOutput(NamedTuple):
    """What the detector says; rows of all levels one behind the other, finest level first.

    Attributes:
        video_classes: logits, float32 [batch, num_classes].
        distances: float32 [batch, rows, 2] to start and end, frames, not negative.
        classes: logits of background and action, float32 [batch, rows, 2].
        refinements: float32 [batch, rows, 2], of the distances, in halves of the coarse segment.
        refined_classes: logits after refinement, float32 [batch, rows, 2].
        centres: logit of how well the refined segment fits, float32 [batch, rows].
        boundaries: of every frame, float32 [batch, frames, width]: the first half for starts, the second for ends.
        row_boundaries: the same of the rows of the finest level, [batch, rows of level 0, 2 * width], of the branch of
            the distances and of that of the classes.
    """

    video_classes: jax.Array
    distances: jax.Array
    classes: jax.Array
    refinements: jax.Array
    refined_classes: jax.Array
    centres: jax.Array
    boundaries: jax.Array
    row_boundaries: tuple[jax.Array, jax.Array]


class ProposalBranch(nnx.Module):
    """A row's feature joined with the boundary features of its segment.

    Attributes (the names of the original): `cur_point_conv`, `lr_conv`, `roi_conv`, `proposal_conv`.
    """

    def __init__(self, features: int, **options: object):
        options = {"kernel_size": 1, **options}
        self.cur_point_conv = ConvNorm(features, features, **options)
        self.lr_conv = ConvNorm(features, 2 * features, **options)
        self.roi_conv = ConvNorm(features, features, **options)
        self.proposal_conv = ConvNorm(4 * features, features, **options)

    def __call__(self, x: jax.Array, windows: jax.Array, pooled_frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs the branch.

        Args:
            x: [batch, time, features] of a level.
            windows: [batch, time, 4], start and end windows of every row's segment, rows of the level.
            pooled_frames: [batch, time, features], boundaries of all frames pooled in the same windows.

        Returns:
            [batch, time, features], and the boundary features of the rows, [batch, time, 2 * features].
        """
        boundaries = self.lr_conv(x)
        pooled = boundary_max_pool(boundaries, windows)
        parts = [self.roi_conv(pooled_frames), pooled, self.cur_point_conv(x)]
        return self.proposal_conv(jnp.concatenate(parts, axis=2)), boundaries


class Afsd(nnx.Module):
    """The detector.

    Attributes: `reduction`, `transformer`, `pyramid`, `fpn` (the original's `pyramids.0` to `pyramids.3`), and with the
    names of the original `deconv`, `loc_tower`, `conf_tower`, `loc_head`, `conf_head`, `loc_proposal_branch`,
    `conf_proposal_branch`, `prop_loc_head`, `prop_conf_head`, `center_head`, `action_head`; `scales`: scalar per level.
    """

    def __init__(
        self,
        sizes: AfsdSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        width = sizes.width
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        glorot = {"kernel_init": nnx.initializers.glorot_uniform(), "bias_init": nnx.initializers.zeros, **options}
        small = {"kernel_init": nnx.initializers.normal(HEAD_STD), "bias_init": nnx.initializers.zeros, **options}
        grouped = {"groups": sizes.groups, "bias": True}
        stack = {"heads": sizes.heads, "num_layers": sizes.num_layers, "max_length": sizes.max_length}
        self.reduction = TemporalReduction(sizes.input_dim, width, **glorot)
        self.transformer = DistanceTransformer(width, drop_path=sizes.drop_path, **stack, **options)
        self.pyramid = nnx.List(
            ConvNorm(width, width, kernel_size=3, stride=2, groups=sizes.groups, **glorot)
            for _ in range(sizes.levels - 1)
        )
        self.fpn = TopDownPyramid(width, width, sizes.levels, groups=sizes.groups, **options)
        self.deconv = nnx.List(ConvNorm(width, width, kernel_size=k, **grouped, **glorot) for k in (3, 3, 1))
        self.loc_tower = nnx.List(ConvNorm(width, width, kernel_size=3, **grouped, **small) for _ in range(2))
        self.conf_tower = nnx.List(ConvNorm(width, width, kernel_size=3, **grouped, **small) for _ in range(2))
        self.loc_head = Conv(width, 2, kernel_size=3, **small)
        self.conf_head = Conv(width, CLASSES, kernel_size=3, **small)
        self.loc_proposal_branch = ProposalBranch(width, **grouped, **small)
        self.conf_proposal_branch = ProposalBranch(width, **grouped, **small)
        self.prop_loc_head = Conv(width, 2, kernel_size=1, **small)
        self.prop_conf_head = Conv(width, CLASSES, kernel_size=1, **small)
        self.center_head = Conv(width, 1, kernel_size=3, **small)
        self.scales = nnx.List(nnx.Param(jnp.ones((), param_dtype)) for _ in range(sizes.levels))
        self.action_head = Dense(sizes.input_dim, sizes.num_classes, **options)
        self.sizes = sizes

    def features(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """The pyramid: [batch, frames / 2, input_dim] to levels [batch, time of the level, width]."""
        levels = [self.transformer(self.reduction(x), rngs=rngs)]
        for conv in self.pyramid:
            levels.append(conv(levels[-1]))
        return self.fpn(levels)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> AfsdOutput:
        """Runs the detector.

        Args:
            x: [batch, frames / 2, input_dim] features of a video; the padding of short videos is part of them.
            rngs: makes dropout and stochastic depth active; None for evaluation.
        """
        levels = self.features(x, rngs=rngs)
        video = dropped(x.astype(jnp.float32).mean(axis=1), self.sizes.video_dropout, rngs)
        located = [_through(self.loc_tower, level) for level in levels]
        distances = [self._distances(level, number) for number, level in enumerate(located)]
        boundaries = _through(self.deconv, stretch(levels[0], self.sizes.frames))
        pooled = self._pooled(boundaries, distances)
        rows = [self._refined(*of_level) for of_level in zip(levels, located, distances, pooled, strict=True)]
        classes, refinements, refined_classes, centres = (
            jnp.concatenate(parts, axis=1).astype(jnp.float32) for parts in list(zip(*rows, strict=True))[:4]
        )
        return AfsdOutput(
            video_classes=self.action_head(video).astype(jnp.float32),
            distances=jnp.concatenate(distances, axis=1),
            classes=classes,
            refinements=refinements,
            refined_classes=refined_classes,
            centres=centres[..., 0],
            boundaries=boundaries.astype(jnp.float32),
            row_boundaries=tuple(part.astype(jnp.float32) for part in rows[0][4:]),
        )

    def _distances(self, located: jax.Array, level: int) -> jax.Array:
        """Coarse distances of a level's rows, frames; the exponential is limited, not the distance."""
        scale = self.scales[level][...].astype(jnp.float32)
        exponential = jnp.exp(self.loc_head(located).astype(jnp.float32) * scale)
        return jnp.minimum(exponential, LARGEST) * self.sizes.strides[level]

    def _pooled(self, boundaries: jax.Array, distances: list[jax.Array]) -> list[jax.Array]:
        """Boundary features of all frames, pooled in the windows of each row's segment; levels in one look-up."""
        every = jax.lax.stop_gradient(jnp.concatenate(distances, axis=1))
        segments = _around(self.sizes.priors * np.float32(self.sizes.frames), every)
        windows = boundary_windows(segments, segments[..., 1] - segments[..., 0] + 1)
        ends = np.cumsum([d.shape[1] for d in distances])[:-1]
        return jnp.split(boundary_max_pool(boundaries, windows), ends, axis=1)

    def _refined(
        self, level: jax.Array, located: jax.Array, distances: jax.Array, pooled: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Of the rows of a level: classes, refinements, refined classes, centres, and both branches' boundaries."""
        time = level.shape[1]
        in_rows = jax.lax.stop_gradient(distances) / self.sizes.frames * time
        windows = boundary_windows(_around(np.arange(time, dtype=np.float32), in_rows), in_rows.sum(axis=-1))
        classified = _through(self.conf_tower, level)
        refined, of_distances = self.loc_proposal_branch(located, windows, pooled)
        reclassified, of_classes = self.conf_proposal_branch(classified, windows, pooled)
        return (
            self.conf_head(classified),
            self.prop_loc_head(refined),
            self.prop_conf_head(reclassified),
            self.center_head(refined),
            of_distances,
            of_classes,
        )


def boundary_windows(segments: jax.Array, lengths: jax.Array) -> jax.Array:
    """Windows around the start and the end of segments: a tenth of the length outside, a quarter inside, at least 1.

    Args:
        segments: [..., 2] start and end.
        lengths: [...] of the segments.

    Returns:
        [..., 4]: first and last of the start window, then of the end window, rounded (halves to even).
    """
    inside, outside = jnp.maximum(lengths / 4, 1), jnp.maximum(lengths / 10, 1)
    start, end = segments[..., 0], segments[..., 1]
    return jnp.round(jnp.stack([start - outside, start + inside, end - inside, end + outside], axis=-1))


def _around(centres: np.ndarray, distances: jax.Array) -> jax.Array:
    """Segments [batch, rows, 2] from centres [rows] and distances to both sides [batch, rows, 2]."""
    return jnp.stack([centres - distances[..., 0], centres + distances[..., 1]], axis=-1)


def _through(layers: nnx.List, x: jax.Array) -> jax.Array:
    for layer in layers:
        x = layer(x)
    return x
