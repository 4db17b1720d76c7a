"""Settings of the transport: what is refused is tested with the solver; here is what is only doubted."""

from __future__ import annotations

import pytest

from actloc_jax.ops.transport import Settings


@pytest.mark.parametrize(
    ("options", "frames", "said"),
    [
        ({"relax_actions": False}, 100, "inner_iterations is 1: frames will not keep their mass"),
        ({"relax_actions": False, "inner_iterations": 10}, 100, None),
        ({"relax_frames": True}, 100, "Both sides are relaxed and the step is chosen automatically"),
        ({"relax_frames": True, "step": 1.0}, 100, None),
        ({"relax_frames": True, "mode": "gw"}, 100, None),
        ({"radius": 0.01}, 99, "radius 0.01 of 99 frames is less than one"),
        ({"radius": 0.01, "alpha": 0.0}, 99, None),
        ({}, 100, None),
    ],
)
def test_doubts(options: dict, frames: int, said: str | None) -> None:
    doubts = Settings(**options).doubts(frames)
    assert len(doubts) == (said is not None)
    assert said is None or said in doubts[0]
