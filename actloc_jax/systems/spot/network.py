"""The network of SPOT: snippets that have seen the video, their class, and the action that each of them lies in.

Every video has the same number of snippets (its features are resized), so there is no padding and no mask of valid
snippets. Paper section 3.2; source: `sauradip/SPOT:spot_model.py`, `utils/transformer.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop, keep_masks
from actloc_jax.layers.masked import FrameNorm
from actloc_jax.layers.temporal import Dense, DilatedConv, LinearMap


class SpotOutput(NamedTuple):
    """What the network says of a batch of videos.

    Attributes:
        logits: [batch, time, classes + 1] float32, background last.
        masks: [batch, time, snippet] float32 in 0..1; entry (t, j): whether time t belongs to the action that snippet j
            lies in.
        features: [batch, time, channels], the embedded snippets.
    """

    logits: jax.Array
    masks: jax.Array
    features: jax.Array


class Products(NamedTuple):
    """Products of the weights of a `SnippetEmbedding`.

    Attributes:
        form: [channels, heads * channels], of queries and keys: a bilinear form of snippets for every head.
        update: [heads * channels, channels], of values and output.
    """

    form: jax.Array
    update: jax.Array


class SnippetEmbedding(nnx.Module):
    """Self-attention of the snippets of a video, added to them and normalised.

    Every head is as wide as the snippets. Queries and keys meet in a bilinear form of the snippets themselves, values
    and output projection are one linear map: both products of weights are made once per batch, which takes two of the
    four large products out of every video (published sizes: 40% of the arithmetic).

    Attributes:
        w_qs, w_ks, w_vs: kernels [channels, heads * channels].
        fc: kernel [heads * channels, channels] and bias.
        layer_norm: over channels.
        positions: embedding [positions, channels], added to the snippets if `uses_positions`, else unused; published
            checkpoints hold it either way.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        dropout: float,
        attention_dropout: float = 0.1,
        num_positions: int,
        uses_positions: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        narrow = nnx.initializers.normal(channels**-0.5)
        self.positions = nnx.Embed(
            num_positions, channels, embedding_init=nnx.initializers.normal(1.0), param_dtype=param_dtype, rngs=rngs
        )
        self.w_qs = LinearMap(channels, heads * channels, kernel_init=narrow, **options)
        self.w_ks = LinearMap(channels, heads * channels, kernel_init=narrow, **options)
        self.w_vs = LinearMap(channels, heads * channels, kernel_init=narrow, **options)
        self.fc = Dense(heads * channels, channels, kernel_init=nnx.initializers.xavier_normal(), **options)
        self.layer_norm = FrameNorm(channels, param_dtype=param_dtype)
        self.heads, self.channels = heads, channels
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.uses_positions = uses_positions
        self.dtype = dtype

    def __call__(
        self,
        queries: jax.Array,
        keys: jax.Array | None = None,
        *,
        products: Products | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Runs the block.

        Args:
            queries: [batch, time, channels].
            keys: [batch, others, channels], snippets that are attended to; None: `queries`.
            products: of the weights, if made before.
            rngs: makes dropout active; None for evaluation.

        Returns:
            [batch, time, channels].
        """
        products = self.products() if products is None else products
        queries, keys = self._placed(queries), self._placed(queries if keys is None else keys)
        weights = self._attention(queries, keys, products)
        (keep,) = keep_masks(rngs, self.attention_dropout, 1, weights.shape)
        weights = drop(weights, keep, self.attention_dropout).astype(self.dtype)
        batch, time, _, _ = weights.shape
        context = weights.reshape(batch, time * self.heads, -1) @ keys.astype(self.dtype)
        context = context.reshape(batch, time, self.heads * self.channels)
        y = context @ products.update.astype(self.dtype) + self.fc.bias[...].astype(self.dtype)
        (keep,) = keep_masks(rngs, self.dropout, 1, y.shape)
        return self.layer_norm(drop(y, keep, self.dropout) + queries)

    def products(self) -> Products:
        """The products of weights that a batch needs."""
        per_head = (self.channels, self.heads, self.channels)
        queries, keys, values = (each.kernel[...].reshape(per_head) for each in (self.w_qs, self.w_ks, self.w_vs))
        form = jnp.einsum("ihd,jhd->ihj", queries, keys) / self.channels**0.5
        outputs = self.fc.kernel[...].reshape(self.heads, self.channels, self.channels)
        update = jnp.einsum("ihd,hdj->hij", values, outputs)
        wide = self.heads * self.channels
        return Products(form.reshape(self.channels, wide), update.reshape(wide, self.channels))

    def attention(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Weights of the keys for every query and head, without dropout: float32 [batch, time, heads, others]."""
        return self._attention(self._placed(queries), self._placed(keys), self.products())

    def _attention(self, queries: jax.Array, keys: jax.Array, products: Products) -> jax.Array:
        batch, time, _ = queries.shape
        asked = queries.astype(self.dtype) @ products.form.astype(self.dtype)
        asked = asked.reshape(batch, time * self.heads, self.channels)
        logits = jnp.einsum("bqd,bkd->bqk", asked, keys.astype(self.dtype)).astype(jnp.float32)
        return jax.nn.softmax(logits, axis=2).reshape(batch, time, self.heads, -1)

    def _placed(self, x: jax.Array) -> jax.Array:
        return x + self.positions.embedding[: x.shape[1]].astype(x.dtype) if self.uses_positions else x


class Spot(nnx.Module):
    """Snippet embedding with a branch for classes, one for masks and one for the order of the video's halves.

    Attributes:
        embedding: of snippets.
        clip_trans: a second embedding for the order of halves; see `order_ignores_transformer`.
        classifier: a linear map to classes and background.
        mask_hidden, mask_out: a convolution over three snippets and a linear map to the mask of every snippet.
        clip_order, clip_order_linear: a convolution over three snippets to one channel, then from time to two logits.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        time: int,
        *,
        heads: int = 4,
        mask_width: int = 256,
        num_positions: int = 400,
        dropout: float = 0.3,
        order_dropout: float = 0.5,
        order_ignores_transformer: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the network.

        Args:
            input_dim: channels of the features.
            num_classes: without background.
            time: snippets of every video.
            heads: of attention.
            mask_width: channels between the two maps of the mask branch.
            num_positions: rows of the position tables.
            dropout: after the attention of `embedding`; in its weights it is 0.1, in `clip_trans` 0.1.
            order_dropout: before the last map of the order branch.
            order_ignores_transformer: quirk: the order branch reads the output of `embedding`, and `clip_trans` is
                never trained. False: it reads the output of `clip_trans`.
            dtype, param_dtype: of computation and of parameters.
            rngs: initialises parameters.
        """
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        embedding = {"heads": heads, "num_positions": num_positions, **options}
        if time > num_positions:
            raise ValueError(f"{time} snippets need as many positions; num_positions is {num_positions}")
        self.embedding = SnippetEmbedding(input_dim, dropout=dropout, uses_positions=False, **embedding)
        self.clip_trans = SnippetEmbedding(input_dim, dropout=0.1, uses_positions=True, **embedding)
        self.classifier = Dense(input_dim, num_classes + 1, **options)
        self.mask_hidden = DilatedConv(input_dim, mask_width, kernel_size=3, **options)
        self.mask_out = LinearMap(mask_width, time, **options)
        self.clip_order = DilatedConv(input_dim, 1, kernel_size=3, **options)
        self.clip_order_linear = Dense(time, 2, **options)
        self.order_dropout = order_dropout
        self.order_ignores_transformer = order_ignores_transformer

    def __call__(self, x: jax.Array, *, part: int | None = None, rngs: nnx.Rngs | None = None) -> SpotOutput:
        """Classes, masks and features.

        Args:
            x: [batch, time, input_dim].
            part: videos computed at a time, one part after the other; their arrays then stay in a processor's cache (4:
                one and a half times as fast on a CPU). For evaluation on one device. None: all at once.
            rngs: makes dropout active.

        Raises:
            ValueError: parts with dropout, which would be the same in all of them.
        """
        products = self.embedding.products()
        if part is None:
            return self._outputs(x, products, rngs)
        if rngs is not None:
            raise ValueError("videos are computed in parts without dropout; leave out part or rngs")
        return in_parts(lambda videos: self._outputs(videos, products, None), x, part)

    def _outputs(self, x: jax.Array, products: Products, rngs: nnx.Rngs | None) -> SpotOutput:
        features = self.embedding(x, products=products, rngs=rngs)
        hidden = nnx.relu(self.mask_hidden(features, _every_snippet(features)))
        masks = jax.nn.sigmoid(self.mask_out(hidden).astype(jnp.float32))
        return SpotOutput(self.classifier(features).astype(jnp.float32), masks, features)

    def order(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Whether halves of [batch, time, input_dim] features were swapped: [batch, 2] float32 logits, 0 = swapped."""
        features = self.embedding(x, rngs=rngs)
        if not self.order_ignores_transformer:
            features = self.clip_trans(features, rngs=rngs)
        evidence = nnx.relu(self.clip_order(features, _every_snippet(features)))[:, :, 0]
        (keep,) = keep_masks(rngs, self.order_dropout, 1, evidence.shape)
        return self.clip_order_linear(drop(evidence, keep, self.order_dropout)).astype(jnp.float32)


def _every_snippet(x: jax.Array) -> jax.Array:
    return jnp.ones(x.shape[:2], bool)


def in_parts(function: Callable[[jax.Array], Any], x: jax.Array, size: int) -> Any:
    """`function` of [batch, ...], computed for `size` rows at a time; all outputs begin with the batch axis."""
    rows = len(x)
    number = -(-rows // size)
    filled = jnp.pad(x, [(0, number * size - rows)] + [(0, 0)] * (x.ndim - 1))
    outputs = jax.lax.map(function, filled.reshape(number, size, *x.shape[1:]))
    return jax.tree.map(lambda each: each.reshape(number * size, *each.shape[2:])[:rows], outputs)
