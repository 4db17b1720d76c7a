"""SPOT's network: its attention against a loop over heads, dropout, the order branch, sizes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.layers.functional import Network, Params, count, flatten
from actloc_jax.systems.spot.network import Spot


def make_spot(**options: Any) -> tuple[Network, Params]:
    sizes = {"heads": 2, "mask_width": 6, "num_positions": 30} | options
    net = Network(lambda rngs: Spot(24, 5, 20, rngs=rngs, **sizes))
    return net, net.init(jax.random.key(0))


def videos(batch: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (batch, 20, 24))


def test_products_of_weights_give_plain_attention() -> None:
    net, params = make_spot()
    x, p = np.asarray(videos(1)[0]), jax.tree.map(np.asarray, params["embedding"])
    contexts = []
    for head in range(2):
        own = slice(24 * head, 24 * (head + 1))
        queries, keys, values = (x @ p[name]["kernel"][:, own] for name in ("w_qs", "w_ks", "w_vs"))
        logits = queries @ keys.T / np.sqrt(24)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        contexts.append(weights / weights.sum(axis=1, keepdims=True) @ values)
    y = np.concatenate(contexts, axis=1) @ p["fc"]["kernel"] + p["fc"]["bias"] + x
    y = (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(jax.jit(net)(params, videos(1)).features[0], y, rtol=1e-4, atol=1e-5)


def test_dropout_needs_rngs() -> None:
    net, params = make_spot()
    for method in ("__call__", "order"):
        run = jax.jit(
            lambda key, method=method: jax.tree.leaves(
                net(params, videos(), method=method, rngs=None if key is None else nnx.Rngs(dropout=key))
            )[0]
        )
        np.testing.assert_array_equal(run(None), run(None))
        assert not np.allclose(run(None), run(jax.random.key(0)))


@pytest.mark.parametrize("ignores", [True, False])
def test_the_second_embedding_learns_only_where_it_is_read(ignores: bool) -> None:
    net, params = make_spot(order_ignores_transformer=ignores)
    gradients = jax.jit(jax.grad(lambda p: net(p, videos(), method="order")[:, 0].sum()))(params)
    touched = {path.split("/")[0] for path, gradient in flatten(gradients).items() if np.any(gradient)}
    assert touched == {"embedding", "clip_order", "clip_order_linear", *([] if ignores else ["clip_trans"])}


def test_parts_give_what_the_batch_gives() -> None:
    net, params = make_spot()
    whole, parts = (jax.jit(lambda x, part=part: net(params, x, part=part))(videos(5)) for part in (None, 2))
    for ours, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="leave out part or rngs"):
        net(params, videos(), part=2, rngs=nnx.Rngs(dropout=0))


def test_half_precision_stays_near_and_gives_float32() -> None:
    net, params = make_spot()
    half, _ = make_spot(dtype=jnp.bfloat16)
    ours, expected = (jax.jit(each)(params, videos()) for each in (half, net))
    assert ours.logits.dtype == ours.masks.dtype == jnp.float32
    np.testing.assert_allclose(ours.masks, expected.masks, atol=0.02)


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    net = Network(lambda rngs: Spot(400, 200, 100, rngs=rngs))
    assert count(net.shapes()) == 5_857_460


def test_more_snippets_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="20 snippets need as many positions; num_positions is 10"):
        make_spot(num_positions=10)
