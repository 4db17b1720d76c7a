"""Parity of FuSTAL's generator: network, mining, losses, training, proposals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.layers.functional import Network
from actloc_jax.systems.fustal import generator, generator_losses
from actloc_jax.systems.fustal.generator import Generator, Mining, Snippets
from actloc_jax.systems.fustal.proposals import (
    Proposals,
    ProposalSettings,
    min_max,
    predicted_classes,
    propose,
    upsample,
)
from actloc_jax.systems.fustal.video_level import video_loss
from actloc_jax.training import optimizers, state
from actloc_jax.training.state import LossOutput
from tests.parity.harness import Case, parity
from tests.parity.params import generator_params

KINDS = {"EA": "easy_action", "EB": "easy_background", "HA": "hard_action", "HB": "hard_background"}


def close(case: Case, ours: Any, expected: Any, name: str = "") -> None:
    tolerance = case.meta["tolerance"]
    np.testing.assert_allclose(ours, expected, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=name)


def same_choice(scores: Any, ours: Any, expected: np.ndarray, name: str = "", tolerance: float = 0.0) -> None:
    """The same snippets, except that of equal scores any may be chosen.

    The original sorts with `torch.sort`, which is not stable: on processors with AVX2 or AVX512 it puts equal scores in
    an order of its own, which the goldens recorded. Ours takes the first of equal scores (tests/systems).
    """
    scores, ours = np.asarray(scores), np.asarray(ours)
    wanted = np.take_along_axis(scores, expected, axis=1)
    chosen = np.take_along_axis(scores, ours, axis=1)
    np.testing.assert_allclose(chosen, wanted, rtol=0, atol=tolerance, err_msg=name)
    alone = (np.abs(scores[:, None, :] - wanted[:, :, None]) <= tolerance).sum(axis=2) == 1
    np.testing.assert_array_equal(ours[alone], expected[alone], err_msg=name)
    assert all(len(set(row)) == len(row) for row in ours.tolist()), f"{name}: a snippet was chosen twice"


def network_of(case: Case, **options: Any) -> tuple[Network, Any]:
    params = generator_params(case.weights())
    _, inputs, width = params["f_embed"]["kernel"].shape
    classes = params["f_cls"]["kernel"].shape[1]
    return Network(lambda rngs: Generator(inputs, classes, width=width, rngs=rngs, **options)), params


@parity("fustal", "generator_forward")
def check_forward(case: Case) -> None:
    """Activations, video scores, regions of hard snippets, and all mined snippets."""
    arrays, config = case.arrays, case.config
    net, params = network_of(case)
    x = jnp.asarray(arrays["x"])
    mask = jnp.ones(x.shape[:2], bool)
    output = net(params, x, mask)
    close(case, output.activations, arrays["cas"])
    close(case, output.actionness, arrays["actionness"])
    close(case, output.embeddings[..., :8], arrays["embed_first8"])
    close(case, output.embeddings.sum(axis=2), arrays["embed_sum"])
    close(case, generator.video_scores(output.activations, mask, config["r_easy"]), arrays["video_scores"])
    close(case, jnp.median(output.actionness, axis=1, keepdims=True), arrays["median"])

    mining = Mining(config["r_easy"], config["r_hard"], config["m"], config["M"])
    active = output.actionness > arrays["median"]
    inner = generator.eroded(active, mining.narrow) & ~generator.eroded(active, mining.wide)
    outer = generator.dilated(active, mining.wide) & ~generator.dilated(active, mining.narrow)
    np.testing.assert_array_equal(inner, arrays["region_inner"])
    np.testing.assert_array_equal(outer, arrays["region_outer"])
    snippets = generator.mine(output.actionness, mining)
    gathered = generator.gather(output.embeddings, Snippets(**{KINDS[name]: arrays[f"idx_{name}"] for name in KINDS}))
    scores = {
        "EA": output.actionness,
        "EB": output.actionness.max(axis=1, keepdims=True) - output.actionness,
        "HA": jnp.where(inner, output.actionness, 0),
        "HB": jnp.where(outer, output.actionness, 0),
    }
    for name, field in KINDS.items():
        same_choice(scores[name], getattr(snippets, field), arrays[f"idx_{name}"], name, tolerance=1e-5)
        close(case, getattr(gathered, field).mean(axis=1), arrays[f"{name}_mean"], name)


@parity("fustal", "generator_easy_mining")
def check_easy_mining(case: Case) -> None:
    """Easy snippets with some of them hidden."""
    actionness, dropout = case.arrays["actionness"], case.arrays["dropout_mask"]
    rate = 1 - 1 / dropout.max()
    action, background = generator.easy_snippets(
        jnp.asarray(actionness), case.config["k_easy"], jnp.asarray(dropout > 0), rate
    )
    same_choice(actionness * dropout, action, case.arrays["idx_EA"], "action")
    inactivity = actionness.max(axis=1, keepdims=True) - actionness
    same_choice(inactivity * dropout, background, case.arrays["idx_EB"], "background")


@parity("fustal", "generator_hard_mining")
def check_hard_mining(case: Case) -> None:
    """Erosion, dilation and hard snippets, for even and odd lengths."""
    arrays, config = case.arrays, case.config
    for name in sorted(key.removesuffix("_aness") for key in arrays if key.endswith("_aness")):
        actionness = jnp.asarray(arrays[f"{name}_aness"])
        active = actionness > jnp.median(actionness, axis=1, keepdims=True)
        np.testing.assert_array_equal(active, arrays[f"{name}_bin"])
        for letter in ("m", "M"):
            width = config[letter]
            for operation in ("erosion", "dilation"):
                function = {"erosion": generator.eroded, "dilation": generator.dilated}[operation]
                expected = arrays[f"{name}_{operation}_{letter}{width}"]
                np.testing.assert_array_equal(function(active, width), expected, err_msg=f"{name} {operation} {width}")
        action, background = generator.hard_snippets(actionness, config["k_hard"], config["m"], config["M"])
        inner = arrays[f"{name}_erosion_m{config['m']}"] - arrays[f"{name}_erosion_M{config['M']}"]
        outer = arrays[f"{name}_dilation_M{config['M']}"] - arrays[f"{name}_dilation_m{config['m']}"]
        same_choice(actionness * inner, action, arrays[f"{name}_HA_idx"], f"{name} action")
        same_choice(actionness * outer, background, arrays[f"{name}_HB_idx"], f"{name} background")
    for signal, function, suffix in (("point", generator.dilated, "dil"), ("hole", generator.eroded, "ero")):
        (result,) = (key for key in arrays if key.startswith(f"{signal}_{suffix}"))
        width = int(result.removeprefix(f"{signal}_{suffix}"))
        np.testing.assert_array_equal(function(jnp.asarray(arrays[signal] > 0), width), arrays[result])


@parity("fustal", "generator_losses")
def check_losses(case: Case) -> None:
    """All losses of the generator and their gradients."""
    arrays = case.arrays
    labels, scores = jnp.asarray(arrays["label"]), jnp.asarray(arrays["video_scores"])
    snippets = Snippets(**{field: jnp.asarray(arrays[name]) for name, field in KINDS.items()})
    pairs = generator_losses.same_labels(labels)
    np.testing.assert_array_equal(np.argwhere(pairs), np.sort(arrays["pairs"], axis=1))
    loss = generator_losses.generator_loss(scores, labels, snippets)
    close(case, loss.total, arrays["total"])
    close(case, loss.action, arrays["loss_action"])
    close(case, loss.contrast, arrays["loss_cv_with_pairs"])
    by_scores, by_snippets = jax.grad(lambda s, e: generator_losses.generator_loss(s, labels, e).total, argnums=(0, 1))(
        scores, snippets
    )
    close(case, by_scores, arrays["grad_video_scores"])
    everyone, nobody = jnp.ones(len(labels), bool), jnp.zeros_like(pairs)
    alone, by_contrast = jax.value_and_grad(generator_losses.contrast_loss)(snippets, nobody, everyone)
    close(case, alone, arrays["cv_single_video_only"])
    for name, field in KINDS.items():
        close(case, getattr(by_snippets, field), arrays[f"grad_{name}"], name)
        close(case, getattr(by_contrast, field), arrays[f"grad_cv_only_{name}"], name)
    close(case, loss.action + generator_losses.CONTRAST_WEIGHT * alone, arrays["total_no_pairs"])
    for hard, easy, other in (("HA", "EA", "EB"), ("HB", "EB", "EA")):
        matrix = generator_losses.contrast_matrix(*(jnp.asarray(arrays[name]) for name in (hard, easy, other)))
        close(case, jnp.diagonal(matrix).mean(), arrays[f"nce_{hard}"], hard)
    close(
        case,
        video_loss(jnp.asarray(arrays["edge_scores"]), jnp.asarray(arrays["edge_label"])),
        arrays["edge_action_loss"],
    )


@parity("fustal", "generator_train_steps")
def check_train_steps(case: Case) -> None:
    """Adam steps without dropout through the train step that the loop runs."""
    arrays, config = case.arrays, case.config
    net, params = network_of(case)
    mining = Mining()

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> LossOutput:
        output = net(params, batch["features"], batch["mask"])
        snippets = generator.gather(output.embeddings, generator.mine(output.actionness, mining))
        scores = generator.video_scores(output.activations, batch["mask"], mining.easy_ratio)
        parts = generator_losses.generator_loss(scores, batch["labels"], snippets)
        return LossOutput(parts.total, {"action": parts.action, "contrast": parts.contrast}, {}, {})

    adam = optimizers.adam(config["lr"], weight_decay=config["weight_decay"])
    step = jax.jit(state.gradient_step(loss, adam))
    current = state.create(params, adam)
    for number in range(config["steps"]):
        x, labels = (arrays[name][number % len(arrays["x"])] for name in ("x", "label"))
        batch = {"features": x, "labels": labels, "mask": np.ones(x.shape[:2], bool)}
        current, scalars = step(current, batch, jax.random.key(0))
        ours = [scalars[name] for name in ("loss", "action", "contrast")]
        np.testing.assert_allclose(ours, arrays["losses"][number], rtol=case.meta["tolerance"]["rtol"])
    kernel = np.asarray(current.params["f_embed"]["kernel"])
    close(case, np.asarray(current.params["f_cls"]["kernel"]).T[:, :, None], arrays["final_f_cls"])
    close(case, current.params["f_embed"]["bias"], arrays["final_f_embed_bias"])
    first = arrays["final_f_embed_w_first32"]
    close(case, kernel.transpose()[: len(first)], first)
    np.testing.assert_allclose(kernel.sum(dtype=float), arrays["final_f_embed_w_sum"], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(np.abs(kernel).sum(dtype=float), arrays["final_f_embed_w_abs_sum"], rtol=1e-4)


def rows(proposals: Proposals) -> np.ndarray:
    """[proposals, 4]: class, score, start, end."""
    return np.column_stack([proposals.labels, proposals.scores, proposals.segments])


@parity("fustal", "generator_proposals")
def check_proposals(case: Case) -> None:
    """Classes, curves and proposals of one video."""
    arrays, config = case.arrays, case.config
    settings = ProposalSettings(
        class_threshold=config["class_thresh"],
        class_thresholds=_thresholds(config["cas_thresh"]),
        action_thresholds=_thresholds(config["aness_thresh"]),
        upscale=config["up_scale"],
        surroundings=config["lambda"],
        video_weight=config["gamma"],
        frame_rate=config["fps"],
    )
    classes = predicted_classes(arrays["video_scores"], settings.class_threshold)
    np.testing.assert_array_equal(classes, arrays["pred_classes"])
    close(case, upsample(min_max(arrays["cas"][:, classes]), settings.upscale), arrays["cas_up"])
    action = upsample(min_max(arrays["actionness"][:, None]), settings.upscale)[:, 0]
    close(case, action, arrays["aness_up_col0"])
    close(case, [action.min(), action.max()], arrays["aness_up_min_max"])
    found = propose(arrays["cas"], arrays["actionness"], arrays["video_scores"], config["vid_num_seg"], settings)
    close(case, rows(found), arrays["raw_proposals"])


@parity("fustal", "generator_proposals_edges")
def check_proposals_edges(case: Case) -> None:
    """Degenerate curves: nothing active, all active, peaks at the ends, two snippets, two classes."""
    arrays, settings = case.arrays, ProposalSettings()
    for name, config in case.config.items():
        activations, scores = arrays[f"{name}_cas"], arrays[f"{name}_video_scores"]
        classes = predicted_classes(scores, settings.class_threshold)
        np.testing.assert_array_equal(classes, arrays[f"{name}_pred"], err_msg=name)
        close(case, upsample(min_max(activations[:, classes]), settings.upscale), arrays[f"{name}_cas_up"], name)
        found = propose(activations, activations.sum(axis=1), scores, config["vid_num_seg"], settings)
        close(case, rows(found), arrays[f"{name}_raw"].reshape(-1, 4), name)


def _thresholds(text: str) -> tuple[float, ...]:
    """The numbers that a case gives as `arange(start,stop,step)`."""
    start, stop, step = (float(number) for number in text.removeprefix("arange(").removesuffix(")").split(","))
    return tuple(np.arange(start, stop, step).tolist())
