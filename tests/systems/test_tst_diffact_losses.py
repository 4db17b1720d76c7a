"""DiffAct's training loss: conditions, draws, and the mean over the videos of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.backbones.diffact import DiffAct, DiffActSizes
from actloc_jax.layers.functional import Network
from actloc_jax.systems.tst import diffact_losses

SIZES = DiffActSizes(
    num_classes=4, input_dim=5, encoder_layers=2, encoder_width=6, encoder_kernel_size=3, feature_layers=(0, 1),
    decoder_layers=2, decoder_width=6, decoder_kernel_size=3, time_dim=8, timesteps=50,
)  # fmt: skip
WEIGHTS = {"encoder_ce": 0.5, "encoder_mse": 0.1, "decoder_ce": 0.5, "decoder_mse": 0.1, "decoder_boundary": 0.1}


def make_batch(lengths: list[int], time: int) -> dict[str, jax.Array]:
    """Video i is the same whatever the others are; labels 0..2 of the 4 classes."""
    features = np.full((len(lengths), time, SIZES.input_dim), 9.0, np.float32)
    labels, boundary = np.full((len(lengths), time), -1, np.int32), np.zeros((len(lengths), time), np.float32)
    for row, length in enumerate(lengths):
        rng = np.random.default_rng(row)
        features[row, :length] = rng.normal(size=(length, SIZES.input_dim))
        labels[row, :length] = np.repeat(rng.permutation(3), -(-length // 3))[:length]
        boundary[row, :length] = rng.uniform(size=length)
    mask = labels >= 0
    return {name: jnp.asarray(value) for name, value in
            {"features": features, "labels": labels, "boundary": boundary, "mask": mask}.items()}  # fmt: skip


def test_conditions_hide_what_their_names_say() -> None:
    batch = make_batch([9], 9)
    labels, boundary = np.asarray(batch["labels"]), np.asarray(batch["boundary"])
    hidden = jnp.asarray([[0, 2]])
    expected = {
        "full": np.ones_like(labels, bool),
        "zero": np.zeros_like(labels, bool),
        "boundary05-": boundary < 0.5,
        "boundary03-": boundary < 0.3,
        "segment=1": labels != 0,
        "segment=2": labels == 1,
    }
    assert set(expected) == set(diffact_losses.CONDITIONS)
    for name, visible in expected.items():
        np.testing.assert_array_equal(diffact_losses.condition_mask(name, batch, hidden), visible, err_msg=name)


def test_an_unknown_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="'segment=3' is unknown; use full, zero"):
        diffact_losses.condition_mask("segment=3", make_batch([9], 9), jnp.asarray([[0, 0]]))


def test_draws_hide_a_class_of_the_video_and_follow_the_weights_of_the_conditions() -> None:
    batch = make_batch([9, 4], 9)
    conditions = ("full", "segment=1", "segment=1")
    draw = jax.jit(lambda key: diffact_losses.draw(SIZES, batch, key, conditions))
    draws = jax.vmap(draw)(jax.random.split(jax.random.key(0), 400))
    labels, mask = np.asarray(batch["labels"]), np.asarray(batch["mask"])
    hidden = ~np.asarray(draws.visible) & mask  # [400, batch, time]
    for row in range(2):
        seen = {tuple(line) for line in hidden[:, row]}
        whole_classes = {tuple((labels[row] == name) & mask[row]) for name in np.unique(labels[row][mask[row]])}
        assert seen == whole_classes | {(False,) * 9}
    assert 0.55 < hidden.any(axis=-1).mean() < 0.78  # two of the three names hide a class
    times = np.asarray(draws.time)
    assert times.min() >= 0
    assert times.max() < SIZES.timesteps
    assert len(np.unique(times)) > 40


def test_a_batch_counts_as_the_mean_of_its_videos_whatever_their_padding() -> None:
    network = Network(lambda rngs: DiffAct(SIZES, rngs=rngs))
    params = network.init(jax.random.key(1))
    noise = jax.random.normal(jax.random.key(2), (3, 20, SIZES.num_classes))

    @jax.jit
    def loss(batch: dict[str, jax.Array], noise: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        visible = diffact_losses.condition_mask("boundary05-", batch, jnp.zeros((noise.shape[0], 2), jnp.int32))
        draws = diffact_losses.Draws(jnp.full(noise.shape[0], 7), noise, visible)
        return diffact_losses.diffact_loss(network, params, batch, draws, sizes=SIZES, weights=WEIGHTS)

    whole = make_batch([9, 20, 0], 20)  # the last row fills the batch and holds no video
    first = loss(make_batch([9], 9), noise[:1, :9])
    second = loss({name: value[1:2] for name, value in whole.items()}, noise[1:2])
    both = loss(whole, noise)
    np.testing.assert_allclose(both[0], (first[0] + second[0]) / 2, rtol=1e-5)
    for name, part in both[1].items():
        np.testing.assert_allclose(part, (first[1][name] + second[1][name]) / 2, rtol=1e-5, err_msg=name)


def test_soft_labels_replace_labels_and_class_weights() -> None:
    network = Network(lambda rngs: DiffAct(SIZES, rngs=rngs))
    params = network.init(jax.random.key(1))
    batch = make_batch([9], 9)
    draws = diffact_losses.draw(SIZES, batch, jax.random.key(3), ("full",))
    class_weights = jnp.asarray([0.5, 1.0, 2.0, 4.0])

    @jax.jit
    def parts(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return diffact_losses.diffact_loss(
            network, params, batch, draws, sizes=SIZES, weights=WEIGHTS, class_weights=class_weights
        )[1]

    hard = parts(batch)
    soft = parts(batch | {"soft_labels": jax.nn.one_hot(batch["labels"], SIZES.num_classes) * class_weights})
    doubled = parts(batch | {"soft_labels": jax.nn.one_hot(batch["labels"], SIZES.num_classes) * class_weights * 2})
    for name in WEIGHTS:
        np.testing.assert_allclose(soft[name], hard[name], rtol=1e-6)
        factor = 2 if name.endswith("_ce") else 1
        np.testing.assert_allclose(doubled[name], factor * hard[name], rtol=1e-6)
