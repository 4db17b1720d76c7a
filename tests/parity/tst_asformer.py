"""ASFormer, ASRF on ASFormer with TST on top, their losses and post-processing, and the losses of the TST adapters."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.asformer import (
    ASFormer,
    ASFormerSizes,
    AttentionBlock,
    AttentionLayer,
    AttentionStack,
    class_probabilities,
)
from actloc_jax.backbones.asrf import ASFormerASRF, ASRFOutput, ASRFSizes
from actloc_jax.data import class_weights
from actloc_jax.data.subsampling import align_and_downsample
from actloc_jax.layers.functional import Network, Params, flatten
from actloc_jax.layers.temporal import DilatedConv, instance_norm
from actloc_jax.losses import asrf as losses
from actloc_jax.losses.asformer import asformer_loss
from actloc_jax.ops import boundary_refinement as refinement
from actloc_jax.ops.sliding_attention import window_mask
from actloc_jax.systems.tst import adapter_losses
from actloc_jax.systems.tst.refiner import Refiner, RefinerSizes
from tests.parity import params
from tests.parity.harness import Case, parity

IGNORED_BY_ORIGINAL = 255


def _last(array: np.ndarray) -> np.ndarray:
    """[..., channels, time] to [..., time, channels]."""
    return np.swapaxes(array, -1, -2)


def _labels(array: np.ndarray) -> np.ndarray:
    """Labels as int32 [batch, time], with our mark for ignored frames."""
    array = np.atleast_2d(array)
    return np.where((array == IGNORED_BY_ORIGINAL) | (array < 0), losses.IGNORE, array).astype(np.int32)


def _numbers(arrays: Mapping[str, np.ndarray], head: str, tail: str = "") -> list[int]:
    """The numbers N of all arrays named `<head>N<tail>`, in order."""
    middles = (
        name[len(head) : len(name) - len(tail)] for name in arrays if name.startswith(head) and name.endswith(tail)
    )
    return sorted({int(middle) for middle in middles if middle.isdigit()})


def _check_gradients(case: Case, head: str, gradients: Params, convert, atol: float, relative: bool = False) -> None:
    """Compares the arrays `<head><PyTorch key>` with our gradients; `convert` makes our names of PyTorch's."""
    expected = {name.removeprefix(head): array for name, array in case.arrays.items() if name.startswith(head)}
    assert expected
    ours = flatten(gradients)
    for path, gradient in flatten(convert(expected)).items():
        scale = np.abs(gradient).max() if relative else 1.0
        np.testing.assert_allclose(ours[path], gradient, atol=atol * scale, err_msg=path)


@parity("tst", "asformer")
def check_asformer(case: Case) -> None:
    """All stages, loss and gradients with and without hidden frames; each layer; the window patterns."""
    config, arrays, atol = case.config, case.arrays, case.tolerance()
    sizes = ASFormerSizes(
        input_dim=config["input_dim"],
        num_classes=config["num_classes"],
        num_layers=config["num_layers"],
        width=config["num_f_maps"],
        num_decoders=config["num_decoders"],
        query_reduction=config["r1"],
        value_reduction=config["r2"],
        channel_dropout=config["channel_masking_rate"],
    )
    weights = params.asformer_params(case.weights())
    network = Network(lambda rngs: ASFormer(sizes, rngs=rngs))
    x, labels = jnp.asarray(_last(arrays["x"])), _labels(arrays["labels"])
    mask = jnp.ones(x.shape[:2], bool)

    def loss(weights, x, labels, visible):
        logits = network(weights, x, mask, visible=visible).logits
        return jnp.mean(asformer_loss(logits, labels, mask, visible=visible)), logits

    loss_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    for name, expected in case.meta["losses"].items():
        visible = arrays[f"mask_{name}"][:, 0] > 0 if f"mask_{name}" in arrays else np.ones(mask.shape, bool)
        known = np.where(visible, labels, losses.IGNORE)
        (value, logits), gradients = loss_and_gradients(weights, x, known, visible)
        np.testing.assert_allclose(logits, _last(arrays[f"{name}/outputs"]), atol=atol)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradients[1], _last(arrays[f"{name}/dx"]), atol=atol)
        _check_gradients(case, f"{name}/grad/", gradients[0], params.asformer_params, atol)
    for block in _numbers(arrays, "window_mask_"):
        np.testing.assert_array_equal(window_mask(block, "published"), arrays[f"window_mask_{block}"][0] > 0)
    _check_encoder_layers(case, sizes, weights["encoder"], x, mask)
    _check_decoder_layers(case, sizes, weights, x, mask)


