"""Parity of TALLFormer's detector for ActivityNet: boundary pooling, network, losses, decoding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.afsd import Afsd, AfsdOutput, AfsdSizes
from actloc_jax.layers.functional import Network, Params, flatten, unflatten
from actloc_jax.ops.boundary_pooling import boundary_max_pool
from convert import tallformer_head_tables
from tests.parity.harness import Case, parity
from tests.parity.tallformer_anchors import close

PREFIX = "coarse_pyramid_detection."


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
    for level, feature in enumerate(jax.jit(lambda p: network(p, x, method="features"))(params)):
        close(case, feature.swapaxes(1, 2), f"pyramid{level}")
    check_outputs(case, sizes, jax.jit(network)(params, x))
