"""Five published systems of temporal action segmentation and detection, in JAX.

Functions for use without the command line, imported when asked for: `segment_asot`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["segment_asot"]

_FUNCTIONS = {"segment_asot": "actloc_jax.systems.asot.decode"}


def __getattr__(name: str) -> Any:
    """The public functions, without loading jax before one is used."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