def _check_encoder_layers(case: Case, sizes: ASFormerSizes, encoder: Params, x: jax.Array, mask: jax.Array) -> None:
    """Each encoder layer and its attention alone, on the output of the original's layer below."""
    arrays, width = case.arrays, sizes.width
    reductions = {"query_reduction": sizes.query_reduction, "value_reduction": sizes.value_reduction}

    @functools.partial(jax.jit, static_argnames="dilation")
    def layer(weights, below, dilation):
        conv = Network(lambda rngs: DilatedConv(width, width, kernel_size=3, dilation=dilation, rngs=rngs))
        attention = Network(lambda rngs: AttentionLayer(width, block=dilation, rngs=rngs, **reductions))
        block = Network(lambda rngs: AttentionBlock(width, dilation=dilation, alpha=1.0, rngs=rngs, **reductions))
        normed = instance_norm(jax.nn.relu(conv(weights["feed_forward"], below, mask)), mask)
        return attention(weights["att_layer"], normed, mask), block(weights, below, mask)

    below = _dense(encoder["conv_1x1"], x)
    for i in range(sizes.num_layers):
        attended, output = layer(encoder["layers"][f"{i:02d}"], below, dilation=2**i)
        np.testing.assert_allclose(attended, _last(arrays[f"encoder_att_{i}"]), atol=case.tolerance())
        np.testing.assert_allclose(output, _last(arrays[f"encoder_layer_{i}"]), atol=case.tolerance())
        below = jnp.asarray(_last(arrays[f"encoder_layer_{i}"]))


def _check_decoder_layers(case: Case, sizes: ASFormerSizes, weights: Params, x: jax.Array, mask: jax.Array) -> None:
    """The decoder layers that the case holds, which take their values from the stage before."""

    def block(weights, below, source, dilation, alpha):
        options = {"query_reduction": sizes.query_reduction, "value_reduction": sizes.value_reduction}
        network = Network(
            lambda rngs: AttentionBlock(sizes.width, dilation=dilation, alpha=alpha, rngs=rngs, **options)
        )
        return network(weights, below, mask, source=source)

    def layer_outputs(weights):
        encoder = Network(lambda rngs: AttentionStack(sizes.input_dim, sizes, alpha=1.0, rngs=rngs))
        logits, source = encoder(weights["encoder"], x, mask)
        found = {}
        for s in range(sizes.num_decoders):
            stage = weights["decoders"][f"{s:02d}"]
            below = _dense(stage["conv_1x1"], class_probabilities(logits, mask))
            for i in range(sizes.num_layers):
                below = block(stage["layers"][f"{i:02d}"], below, source, dilation=2**i, alpha=math.exp(-3 * s))
                found[f"decoder{s}_layer_{i}"] = below
            logits, source = _dense(stage["conv_out"], below), below
        return found

    found = jax.jit(layer_outputs)(weights)
    expected = [name for name in case.arrays if name.startswith("decoder")]
    assert expected
    for name in expected:
        np.testing.assert_allclose(found[name], _last(case.arrays[name]), atol=case.tolerance(), err_msg=name)


def _dense(weights: Params, x: jax.Array) -> jax.Array:
    return x @ weights["kernel"] + weights["bias"]


@parity("tst", "asrf_tst")
def check_asrf_tst(case: Case) -> None:
    """Both branches of ASRF, the stage-3 loss with its gradients, and the refiner on top."""
    config, arrays, atol = case.config, case.arrays, case.tolerance()
    sizes = ASRFSizes(
        num_classes=config["n_classes"],
        input_dim=config["in_channel"],
        num_layers=config["n_layers"],
        width=config["n_features"],
        class_stages=config["n_stages_asb"],
        boundary_stages=config["n_stages_brb"],
    )
    weights = params.asrf_tst_params(case.weights())
    network = Network(lambda rngs: ASFormerASRF(sizes, rngs=rngs))
    x, labels, boundary = jnp.asarray(_last(arrays["x"])), _labels(arrays["labels"]), arrays["boundary_gt"][:, 0]
    mask = jnp.ones(x.shape[:2], bool)
    expected = case.meta["losses"]
    boundary_weight = 0.1

    def loss(weights):
        output = network(weights, x, mask)
        of_classes = jnp.mean(jax.vmap(lambda z: losses.class_loss(z, labels, x, arrays["class_weight"]))(output[0]))
        total = losses.asrf_loss(
            output.class_logits,
            output.boundary_logits,
            x,
            labels,
            boundary,
            mask,
            class_weights=arrays["class_weight"],
            positive_weight=expected["pos_weight"],
            boundary_weight=boundary_weight,
        )
        return jnp.mean(total), (output, of_classes)

    (total, (output, of_classes)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights["backbone"])
    for stage in _numbers(arrays, "cls_"):
        np.testing.assert_allclose(output.class_logits[stage], _last(arrays[f"cls_{stage}"]), atol=atol)
    for stage in _numbers(arrays, "bound_"):
        np.testing.assert_allclose(output.boundary_logits[stage], arrays[f"bound_{stage}"][:, 0], atol=atol)
    np.testing.assert_allclose(output.features, _last(arrays["as_f"]), atol=atol)
    np.testing.assert_allclose(output.boundary_features, _last(arrays["br_f_last_layer"]), atol=atol)
    np.testing.assert_allclose(of_classes, expected["cls"], rtol=1e-5)
    np.testing.assert_allclose(total - of_classes, expected["boundary_times_0.1"], rtol=1e-4)
    _check_gradients(case, "grad/", gradients, params.asrf_params, case.tolerance("grads"), relative=True)
    _check_refiner_on_top(case, weights["refiner"], output)


