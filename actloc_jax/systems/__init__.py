"""The systems, by the name that configs use."""

from __future__ import annotations

from ml_collections import ConfigDict

from actloc_jax.systems.api import System
from actloc_jax.systems.asot.system import SYSTEM as ASOT
from actloc_jax.systems.fustal.system import SYSTEM as FUSTAL
from actloc_jax.systems.spot.system import SYSTEM as SPOT
from actloc_jax.systems.tallformer.system import SYSTEM as TALLFORMER
from actloc_jax.systems.tst.system import SYSTEM as TST

SYSTEMS: dict[str, System] = {"tst": TST, "asot": ASOT, "fustal": FUSTAL, "spot": SPOT, "tallformer": TALLFORMER}


def of(config: ConfigDict) -> System:
    """The system that a config names.

    Raises:
        ValueError: there is none of that name.
    """
    if config.system not in SYSTEMS:
        raise ValueError(f"config.system={config.system!r} is not a system; there are {', '.join(SYSTEMS)}.")
    return SYSTEMS[config.system]
