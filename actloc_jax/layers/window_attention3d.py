"""Multi-head attention inside windows of video tokens, with a learned bias per relative position (Video Swin).

The same numbers can be computed in three ways, see `IMPLEMENTATIONS`: what is fast on a GPU is slow on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.temporal import Dense
from actloc_jax.ops.video_windows import Triple, relative_positions, table_rows

APART = -100.0  # added to the score of tokens that are no neighbours, as published


class WindowAttention3D(nnx.Module):
    """Attention among the tokens of each window.

    Attributes (the names of the original):
        qkv: the projection to queries, keys and values, in this order, each [heads, width].
        proj: the projection of what the heads found.
        relative_position_bias_table: [relative positions, heads].
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        window: Triple,
        implementation: str | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the layer.

        Args:
            features: channels, divisible by `heads`.
            heads: their number.
            window: largest size of a window.
            implementation: a key of `IMPLEMENTATIONS`; None: what suits the backend and the compute dtype.
            dtype: of the computation; the softmax is float32.
            param_dtype: of the parameters.
            rngs: of the initial values.

        Raises:
            ValueError: heads that do not divide the features, or an unknown implementation.
        """
        if features % heads:
            raise ValueError(f"{features} channels do not divide into {heads} heads; choose a multiple of {heads}.")
        if implementation is not None and implementation not in IMPLEMENTATIONS:
            raise ValueError(f"no attention {implementation!r}; choose one of {', '.join(IMPLEMENTATIONS)}, or None.")
        normal, zeros = nnx.initializers.normal(0.02), nnx.initializers.zeros
        options = {"kernel_init": normal, "bias_init": zeros, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.qkv = Dense(features, 3 * features, **options)
        self.proj = Dense(features, features, **options)
        self.relative_position_bias_table = nnx.Param(normal(rngs.params(), (table_rows(window), heads), param_dtype))
        self.window = window
        self.heads = heads
        self.implementation = implementation

    def __call__(self, x: jax.Array, regions: np.ndarray | None = None) -> jax.Array:
        """Runs the layer.

        Args:
            x: [batch, windows, tokens, features].
            regions: int32 [windows, tokens], tokens of a window with different numbers do not see each other;
                None: all do.

        Returns:
            The shape of `x`, in the compute dtype.
        """
        batch, windows, tokens, features = x.shape
        qkv = self.qkv(x).reshape(batch, windows, tokens, 3, self.heads, features // self.heads)
        y = IMPLEMENTATIONS[self.implementation_of(qkv.dtype)](qkv, self._bias(tokens), regions)
        return self.proj(y.reshape(x.shape))

    def implementation_of(self, dtype: DTypeLike) -> str:
        """The key of `IMPLEMENTATIONS` in use for queries of this dtype."""
        return self.implementation or default_implementation(dtype)

    def _bias(self, tokens: int) -> jax.Array:
        """The bias of every pair of tokens: float32 [heads, queries, keys]."""
        table = self.relative_position_bias_table[...].astype(jnp.float32)
        return table[relative_positions(self.window, tokens)].transpose(2, 0, 1)


def default_implementation(dtype: DTypeLike) -> str:
    """The key of `IMPLEMENTATIONS` that suits the default backend and the dtype of queries."""
    backend = jax.default_backend()
    if backend == "cpu":
        return "by_window"
    return "fused" if backend == "gpu" and jnp.dtype(dtype).itemsize == 2 else "plain"


def attend_plain(qkv: jax.Array, bias: jax.Array, regions: np.ndarray | None) -> jax.Array:
    """All windows at once.

    Args:
        qkv: [batch, windows, tokens, 3, heads, width].
        bias: float32 [heads, tokens, tokens], added to the scores.
        regions: int32 [windows, tokens] or None, see `WindowAttention3D`.

    Returns:
        [batch, windows, tokens, heads, width] in the dtype of `qkv`.
    """
    return _attend(qkv, bias if regions is None else bias + _apart(regions)[:, None])


def attend_by_window(qkv: jax.Array, bias: jax.Array, regions: np.ndarray | None) -> jax.Array:
    """`attend_plain`, one window and a few heads after the other, so that their scores stay in the cache.

    Several times faster on CPUs, where writing scores to memory costs more than computing them; for the same reason
    gradients compute them again.
    """
    batch, windows, tokens, _, heads, width = qkv.shape
    kinds, kind_of = kinds_of_windows(np.zeros((windows, tokens), np.int32) if regions is None else regions)
    apart = None if regions is None else _apart(kinds)
    group = next(number for number in (4, 3, 2, 1) if heads % number == 0)
    bias = bias.reshape(-1, group, tokens, tokens)

    @jax.checkpoint
    def attend(window: jax.Array, kind: jax.Array) -> jax.Array:
        groups = jnp.moveaxis(window.reshape(tokens, 3, -1, group, width), 2, 0)
        added = bias if apart is None else bias + apart[kind]
        y = jax.lax.map(lambda some: _attend(*some), (groups, added))
        return jnp.moveaxis(y, 0, 1).reshape(tokens, heads, width)

    flat = qkv.reshape(batch * windows, *qkv.shape[2:])
    y = jax.lax.map(lambda one: attend(*one), (flat, jnp.tile(kind_of, batch)))
    return y.reshape(batch, windows, tokens, heads, width)


def attend_fused(qkv: jax.Array, bias: jax.Array, regions: np.ndarray | None) -> jax.Array:
    """`attend_plain` by cuDNN's fused attention, for float16 and bfloat16; the scores are never in memory."""
    return attend_by_kind(qkv, bias, regions, implementation="cudnn")