def _check_refiner_on_top(case: Case, weights: Params, output: ASRFOutput) -> None:
    """The refiner reads the last decoder's features and the last class logits."""
    config, arrays, atol = case.config["refiner"], case.arrays, case.tolerance()
    sizes = RefinerSizes(
        num_classes=case.config["n_classes"],
        feature_dim=config["feat_dim"],
        inner_dim=config["inner_dim"],
        segment_dim=config["sd_dim"],
        num_layers=config["n_layers"],
    )
    refiner = Network(lambda rngs: Refiner(sizes, rngs=rngs))
    expected_logits, expected_masks = arrays["tst/segment_cls"], arrays["tst/segment_mask"]
    segments = expected_logits.shape[2]
    mask = jnp.ones(output.features.shape[:2], bool)
    refined = refiner(weights, output.features, output.class_logits[-1], mask, segments + 3)
    np.testing.assert_array_equal(refined.frame_labels[0], arrays["tst/action_idx"])
    assert refined.runs.count.tolist() == [segments]
    np.testing.assert_allclose(refined.segment_logits[:, :, :segments], expected_logits, atol=atol)
    np.testing.assert_allclose(refined.segment_masks[:, :, :segments], expected_masks, atol=atol)


def _check_loss(loss, logits: np.ndarray, value: float, gradient: np.ndarray | None, rtol: float, atol: float) -> None:
    """Compares a loss of one video, and its gradient with respect to the logits where the case has it."""
    ours, our_gradient = jax.value_and_grad(lambda z: loss(z).mean())(jnp.asarray(logits))
    np.testing.assert_allclose(ours, value, rtol=rtol)
    if gradient is not None:
        np.testing.assert_allclose(our_gradient, gradient, atol=atol)


@parity("tst", "asrf_losses")
def check_asrf_losses(case: Case) -> None:
    """Every loss and combination with its gradient, with and without ignored frames; class and boundary weights."""
    arrays, values = case.arrays, case.meta["values"]
    rtol, atol = case.tolerance("rtol"), case.tolerance("grads atol")
    weights, features = arrays["class_weight"], _last(arrays["sim"])
    all_terms = {"focal_weight": 1.0, "tmse_weight": 0.15, "gstmse_weight": 0.15}
    functions = {
        "ce_weighted": functools.partial(losses.weighted_cross_entropy, class_weights=weights),
        "focal": losses.focal_loss,
        "tmse": losses.temporal_mse,
        "gstmse": functools.partial(losses.temporal_mse, features=features),
        "default_combo": functools.partial(losses.class_loss, features=features, class_weights=weights),
        "all_combo": functools.partial(losses.class_loss, features=features, class_weights=weights, **all_terms),
    }
    label_names = {"plain": "labels", "ignore": "labels_ignore"}
    for name, value in values.items():
        gradient = arrays[f"{name}/grad"]
        if name.startswith("bce_pos"):
            weight = None if name == "bce_posNone" else float(name.removeprefix("bce_pos"))
            boundary, mask = arrays["bound_gt"][:, 0], arrays["bound_mask"][:, 0]
            loss = functools.partial(losses.boundary_loss, boundary=boundary, mask=mask, positive_weight=weight)
            _check_loss(loss, arrays["bound"][:, 0], value, gradient[:, 0], rtol, atol)
        else:
            kind, variant = name.split("/")
            loss = functools.partial(functions[kind], labels=_labels(arrays[label_names[variant]]))
            _check_loss(loss, _last(arrays["preds"]), value, _last(gradient), rtol, atol)
    videos = _numbers(arrays, "weights/labels_")
    expected = arrays["weights/class_weight"]
    found = class_weights.median_frequency_weights([arrays[f"weights/labels_{v}"] for v in videos], len(expected))
    np.testing.assert_allclose(found, expected, rtol=rtol)
    found = class_weights.boundary_positive_weight([arrays[f"weights/boundary_{v}"] for v in videos])
    np.testing.assert_allclose(found, arrays["weights/pos_weight"], rtol=rtol)


