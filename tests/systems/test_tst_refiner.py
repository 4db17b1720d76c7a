"""The refiner: padding in time and segments, batches, dropout, overflow, empty rows, parameter groups."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.systems.tst.refiner import Refiner, RefinerSizes, refiner_group, sinusoid_table

SIZES = RefinerSizes(num_classes=4, feature_dim=6, inner_dim=5, segment_dim=4, num_layers=3, dropout=0.3)
LENGTH, CAPACITY = 40, 24
network = Network(lambda rngs: Refiner(SIZES, rngs=rngs))
params = network.init(jax.random.key(0))
refine = jax.jit(lambda features, predictions, mask: network(params, features, predictions, mask, CAPACITY))


def _batch(seed: int, lengths: list[int], time: int = LENGTH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and predictions that hold noise outside the mask, and the mask."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(lengths), LENGTH, SIZES.feature_dim)).astype(np.float32)
    # Labels change about every third frame.
    predictions = np.repeat(rng.normal(size=(len(lengths), LENGTH // 3 + 1, SIZES.num_classes)), 3, axis=1)
    predictions = predictions[:, :LENGTH].astype(np.float32)
    padding = [(0, 0), (0, time - LENGTH), (0, 0)]
    mask = np.arange(time) < np.array(lengths)[:, None]
    return np.pad(features, padding, constant_values=9), np.pad(predictions, padding, constant_values=-7), mask


def _valid(output, video: int, frames: int) -> list[np.ndarray]:
    count = int(output.runs.count[video])
    return [
        np.asarray(output.segment_logits[:, video, :count]),
        np.asarray(output.segment_masks[:, video, :count, :frames]),
    ]


@jax.jit
def _gradients(*inputs):
    """Of a sum over all segments, by the parameters."""

    def total(params) -> jax.Array:
        output = network(params, *inputs, CAPACITY)
        outputs = jnp.concatenate([output.segment_logits, output.segment_masks], axis=-1)
        return jnp.sum(jnp.where(output.runs.valid[None, :, :, None], outputs, 0) ** 2)

    return jax.grad(total)(params)


def test_more_padding_in_time_changes_nothing() -> None:
    short = refine(*_batch(0, [31]))
    long = refine(*_batch(0, [31], time=LENGTH + 25))
    for one, other in zip(_valid(short, 0, 31), _valid(long, 0, 31), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_more_slots_change_nothing() -> None:
    inputs = _batch(1, [LENGTH])
    few = refine(*inputs)
    many = jax.jit(lambda *inputs: network(params, *inputs, CAPACITY + 13))(*inputs)
    for one, other in zip(_valid(few, 0, LENGTH), _valid(many, 0, LENGTH), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_batch_equals_its_videos_one_by_one() -> None:
    lengths = [40, 17, 1]
    inputs = _batch(2, lengths)
    together = refine(*inputs)
    for video, frames in enumerate(lengths):
        alone = refine(*(array[video : video + 1] for array in inputs))
        for one, other in zip(_valid(alone, 0, frames), _valid(together, video, frames), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_only_the_argmax_of_the_predictions_counts_and_the_first_maximum_wins() -> None:
    features, predictions, mask = _batch(3, [LENGTH])
    predictions[0, :5] = [0.5, 2.0, 2.0, 1.0]
    output = refine(features, predictions, mask)
    assert output.frame_labels[0, :5].tolist() == [1] * 5
    onehot = np.eye(SIZES.num_classes, dtype=np.float32)[predictions.argmax(axis=-1)]
    np.testing.assert_array_equal(refine(features, onehot, mask).segment_logits, output.segment_logits)


def test_runs_beyond_the_capacity_are_counted_and_the_others_unharmed() -> None:
    """Only the self-attention, which sees fewer segments, can tell the difference."""
    inputs = _batch(4, [LENGTH])
    whole = refine(*inputs)
    count = int(whole.runs.count[0])
    cut = jax.jit(lambda *inputs: network(params, *inputs, count - 2))(*inputs)
    assert cut.runs.count.tolist() == [count]
    assert cut.segment_logits.shape[2] == count - 2
    np.testing.assert_array_equal(cut.runs.label[0], whole.runs.label[0, : count - 2])
    assert np.isfinite(cut.segment_logits).all()


def test_a_row_without_frames_gives_finite_values_and_gradients() -> None:
    inputs = _batch(5, [LENGTH, 0, 17])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_gradients(*inputs)))
    assert np.isfinite(refine(*inputs).segment_logits).all()


def test_dropout_is_active_if_rngs_are_given() -> None:
    inputs = _batch(6, [LENGTH])
    draw = jax.jit(lambda key: network(params, *inputs, CAPACITY, rngs=nnx.Rngs(dropout=key)).segment_logits)
    first, again, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, refine(*inputs).segment_logits)


def test_groups_cover_the_parameters_and_unused_ones_get_no_gradient() -> None:
    gradients = flatten(_gradients(*_batch(7, [LENGTH, 17, 9])))
    groups = {path: refiner_group(path) for path in gradients}
    assert set(groups.values()) == {"pixel_decoder", "transformer", "heads", "frozen"}
    for path, gradient in gradients.items():
        assert np.any(gradient) == (groups[path] != "frozen"), path
    assert groups["pixel_decoder/layers/00/conv_dilated/kernel"] == "pixel_decoder"
    assert groups["cross_attn2/linear1/kernel"] == groups["self_attn/conv_out/bias"] == "transformer"
    assert groups["label_embedding/embedding"] == groups["feat_down/kernel"] == "heads"


def test_computing_in_bfloat16_stays_close_and_returns_float32() -> None:
    inputs = _batch(8, [LENGTH])
    low = Network(lambda rngs: Refiner(SIZES, dtype=jnp.bfloat16, rngs=rngs))
    output = jax.jit(lambda *inputs: low(params, *inputs, CAPACITY))(*inputs)
    assert output.segment_logits.dtype == output.segment_masks.dtype == jnp.float32
    for one, other in zip(_valid(output, 0, LENGTH), _valid(refine(*inputs), 0, LENGTH), strict=True):
        np.testing.assert_allclose(one, other, atol=0.15)


@pytest.mark.parametrize(("length", "width"), [(1, 2), (65, 8), (3000, 6)])
def test_positions_equal_the_formula(length: int, width: int) -> None:
    position, channel = np.arange(length)[:, None], np.arange(width)
    angle = position / 10000 ** (2 * (channel // 2) / width)
    expected = np.where(channel % 2, np.cos(angle), np.sin(angle))
    np.testing.assert_allclose(sinusoid_table(length, width), expected, atol=5e-7)


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="num_layers is 2"):
        Refiner(RefinerSizes(num_classes=3, num_layers=2), rngs=nnx.Rngs(0))
