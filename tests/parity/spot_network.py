"""Parity of SPOT's network: embedding of snippets, branches, gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.layers.functional import Network, Params, flatten
from actloc_jax.systems.spot.network import SnippetEmbedding, Spot
from convert import spot_tables
from tests.parity.harness import Case, parity
from tests.parity.params import key_of, spot_params


def close(case: Case, ours: Any, expected: Any, name: str = "", **other: float) -> None:
    """At the tolerance of the case, or another that it states in words."""
    tolerance = {key: case.meta["tolerance"][key] for key in ("rtol", "atol")} | other
    np.testing.assert_allclose(ours, expected, err_msg=name, **tolerance)


def time_first(array: np.ndarray) -> jax.Array:
    """[batch, channels, time] to [batch, time, channels] and back."""
    return jnp.asarray(array).swapaxes(1, 2)


def network_of(case: Case, **options: Any) -> tuple[Network, Params]:
    """The network of the case's weights without dropout, and its parameters."""
    weights = case.weights()
    weights = weights.get("state_dict", weights)
    sizes = dataclasses.asdict(spot_tables.sizes(spot_tables.without_prefix(weights)))
    return Network(lambda rngs: Spot(**sizes, rngs=rngs, **options)), spot_params(weights)


def torch_gradient(gradients: Params, name: str) -> np.ndarray:
    """The gradient of the parameter with a PyTorch name, in PyTorch's layout."""
    entry = spot_tables.SPOT.entry_of_key(name)
    assert entry is not None, name
    return entry.leaf.to_torch(np.asarray(flatten(gradients)[entry.path]))


def embedding_of(case: Case, name: str) -> tuple[Network, Params]:
    """One of the two embeddings."""
    _, params = network_of(case)
    table = params[name]["positions"]["embedding"]
    return Network(
        lambda rngs: SnippetEmbedding(
            table.shape[1],
            heads=case.config["heads"],
            dropout=0.0,
            num_positions=len(table),
            uses_positions=name == "clip_trans",
            dtype=jnp.float32,
            param_dtype=jnp.float32,
            rngs=rngs,
        )
    ), params[name]


@parity("spot", "snippet_embedding")
def check_snippet_embedding(case: Case) -> None:
    """Attention, outputs and gradients of both embeddings, and attention to other snippets."""
    arrays = case.arrays
    queries = jnp.asarray(arrays["q"])
    for name, suffix in (("embedding", ""), ("clip_trans", "_pos")):
        net, params = embedding_of(case, name)
        close(case, net(params, queries), arrays[f"out{suffix}"], name)
        weights = net(params, queries, queries, method="attention")  # [batch, time, heads, others]
        close(case, weights.transpose(2, 0, 1, 3).reshape(arrays["attn"].shape), arrays[f"attn{suffix}"], name)
        by_params, by_queries = jax.grad(lambda p, q, net=net: (net(p, q) * arrays["grad_out"]).sum(), (0, 1))(
            params, queries
        )
        close(case, by_queries, arrays[f"grad_q{suffix}"], name)
        if suffix:
            close(case, by_params["positions"]["embedding"], arrays["grad_pos_table"])
            continue
        for key in [key for key in arrays if key.startswith("grad.")]:
            ours = torch_gradient({"embedding": by_params}, f"embedding.{key.removeprefix('grad.')}")
            close(case, ours, arrays[key], key, rtol=1e-3)
    net, params = embedding_of(case, "embedding")
    close(case, net(params, queries, jnp.asarray(arrays["k_short"])), arrays["out_cross"])


@parity("spot", "model_forward")
def check_model_forward(case: Case) -> None:
    """All outputs, and the gradients of all parameters."""
    arrays = case.arrays
    net, params = network_of(case)
    x = time_first(arrays["x"])
    output = jax.jit(net)(params, x)
    close(case, time_first(output.logits), arrays["top"])
    close(case, time_first(output.masks), arrays["bottom"])
    close(case, time_first(output.features), arrays["features"])
    close(case, net(params, x, method="order"), arrays["clip_logits"])
    if arrays["recons"].shape == arrays["features"].shape:  # in large cases a placeholder
        close(case, time_first(output.features), arrays["recons"])
    if "top_checksum" in arrays:
        sums = [output.logits.sum(dtype=jnp.float32), jnp.abs(output.logits).sum(dtype=jnp.float32)]
        np.testing.assert_allclose(sums, arrays["top_checksum"], rtol=1e-4, atol=1e-2)

    cotangents = _cotangents(case)

    def objective(params: Params, x: jax.Array) -> jax.Array:
        parts = zip(net(params, x), cotangents, (x.shape[1], 1, x.shape[1]), strict=True)
        return sum((time_first(ours) * cotangent).sum() / scale for ours, cotangent, scale in parts)

    by_params, by_x = jax.jit(jax.grad(objective, (0, 1)))(params, x)
    close(case, time_first(by_x), arrays["grad_x"], rtol=1e-3)
    for key in [key for key in arrays if key.startswith("grad.")]:
        name = key.removeprefix("grad.module.")
        close(case, torch_gradient(by_params, name), arrays[key], name, rtol=1e-3)
    if "grad_norms" in arrays:
        for key, expected in zip(arrays["grad_norms_names"].tolist(), arrays["grad_norms"], strict=True):
            ours = torch_gradient(by_params, key.removeprefix("module."))
            np.testing.assert_allclose(np.linalg.norm(ours.astype(float)), expected, rtol=1e-3, err_msg=key)
    untouched = [path for path, gradient in flatten(by_params).items() if not np.any(gradient)]
    assert {key_of(spot_tables.SPOT, path).split(".")[0] for path in untouched} == {
        "embedding", "clip_trans", "clip_order", "clip_order_linear",
    }  # fmt: skip
    assert [path for path in untouched if path.startswith("embedding")] == ["embedding/positions/embedding"]


def _cotangents(case: Case) -> list[np.ndarray]:
    """What the outputs are multiplied with: stored, or drawn by the case's recipe."""
    names = ("grad_top", "grad_bottom", "grad_features")
    if all(name in case.arrays for name in names):
        return [case.arrays[name] for name in names]
    rng = np.random.default_rng(case.meta["weights_recipe"]["seed"] + 1)
    x = np.float32(rng.standard_normal(case.arrays["x"].shape) * 0.5 + 0.2)
    np.testing.assert_array_equal(x, case.arrays["x"])
    drawn = [np.float32(rng.standard_normal(case.arrays[name].shape)) for name in ("top", "bottom", "features")]
    np.testing.assert_allclose([each.sum(dtype=float) for each in drawn], case.arrays["cotangent_check"], rtol=1e-6)
    return drawn