def attend_by_kind(qkv: jax.Array, bias: jax.Array, regions: np.ndarray | None, *, implementation: str) -> jax.Array:
    """`attend_plain` by calls of `jax.nn.dot_product_attention`, to which `implementation` is passed.

    It broadcasts one bias over the batch: windows of the same kind go together.
    """
    batch, windows, tokens, _, heads, width = qkv.shape
    kinds, kind_of = kinds_of_windows(np.zeros((windows, tokens), np.int32) if regions is None else regions)
    outputs = []
    for kind, scores in enumerate(bias + _apart(kinds)[:, None]):
        part = qkv[:, np.flatnonzero(kind_of == kind)].reshape(-1, tokens, 3, heads, width)
        y = jax.nn.dot_product_attention(
            part[:, :, 0], part[:, :, 1], part[:, :, 2], scores[None].astype(qkv.dtype), implementation=implementation
        )
        outputs.append(y.reshape(batch, -1, tokens, heads, width))
    order = np.argsort(np.argsort(kind_of, kind="stable"))
    return outputs[0] if len(kinds) == 1 else jnp.concatenate(outputs, axis=1)[:, order]


def kinds_of_windows(regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows of `regions` [windows, tokens], at most eight, and which of them each window has [windows]."""
    alike = regions - regions[:, :1]  # only differences inside a window count
    kinds, kind_of = np.unique(alike, axis=0, return_inverse=True)
    return kinds, kind_of.reshape(len(regions))


IMPLEMENTATIONS: dict[str, Callable[[jax.Array, jax.Array, np.ndarray | None], jax.Array]] = {
    "plain": attend_plain,
    "by_window": attend_by_window,
    "fused": attend_fused,
}


def _apart(regions: np.ndarray) -> jax.Array:
    """What is added to the scores of pairs of tokens: float32 [windows, tokens, tokens]."""
    labels = jnp.asarray(regions)
    return jnp.where(labels[:, :, None] == labels[:, None, :], 0, jnp.float32(APART))


def _attend(qkv: jax.Array, bias: jax.Array) -> jax.Array:
    """[..., tokens, 3, heads, width] and what is added to the scores to [..., tokens, heads, width]; float32 softmax.

    The weights are divided by their sum after they met the values, where there is less to divide.
    """
    query, key, value = (jnp.swapaxes(qkv[..., part, :, :], -2, -3) for part in range(3))  # [..., heads, tokens, width]
    query = query * query.shape[-1] ** -0.5
    scores = jnp.matmul(query, jnp.swapaxes(key, -1, -2), preferred_element_type=jnp.float32) + bias
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    y = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return jnp.swapaxes(y / weights.sum(axis=-1, keepdims=True), -2, -3).astype(value.dtype)
