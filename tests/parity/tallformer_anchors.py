"""Parity of TALLFormer's detector for THUMOS14: network, anchors, losses, decoding, learning rate."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actloc_jax.backbones.daotad import AnchorDetector, AnchorDetectorSizes, AttentionPyramid
from actloc_jax.layers.functional import Network, Params, unflatten, united
from actloc_jax.layers.temporal_attention import DistanceTransformer, band
from actloc_jax.layers.temporal_reduction import TemporalReduction
from convert import tallformer_head_tables
from tests.parity.harness import Case, parity


def detector_of(model: dict[str, Any], state: dict[str, Any]) -> tuple[AnchorDetectorSizes, Network, Params, Params]:
    """Sizes, network, parameters and running statistics from the original's configuration and state dict."""
    reduction, transformer, pyramid, fpn = model["neck"]
    layer, head = transformer["encoder_layer_cfg"], model["head"]
    sizes = AnchorDetectorSizes(
        input_dim=reduction["srm_cfg"]["in_channels"],
        num_classes=head["num_classes"],
        width=reduction["srm_cfg"]["out_channels"],
        pyramid_width=fpn["out_channels"],
        heads=layer["num_heads"],
        num_layers=transformer["num_layers"],
        max_length=layer["max_seq_len"],
        drop_path=layer["drop_path"],
        windows=tuple(pyramid["kernel_sizes"]),
        window_heads=pyramid["num_heads"],
        dropout=0.0,
        anchors=head["num_anchors"],
        head_layers=head["stacked_convs"],
    )
    network = Network(lambda rngs: AnchorDetector(sizes, rngs=rngs))
    own = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    flat = tallformer_head_tables.ANCHOR_DETECTOR.convert_all(tallformer_head_tables.without_buffers(own))
    params, running = tallformer_head_tables.split_statistics(flat)
    return sizes, network, unflatten(params), unflatten(running)


def channels_of(rows: jax.Array, anchors: int) -> np.ndarray:
    """A head's [batch, time * anchors, values] as the original's [batch, anchors * values, time]."""
    batch, _, number = rows.shape
    return np.asarray(rows).reshape(batch, -1, anchors * number).swapaxes(1, 2)


def close(case: Case, found: Any, name: str, **tolerance: float) -> None:
    """Compares with an array of the case at the case's tolerance, or at another one of its tolerances."""
    given = {"rtol": case.meta["tolerance"]["rtol"], "atol": case.meta["tolerance"]["atol"], **tolerance}
    np.testing.assert_allclose(np.asarray(found), case.arrays[name], err_msg=name, **given)


@parity("tallformer", "neck_head")
def check_neck_head(case: Case) -> None:
    """Every stage of the neck, the heads, a shorter window, and the bands of attention."""
    sizes, network, params, running = detector_of(case.config, case.weights())
    both, arrays = united(params, running), case.arrays
    x = jnp.asarray(arrays["x"].swapaxes(1, 2))
    for level, (classes, deltas) in enumerate(zip(*jax.jit(network)(both, x), strict=True)):
        close(case, channels_of(classes, sizes.anchors), f"cls{level}")
        close(case, channels_of(deltas, sizes.anchors), f"reg{level}")
    reduction = Network(lambda rngs: TemporalReduction(sizes.input_dim, sizes.width, rngs=rngs))
    reduced = jax.jit(reduction)(params["reduction"], x)
    close(case, reduced.swapaxes(1, 2), "srm")
    stack = {"heads": sizes.heads, "num_layers": sizes.num_layers, "max_length": sizes.max_length}
    transformer = Network(lambda rngs: DistanceTransformer(sizes.width, **stack, rngs=rngs))
    related = jax.jit(transformer)(params["transformer"], reduced)
    close(case, related.swapaxes(1, 2), "relpos")
    pyramid = Network(
        lambda rngs: AttentionPyramid(sizes.width, heads=sizes.window_heads, windows=sizes.windows, rngs=rngs)
    )
    for level, x_level in enumerate(jax.jit(pyramid)(params["pyramid"], related)):
        close(case, x_level.swapaxes(1, 2), f"tdm{level}")
    features = jax.jit(functools.partial(network, method="features"))
    for name in ("x", "x_short"):
        for level, feature in enumerate(features(both, jnp.asarray(arrays[name].swapaxes(1, 2)))):
            close(case, feature.swapaxes(1, 2), f"{name.replace('x_short', 'short_').replace('x', '')}fpn{level}")
    for name in (name for name in arrays if name.startswith("tdm_mask")):
        window, time = (int(part[1:]) for part in name.split("_")[2:])
        np.testing.assert_allclose(band(time, window // 2)[0], arrays[name], rtol=1e-6)
