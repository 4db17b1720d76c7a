"""Parity of TALLFormer's detector for ActivityNet: boundary pooling, network, losses, decoding."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.afsd import Afsd, AfsdOutput, AfsdSizes
from actloc_jax.layers.functional import Network, Params, flatten, unflatten
from actloc_jax.ops.boundary_pooling import boundary_max_pool
from actloc_jax.systems.tallformer.afsd_decode import AfsdDecodeSettings, Scored, candidates, suppressed
from actloc_jax.systems.tallformer.afsd_losses import AfsdLoss, AfsdLossSettings, AfsdTargets, afsd_loss, afsd_targets
from convert import tallformer_head_tables
from tests.parity.harness import Case, parity
from tests.parity.tallformer_anchors import close

PREFIX = tallformer_head_tables.AFSD_PREFIX


def detector_of(config: dict[str, Any], state: dict[str, Any]) -> tuple[AfsdSizes, Network, Params]:
    """Sizes, network and parameters from the original's configuration and state dict."""
    reduction, transformer, pyramid, _ = config["model"]["neck"]
    layer = transformer["encoder_layer_cfg"]
    sizes = AfsdSizes(
        input_dim=reduction["srm_cfg"]["in_channels"],
        num_classes=config["model"]["action_head"]["num_classes"],
        width=reduction["srm_cfg"]["out_channels"],
        heads=layer["num_heads"],
        num_layers=transformer["num_layers"],
        max_length=layer["max_seq_len"],
        drop_path=layer["drop_path"],
        levels=1 + len(pyramid["stage_layers"]),
        groups=pyramid["norm_cfg"]["num_groups"],
        frames=config["num_frames"],
        video_dropout=0.0,
    )
    network = Network(lambda rngs: Afsd(sizes, rngs=rngs))
    flat = tallformer_head_tables.AFSD.convert_all(tallformer_head_tables.without_buffers(state, PREFIX))
    return sizes, network, unflatten(flat)


@parity("tallformer", "boundary_max_pool")
def check_boundary_max_pool(case: Case) -> None:
    """Values and gradient."""
    arrays = case.arrays
    x, gy = (jnp.asarray(arrays[name].swapaxes(1, 2)) for name in ("x", "gy"))
    y, pull = jax.vjp(lambda values: boundary_max_pool(values, arrays["segments"]), x)
    close(case, y.swapaxes(1, 2), "y")
    close(case, pull(gy)[0].swapaxes(1, 2), "gx")


def check_outputs(case: Case, sizes: AfsdSizes, found: AfsdOutput) -> None:
    """Every output of the network."""
    names = {
        "action_logits": found.video_classes,
        "conf": found.classes,
        "prop_loc": found.refinements,
        "prop_conf": found.refined_classes,
        "center": found.centres[..., None],
    }
    for name, array in names.items():
        close(case, array, f"out/{name}")
    close(case, found.distances, "out/loc", atol=case.meta["tolerance"]["loc"]["atol"])
    priors = np.stack([sizes.priors, sizes.level_of_row.astype(np.float32)], axis=1)
    close(case, priors[None], "out/priors")
    rough = case.meta["tolerance"]["start_end"]["atol"]
    for number, side in enumerate(("start", "end")):
        close(case, np.split(np.asarray(found.boundaries), 2, axis=2)[number], f"out/{side}", atol=rough)
        for branch, rows in zip(("loc", "conf"), found.row_boundaries, strict=True):
            close(case, np.split(np.asarray(rows), 2, axis=2)[number], f"out/{side}_{branch}_prop")


