"""A memory bank spread over eight (fake) devices holds, reads and writes what one device does."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    answer = subprocess.run(
        [sys.executable, "-m", "tests.distributed.bank_program", str(tmp_path_factory.mktemp("checkpoints"))],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout)


@pytest.mark.parametrize("layout", ["rows", "channels"])
def test_eight_devices_hold_equal_parts_and_read_and_write_like_one(found: dict, layout: str) -> None:
    assert found["devices"] == 8
    assert found[f"{layout}_same"]
    assert found[f"{layout}_parts"] == [found[f"{layout}_planned"]]
    assert found[f"{layout}_donated"]


def test_a_bank_goes_on_where_it_was_on_other_devices_in_another_layout(found: dict) -> None:
    assert found["restored_parts"] == 4
    assert found["restored_same"]


def test_a_bank_larger_than_a_device_costs_each_its_part_and_the_planned_traffic(found: dict) -> None:
    large = found["large"]
    assert large["bank"] > 15.7e9
    assert large["arguments"] < large["bank"] / 8 + 50e6
    assert large["beside"] < 60e6  # a copy of this device's part would be 2 GB
    assert large["planned"] <= large["received"] < 1.02 * large["planned"]


def test_a_train_step_changes_the_bank_in_place(found: dict) -> None:
    assert found["loop"]["beside"] < found["loop"]["part"] / 4
