"""TALLFormer's training stage on eight (fake) devices is that on one: sampling, memory, statistics, optimizer."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from tests.distributed.tallformer_runs import run, state_of
from tests.tiny import tiny_tallformer_training

pytestmark = pytest.mark.slow
BATCH = 8  # of seven videos: one comes twice in every batch, and the last one that writes a row of the bank counts
ATOL = 5e-6


def _check_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal up to rounding; when each row of the bank was written, and the step, exactly."""
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        if np.issubdtype(values.dtype, np.integer):
            np.testing.assert_array_equal(found[path], values, err_msg=path)
        else:
            np.testing.assert_allclose(found[path], values, atol=ATOL, err_msg=path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("tallformer")


@pytest.fixture(scope="module", params=["anchors", "afsd"])
def one(request: pytest.FixtureRequest, folder: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    """Five steps on one device: the kind of detector and the state."""
    kind, workdir = request.param, folder / f"one_{request.param}"
    run(workdir, kind, devices=1, train__batch_size=BATCH)
    return kind, state_of(workdir, tiny_tallformer_training(folder / f"videos_{kind}", kind))


@pytest.mark.parametrize("layout", ["rows", "channels"])
def test_eight_devices_train_like_one(
    folder: pathlib.Path, one: tuple[str, dict[str, np.ndarray]], layout: str
) -> None:
    kind, expected = one
    workdir = folder / f"eight_{kind}_{layout}"
    run(workdir, kind, devices=8, train__batch_size=BATCH, memory__layout=layout)
    found = state_of(workdir, tiny_tallformer_training(folder / f"videos_{kind}", kind))
    assert expected["step"] == 5
    assert set(np.unique(expected["extra/bank/written"])) == set(range(5))
    assert any(path.startswith("batch_stats") for path in expected) == (kind == "anchors")
    _check_same(found, expected)


def test_a_run_goes_on_with_another_number_of_devices_in_the_other_layout(
    folder: pathlib.Path, one: tuple[str, dict[str, np.ndarray]]
) -> None:
    kind, expected = one
    workdir = folder / f"changed_{kind}"
    run(workdir, kind, devices=8, epochs=3, train__batch_size=BATCH, memory__layout="channels")
    said = run(workdir, kind, devices=2, train__batch_size=BATCH, memory__layout="rows")
    assert "train: resumed from step 3" in said
    _check_same(state_of(workdir, tiny_tallformer_training(folder / f"videos_{kind}", kind)), expected)
