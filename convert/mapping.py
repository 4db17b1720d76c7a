"""From PyTorch's names and layouts to ours and back: the engine behind each system's table.

A table is a list of rules, one per kind of module: its PyTorch name, our path, and how its arrays are laid out. Names
hold placeholders: `{i}` stands for a number (two digits in our paths), `{a|b|c}` for one of the words given; they
correspond in order. So one table serves both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class Leaf(NamedTuple):
    """One array of a module: its PyTorch and our name, and the change of layout each way.

    Both names are empty where the rule names the array itself: a parameter that is in no module.
    """

    torch: str
    ours: str
    to_ours: Callable[[Array], Array]
    to_torch: Callable[[Array], Array]


def _same(array: Array) -> Array:
    return array


def _reversed_axes(array: Array) -> Array:
    return array.transpose()


def _without_tap(array: Array) -> Array:  # [out, in, 1] -> [in, out]
    return array[:, :, 0].transpose()


def _with_tap(array: Array) -> Array:  # [in, out] -> [out, in, 1]
    return array.transpose()[:, :, None]


def _channels(array: Array) -> Array:  # [1, channels, 1] -> [channels]
    return array[0, :, 0]


def _as_channels(array: Array) -> Array:  # [channels] -> [1, channels, 1]
    return array[None, :, None]


def _only_value(array: Array) -> Array:  # [1] -> []
    return array[0]


def _as_only_value(array: Array) -> Array:  # [] -> [1]
    return array[None]


def _heads_and_distances(array: Array) -> Array:  # [1, 1, heads, window] -> [heads, window]
    return array[0, 0]


def _as_heads_and_distances(array: Array) -> Array:  # [heads, window] -> [1, 1, heads, window]
    return array[None, None]


def _taps_first(array: Array) -> Array:  # [out, in, time, height, width] -> [time, height, width, in, out]
    return array.transpose(2, 3, 4, 1, 0)


def _taps_last(array: Array) -> Array:  # [time, height, width, in, out] -> [out, in, time, height, width]
    return array.transpose(4, 3, 0, 1, 2)


def _pixels_first(array: Array) -> Array:  # [out, in, height, width] -> [height, width, in, out]
    return array.transpose(2, 3, 1, 0)


def _pixels_last(array: Array) -> Array:  # [height, width, in, out] -> [out, in, height, width]
    return array.transpose(3, 2, 0, 1)


_BIAS = Leaf("bias", "bias", _same, _same)
# How the arrays of each kind of module are laid out; PyTorch puts the output axis first and the taps last.
LAYOUTS: dict[str, tuple[Leaf, ...]] = {
    "linear": (Leaf("weight", "kernel", _reversed_axes, _reversed_axes), _BIAS),
    "pointwise": (Leaf("weight", "kernel", _without_tap, _with_tap), _BIAS),  # a convolution of one tap
    "conv": (Leaf("weight", "kernel", _reversed_axes, _reversed_axes), _BIAS),
    "video_conv": (Leaf("weight", "kernel", _taps_first, _taps_last), _BIAS),
    "image_conv": (Leaf("weight", "kernel", _pixels_first, _pixels_last), _BIAS),
    "norm": (Leaf("weight", "scale", _same, _same), _BIAS),
    "batch_norm": (
        Leaf("weight", "scale", _same, _same),
        _BIAS,
        Leaf("running_mean", "mean", _same, _same),
        Leaf("running_var", "var", _same, _same),
    ),
    "embedding": (Leaf("weight", "embedding", _same, _same),),
    "in_projection": (
        Leaf("in_proj_weight", "kernel", _reversed_axes, _reversed_axes),
        Leaf("in_proj_bias", "bias", _same, _same),
    ),
    "matrix": (Leaf("", "", _same, _same),),
    "channel_norm": (
        Leaf("weight", "scale", _channels, _as_channels),
        Leaf("bias", "bias", _channels, _as_channels),
    ),
    "channel_scale": (Leaf("scale", "scale", _channels, _as_channels),),
    "scalar": (Leaf("scale", "", _same, _same),),
    "scalar_in_vector": (Leaf("scale", "", _only_value, _as_only_value),),
    "position_bias": (Leaf("rel_pe", "rel_pe", _heads_and_distances, _as_heads_and_distances),),
}
_WEIGHT_AXES = {
    "linear": 2,
    "pointwise": 3,
    "conv": 3,
    "video_conv": 5,
    "image_conv": 4,
    "embedding": 2,
    "in_projection": 2,
    "matrix": 2,
}
_AXES = {  # of all arrays of a layout
    "batch_norm": 1,
    "channel_norm": 3,
    "channel_scale": 3,
    "scalar": 0,
    "scalar_in_vector": 1,
    "position_bias": 4,
}


class Rule(NamedTuple):
    """A kind of module: PyTorch name, our path, layout (a key of `LAYOUTS`)."""

    torch: str
    ours: str
    layout: str


class Entry(NamedTuple):
    """One array: PyTorch key, our path, layout, and its change of layout."""

    key: str
    path: str
    layout: str
    leaf: Leaf

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The PyTorch shape of an array that has `shape` here."""
        return self.leaf.to_torch(np.broadcast_to(np.float32(0), shape)).shape

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a PyTorch array of `shape` can be this one, whatever its sizes."""
        if self.layout in _AXES:
            return len(shape) == _AXES[self.layout]
        rank = 1 if self.leaf.ours in ("bias", "scale") else _WEIGHT_AXES[self.layout]
        return len(shape) == rank and (self.layout != "pointwise" or shape[2:] in ((), (1,)))


class Report(NamedTuple):
    """What a conversion did.

    Attributes:
        params: our path -> array in our layout.
        entries: the arrays converted, in our order.
        missing: PyTorch keys that the file lacks, with the shape expected.
        extra: PyTorch keys that nothing here needs, with their shapes.
        misshapen: (PyTorch key, shape found, shape expected).
    """

    params: dict[str, Array]
    entries: list[Entry]
    missing: dict[str, tuple[int, ...]]
    extra: dict[str, tuple[int, ...]]
    misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def problems(self) -> list[str]:
        """One line per difference."""
        return (
            [f"missing    {key} {shape_text(shape)}" for key, shape in self.missing.items()]
            + [f"unexpected {key} {shape_text(shape)}" for key, shape in self.extra.items()]
            + [f"misshapen  {key} {shape_text(got)}, expected {shape_text(want)}" for key, got, want in self.misshapen]
        )


class Table:
    """The rules of one network, searchable from both sides."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = list(rules)
        self._by_key = [(re.compile(_pattern(rule.torch, r"\.")), rule) for rule in self.rules]
        self._by_path = [(re.compile(_pattern(rule.ours, "/")), rule) for rule in self.rules]

    def entry_of_key(self, key: str) -> Entry | None:
        """The entry of a PyTorch key, or None if no rule has it."""
        for pattern, rule in self._by_key:
            if found := pattern.fullmatch(key):
                *words, name = found.groups(default="")
                for leaf in LAYOUTS[rule.layout]:
                    if leaf.torch == name:
                        return Entry(key, _joined(_filled(rule.ours, words, 2), "/", leaf.ours), rule.layout, leaf)
        return None

    def entry_of_path(self, path: str) -> Entry | None:
        """The entry of one of our paths, or None if no rule has it."""
        for pattern, rule in self._by_path:
            if found := pattern.fullmatch(path):
                *words, name = found.groups(default="")
                for leaf in LAYOUTS[rule.layout]:
                    if leaf.ours == name:
                        return Entry(_joined(_filled(rule.torch, words, 1), ".", leaf.torch), path, rule.layout, leaf)
        return None

    def under(self, torch_prefix: str, our_prefix: str) -> list[Rule]:
        """The rules with both names put below a parent."""
        return [Rule(torch_prefix + rule.torch, our_prefix + rule.ours, rule.layout) for rule in self.rules]

    def to_ours(self, state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Report:
        """Converts a state dict and compares it with a network.

        Args:
            state: PyTorch key -> array in PyTorch's layout.
            shapes: our path -> shape, for every parameter of the network.

        Returns:
            What was converted, and every difference; nothing is guessed or dropped.

        Raises:
            ValueError: the table has no rule for a parameter of the network.
        """
        report = Report({}, [], {}, {}, [])
        wanted = set()
        for path, shape in shapes.items():
            entry = self.entry_of_path(path)
            if entry is None:
                raise ValueError(f"the table has no rule for the parameter {path}")
            wanted.add(entry.key)
            expected = entry.torch_shape(shape)
            if entry.key not in state:
                report.missing[entry.key] = expected
            elif np.shape(state[entry.key]) != expected:
                report.misshapen.append((entry.key, np.shape(state[entry.key]), expected))
            else:
                report.entries.append(entry)
                report.params[path] = entry.leaf.to_ours(np.asarray(state[entry.key]))
        report.extra.update({key: np.shape(value) for key, value in state.items() if key not in wanted})
        return report

    def convert_all(self, state: Mapping[str, Any]) -> dict[str, Array]:
        """Our path -> array for every key of `state`, without a network to compare with.

        Raises:
            ValueError: a key that no rule has, or an array with another number of axes than its rule says.
        """
        params = {}
        for key, value in state.items():
            entry = self.entry_of_key(key)
            if entry is None:
                raise ValueError(f"no rule for the key {key} {shape_text(np.shape(value))}")
            array = np.asarray(value)
            if not entry.admits(array.shape):
                raise ValueError(
                    f"{key} {shape_text(array.shape)} has not the shape of a {entry.layout} {entry.leaf.torch}"
                )
            params[entry.path] = entry.leaf.to_ours(array)
        return params

    def to_torch(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """The inverse: our path -> array becomes PyTorch key -> array.

        Raises:
            ValueError: a path that no rule has.
        """
        state = {}
        for path, value in params.items():
            entry = self.entry_of_path(path)
            if entry is None:
                raise ValueError(f"no rule for the parameter {path} {shape_text(np.shape(value))}")
            state[entry.key] = np.asarray(entry.leaf.to_torch(np.asarray(value)), order="C")  # also of scalars
        return state


_PLACEHOLDER = re.compile(r"\{([^}]*)\}")


def _pattern(name: str, separator: str) -> str:
    """Regular expression of a name with placeholders, followed by the name of an array where it has its own."""
    parts = _PLACEHOLDER.split(name)  # alternates literal text and the insides of placeholders
    pieces = [
        re.escape(part) if place % 2 == 0 else (r"(\d+)" if part == "i" else f"({part})")
        for place, part in enumerate(parts)
    ]
    return "".join(pieces) + rf"(?:{separator}(\w+))?"


def _joined(module: str, separator: str, name: str) -> str:
    return f"{module}{separator}{name}" if name else module


def _filled(name: str, words: list[str], digits: int) -> str:
    """A name with its placeholders filled in order; numbers get at least `digits` digits."""
    rest = iter(words)

    def fill(_: re.Match[str]) -> str:
        word = next(rest)
        return f"{int(word):0{digits}d}" if word.isdigit() else word

    return _PLACEHOLDER.sub(fill, name)


def shape_text(shape: tuple[int, ...]) -> str:
    """`[64, 2048, 1]`."""
    return "[" + ", ".join(map(str, shape)) + "]"
