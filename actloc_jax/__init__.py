"""Five published systems of temporal action segmentation and detection, in JAX.

For use without the command line, imported when asked for: `load` reads a checkpoint and gives a `Model`, whose
`predict` gives the `Timeline` of a video, made of `Segment`s (docs/python.md); `segment_asot` segments similarities.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actloc_jax.model import Model, load
    from actloc_jax.results.timeline import Timeline
    from actloc_jax.results.types import Segment
    from actloc_jax.systems.asot.decode import segment_asot

__version__ = "0.1.0"
__all__ = ["Model", "Segment", "Timeline", "load", "segment_asot"]

_HOMES = {
    "Model": "actloc_jax.model",
    "Segment": "actloc_jax.results.types",
    "Timeline": "actloc_jax.results.timeline",
    "load": "actloc_jax.model",
    "segment_asot": "actloc_jax.systems.asot.decode",
}


def __getattr__(name: str) -> Any:
    """The public names, without loading jax before one is used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names for completion in a shell."""
    return sorted({*globals(), *__all__})
