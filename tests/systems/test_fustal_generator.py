"""FuSTAL's generator: choice of snippets, losses with filler rows, padding, proposals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.layers.functional import Network
from actloc_jax.systems.fustal import generator, generator_losses
from actloc_jax.systems.fustal.generator import Generator, Mining, Snippets
from actloc_jax.systems.fustal.proposals import ProposalSettings, contrast, min_max, propose, runs_above_zero, upsample
from actloc_jax.systems.fustal.video_level import top_mean, video_loss


def make_generator(**options: Any) -> tuple[Network, Any]:
    net = Network(lambda rngs: Generator(6, 3, width=16, rngs=rngs, **options))
    return net, net.init(jax.random.key(0))


def test_of_equal_scores_the_first_snippets_are_chosen() -> None:
    actionness = jnp.asarray([[0.0, 3.0, 0.0, 0.0, 1.0, 0.0]])
    action, _ = generator.easy_snippets(actionness, 4)
    np.testing.assert_array_equal(action, [[1, 4, 0, 2]])
    hard, _ = generator.hard_snippets(jnp.ones((1, 8)), 3, 3, 6)
    np.testing.assert_array_equal(hard, [[0, 1, 2]])


def test_hidden_snippets_come_last() -> None:
    actionness = jnp.asarray([[5.0, 4.0, 3.0, 2.0]])
    action, background = generator.easy_snippets(actionness, 2, jnp.asarray([[False, True, True, True]]))
    np.testing.assert_array_equal(action, [[1, 2]])
    np.testing.assert_array_equal(background, [[3, 2]])


def test_hard_snippets_lie_at_the_borders_of_what_is_active() -> None:
    actionness = jnp.zeros((1, 40)).at[0, 10:22].set(jnp.linspace(2, 1, 12))
    action, background = generator.hard_snippets(actionness + 0.1, 2, 3, 6)
    assert set(np.asarray(action[0]).tolist()) <= {11, 12, 18, 19, 20}
    assert all(index < 10 or index >= 22 for index in np.asarray(background[0]).tolist())


def test_no_gradient_flows_through_the_choice_and_much_through_the_chosen() -> None:
    embeddings = jax.random.uniform(jax.random.key(0), (2, 40, 4))

    def loss(x: jax.Array) -> jax.Array:
        return generator.gather(x, generator.mine(x.sum(axis=2), Mining())).easy_action.sum()

    gradient = np.asarray(jax.grad(loss)(embeddings))
    assert set(np.unique(gradient)) == {0.0, 1.0}
    assert gradient.sum() == 2 * 40 // 5 * 4


@pytest.mark.parametrize("number", [1, 3, 7, 100])
def test_top_mean_is_the_mean_of_the_largest(number: int) -> None:
    values = np.round(np.random.default_rng(0).standard_normal((2, 9, 4)), 1).astype(np.float32)  # with ties
    expected = -np.sort(-values, axis=1)[:, :number].mean(axis=1)
    np.testing.assert_allclose(jax.jit(top_mean)(jnp.asarray(values), number), expected, rtol=1e-6)
    gradient = jax.grad(lambda x: top_mean(x, number).sum())(jnp.asarray(values))
    np.testing.assert_allclose(gradient.sum(axis=1), np.ones((2, 4)), rtol=1e-6)


def test_padding_changes_nothing() -> None:
    net, params = make_generator()
    x = jax.random.normal(jax.random.key(1), (1, 20, 6))
    mask = jnp.ones((1, 20), bool)
    short = net(params, x, mask)
    long = net(params, jnp.pad(x, ((0, 0), (0, 12), (0, 0)), constant_values=5.0), jnp.pad(mask, ((0, 0), (0, 12))))
    np.testing.assert_allclose(long.activations[:, :20], short.activations, rtol=1e-6)
    assert np.all(long.activations[:, 20:] == 0)
    scores = generator.video_scores(short.activations, mask)
    longer = generator.video_scores(long.activations, jnp.pad(mask, ((0, 0), (0, 12))))
    np.testing.assert_allclose(longer, scores, rtol=1e-6)


def test_dropout_needs_rngs_and_leaves_embeddings() -> None:
    net, params = make_generator(dropout=0.7)
    x, mask = jax.random.normal(jax.random.key(1), (1, 20, 6)), jnp.ones((1, 20), bool)
    plain, noisy = net(params, x, mask), net(params, x, mask, rngs=nnx.Rngs(dropout=0))
    np.testing.assert_array_equal(plain.embeddings, noisy.embeddings)
    assert not np.allclose(plain.activations, noisy.activations)


def test_bfloat16_stays_near() -> None:
    net, params = make_generator()
    half, _ = make_generator(dtype=jnp.bfloat16)
    x, mask = jax.random.normal(jax.random.key(1), (1, 20, 6)), jnp.ones((1, 20), bool)
    output = half(params, x, mask)
    assert output.activations.dtype == jnp.float32
    np.testing.assert_allclose(output.activations, net(params, x, mask).activations, atol=0.03)


def random_snippets(batch: int) -> Snippets:
    keys = jax.random.split(jax.random.key(3), 4)
    return Snippets(*(jax.random.uniform(key, (batch, n, 8)) for key, n in zip(keys, (5, 5, 2, 2), strict=True)))


def test_rows_that_fill_the_batch_have_no_part_in_the_loss() -> None:
    labels = jnp.asarray([[1, 0], [1, 0], [0, 1], [1, 0]], jnp.float32)
    scores = jax.nn.softmax(jax.random.normal(jax.random.key(0), (4, 2)))
    snippets, present = random_snippets(4), jnp.asarray([True, True, True, False])
    three = generator_losses.generator_loss(scores[:3], labels[:3], Snippets(*(each[:3] for each in snippets)))
    four = generator_losses.generator_loss(scores, labels, snippets, present)
    np.testing.assert_allclose(jnp.stack(four), jnp.stack(three), rtol=1e-6)


def test_pairs_have_exactly_the_same_classes() -> None:
    labels = jnp.asarray([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]])
    pairs = np.argwhere(generator_losses.same_labels(labels)).tolist()
    assert pairs == [[0, 2], [1, 3], [1, 4], [3, 4]]


def test_gradients_are_finite_where_everything_is_zero() -> None:
    snippets = Snippets(*map(jnp.zeros_like, random_snippets(2)))
    scores, labels = jnp.asarray([[1.0, 0.0], [0.0, 1.0]]), jnp.asarray([[0.0, 1.0], [0.0, 1.0]])
    gradients = jax.grad(lambda s, e: generator_losses.generator_loss(s, labels, e).total, (0, 1))(scores, snippets)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_certainty_that_is_wrong_costs_100_per_class() -> None:
    assert float(video_loss(jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]]))) == 100.0


def loops(curves: np.ndarray, surroundings: float) -> list[tuple[int, int, int, float]]:
    """Runs and contrasts, one position after the other."""
    found = []
    for column, curve in enumerate(curves.T):
        inside = [i for i in range(len(curve)) if curve[i] > 0]
        runs = [[i for i in inside if sum(j not in inside for j in range(i)) == gaps] for gaps in range(len(curve) + 1)]
        for run in runs:
            if len(run) > 1:
                first, last = run[0], run[-1]
                width = surroundings * len(run)
                around = [*range(max(0, int(first - width)), first)]
                around += [*range(last + 1, min(len(curve) - 1, int(last + width)) + 1)]
                outside = np.mean(curve[around]) if around else 0.0
                found.append((column, first, last, np.mean(curve[first : last + 1]) - outside))
    return found


def test_runs_and_their_contrast_are_those_of_a_plain_loop() -> None:
    draw = np.random.default_rng(4)
    curves = np.where(draw.random((60, 3)) < 0.7, draw.random((60, 3)), 0)
    curves[:, 2] = 0.5  # one run without surroundings
    column, runs = runs_above_zero(curves)
    expected = loops(curves, 0.25)
    assert np.column_stack([column, runs]).tolist() == [list(each[:3]) for each in expected]
    np.testing.assert_allclose(contrast(curves, column, runs, 0.25), [each[3] for each in expected], rtol=1e-12)


def test_the_end_of_a_curve_is_extrapolated() -> None:
    fine = upsample(np.asarray([[0.0], [1.0], [0.5]], np.float32), 4)[:, 0]
    np.testing.assert_allclose(fine, [0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_a_constant_curve_becomes_zero() -> None:
    np.testing.assert_array_equal(min_max(np.full((4, 1), 0.7, np.float32)), np.zeros((4, 1)))


def test_a_proposal_covers_what_is_active() -> None:
    activations = np.zeros((30, 2), np.float32)
    activations[10:15, 1] = 1.0
    found = propose(activations, activations.sum(axis=1), np.asarray([0.1, 0.9], np.float32), 60, ProposalSettings())
    assert set(found.labels.tolist()) == {1}
    start, end = found.segments[np.argmax(found.scores)]
    seconds = 60 / 30 * 16 / 25
    assert abs(start - 10 * seconds) < seconds
    assert abs(end - 15 * seconds) < seconds


def test_one_snippet_is_too_few() -> None:
    with pytest.raises(ValueError, match="the video has 1 snippets; proposals need at least 2"):
        propose(np.ones((1, 2), np.float32), np.ones(1, np.float32), np.ones(2, np.float32), 1, ProposalSettings())
