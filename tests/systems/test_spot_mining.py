"""Choice of snippets for SPOT's contrast: ties, hidden and filler rows, the axis that is compared."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.systems.spot import mining
from actloc_jax.systems.spot.mining import MiningSettings
from actloc_jax.systems.spot.network import SpotOutput

SMALL = MiningSettings(easy=3, hard=4, narrow=1, wide=3)
ALONG_TIME = dataclasses.replace(SMALL, compares_channels=False, hidden_score_zero=False)


contrast = jax.jit(mining.boundary_contrast, static_argnames="settings")


def output(videos: int = 3, time: int = 12, channels: int = 16) -> SpotOutput:
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (4, time)
    found = SpotOutput(
        jax.random.normal(keys[0], (*shape, 5)),
        jax.random.uniform(keys[1], (*shape, time)),
        jax.random.normal(keys[2], (*shape, channels)),
    )
    return SpotOutput(*(each[:videos] for each in found))


@pytest.mark.parametrize("settings", [SMALL, ALONG_TIME])
def test_rows_that_fill_the_batch_move_neither_threshold_nor_mean(settings: MiningSettings) -> None:
    present = jnp.asarray([True, True, True, False])
    filled = output(4)
    filled = filled._replace(masks=filled.masks.at[3].set(1.0))
    three = contrast(output(3), present[:3], settings)
    np.testing.assert_allclose(contrast(filled, present, settings), three, rtol=1e-6)


def test_of_equally_frequent_classes_the_first_is_the_videos() -> None:
    votes = jnp.asarray([[2, 1, 1, 2, 3]])
    logits = jnp.pad(jax.nn.one_hot(votes, 4), ((0, 0), (0, 0), (0, 1)), constant_values=9.0)
    assert mining.video_class(logits).tolist() == [1]


def test_hidden_snippets_are_chosen_as_published_and_not_if_fixed() -> None:
    logits = -jnp.arange(1.0, 7.0)[None, :, None] * jnp.ones(5)
    keep = jnp.asarray([[False, True, True, True, True, False]])
    published, _ = mining.easy_snippets(logits, SMALL, keep)
    assert published.tolist() == [[0, 5, 1]]
    fixed, _ = mining.easy_snippets(logits, ALONG_TIME, keep)
    assert fixed.tolist() == [[1, 2, 3]]


def test_hard_snippets_lie_at_the_border_of_the_masks() -> None:
    masks = jnp.full((1, 20, 20), 0.1).at[:, 6:15, 6:15].set(0.9)
    masks = masks + 0.001 * jnp.arange(400).reshape(1, 20, 20) / 400
    settings = dataclasses.replace(ALONG_TIME, hard=2)
    # At the median half of all entries would be active; here those are that belong to the mask.
    active = masks >= 0.5
    inner = mining.eroded_square(active, 1) & ~mining.eroded_square(active, 3)
    outer = mining.dilated_square(active, 3) & ~mining.dilated_square(active, 1)
    action, background = mining.hard_snippets(jnp.where(inner, masks, 0), jnp.where(outer, masks, 0), settings)
    assert set(np.asarray(action[0]).tolist()) <= {6, 14}
    assert set(np.asarray(background[0]).tolist()) <= {5, 15}


def test_gradients_reach_only_what_was_chosen() -> None:
    features = output(1).features
    for settings, axis in ((SMALL, 1), (ALONG_TIME, 2)):

        def loss(x: jax.Array, settings: MiningSettings = settings) -> jax.Array:
            return mining.boundary_contrast(output(1)._replace(features=x), jnp.ones(1, bool), settings)

        touched = np.asarray(jax.jit(jax.grad(loss))(features)).any(axis=axis)[0]
        assert 3 <= touched.sum() <= 14
        assert not touched.all()


def test_a_zero_feature_has_a_finite_gradient() -> None:
    zeros = output()._replace(features=jnp.zeros((3, 12, 16)))
    gradient = jax.grad(lambda x: mining.boundary_contrast(zeros._replace(features=x), jnp.ones(3, bool), ALONG_TIME))(
        zeros.features
    )
    assert np.isfinite(gradient).all()


def test_too_few_channels_or_snippets_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 8 channels; set it to False"):
        mining.boundary_contrast(output(channels=8), jnp.ones(3, bool), SMALL)
    assert np.isfinite(contrast(output(channels=8), jnp.ones(3, bool), ALONG_TIME))
    with pytest.raises(ValueError, match="12 snippets are too few to choose 10 easy and 20 hard ones"):
        mining.boundary_contrast(output(), jnp.ones(3, bool), MiningSettings())
