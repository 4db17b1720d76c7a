"""The one seam between NNX modules and plain parameter dicts.

NNX defines networks; everything else (jit, grad, optax, Orbax, convert) sees nested dicts of arrays with string keys.
Members of an `nnx.List` become two-digit keys, so that a parameter's path reads `encoder/layers/03/conv/kernel`.
Running statistics (`nnx.BatchStat`) are a dict of their own, beside the parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """The static half of a network: how to make its parameters, and how to run it with given ones.

    Attributes:
        build: makes the NNX module from `nnx.Rngs`; called once, abstractly, and again by `init`.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    _graphdef: Any = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        abstract = nnx.eval_shape(lambda: self.build(nnx.Rngs(0)))
        object.__setattr__(self, "_graphdef", nnx.split(abstract)[0])

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters as a nested dict of arrays; `key` is a scalar typed PRNG key."""
        return _to_dict(nnx.state(self.build(nnx.Rngs(key)), nnx.Not(nnx.BatchStat)))

    def init_statistics(self) -> Params:
        """Running statistics before the first step, a nested dict of arrays; empty for most networks."""
        return _to_dict(nnx.state(self.build(nnx.Rngs(0)), nnx.BatchStat))

    def shapes(self) -> Params:
        """The same nested dict with `jax.ShapeDtypeStruct` leaves; nothing is allocated."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def __call__(self, params: Params, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Runs the module's `__call__`, or the method named, with `params`; a pure function of its arguments."""
        module = nnx.merge(self._graphdef, _to_state(params))
        return (module if method is None else getattr(module, method))(*args, **kwargs)

    def with_statistics(self, params: Params, statistics: Params, *args: Any, **kwargs: Any) -> tuple[Any, Params]:
        """As `__call__` for a network with running statistics: the output, and the statistics after it."""
        module = nnx.merge(self._graphdef, _to_state(united(params, statistics)))
        output = module(*args, **kwargs)
        return output, _to_dict(nnx.state(module, nnx.BatchStat))


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict to one level: `{"a": {"b": x}}` becomes `{"a/b": x}`."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, path + "/") if isinstance(value, Mapping) else {path: value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    nested: Params = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nested


def united(first: Params, second: Params) -> Params:
    """One nested dict of two that share no leaf: parameters and running statistics, for `Network.__call__`."""
    both = {key: united(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **both}


def count(params: Mapping[str, Any]) -> int:
    """Number of scalars in a (nested) dict of arrays or shapes."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


def _to_dict(state: nnx.State) -> Params:
    def named(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {f"{key:02d}" if isinstance(key, int) else key: named(value) for key, value in node.items()}

    return named(nnx.to_pure_dict(state))


def _to_state(params: Params) -> Any:
    def numbered(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {int(key) if key.isdigit() else key: numbered(value) for key, value in node.items()}

    return numbered(params)
