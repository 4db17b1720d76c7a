"""Multi-head attention inside windows of video tokens, with a learned bias per relative position (Video Swin).

The same numbers can be computed in three ways, see `IMPLEMENTATIONS`: what is fast on a GPU is slow on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.temporal import Dense
from actloc_jax.ops.video_windows import Triple, table_of_pairs, table_rows

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
        return table_of_pairs(self.relative_position_bias_table[...].astype(jnp.float32), self.window, tokens)


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
    gradients compute them again. [batch, windows, tokens, 3, heads, width] to [batch, windows, tokens, heads, width].
    """
    batch, windows, tokens, _, heads, width = qkv.shape
    kinds, kind_of = kinds_of_windows(np.zeros((windows, tokens), np.int32) if regions is None else regions)
    group = next(number for number in (4, 3, 2, 1) if heads % number == 0)
    # [batch * windows, groups of heads, 3, heads of a group, tokens, width]
    grouped = qkv.reshape(batch * windows, tokens, 3, -1, group, width).transpose(0, 3, 2, 4, 1, 5)
    attend = _attention_by_window(np.tile(kind_of, batch), None if regions is None else kinds)
    y = attend(grouped, bias.reshape(-1, group, tokens, tokens))
    return y.transpose(0, 3, 1, 2, 4).reshape(batch, windows, tokens, heads, width)


def _attention_by_window(kind_of: np.ndarray, kinds: np.ndarray | None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The loop of `attend_by_window`, and its gradient from the queries, keys, values and the sums of the weights.

    Args:
        kind_of: int [windows], which of the kinds a window is.
        kinds: int32 [kinds, tokens], see `kinds_of_windows`; None: all tokens of a window see each other.

    Returns:
        `(qkv [windows, groups, 3, heads, tokens, width], bias [groups, heads, tokens, tokens])` to
        [windows, groups, heads, tokens, width].
    """

    def apart_of(kind: jax.Array) -> jax.Array | float:
        return 0.0 if kinds is None else _apart(kinds)[kind]

    def forward(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
        def one(window: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            apart = apart_of(window[1])
            return jax.lax.map(lambda group: _attend_group(group[0], group[1] + apart), (window[0], bias))

        y, log_sums = jax.lax.map(one, (qkv, jnp.asarray(kind_of)))
        return y, (qkv, bias, y, log_sums)

    def backward(saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        qkv, bias, y, log_sums = saved

        def one(d_bias: jax.Array, window: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            *arrays, kind = window
            apart = apart_of(kind)
            d_qkv, d_scores = jax.lax.map(
                lambda group: _gradients_of_group(*group[:-1], group[-1] + apart), (*arrays, bias)
            )
            return d_bias + d_scores, d_qkv

        d_bias, d_qkv = jax.lax.scan(one, jnp.zeros_like(bias), (qkv, y, log_sums, dy, jnp.asarray(kind_of)))
        return d_qkv, d_bias

    attend = jax.custom_vjp(lambda qkv, bias: forward(qkv, bias)[0])
    attend.defvjp(forward, backward)
    return attend


def _attend_group(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[3, heads, tokens, width] and what is added to the scores to [heads, tokens, width], and log-sums of weights."""
    query, key, value = qkv
    scores = _scores(query, key, bias)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    y = _product(weights.astype(value.dtype), value) / total
    return y.astype(value.dtype), (top + jnp.log(total))[..., 0]


def _gradients_of_group(
    qkv: jax.Array, y: jax.Array, log_sums: jax.Array, dy: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of `_attend_group`: gradients of `qkv`, and float32 of the scores [heads, tokens, tokens]."""
    query, key, value = qkv
    weights = jnp.exp(_scores(query, key, bias) - log_sums[..., None])
    along = (dy.astype(jnp.float32) * y.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    d_scores = weights * (_product(dy, jnp.swapaxes(value, -1, -2)) - along)
    weights, small = weights.astype(value.dtype), d_scores.astype(value.dtype)
    scale = query.shape[-1] ** -0.5
    d_query = _product(small, key) * scale
    d_key = _product(jnp.swapaxes(small, -1, -2), query) * scale
    d_value = _product(jnp.swapaxes(weights, -1, -2), dy)
    return jnp.stack([d_query, d_key, d_value]).astype(qkv.dtype), d_scores


def _scores(query: jax.Array, key: jax.Array, bias: jax.Array) -> jax.Array:
    """[..., tokens, width] to float32 [..., queries, keys]."""
    return _product(query * query.shape[-1] ** -0.5, jnp.swapaxes(key, -1, -2)) + bias


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def attend_fused(qkv: jax.Array, bias: jax.Array, regions: np.ndarray | None) -> jax.Array:
    """`attend_plain` by cuDNN's fused attention, for float16 and bfloat16; the scores are never in memory.

    [batch, windows, tokens, 3, heads, width] to [batch, windows, tokens, heads, width].
    """
    return attend_by_kind(qkv, bias, regions, implementation="cudnn")


def attend_by_kind(qkv: jax.Array, bias: jax.Array, regions: np.ndarray | None, *, implementation: str) -> jax.Array:
    """`attend_plain` by calls of `jax.nn.dot_product_attention`, to which `implementation` is passed.

    It broadcasts one bias over the batch: windows of the same kind go together. [batch, windows, tokens, 3, heads,
    width] to [batch, windows, tokens, heads, width].
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
    scores = _scores(query, key, bias)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    y = _product(weights.astype(value.dtype), value)
    return jnp.swapaxes(y / weights.sum(axis=-1, keepdims=True), -2, -3).astype(value.dtype)
