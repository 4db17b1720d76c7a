"""Parity of TST's learning-rate schedules with PyTorch's schedulers."""

from __future__ import annotations

import numpy as np

from actloc_jax.training import optimizers
from tests.parity.harness import Case, parity

COSINE_MINIMUM = 1e-6  # eta_min in tst/train.py
HALVING_STEPS = 30  # StepLR(step_size=30, gamma=0.5) in tst/train.py


@parity("tst", "tst_lr")
def check_learning_rates(case: Case) -> None:
    """The rate of every optimizer step, for both parameter groups and every scheduler setting."""
    for number, setting in enumerate(case.meta["settings"]):
        expected = case.arrays[f"{number}/lr"]  # [steps, groups]
        for group, key in enumerate(("lr", "lr_transformer")):
            schedule = _schedule(setting, setting[key])
            rates = [schedule(step) for step in range(len(expected))]
            np.testing.assert_allclose(rates, expected[:, group], rtol=1e-9, err_msg=f"setting {number}, {key}")


def _schedule(setting: dict, lr: float) -> optimizers.Schedule:
    if setting["scheduler"] == "cosine":
        return optimizers.cosine_to(lr, COSINE_MINIMUM, setting["total_steps"], setting["warmup_steps"])
    if setting["scheduler"] == "step":
        return optimizers.halve_every(lr, HALVING_STEPS)
    assert setting["scheduler"] == "none", setting
    return optimizers.constant(lr)
