"""SPOT's fine-tuning step on eight (fake) devices: mining has one threshold for the batch, whoever holds its videos."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import jax, numpy as np
from actloc_jax.layers.functional import Network, flatten
from actloc_jax.systems.spot.finetune import FinetuneSettings, PseudoLabelSettings, finetune_loss
from actloc_jax.systems.spot.mining import MiningSettings
from actloc_jax.systems.spot.network import Spot
from actloc_jax.training import sharding

time, channels = 16, 16
net = Network(lambda rngs: Spot(channels, 3, time, heads=2, mask_width=4, num_positions=16, rngs=rngs))
params = net.init(jax.random.key(0))
rng = np.random.default_rng(0)
scale = np.linspace(0.1, 3, 16)[:, None, None]  # every device holds masks of its own level
features = (scale * rng.standard_normal((16, time, channels))).astype(np.float32)
batch = {
    "features": features, "labels": rng.integers(0, 4, (16, time)), "index": np.where(np.arange(16) < 13, 0, -1),
    "masks": (rng.random((16, time, time)) < 0.3).astype(np.float32),
    "unlabelled/features": features[:8, ::-1].copy(), "unlabelled/index": np.where(np.arange(8) < 7, 0, -1),
}
settings = FinetuneSettings(
    mining=MiningSettings(easy=3, hard=4), pseudo=PseudoLabelSettings(min_confidence=0.0), pseudo_labels_dropped=False
)
step = jax.jit(jax.value_and_grad(lambda p, b: finetune_loss(net, p, b, jax.random.key(1), settings).total))
mesh = sharding.make_mesh()
one, gradients = step(params, batch)
eight, sharded = step(jax.device_put(params, sharding.replicated(mesh)), sharding.put_batch(batch, mesh))
np.testing.assert_allclose(eight, one, rtol=1e-5)
for path, gradient in flatten(gradients).items():
    np.testing.assert_allclose(flatten(sharded)[path], gradient, rtol=1e-3, atol=1e-5, err_msg=path)
assert len(flatten(sharded)["classifier/kernel"].sharding.device_set) == 8
"""


@pytest.mark.slow
def test_eight_devices_mine_like_one() -> None:
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
