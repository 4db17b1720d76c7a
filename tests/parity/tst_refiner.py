"""Parity of TST's refiner, matching, set loss and inference with the original."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.layers.functional import Network, flatten
from actloc_jax.ops import matching, segments
from actloc_jax.systems.tst import inference, losses
from actloc_jax.systems.tst.refiner import (
    Refiner,
    RefinerOutput,
    RefinerSizes,
    frame_labels,
    refiner_group,
    run_means,
    segment_queries,
    sinusoid_table,
)
from convert import tst_tables
from tests.parity import params
from tests.parity.harness import Case, parity


def refiner_sizes(config: dict[str, Any]) -> RefinerSizes:
    """The sizes of a case's `refiner` configuration."""
    return RefinerSizes(
        num_classes=config["n_classes"],
        feature_dim=config["feat_dim"],
        inner_dim=config["inner_dim"],
        segment_dim=config["sd_dim"],
        num_layers=config["n_layers"],
        dropout=config.get("dropout", 0.1),
    )


class Probe(Refiner):
    """A refiner that shows its intermediates under the names of the golden case."""

    def intermediates(self, features: jax.Array, predictions: jax.Array, mask: jax.Array, capacity: int) -> dict:
        frames = self.feat_down(features)
        _, layers = self.pixel_decoder(frames, mask)
        round1, round2 = self.pd_proj(layers[-3]), self.pd_proj2(layers[-2])
        found = segments.runs(frame_labels(predictions, mask), mask, capacity)
        queries = segment_queries(self, found, frames)
        onehot = jax.nn.one_hot(found.label, self.sizes.num_classes)
        positions = sinusoid_table(features.shape[1], queries.shape[-1])
        state = self.cross_attn(jnp.zeros_like(queries), queries, round1, positions, found)
        first = self.self_attn(state, found.valid)
        second = self.cross_attn2(first, queries, round2, positions, found)
        return {
            "int/feat_down": frames,
            **{f"int/pixel_decoder_layer_{i}": layer for i, layer in enumerate(layers)},
            "int/pd_proj": round1,
            "int/pd_proj2": round2,
            "int/feat_proj": self.feat_proj(frames),
            "int/onehot_proj": self.onehot_proj(onehot),
            "int/cross_attn": state,
            "int/self_attn": first,
            "int/cross_attn2": second,
            "seg_features": self.feat_proj(run_means(found, frames)),
            "seg_onehot": onehot,
            "pred_labels": found.label,
        }


@parity("tst", "tst_refiner")
def check_refiner(case: Case) -> None:
    """Outputs, intermediates and gradients, all sequences as a batch; which parameters are unused; position tables."""
    network = Network(lambda rngs: Probe(refiner_sizes(case.config), rngs=rngs))
    weights = params.refiner_params(case.weights())
    _check_sequences(case, network, weights)

    unused = {
        params.key_of(tst_tables.REFINER, path) for path in flatten(network.shapes()) if refiner_group(path) == "frozen"
    }
    assert unused == set(case.arrays["unused_params"].tolist())
    for name in (name for name in case.arrays if name.startswith("sinusoid_")):
        length, width = map(int, name.split("_")[1:])
        np.testing.assert_allclose(sinusoid_table(length, width), case.arrays[name], atol=1e-6)
    logits, masks = case.arrays["multi/segment_cls"][-1], jnp.asarray(case.arrays["multi/segment_mask"][-1])
    scores = inference.mask_vote(jax.nn.softmax(logits, axis=-1), masks, jnp.ones(logits.shape[:2], bool))
    np.testing.assert_allclose(np.swapaxes(scores, 1, 2), case.arrays["frame_preds_to_segment"], atol=1e-5)


