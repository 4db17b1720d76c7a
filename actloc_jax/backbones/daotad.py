"""TALLFormer's detector for THUMOS14: a temporal neck and RetinaNet's heads on anchors.

Cheng and Bertasius, "TALLFormer" (ECCV 2022, arXiv 2204.01680), section 3.3; the detector derives from DaoTAD. Source:
`klauscc/TALLFormer:vedatad/models/{necks,heads}`. A window of 480 frames enters as 240 rows of backbone features.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.conv_norm import Conv, ConvNorm, TopDownPyramid
from actloc_jax.layers.masked import FrameNorm, sinusoids
from actloc_jax.layers.temporal import LinearMap
from actloc_jax.layers.temporal_attention import BandLayer, DistanceTransformer, dropped
from actloc_jax.layers.temporal_reduction import TemporalReduction

HEAD_STD = 0.01
PRIOR = 0.01  # initial probability of every class


@dataclasses.dataclass(frozen=True)
class AnchorDetectorSizes:
    """Everything that decides the shapes and the arithmetic of an `AnchorDetector`. The defaults are the published.

    Attributes:
        input_dim: channels of the backbone.
        num_classes: classes, without background.
        width: channels of the neck up to the pyramid.
        pyramid_width: channels of the pyramid and the heads.
        heads: attention heads of the transformer.
        num_layers: its layers.
        max_length: rows that it sees at most: a quarter of the backbone's.
        drop_path: its rate of dropping residual paths.
        windows: rows that attention sees on each coarser level; one entry per level after the first.
        window_heads: its heads.
        dropout: in those layers and on the pyramid's input.
        anchors: per row of a level.
        head_layers: convolutions of a tower.
    """

    input_dim: int = 1024
    num_classes: int = 20
    width: int = 512
    pyramid_width: int = 256
    heads: int = 16
    num_layers: int = 3
    max_length: int = 60
    drop_path: float = 0.1
    windows: tuple[int, ...] = (7, 7, 5, 5)
    window_heads: int = 8
    dropout: float = 0.1
    anchors: int = 5
    head_layers: int = 4

    @property
    def levels(self) -> int:
        """Number of levels of the pyramid."""
        return 1 + len(self.windows)


class AnchorOutput(NamedTuple):
    """What the heads say, one array per level, finest first.

    Attributes:
        classes: logits, float32 [batch, rows * anchors, classes]; the anchors of a row stand together.
        deltas: float32 [batch, rows * anchors, 2]: centre and log length in terms of the anchor.
    """

    classes: tuple[jax.Array, ...]
    deltas: tuple[jax.Array, ...]


class AttentionPyramid(nnx.Module):
    """Levels of half the length each, by joining neighbours and attending to a band (`SelfAttnTDM`).

    Attributes (the names of the original): `reductions` ([linear map, norm] per level), `trans_layers`.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        windows: tuple[int, ...],
        dropout: float = 0.1,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.reductions = nnx.List(
            nnx.List([LinearMap(2 * features, features, **options), FrameNorm(features, param_dtype=param_dtype)])
            for _ in windows
        )
        self.trans_layers = nnx.List(
            BandLayer(features, heads=heads, window=window, dropout=dropout, **options) for window in windows
        )
        self.dropout = dropout

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """[batch, time, features] to levels [batch, time of the level, features]; level 0 has positions added."""
        width = x.shape[2]
        positions = sinusoids(x.shape[1], width) / math.sqrt(width)
        levels = [dropped(x + jnp.asarray(positions, x.dtype), self.dropout, rngs)]
        for (linear, norm), layer in zip(self.reductions, self.trans_layers, strict=True):
            levels.append(layer(norm(linear(_pairs(levels[-1]))), rngs=rngs))
        return levels


class RetinaHead(nnx.Module):
    """Classes and deltas of the anchors of every row, shared by the levels.

    Attributes (the names of the original): `cls_convs`, `reg_convs`, `retina_cls`, `retina_reg`.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        anchors: int,
        num_layers: int,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {
            "kernel_size": 3,
            "kernel_init": nnx.initializers.normal(HEAD_STD),
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        prior = nnx.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        self.cls_convs = nnx.List(ConvNorm(features, features, **options) for _ in range(num_layers))
        self.reg_convs = nnx.List(ConvNorm(features, features, **options) for _ in range(num_layers))
        self.retina_cls = Conv(features, anchors * num_classes, bias_init=prior, **options)
        self.retina_reg = Conv(features, anchors * 2, bias_init=nnx.initializers.zeros, **options)
        self.anchors = anchors

    def __call__(self, levels: list[jax.Array], *, train: bool = False) -> AnchorOutput:
        """Levels [batch, time of the level, features]; running statistics follow them in this order."""
        found = [self._level(x, train) for x in levels]
        return AnchorOutput(*(tuple(parts) for parts in zip(*found, strict=True)))

    def _level(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        def tower(convs: nnx.List) -> jax.Array:
            y = x
            for conv in convs:
                y = conv(y, train=train)
            return y

        batch, time = x.shape[:2]
        classes = self.retina_cls(tower(self.cls_convs)).astype(jnp.float32)
        deltas = self.retina_reg(tower(self.reg_convs)).astype(jnp.float32)
        rows = time * self.anchors
        return classes.reshape(batch, rows, -1), deltas.reshape(batch, rows, 2)


class AnchorDetector(nnx.Module):
    """Backbone features to what the heads say about every anchor.

    Attributes: `reduction`, `transformer`, `pyramid`, `fpn` (the original's `neck.0` to `neck.3`), `head`.
    """

    def __init__(
        self,
        sizes: AnchorDetectorSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width, features = sizes.width, sizes.pyramid_width
        self.reduction = TemporalReduction(sizes.input_dim, width, **options)
        self.transformer = DistanceTransformer(
            width,
            heads=sizes.heads,
            num_layers=sizes.num_layers,
            max_length=sizes.max_length,
            drop_path=sizes.drop_path,
            **options,
        )
        self.pyramid = AttentionPyramid(
            width, heads=sizes.window_heads, windows=sizes.windows, dropout=sizes.dropout, **options
        )
        self.fpn = TopDownPyramid(width, features, sizes.levels, **options)
        self.head = RetinaHead(
            features, sizes.num_classes, anchors=sizes.anchors, num_layers=sizes.head_layers, **options
        )

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> AnchorOutput:
        """Runs the detector.

        Args:
            x: [batch, time, input_dim] features of a window; the padding of short windows is part of them.
            train: batch norms use and record the statistics of the batch, see `Network.with_statistics`.
            rngs: makes dropout and stochastic depth active; None for evaluation.
        """
        return self.head(self.features(x, train=train, rngs=rngs), train=train)

    def features(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """What `__call__` gives to the head: levels [batch, time of the level, pyramid_width]."""
        reduced = self.transformer(self.reduction(x), rngs=rngs)
        return self.fpn(self.pyramid(reduced, rngs=rngs), train=train)


def _pairs(x: jax.Array) -> jax.Array:
    """Neighbours joined along channels: [batch, time, channels] to [batch, ceil(time / 2), 2 * channels]."""
    batch, time, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (0, time % 2), (0, 0)))
    return padded.reshape(batch, -1, 2 * channels)
