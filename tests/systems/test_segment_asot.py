"""`actloc_jax.segment_asot`, the transport as a function."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

import actloc_jax
from actloc_jax import segment_asot
from actloc_jax.systems.asot import decode

OPTIONS = {"epsilon": 0.02, "alpha": 0.5, "radius": 0.05, "lambda_actions": 0.06}


def _affinity(frames: int = 90, actions: int = 5, seed: int = 0) -> np.ndarray:
    """Actions one after another, in noise that makes the best action of a frame alone a bad guess."""
    rng = np.random.default_rng(seed)
    labels = np.arange(frames) * actions // frames
    return (np.eye(actions)[labels] * 0.4 + 0.5 * rng.uniform(size=[frames, actions])).astype(np.float32)


def _assert_same(found: decode.Segmentation, expected: decode.Segmentation) -> None:
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.plan, expected.plan, atol=2e-5)
    np.testing.assert_allclose(found.objective, expected.objective, atol=1e-5)


def test_segments_a_video() -> None:
    affinity = _affinity()
    found = segment_asot(affinity, **OPTIONS)
    assert (found.labels.shape, found.labels.dtype) == ((90,), np.int32)
    assert found.plan.shape == (90, 5)
    np.testing.assert_allclose(found.plan.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(found.labels, found.plan.argmax(axis=1))
    true = np.arange(90) * 5 // 90
    assert np.mean(found.labels == true) > np.mean(affinity.argmax(axis=1) == true)
    assert np.mean(found.labels == true) > 0.95
    assert len(found.objective) == found.iterations + 1 == 26
    assert found.objective[-1] < found.objective[0]
    assert found.mass == pytest.approx(1, abs=1e-4)


def test_a_list_is_segmented_like_one_video_after_another() -> None:
    affinities = [_affinity(frames, seed=frames) for frames in (90, 40, 64)]
    found = segment_asot(affinities, **OPTIONS)
    assert [len(video.labels) for video in found] == [90, 40, 64]
    for video, affinity in zip(found, affinities, strict=True):
        _assert_same(video, segment_asot(affinity, **OPTIONS))
    (only,) = segment_asot(affinities[:1], **OPTIONS)
    _assert_same(only, found[0])


def test_many_videos_are_segmented_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    affinities = [_affinity(40 + seed, seed=seed) for seed in range(3)]
    expected = segment_asot(affinities, **OPTIONS)
    monkeypatch.setattr(decode, "VIDEOS_PER_CALL", 2)
    for found, one in zip(segment_asot(affinities, **OPTIONS), expected, strict=True):
        _assert_same(found, one)


def test_costs_are_one_minus_affinities() -> None:
    affinity = _affinity()
    _assert_same(segment_asot(cost=1 - affinity, **OPTIONS), segment_asot(affinity, **OPTIONS))


def test_frames_outside_the_mask_take_no_part() -> None:
    affinity = _affinity()
    mask = np.arange(90) < 60
    found = segment_asot(affinity, mask=mask, **OPTIONS)
    assert set(found.labels[60:]) == {-1}
    assert not found.plan[60:].any()
    np.testing.assert_allclose(found.plan[:60].sum(axis=1), 1, atol=1e-4)
    spoilt = affinity.copy()
    spoilt[60:] = 7
    _assert_same(segment_asot(spoilt, mask=mask, **OPTIONS), found)
    several = segment_asot([affinity, affinity], mask=[mask, None], **OPTIONS)
    _assert_same(several[0], found)
    _assert_same(several[1], segment_asot(affinity, **OPTIONS))


def test_rho_expects_the_actions_in_the_order_of_their_columns() -> None:
    flat = np.random.default_rng(0).uniform(0, 0.05, size=[64, 4]).astype(np.float32)
    in_order = segment_asot(flat, rho=1.0, **OPTIONS).labels
    assert in_order.tolist() == sorted(in_order)
    assert set(in_order) == {0, 1, 2, 3}
    without = segment_asot(flat, **OPTIONS).labels
    assert without.tolist() != sorted(without)


@pytest.mark.parametrize("mode", ["gw", "prox"])
def test_other_solvers_reach_objectives_as_low(mode: str) -> None:
    affinity = _affinity(60)
    published = segment_asot(affinity, **OPTIONS)
    found = segment_asot(affinity, mode=mode, **OPTIONS)
    assert found.objective[-1] <= published.objective[-1] + 1e-3
    assert np.mean(found.labels == np.arange(60) * 5 // 60) > 0.95


def test_batch_scope_takes_one_step_for_all() -> None:
    affinities = [_affinity(), 3 * _affinity(seed=1)]
    alone = [video.plan for video in segment_asot(affinities, **OPTIONS)]
    together = [video.plan for video in segment_asot(affinities, step_scope="batch", **OPTIONS)]
    assert max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)) > 1e-4


GOOD = _affinity(20, 4)
NAN = np.where(np.arange(20)[:, None] == 7, np.nan, GOOD)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({}, TypeError, "either an affinity or a cost"),
        ({"affinity": GOOD, "cost": GOOD}, TypeError, "either an affinity or a cost"),
        ({"affinity": GOOD, "epsilom": 0.1}, TypeError, "epsilom"),
        ({"affinity": NAN}, ValueError, r"the affinity has NaN or infinite values in 1 frames, the first is frame 7"),
        ({"cost": [GOOD, NAN]}, ValueError, r"cost 1 has NaN or infinite values"),
        ({"affinity": GOOD.T}, ValueError, r"more actions .20. than frames .4.; .* Transpose it"),
        ({"affinity": GOOD[:0]}, ValueError, r"the affinity has axes \[0, 4\]; expected \[time, actions\]"),
        ({"affinity": []}, ValueError, r"no video"),
        ({"affinity": GOOD[:, 0]}, ValueError, r"the affinity has axes \[20\]; expected \[time, actions\]"),
        ({"affinity": np.float32(1)}, ValueError, r"the affinity has axes \[\]; expected \[time, actions\]"),
        ({"affinity": [GOOD, GOOD[:, :3]]}, ValueError, r"affinity 1 has 3 actions, the first video has 4"),
        ({"affinity": GOOD, "mask": np.ones(19)}, ValueError, r"the mask has axes \[19\]; the video has 20 frames"),
        ({"affinity": [GOOD, GOOD], "mask": [None, np.zeros(20)]}, ValueError, r"mask 1 has no frame; leave"),
        ({"affinity": [GOOD, GOOD], "mask": [np.ones(20)]}, ValueError, r"1 masks for 2 videos"),
        ({"affinity": GOOD, "epsilon": 0.0}, ValueError, r"epsilon is 0.0; it must be positive"),
        ({"affinity": GOOD, "radius": 1.5}, ValueError, r"radius is 1.5"),
        ({"affinity": GOOD, "mode": "sinkhorn"}, ValueError, r"mode is 'sinkhorn'; use pmd, gw, prox"),
        ({"affinity": GOOD, "step_scope": "all"}, ValueError, r"step_scope is 'all'; use batch, video"),
        ({"affinity": GOOD, "rho": np.nan}, ValueError, r"rho is nan"),
    ],
)  # fmt: skip
def test_bad_arguments_end_in_a_sentence(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        segment_asot(**given)


def test_the_number_of_programs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def counted(affinity: jax.Array, *rest: Any) -> Any:
        shapes.append(affinity.shape)
        return decode._solve_padded(affinity, *rest)

    monkeypatch.setattr(decode, "_solve", jax.jit(counted, static_argnums=3))
    for frames in range(33, 64, 3):
        segment_asot(_affinity(frames), **OPTIONS)
    assert shapes == [(1, 64, 5)]
    segment_asot([_affinity(frames) for frames in (40, 50, 60)], **OPTIONS)
    assert shapes[1:] == [(4, 64, 5)]


def test_padding_wastes_little() -> None:
    lengths = list(range(1, 6000))
    buckets = decode._buckets(lengths)
    assert sorted(position for positions in buckets.values() for position in positions) == list(range(len(lengths)))
    assert len(buckets) < 60
    for padded, positions in buckets.items():
        for position in positions:
            assert 0 <= padded - lengths[position] < max(lengths[position] / 8 + 1, decode.SMALLEST_BUCKET)


def test_importing_the_library_loads_no_jax() -> None:
    program = (
        "import sys, actloc_jax; assert 'jax' not in sys.modules; actloc_jax.segment_asot; assert 'jax' in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "segment_asot" in actloc_jax.__all__
    with pytest.raises(AttributeError, match="no attribute 'segment_tst'"):
        _ = actloc_jax.segment_tst
