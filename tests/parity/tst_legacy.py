"""Parity of the older TST models with the original, on given backbone outputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.layers.functional import Network, Params
from actloc_jax.ops.boundary_refinement import refine_with_boundaries
from actloc_jax.systems.tst import inference, legacy
from actloc_jax.systems.tst.refiner import RefinerSizes
from tests.parity import params
from tests.parity.harness import Case, parity

BOUNDARY_THRESHOLD = 0.5  # boundary_th in asformer_tst/configs/asrf_config.py
LOSSES = {"classification": "ce", "focal": "focal", "dice": "dice"}


def sizes_of(case: Case) -> RefinerSizes:
    """The refiner's sizes; the features have the inner width."""
    config = case.config
    return RefinerSizes(
        num_classes=config["n_classes"],
        feature_dim=None,
        inner_dim=config["n_features"],
        segment_dim=config["sd_dim"],
        num_layers=config["n_layers"],
    )


@parity("tst", "asformer_tst_v1")
def check_first_version(case: Case) -> None:
    """Segments of predicted and of true runs, targets, losses, soft vote, boundary refinement."""
    assert case.config["window"] == legacy.WINDOW
    network = Network(lambda rngs: legacy.OneRoundRefiner(sizes_of(case), rngs=rngs))
    weights = params.older_refiner_params(case.weights())
    arrays, atol = case.arrays, case.tolerance()
    true_labels = jnp.asarray(arrays["gt_labels"][None], jnp.int32)
    predicted = jnp.argmax(arrays["cls_logits"], axis=1).astype(jnp.int32)
    by_tag = {"eval": predicted, "train_stage2": true_labels, "train_stage3": predicted}
    capacity = max(arrays[f"{tag}/segment_cls"].shape[1] for tag in by_tag) + 1  # with an empty slot

    @jax.jit
    def run(weights: Params, labels: jax.Array) -> Any:
        features = jnp.swapaxes(jnp.asarray(arrays["as_f"]), 1, 2)
        mask = jnp.ones(labels.shape, bool)
        output = network(weights, features, labels, mask, capacity)
        targets = legacy.run_targets(output.runs, true_labels, mask, case.config["n_classes"])
        probabilities = jax.nn.softmax(output.segment_logits, axis=-1)
        scores = inference.mask_vote(probabilities, output.segment_masks, output.runs.valid)
        return output, targets, legacy.one_round_loss(output, targets, mask), scores

    for tag, labels in by_tag.items():
        output, targets, losses, scores = run(weights, labels)
        count = arrays[f"{tag}/segment_cls"].shape[1]
        assert output.runs.count.tolist() == [count]
        np.testing.assert_allclose(output.segment_logits[:, :count], arrays[f"{tag}/segment_cls"], atol=atol)
        np.testing.assert_allclose(output.segment_masks[:, :count], arrays[f"{tag}/segment_mask"], atol=atol)
        if tag == "eval":
            np.testing.assert_allclose(np.swapaxes(scores, 1, 2), arrays["eval/frame_scores"], atol=atol)
            refined = refine_with_boundaries(
                np.asarray(scores[0]), arrays["bound_logits"][0, 0], threshold=BOUNDARY_THRESHOLD
            )
            np.testing.assert_array_equal(refined, arrays["eval/refined"][0])
        else:
            np.testing.assert_array_equal(targets.label[:, :count], arrays[f"{tag}/target_labels"])
            np.testing.assert_array_equal(targets.inside[0, :count], arrays[f"{tag}/target_masks"])
            expected = case.meta["losses"][tag.removeprefix("train_")]
            for ours, theirs in LOSSES.items():
                np.testing.assert_allclose(getattr(losses, ours)[0], expected[theirs], atol=atol, err_msg=ours)


@parity("tst", "asformer_tst_v2")
def check_second_version(case: Case) -> None:
    """Segment classes and masks of both rounds."""
    network = legacy.two_round_refiner(sizes_of(case))
    weights = params.older_refiner_params(case.weights())
    arrays, atol = case.arrays, case.tolerance()
    features, scores = (jnp.swapaxes(jnp.asarray(arrays[name]), 1, 2) for name in ("as_f", "cls_logits"))
    mask = jnp.ones(features.shape[:2], bool)
    count = arrays["eval/segment_cls"].shape[2]
    output = jax.jit(lambda *inputs: network(*inputs, count + 1))(weights, features, scores, mask)
    assert output.runs.count.tolist() == [count]
    np.testing.assert_array_equal(output.frame_labels[0], arrays["eval/action_idx"])
    np.testing.assert_allclose(output.segment_logits[:, :, :count], arrays["eval/segment_cls"], atol=atol)
    np.testing.assert_allclose(output.segment_masks[:, :, :count], arrays["eval/segment_mask"], atol=atol)
