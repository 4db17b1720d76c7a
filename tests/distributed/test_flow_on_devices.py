"""Optical flow on several (fake) devices is that of one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
import jax
import numpy as np
from actloc_jax.backbones.optical_flow import optical_flow
assert len(jax.local_devices()) == int(sys.argv[2])
rng = np.random.default_rng(0)
picture = np.kron(rng.integers(0, 256, (8, 12, 3)), np.ones((4, 4, 1))).astype(np.uint8)
frames = np.stack([picture[:20, k : 24 + k] for k in (0, 1, 3, 3, 4, 6)])
np.save(sys.argv[1], optical_flow("tvl1", at_once=int(sys.argv[2]))(frames))
"""


@pytest.mark.slow
def test_three_devices_give_the_flow_of_one(tmp_path: pathlib.Path) -> None:
    fields = []
    for devices in (1, 3):
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / f"{devices}.npy"), str(devices)]
        subprocess.run(command, cwd=ROOT, env=os.environ | flags, check=True, timeout=300)
        fields.append(np.load(tmp_path / f"{devices}.npy"))
    assert fields[0].shape == (5, 20, 24, 2)  # not a multiple of the devices
    assert fields[0].std() > 0.5
    np.testing.assert_allclose(fields[1], fields[0], atol=1e-4)
    np.testing.assert_array_equal(fields[1][2], 0)
