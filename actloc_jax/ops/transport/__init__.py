"""Transport between the frames and the actions of videos: ASOT's problem on ott-jax, with three solvers."""

from actloc_jax.ops.transport.problem import Settings, temporal_prior
from actloc_jax.ops.transport.solve import Transport, solve

__all__ = ["Settings", "Transport", "solve", "temporal_prior"]
