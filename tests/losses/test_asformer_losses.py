"""Losses of ASFormer, ASRF and the TST adapters: padding, ignored frames, limits, and values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.losses import asrf
from actloc_jax.losses.asformer import asformer_loss
from actloc_jax.systems.tst import adapter_losses

TIME, CLASSES, CHANNELS = 11, 4, 3
WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0], np.float32)


def _asrf(x: dict[str, jax.Array], **options) -> jax.Array:
    stages, boundary_stages = jnp.stack([x["logits"], 2 * x["logits"]]), jnp.stack([x["bound"], -x["bound"]])
    return asrf.asrf_loss(
        stages, boundary_stages, x["features"], x["labels"], x["boundary"], x["mask"],
        class_weights=WEIGHTS, positive_weight=4.0, **options,
    )  # fmt: skip


LOSSES: dict[str, Callable[[dict[str, jax.Array]], jax.Array]] = {
    "asformer": lambda x: asformer_loss(jnp.stack([x["logits"], 2 * x["logits"]]), x["labels"], x["mask"]),
    "asrf": _asrf,
    "asrf_over_classes": lambda x: _asrf(x, softmax_axis="classes"),
    "focal": lambda x: asrf.focal_loss(x["logits"], x["labels"]),
    "diffact": lambda x: adapter_losses.diffact_loss(x["logits"], x["labels"], x["mask"]),
    "ltcontext": lambda x: adapter_losses.ltcontext_loss(x["logits"][None], x["labels"], x["mask"]),
    "baformer": lambda x: adapter_losses.baformer_loss(x["logits"], x["labels"], x["mask"]),
    "fact": lambda x: adapter_losses.fact_loss(x["logits"], x["labels"]),
}


def _batch(batch: int, time: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (batch, time)).astype(np.int32)
    labels[:, 4:6] = asrf.IGNORE
    return {
        "logits": 3 * rng.normal(size=(batch, time, CLASSES)).astype(np.float32),
        "bound": rng.normal(size=(batch, time)).astype(np.float32),
        "features": rng.normal(size=(batch, time, CHANNELS)).astype(np.float32),
        "labels": labels,
        "boundary": (rng.random((batch, time)) < 0.3).astype(np.float32),
        "mask": np.ones((batch, time), bool),
    }


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_company_change_nothing(name: str) -> None:
    """Loss and gradient of a video are the same alone and, padded with junk, beside a longer and an empty one."""
    alone, together = _batch(1, TIME), _batch(3, TIME + 9, seed=1)
    for key, values in alone.items():
        together[key][0, :TIME] = values[0]
    together["mask"][0, TIME:] = False
    together["mask"][2] = False
    together["labels"][~together["mask"]] = asrf.IGNORE

    def of_first(logits: jax.Array, batch: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array]:
        losses = LOSSES[name]({**batch, "logits": logits})
        return losses[0] + 0 * losses.sum(), losses

    of_first = jax.jit(jax.value_and_grad(of_first, has_aux=True))
    (expected, _), gradient = of_first(alone["logits"], alone)
    (found, losses), long_gradient = of_first(together["logits"], together)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(long_gradient[0, :TIME], gradient[0], atol=1e-6)
    assert np.all(long_gradient[0, TIME:] == 0)
    assert losses[2] == 0, "an empty row has no loss"
    assert np.isfinite(long_gradient).all()


def test_weighted_cross_entropy_divides_by_the_weights() -> None:
    logits = np.zeros((1, 3, CLASSES), np.float32)
    logits[0, 0, 1] = 5.0
    labels = np.array([[1, 0, -1]])
    right, even = -(5 - np.log(np.exp(5) + 3)), np.log(4)
    found = asrf.weighted_cross_entropy(logits, labels, WEIGHTS)
    np.testing.assert_allclose(found, [(2 * right + 0.5 * even) / 2.5], rtol=1e-5)


def test_infinite_weight_of_an_absent_class_does_no_harm() -> None:
    logits, labels = _batch(1, TIME)["logits"], np.zeros((1, TIME), np.int32)
    labels[0, 3] = asrf.IGNORE
    weights = np.array([1, 1, np.inf, 1], np.float32)
    loss, gradient = jax.value_and_grad(lambda z: asrf.weighted_cross_entropy(z, labels, weights)[0])(logits)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_ignored_frames_are_taken_out_of_the_sequence() -> None:
    batch = _batch(1, TIME)
    keep = batch["labels"][0] != asrf.IGNORE
    short = {key: values[:, keep] for key, values in batch.items()}
    for softmax_axis in ("time", "classes"):
        found, expected = (
            asrf.temporal_mse(x["logits"], x["labels"], features=x["features"], softmax_axis=softmax_axis)
            for x in (batch, short)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("softmax_axis", ["time", "classes"])
def test_temporal_mse_by_hand(softmax_axis: str) -> None:
    logits = _batch(1, TIME)["logits"]
    later, earlier = logits[0, 1:], logits[0, :-1]
    axis = 0 if softmax_axis == "time" else 1
    later, earlier = (z - np.log(np.exp(z).sum(axis=axis, keepdims=True)) for z in (later, earlier))
    expected = np.minimum((later - earlier) ** 2, 4).mean()
    labels = np.zeros((1, TIME), np.int32)
    found = asrf.temporal_mse(logits, labels, threshold=2.0, softmax_axis=softmax_axis)
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_unknown_softmax_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of time, classes"):
        asrf.temporal_mse(np.zeros((1, 2, 2)), np.zeros((1, 2), int), softmax_axis="frames")


def test_feature_change_softens_the_smoothing() -> None:
    batch = _batch(1, TIME)
    still = asrf.temporal_mse(batch["logits"], batch["labels"], features=np.ones((1, TIME, CHANNELS)))
    moving = asrf.temporal_mse(batch["logits"], batch["labels"], features=batch["features"])
    np.testing.assert_allclose(still, asrf.temporal_mse(batch["logits"], batch["labels"]), rtol=1e-6)
    assert moving < still


def test_hidden_frames_count_in_the_mean_of_the_smoothing() -> None:
    """As published: hiding frames shrinks the smoothing, it does not change what it is divided by."""
    batch = _batch(1, TIME)
    nothing = np.full((1, TIME), asrf.IGNORE)
    visible = np.arange(TIME)[None] < 6
    hidden = asformer_loss(batch["logits"][None], nothing, batch["mask"], visible=visible)
    short = asformer_loss(batch["logits"][None, :, :6], nothing[:, :6], batch["mask"][:, :6])
    np.testing.assert_allclose(hidden * (TIME - 1), short * 5, rtol=1e-5)


def test_no_gradient_reaches_the_earlier_frame() -> None:
    logits, labels = _batch(1, 2)["logits"], np.full((1, 2), asrf.IGNORE)
    mask = np.ones((1, 2), bool)
    gradient = jax.grad(lambda z: asformer_loss(z[None], labels, mask)[0])(logits)
    assert np.all(gradient[0, 0] == 0)
    assert np.any(gradient[0, 1] != 0)


def test_adapter_smoothing_is_cut_off_as_a_mean() -> None:
    logits = np.zeros((1, 9, CLASSES), np.float32)
    logits[0, 4:, 0] = 40.0  # one step of 40 in three of four log probabilities
    labels, mask = np.full((1, 9), asrf.IGNORE), np.ones((1, 9), bool)
    # Mean over 8 steps and 4 classes: far above the limit; a limit per element would give 0.15 * 16 * 3 / 32 or so.
    np.testing.assert_allclose(adapter_losses.diffact_loss(logits, labels, mask), 0.15 * 16, rtol=1e-6)
