"""ASFormer with the two branches of ASRF: the backbone "asformer" of TST.

ASRF (Ishikawa et al., WACV 2021, arXiv 2007.06866) adds to a segmentation network a branch that finds action
boundaries. Here both branches sit on an ASFormer encoder, after
`baiyang4/TST-action-segmentation:asformer_tst/models/asformer_tst.py`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.backbones.asformer import ASFormerSizes, AttentionStack, class_probabilities, decoder_stacks
from actloc_jax.layers.temporal import Dense, DilatedResidualStack
from actloc_jax.ops.sliding_attention import WindowPattern


@dataclasses.dataclass(frozen=True)
class ASRFSizes:
    """Everything that decides the shapes and the arithmetic of an `ASFormerASRF`.

    Attributes:
        input_dim: channels of the input features; the original has 2048 written into its code.
        num_classes: classes of the output.
        num_layers: layers of the encoder and of every stage of both branches.
        width: channels inside the network.
        class_stages: stages of the class branch, the encoder's own logits included.
        boundary_stages: stages of the boundary branch, the encoder's own logits included.
        channel_dropout: rate at which whole input channels are dropped.
        window_pattern: which keys a query sees, see `ops.sliding_attention.window_mask`.
    """

    num_classes: int
    input_dim: int = 2048
    num_layers: int = 10
    width: int = 64
    class_stages: int = 4
    boundary_stages: int = 4
    channel_dropout: float = 0.3
    window_pattern: WindowPattern = "published"


class ASRFOutput(NamedTuple):
    """Result of an `ASFormerASRF`.

    Attributes:
        class_logits: `[class_stages, batch, time, classes]`.
        boundary_logits: `[boundary_stages, batch, time]`.
        features: features behind the last class logits, `[batch, time, width]`.
        boundary_features: the last layer of the last boundary stage, `[batch, time, width]`.
    """

    class_logits: jax.Array
    boundary_logits: jax.Array
    features: jax.Array
    boundary_features: jax.Array


class ASFormerASRF(nnx.Module):
    """A shared ASFormer encoder, a branch of ASFormer decoders for classes, a branch of TCNs for boundaries.

    Unlike in ASFormer itself, every decoder takes its attention values from the encoder. With a single stage a branch
    ends at the encoder, whose features stand in for its own.
    """

    def __init__(
        self,
        sizes: ASRFSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        stack_sizes = ASFormerSizes(
            input_dim=sizes.input_dim,
            num_classes=sizes.num_classes,
            num_layers=sizes.num_layers,
            width=sizes.width,
            window_pattern=sizes.window_pattern,
        )
        self.shared_layers = AttentionStack(
            sizes.input_dim,
            stack_sizes,
            alpha=1.0,
            channel_dropout=sizes.channel_dropout,
            with_logits=False,
            **options,
        )
        self.conv_cls = Dense(sizes.width, sizes.num_classes, **options)
        self.conv_bound = Dense(sizes.width, 1, **options)
        self.asb = decoder_stacks(sizes.class_stages - 1, stack_sizes, **options)
        self.brb = nnx.List(
            DilatedResidualStack(1, sizes.width, 1, num_layers=sizes.num_layers, **options)
            for _ in range(sizes.boundary_stages - 1)
        )

    def __call__(self, x: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None) -> ASRFOutput:
        """Runs the encoder and both branches.

        Args:
            x: `[batch, time, input_dim]`.
            mask: bool `[batch, time]`, True for the frames of the sequence.
            rngs: makes dropout active; None for evaluation.
        """
        shared = self.shared_layers.features(x, mask, rngs=rngs)
        class_logits, features = [self.conv_cls(shared)], shared
        for stage in self.asb:
            probabilities = class_probabilities(class_logits[-1], mask)
            logits, features = stage(probabilities, mask, source=shared, rngs=rngs)
            class_logits.append(logits)

        boundary_logits, boundary_features = [self.conv_bound(shared)], shared
        for stage in self.brb:
            logits, layers = stage(nnx.sigmoid(boundary_logits[-1]), mask, rngs=rngs)
            boundary_logits.append(logits)
            boundary_features = layers[-1]
        return ASRFOutput(jnp.stack(class_logits), jnp.stack(boundary_logits)[..., 0], features, boundary_features)
