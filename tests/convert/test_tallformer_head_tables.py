"""TALLFormer's tables: every parameter has the original's name and shape, and comes back from it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from actloc_jax.backbones.afsd import Afsd, AfsdSizes
from actloc_jax.backbones.daotad import AnchorDetector, AnchorDetectorSizes
from actloc_jax.layers.functional import Network, flatten, united
from convert import tallformer_head_tables as tables
from convert.mapping import Table

NETWORKS = {
    "thumos": (tables.THUMOS, Network(lambda rngs: AnchorDetector(AnchorDetectorSizes(), rngs=rngs))),
    "activitynet": (tables.ACTIVITYNET, Network(lambda rngs: Afsd(AfsdSizes(), rngs=rngs))),
}
KEYS = {  # of the published checkpoints, with their shapes
    "thumos": {
        "neck.0.conv1.weight": (512, 1024, 3),
        "neck.1.encoder.layers.2.attn.relative_position_bias_table": (119, 16),
        "neck.1.encoder.layers.0.mlp.fc1.weight": (2048, 512),
        "neck.2.reductions.3.0.weight": (512, 1024),
        "neck.2.reductions.0.1.bias": (512,),
        "neck.2.trans_layers.1.self_attn.in_proj_weight": (1536, 512),
        "neck.3.lateral_convs.4.conv.weight": (256, 512, 1),
        "neck.3.fpn_convs.0.bn.running_var": (256,),
        "head.cls_convs.3.bn.weight": (256,),
        "head.retina_cls.weight": (100, 256, 3),
        "head.retina_reg.bias": (10,),
    },
    "activitynet": {
        "coarse_pyramid_detection.pyramids.1.encoder.layers.0.attn.relative_position_bias_table": (191, 16),
        "coarse_pyramid_detection.pyramids.2.layer5.0.conv.weight": (512, 512, 3),
        "coarse_pyramid_detection.pyramids.3.fpn_convs.5.gn.bias": (512,),
        "coarse_pyramid_detection.loc_heads.5.scale": (1,),
        "coarse_pyramid_detection.action_head.cls.weight": (201, 1024),
        "coarse_pyramid_detection.conf_tower.1.0.conv1d.weight": (512, 512, 3),
        "coarse_pyramid_detection.loc_tower.0.1.weight": (512,),
        "coarse_pyramid_detection.loc_proposal_branch.lr_conv.0.conv1d.weight": (1024, 512, 1),
        "coarse_pyramid_detection.conf_proposal_branch.proposal_conv.0.conv1d.weight": (512, 2048, 1),
        "coarse_pyramid_detection.prop_loc_head.conv1d.weight": (2, 512, 1),
        "coarse_pyramid_detection.deconv.6.conv1d.weight": (512, 512, 1),
        "coarse_pyramid_detection.deconv.7.bias": (512,),
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_has_its_name_and_comes_back(name: str) -> None:
    table, network = NETWORKS[name]
    shapes = flatten(united(network.shapes(), jax.eval_shape(network.init_statistics)), "detector/")
    ours = {path: np.broadcast_to(np.float32(0), shape.shape) for path, shape in shapes.items()}
    theirs = {key: np.shape(value) for key, value in _without_copies(table, ours).items()}
    assert len(theirs) == len(ours)
    assert {key: theirs.get(key) for key in KEYS[name]} == KEYS[name]
    back = table.convert_all({key: np.broadcast_to(np.float32(0), shape) for key, shape in theirs.items()})
    assert {path: np.shape(value) for path, value in back.items()} == {
        path: value.shape for path, value in ours.items()
    }


def _without_copies(table: Table, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    entries = {path: table.entry_of_path(path) for path in params}
    return {entry.key: entry.leaf.to_torch(params[path]) for path, entry in entries.items()}


def test_buffers_and_running_statistics_are_told_apart() -> None:
    state = {"a.bn.running_mean": 1, "a.bn.num_batches_tracked": 2, "a.attn.relative_position_index": 3, "b.x": 4}
    assert tables.without_buffers(state, "a.") == {"bn.running_mean": 1}
    params, running = tables.split_statistics({"head/norm/mean": 1, "head/norm/scale": 2})
    assert (params, running) == ({"head/norm/scale": 2}, {"head/norm/mean": 1})