@parity("tallformer", "anet_detector")
def check_anet_detector(case: Case) -> None:
    """Pyramid, outputs, losses with gradients, decoding."""
    sizes, network, params = detector_of(case.config["cfg"], case.weights())
    assert set(flatten(network.shapes())) == set(flatten(params))
    x = jnp.asarray(case.arrays["backbone_feat"].swapaxes(1, 2))
    settings = AfsdLossSettings(overlap=case.config["piou"])
    targets = targets_of(sizes, [case.arrays[f"target{i}"] for i in range(len(x))], settings)
    _check_maps(case, targets.boundaries)

    def loss(given: AfsdOutput) -> tuple[jax.Array, AfsdLoss]:
        found = afsd_loss(given, targets, settings)
        return found.total, found

    def loss_of_params(given: Params) -> tuple[jax.Array, tuple[AfsdOutput, list[jax.Array]]]:
        output = network(given, x)
        return loss(output)[0], (output, network(given, x, method="features"))

    of_params, (output, pyramid) = jax.jit(jax.grad(loss_of_params, has_aux=True))(params)
    for level, feature in enumerate(pyramid):
        close(case, feature.swapaxes(1, 2), f"pyramid{level}")
    check_outputs(case, sizes, output)
    of_output, found = jax.jit(jax.grad(loss, has_aux=True))(output)
    for name, value in LOSSES.items():
        close(case, getattr(found, value), f"loss/{name}")
    of_centre = jax.jit(jax.grad(lambda given: afsd_loss(given, targets, settings).centre))(output)
    close(case, of_centre.refinements, "grad_ct/prop_loc")
    _check_gradients(case, of_output)
    of_keys = tallformer_head_tables.AFSD.to_torch(flatten(of_params))
    for name in (name for name in case.arrays if name.startswith("pgrad/")):
        close(case, of_keys[name.removeprefix("pgrad/" + PREFIX)], name)
    _check_decoding(case, sizes, output)


LOSSES = {
    "loss_l": "distance",
    "loss_c": "classification",
    "loss_prop_l": "refinement",
    "loss_prop_c": "refined_classification",
    "loss_ct": "centre",
    "start": "start",
    "end": "end",
    "action": "video",
    "total": "total",
}


def targets_of(sizes: AfsdSizes, rows: list[np.ndarray], settings: AfsdLossSettings) -> AfsdTargets:
    """Targets of videos with rows [start, end (parts of the video), 1, class], with an empty slot."""
    slots = 1 + max(map(len, rows))
    segments = np.stack([np.pad(part[:, :2], ((0, slots - len(part)), (0, 0))) for part in rows])
    valid = np.stack([np.arange(slots) < len(part) for part in rows])
    classes = np.array([part[0, 3] for part in rows], np.int32)
    make = jax.jit(lambda *given: afsd_targets(sizes, *given, settings))
    return make(segments.astype(np.float32) * np.float32(sizes.frames), valid, classes)


def _check_maps(case: Case, boundaries: jax.Array) -> None:
    maps = np.asarray(boundaries).swapaxes(1, 2)
    np.testing.assert_array_equal(maps, case.arrays["scores"][:, 1:])
    np.testing.assert_array_equal(maps[:, :, ::8], case.arrays["scores_div8"][:, 1:])


def _check_gradients(case: Case, found: AfsdOutput) -> None:
    """Gradients of the total with respect to the outputs; those of frames' boundaries are not in the case."""
    names = {
        "loc": found.distances,
        "conf": found.classes,
        "prop_loc": found.refinements,
        "prop_conf": found.refined_classes,
        "center": found.centres[..., None],
        "action_logits": found.video_classes,
    }
    for branch, rows in zip(("loc", "conf"), found.row_boundaries, strict=True):
        names[f"start_{branch}_prop"], names[f"end_{branch}_prop"] = jnp.split(rows, 2, axis=2)
    for name, values in names.items():
        close(case, values, f"grad/{name}")


def _check_decoding(case: Case, sizes: AfsdSizes, output: AfsdOutput) -> None:
    """Candidates of the first video, suppressed with every setting of the case, and a video with one candidate."""
    of_video = jax.tree.map(lambda values: np.asarray(values[0]), output)
    settings = AfsdDecodeSettings()
    found = candidates(of_video, sizes, case.config["fps"], settings)
    close(case, np.column_stack(found), "post/pre_nms")
    for name in (name for name in case.arrays if name.startswith("post/softnms")):
        sigma, most = re.fullmatch(r"post/softnms_s([\d.]+)_k(\d+)", name).groups()
        rule = dataclasses.replace(settings.suppression, sigma=float(sigma), max_per_class=int(most))
        varied = dataclasses.replace(settings, suppression=rule)
        close(case, np.column_stack(suppressed(found, varied)), name)
    single = suppressed(Scored(found.segments[:1], found.scores[:1]), settings)
    assert len(single.scores) == len(case.arrays["post/single_segment_result"])