@parity("tst", "asrf_post")
def check_asrf_post(case: Case) -> None:
    """Peaks, refinement, relabelling, smoothing, boundary scores and sub-sampling; integers must be equal."""
    arrays = case.arrays
    _check_refinement(case)
    for i in _numbers(arrays, "argrelmax/", "/in"):
        threshold = 0.5 if i < 2 else 0.7  # the case's notes
        found = refinement.boundary_peaks(arrays[f"argrelmax/{i}/in"], threshold)
        np.testing.assert_array_equal(found, arrays[f"argrelmax/{i}/out"])
    for name in arrays:
        if relabel := re.fullmatch(r"relabel/(\d+)_(\d+)/in", name):
            found = refinement.relabel_short_segments(arrays[name][0], max_length=int(relabel[2]))
            np.testing.assert_array_equal(found, arrays[name.removesuffix("in") + "out"][0])

    atol = case.tolerance("smoothing atol")
    smooth = refinement.smoothed_probabilities(_last(arrays["smooth/in"])[0])
    np.testing.assert_allclose(smooth, _last(arrays["smooth/prob"])[0], atol=atol)
    np.testing.assert_array_equal(smooth.argmax(axis=1), arrays["smooth/out"][0])
    smooth = refinement.gaussian_smooth(arrays["down/boundary"], taps=11)
    np.testing.assert_allclose(smooth, arrays["boundary_smoothing_11"], atol=atol)

    tolerance, threshold = (
        float(x) for x in re.search(r"tolerance (\d+), threshold ([\d.]+)", case.meta["notes"]).groups()
    )
    counts = [
        refinement.count_boundaries(
            arrays[f"bscore/{i}/pred"].ravel(),
            arrays[f"bscore/{i}/gt"].ravel(),
            threshold=threshold,
            tolerance=tolerance,
        )
        for i in _numbers(arrays, "bscore/", "/pred")
    ]
    scores = refinement.score_boundaries(counts)
    found = [scores[name] for name in ("accuracy", "precision", "recall", "f1")]
    np.testing.assert_allclose(found, arrays["bscore/acc_prec_rec_f1"], rtol=1e-9)

    for rate in _numbers(arrays, "down/", "/label"):
        channels, kept = arrays[f"down/{rate}/feature_shape"]
        features = np.zeros((arrays["down/T_feature"], channels), np.float32)
        found = align_and_downsample(features, arrays["down/label"], arrays["down/boundary"], rate)
        assert found[0].shape == (kept, channels)
        np.testing.assert_array_equal(found[1], arrays[f"down/{rate}/label"])
        np.testing.assert_array_equal(found[2], arrays[f"down/{rate}/boundary"])


def _check_refinement(case: Case) -> None:
    """Refined labels; where the original fails (a first span tied without a positive sum), the largest sum decides."""
    arrays = case.arrays
    for description in case.meta["refine_cases"]:
        i, threshold = re.match(r"(\d+): .*threshold ([\d.]+)$", description).groups()
        mask = arrays[f"refine/{i}/mask"][0, 0]
        scores = _last(arrays[f"refine/{i}/outputs"])[0][mask]
        boundary = arrays[f"refine/{i}/bound"][0, 0][mask]
        refine = functools.partial(refinement.refine_with_boundaries, scores, boundary, threshold=float(threshold))
        if "raises" in description:
            np.testing.assert_array_equal(refine(), refine(tie_fallback="fixed"), err_msg=description)
        else:
            np.testing.assert_array_equal(refine(), arrays[f"refine/{i}/preds"][0][mask], err_msg=description)


@parity("tst", "tst_adapters")
def check_tst_adapters(case: Case) -> None:
    """Stage-3 losses of the adapters with gradients, the loss beyond its limit, and BaFormer's vote."""
    arrays, values, rtol = case.arrays, case.meta["values"], case.tolerance("rtol")
    functions = {
        "diffact": adapter_losses.diffact_loss,
        "ltcontext": adapter_losses.ltcontext_loss,
        "baformer": adapter_losses.baformer_loss,
    }
    for name, value in values.items():
        backbone, variant = name.split("/")
        labels = _labels(arrays["labels_ignore" if variant == "ignore" else "labels"])
        mask = np.ones(labels.shape, bool)
        if variant == "none":
            np.testing.assert_array_equal(functions[backbone](None, labels, mask), value)
            continue
        logits_name = "all_logits" if backbone == "ltcontext" else "encoder_out"
        logits = _last(arrays[logits_name + ("_clamped" if variant == "clamped" else "")])
        gradient = arrays.get(f"{name}/grad")
        loss = functools.partial(functions[backbone], labels=labels, mask=mask)
        _check_loss(loss, logits, value, None if gradient is None else _last(gradient), rtol, atol=1e-6)
    vote = adapter_losses.baformer_predictions(arrays["baformer/pred_logits"], arrays["baformer/pred_masks"])
    np.testing.assert_allclose(vote, _last(arrays["baformer/frame_predictions"]), rtol=rtol, atol=1e-6)
