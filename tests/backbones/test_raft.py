"""RAFT beyond parity: many frames at once, half precision, sizes; and flow by name."""

from __future__ import annotations

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from actloc_jax.backbones.optical_flow import ALGORITHMS, optical_flow
from actloc_jax.backbones.raft import LARGE, SMALL, flow_of_frames, load_raft, network, shapes
from actloc_jax.layers.functional import Network, Params
from actloc_jax.training import checkpoints


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Four frames of an odd size that move by two pixels each."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (40, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    return np.stack([picture[:130, 2 * k : 2 * k + 133] for k in range(4)])


@pytest.fixture(scope="module")
def small() -> tuple[Network, Params]:
    net, rng = network(SMALL), np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    return net, jax.tree.map(drawn, shapes(net))


@pytest.fixture(scope="module")
def folder(small: tuple[Network, Params], tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """The small network as a model folder."""
    path = epath.Path(tmp_path_factory.mktemp("raft"))
    meta = {"system": "raft", "stage": "features", "class_names": [], "raft": {"size": "small"}}
    checkpoints.save_model(path, {"params": small[1], "batch_stats": {}}, meta)
    return path


def test_frames_in_portions_are_pairs(folder: epath.Path, frames: np.ndarray) -> None:
    model = load_raft(folder)
    assert model.sizes == SMALL
    pairwise = jax.jit(functools.partial(flow_of_frames, model.network, iterations=3))
    expected = np.concatenate([pairwise(model.params, frames[k : k + 2]) for k in range(3)])
    assert expected.shape == (3, 130, 133, 2)
    assert expected.std() > 0.01
    found = optical_flow("raft", weights=folder, at_once=2, iterations=3)(frames)  # the second portion is filled up
    np.testing.assert_allclose(found, expected, atol=1e-3)
    whole = optical_flow("raft", weights=folder, at_once=2, iterations=3, unpadded=False)(frames)
    assert whole.shape == (3, 136, 136, 2)
    np.testing.assert_array_equal(whole[:, 3:133, 1:134], found)


def test_half_precision_is_near(small: tuple[Network, Params], frames: np.ndarray) -> None:
    def flow(net: Network) -> np.ndarray:
        return np.asarray(jax.jit(functools.partial(flow_of_frames, net, iterations=2))(small[1], frames[:2]))

    exact, half = flow(small[0]), flow(network(SMALL, dtype=jnp.bfloat16))
    assert half.dtype == np.float32
    assert 0 < np.abs(exact - half).max() < 0.1 * np.abs(exact).max()


def test_sizes_that_do_not_fit() -> None:
    net = network(LARGE)
    params = shapes(net)

    def run(shape: tuple[int, ...], call: Any = flow_of_frames) -> None:
        jax.eval_shape(functools.partial(call, net), params, jax.ShapeDtypeStruct(shape, jnp.uint8))

    run((2, 121, 128, 3))  # padded to 128
    with pytest.raises(ValueError, match=r"frames of 120 x 344 pixels are too small for RAFT, which needs 128 x 128"):
        run((2, 120, 340, 3))
    with pytest.raises(ValueError, match=r"\(1, 128, 128, 3\) give no flow"):
        run((1, 128, 128, 3))
    with pytest.raises(ValueError, match=r"130 x 128 pixels must be padded to multiples of 8"):
        run((2, 130, 128, 3), lambda net, params, frames: net(params, frames))


def test_flow_by_name(frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"flow 'farneback' is unknown; use one of raft, tvl1, tvl1_opencv, dis"):
        optical_flow("farneback")
    with pytest.raises(ValueError, match=r"float64 \[4, 130, 133, 3\]; flow needs uint8 \[two or more, height, width"):
        optical_flow("tvl1")(frames.astype(float))
    monkeypatch.setitem(sys.modules, "cv2", None)
    for algorithm in ("tvl1_opencv", "dis"):
        with pytest.raises(ValueError, match=r"needs OpenCV: pip install opencv-contrib-python-headless"):
            optical_flow(algorithm)
    assert len(ALGORITHMS) == 4


def test_own_tvl1_is_opencvs(frames: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "optflow"):
        pytest.skip("OpenCV without its contrib modules")
    own, theirs = (optical_flow(name)(frames[:3, :48, :64]) for name in ("tvl1", "tvl1_opencv"))
    assert own.shape == theirs.shape == (2, 48, 64, 2)
    errors = np.linalg.norm(own - theirs, axis=-1)
    assert errors.mean() < 0.05
    assert (errors > 0.5).mean() < 0.02
    assert optical_flow("dis")(frames[:2]).shape == (1, 130, 133, 2)
