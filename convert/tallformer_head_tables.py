"""Tables of names for TALLFormer's two detectors: PyTorch on the left, ours on the right, for every size.

`ANCHOR_DETECTOR` and `AFSD` are the parts behind the backbone, `THUMOS` and `ACTIVITYNET` whole snapshots, whose
parameters are `{"backbone": ..., "detector": ...}`; in those of the momentum variant a `slow_backbone` stands beside
them. Batch norms give running statistics as well as parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.mapping import Rule, Table
from convert.tallformer_tables import BACKBONE_PREFIX, VIDEO_SWIN

REDUCTION = Table([Rule("{conv1|conv2}", "{conv1|conv2}", "conv")])

DISTANCE_LAYER = Table(
    [
        Rule("{norm1|norm2}", "{norm1|norm2}", "norm"),
        Rule("attn.{qkv|proj}", "attn/{qkv|proj}", "linear"),
        Rule("attn.relative_position_bias_table", "attn/relative_position_bias_table", "matrix"),
        Rule("mlp.{fc1|fc2}", "mlp/{fc1|fc2}", "linear"),
    ]
)
BAND_LAYER = Table(
    [
        Rule("self_attn", "self_attn/in_proj", "in_projection"),
        Rule("self_attn.out_proj", "self_attn/out_proj", "linear"),
        Rule("{linear1|linear2}", "{linear1|linear2}", "linear"),
        Rule("{norm1|norm2}", "{norm1|norm2}", "norm"),
    ]
)
CONV_BATCH_NORM = Table([Rule("conv", "conv", "conv"), Rule("bn", "norm", "batch_norm")])
CONV_GROUP_NORM = Table([Rule("conv", "conv", "conv"), Rule("gn", "norm", "norm")])
UNIT = Table([Rule("0.conv1d", "conv", "conv"), Rule("1", "norm", "norm")])  # of AFSD's heads

ANCHOR_DETECTOR = Table(
    [
        *REDUCTION.under("neck.0.", "reduction/"),
        *DISTANCE_LAYER.under("neck.1.encoder.layers.{i}.", "transformer/layers/{i}/"),
        Rule("neck.2.reductions.{i}.0", "pyramid/reductions/{i}/00", "linear"),
        Rule("neck.2.reductions.{i}.1", "pyramid/reductions/{i}/01", "norm"),
        *BAND_LAYER.under("neck.2.trans_layers.{i}.", "pyramid/trans_layers/{i}/"),
        *CONV_BATCH_NORM.under("neck.3.{lateral_convs|fpn_convs}.{i}.", "fpn/{lateral_convs|fpn_convs}/{i}/"),
        *CONV_BATCH_NORM.under("head.{cls_convs|reg_convs}.{i}.", "head/{cls_convs|reg_convs}/{i}/"),
        Rule("head.{retina_cls|retina_reg}", "head/{retina_cls|retina_reg}", "conv"),
    ]
)

_BRANCH = "{cur_point_conv|lr_conv|roi_conv|proposal_conv}"
AFSD = Table(
    [
        *REDUCTION.under("pyramids.0.", "reduction/"),
        *DISTANCE_LAYER.under("pyramids.1.encoder.layers.{i}.", "transformer/layers/{i}/"),
        *(
            rule
            for level in range(1, 10)
            for rule in CONV_GROUP_NORM.under(f"pyramids.2.layer{level}.0.", f"pyramid/{level - 1:02d}/")
        ),
        *CONV_GROUP_NORM.under("pyramids.3.{lateral_convs|fpn_convs}.{i}.", "fpn/{lateral_convs|fpn_convs}/{i}/"),
        Rule("loc_heads.{i}", "scales/{i}", "scalar_in_vector"),
        Rule("action_head.cls", "action_head", "linear"),
        *UNIT.under("{loc_tower|conf_tower}.{i}.", "{loc_tower|conf_tower}/{i}/"),
        *UNIT.under(
            "{loc_proposal_branch|conf_proposal_branch}." + _BRANCH + ".",
            "{loc_proposal_branch|conf_proposal_branch}/" + _BRANCH + "/",
        ),
        Rule(
            "{loc_head|conf_head|center_head|prop_loc_head|prop_conf_head}.conv1d",
            "{loc_head|conf_head|center_head|prop_loc_head|prop_conf_head}",
            "conv",
        ),
        *(
            Rule(f"deconv.{3 * layer + part}{module}", f"deconv/{layer:02d}/{ours}", layout)
            for layer in range(3)
            for part, module, ours, layout in ((0, ".conv1d", "conv", "conv"), (1, "", "norm", "norm"))
        ),
    ]
)

AFSD_PREFIX = "coarse_pyramid_detection."
SLOW_PREFIX = "m_backbone."
_BACKBONES = VIDEO_SWIN.under(BACKBONE_PREFIX, "backbone/") + VIDEO_SWIN.under(SLOW_PREFIX, "slow_backbone/")
THUMOS = Table([*_BACKBONES, *ANCHOR_DETECTOR.under("", "detector/")])
ACTIVITYNET = Table([*_BACKBONES, *AFSD.under(AFSD_PREFIX, "detector/")])

BUFFERS = ("relative_position_index", "num_batches_tracked", "pe")  # last words of keys that are recomputed


def without_buffers(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of a state dict below `prefix`, without it and without what is recomputed."""
    below = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in below.items() if key.rsplit(".", 1)[-1] not in BUFFERS}


def split_statistics(flat: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Converted arrays by path: the parameters, and the running statistics of the batch norms."""
    running = {path: value for path, value in flat.items() if path.rsplit("/", 1)[-1] in ("mean", "var")}
    return {path: value for path, value in flat.items() if path not in running}, running