def _check_sequences(case: Case, network: Network, weights: Any) -> None:
    tags = sorted({name.split("/")[0] for name in case.arrays if name.endswith("/frame_features")})
    own = {tag: _below(case.arrays, f"{tag}/") for tag in tags}
    capacity = max(arrays["segment_cls"].shape[2] for arrays in own.values())
    length = max(arrays["frame_features"].shape[2] for arrays in own.values())

    def batch(name: str, *axes: int, along: int = 0) -> jax.Array:
        """The sequences' arrays of one name, padded to `axes` (or to the size they have, for 0), as a batch."""
        arrays = [own[tag][name] for tag in tags]
        shapes = [[size or have for size, have in zip(axes, array.shape, strict=True)] for array in arrays]
        return jnp.concatenate([_padded(*pair, 0) for pair in zip(arrays, shapes, strict=True)], axis=along)

    features = jnp.swapaxes(batch("frame_features", 0, 0, length), 1, 2)
    predictions = jnp.swapaxes(batch("frame_predictions", 0, 0, length), 1, 2)
    mask = jnp.arange(length) < jnp.array([[own[tag]["frame_features"].shape[2]] for tag in tags])
    toward_logits = batch("cot_cls", 0, 0, capacity, 0, along=1)
    toward_masks = batch("cot_mask", 0, 0, capacity, length, along=1)

    def objective(weights: Any, features: jax.Array, chosen: jax.Array) -> tuple[jax.Array, RefinerOutput]:
        output = network(weights, features, predictions, mask, capacity)
        per_video = jnp.sum(toward_logits * output.segment_logits, axis=(0, 2, 3))
        per_video += jnp.sum(toward_masks * output.segment_masks, axis=(0, 2, 3))
        return jnp.sum(chosen * per_video), output

    @jax.jit
    def run(weights: Any, features: jax.Array, chosen: jax.Array) -> Any:
        differentiate = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        shown = network(weights, features, predictions, mask, capacity, method="intermediates")
        return *differentiate(weights, features, chosen), shown

    (_, output), (_, d_features), shown = run(weights, features, jnp.ones(len(tags)))
    for video, tag in enumerate(tags):
        _check_output(case, own[tag], jax.tree.map(np.asarray, output), video)
        expected = own[tag]["d_frame_features"][0].T
        scale = case.tolerance("outputs,") * np.abs(expected).max()
        np.testing.assert_allclose(d_features[video, : len(expected)], expected, atol=scale, rtol=0, err_msg=tag)
        if any(name.startswith("int/") for name in own[tag]):
            _check_intermediates(case, own[tag], {name: np.asarray(value[video]) for name, value in shown.items()})
        if gradients := _below(own[tag], "grad/"):
            _, (d_weights, _), _ = run(weights, features, jnp.eye(len(tags))[video])
            ours = params.state_of(tst_tables.REFINER, flatten(d_weights))
            for key, value in gradients.items():
                scale = case.tolerance("outputs,") * np.abs(value).max()
                np.testing.assert_allclose(ours[key], value, atol=scale, rtol=0, err_msg=key)


def _check_output(case: Case, own: dict[str, np.ndarray], output: RefinerOutput, video: int) -> None:
    """Compares one video's labels, segments, logits, masks and the frames that segments attend to."""
    count, frames = own["segment_mask"].shape[2:]
    assert output.runs.count[video] == count
    np.testing.assert_array_equal(output.frame_labels[video, :frames], own["action_idx"])
    atol = case.tolerance()
    np.testing.assert_allclose(output.segment_logits[:, video, :count], own["segment_cls"][:, 0], atol=atol)
    np.testing.assert_allclose(output.segment_masks[:, video, :count, :frames], own["segment_mask"][:, 0], atol=atol)
    if "ca_mask" in own:
        nearby = np.abs(output.runs.run_of_frame[video, :frames] - np.arange(count)[:, None]) <= 1
        np.testing.assert_array_equal(nearby, own["ca_mask"][0])


def _check_intermediates(case: Case, own: dict[str, np.ndarray], shown: dict[str, np.ndarray]) -> None:
    """Compares one video's intermediates, [..., runs or time, channels] except for the pixel decoder's layers."""
    names = [name for name in own if name.startswith("int/") or name in shown]
    for name in names:
        expected = own[name]
        if name.startswith("int/pixel_decoder_layer"):
            expected = expected[0].T
        expected = expected.reshape(-1, *shown[name].shape[1:])  # without the batch axis, wherever it stands
        np.testing.assert_allclose(shown[name][: len(expected)], expected, atol=case.tolerance(), err_msg=name)


@parity("tst", "tst_matcher_loss")
def check_matcher_and_loss(case: Case) -> None:
    """Costs, matched pairs, losses for both weights of the class "no action", and gradients; all videos as a batch."""
    videos = case.meta["cases"]
    own = [_below(case.arrays, f"{number}/") for number in range(len(videos))]
    length = max(arrays["pred"].size for arrays in own)
    capacity = max(max(arrays["cost"].shape) for arrays in own)
    labels = {name: jnp.array([_padded(arrays[name], (length,), -1) for arrays in own]) for name in ("pred", "gt")}
    mask = labels["pred"] >= 0
    logits, masks = (
        jnp.stack([_padded(arrays[name][:, 0], (len(arrays[name]), capacity, width), 0) for arrays in own], axis=1)
        for name, width in (("segment_cls", case.config["n_classes"] + 1), ("segment_mask", length))
    )

    @jax.jit
    def run(logits: jax.Array, masks: jax.Array, weight: float) -> Any:
        predicted, truth = (segments.runs(labels[name], mask, capacity) for name in ("pred", "gt"))
        matched = matching.match_runs(predicted, truth)

        def total(logits: jax.Array, masks: jax.Array) -> Any:
            loss = losses.set_loss(logits, masks, matched, predicted.valid, truth, mask, bg_weight=weight)
            return jnp.sum(loss.total), loss

        (_, loss), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(logits, masks)
        return -matching.overlap_scores(predicted, truth), matched, truth.label, truth.members, loss, gradients

    for name in sorted(name for name in videos[0] if name.startswith("loss_bg")):
        weight = float(name.removeprefix("loss_bg"))
        cost, matched, label, members, loss, gradients = jax.tree.map(np.asarray, run(logits, masks, weight))
        for video, (meta, arrays) in enumerate(zip(videos, own, strict=True)):
            _check_matching(case, arrays, cost[video], matched[video], label[video], members[video])
            for ours, theirs in LOSS_NAMES.items():
                value = getattr(loss, ours)[video]
                np.testing.assert_allclose(value, meta[name][theirs], rtol=case.tolerance("rtol"), err_msg=meta["tag"])
            if weight == 0.1:  # the weight that the case gives gradients for
                for gradient, key in zip(gradients, ("d_segment_cls", "d_segment_mask"), strict=True):
                    expected = _padded(arrays[key][:, 0], gradient[:, video].shape, 0)
                    np.testing.assert_allclose(gradient[:, video], expected, atol=case.tolerance("grads atol"))


LOSS_NAMES = {"total": "total_loss", "classification": "cls_loss", "focal": "focal_loss", "dice": "dice_loss"}


def _check_matching(
    case: Case, own: dict, cost: np.ndarray, matched: np.ndarray, label: np.ndarray, members: np.ndarray
) -> None:
    """Compares one video's true runs, costs and matched pairs."""
    rows, columns = own["cost"].shape
    np.testing.assert_array_equal(label[:columns], own["seg_cls"])
    np.testing.assert_array_equal(members[:columns, : own["gt"].size], own["seg_masks"])
    np.testing.assert_allclose(cost[:rows, :columns], own["cost"], atol=case.tolerance("cost atol"))
    pairs = [(row, column) for row, column in enumerate(matched.tolist()) if column >= 0]
    assert pairs == list(zip(own["pred_idx"].tolist(), own["gt_idx"].tolist(), strict=True))


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _padded(array: np.ndarray, shape: tuple[int, ...], value: float) -> np.ndarray:
    """The array with `value` appended along every axis."""
    missing = [(0, after - before) for before, after in zip(array.shape, shape, strict=True)]
    return np.pad(array, missing, constant_values=value)
