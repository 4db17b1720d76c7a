"""State dicts of the golden cases as our nested parameters, through the tables that `python -m convert` uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actloc_jax.layers.functional import Params, unflatten
from convert import asot, fustal_tables, spot_tables, tallformer_tables, tst_tables
from convert.mapping import Table


def params_of(table: Table, state: Mapping[str, Any], prefix: str = "") -> Params:
    """Nested parameters from a PyTorch state dict (diffusion buffers left out), or from its keys below `prefix`."""
    return unflatten(table.convert_all(_below(state, prefix)))


def key_of(table: Table, path: str) -> str:
    """The PyTorch key of one of our flat paths, e.g. to find the golden gradient of a parameter."""
    entry = table.entry_of_path(path)
    assert entry is not None, f"no rule for {path}"
    return entry.key


def state_of(table: Table, params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse, for gradients and trained parameters: flat `our path -> array` to PyTorch key -> array."""
    return table.to_torch(params)


def diffact_params(state: Mapping[str, Any], prefix: str = "") -> Params:
    """`{"encoder": ..., "decoder": ...}` of a DiffAct state dict."""
    return params_of(tst_tables.DIFFACT, state, prefix)


def diffact_layer_params(state: Mapping[str, Any], prefix: str = "") -> Params:
    """One encoder or decoder layer of DiffAct."""
    return params_of(tst_tables.DIFFACT_LAYER, state, prefix)


def refiner_params(state: Mapping[str, Any], prefix: str = "") -> Params:
    """The TST refiner alone, keys without `refiner.`."""
    return params_of(tst_tables.REFINER, state, prefix)


def tst_params(state: Mapping[str, Any]) -> Params:
    """`{"backbone": ..., "refiner": ...}` of a DiffAct + TST state dict."""
    return params_of(tst_tables.combined(tst_tables.DIFFACT), state)


def asformer_params(state: Mapping[str, Any], prefix: str = "") -> Params:
    """`{"encoder": ..., "decoders": ...}` of an ASFormer state dict."""
    return params_of(tst_tables.ASFORMER, state, prefix)


def asrf_params(state: Mapping[str, Any], prefix: str = "") -> Params:
    """ASFormer with ASRF's branches; in a combined file its keys stand below `adapter.backbone.`."""
    return params_of(tst_tables.ASRF, state, prefix)


def asrf_tst_params(state: Mapping[str, Any]) -> Params:
    """`{"backbone": ..., "refiner": ...}` of an ASFormer + ASRF + TST state dict."""
    return params_of(tst_tables.combined(tst_tables.ASRF), state)


def asot_params(state: Mapping[str, Any]) -> Params:
    """`{"layers": ..., "clusters": ...}` of an ASOT state dict."""
    layers = sum(key.startswith("mlp.") and key.endswith(".weight") for key in state)
    return params_of(asot.table(layers), state)


def generator_params(state: Mapping[str, Any]) -> Params:
    """`{"f_embed": ..., "f_cls": ...}` of FuSTAL's generator."""
    return params_of(fustal_tables.GENERATOR, state)


def student_params(state: Mapping[str, Any], table: Table = fustal_tables.TRIDET) -> Params:
    """A `Detector` from a state dict of FuSTAL's student, TriDet or (with its table) ActionFormer."""
    return params_of(table, {key.removeprefix("module."): value for key, value in state.items()})


def spot_params(state: Mapping[str, Any]) -> Params:
    """The network of SPOT."""
    return params_of(spot_tables.SPOT, spot_tables.without_prefix(state))


def older_refiner_params(state: Mapping[str, Any]) -> Params:
    """The refiner of the older TST models (`asformer_tst`, both versions); what stands beside it is left out.

    Those are the boundary stages `brb.*` of the first version and the unused second self-attention of the second.
    """
    own = {_older_name(key): value for key, value in state.items() if not key.startswith(("brb.", "local_sa2."))}
    return params_of(tst_tables.REFINER, own)


def boundary_stage_params(state: Mapping[str, Any], prefix: str = "") -> Params:
    """One MS-TCN stage, such as an ASRF boundary stage below `brb.0.`."""
    return params_of(tst_tables.DILATED_STACK, state, prefix)


def swin_params(state: Mapping[str, Any], table: Table = tallformer_tables.VIDEO_SWIN, prefix: str = "") -> Params:
    """A `VideoSwin`, or with its table one of its parts, from a state dict or its keys below `prefix`."""
    buffers = tallformer_tables.BACKBONE_BUFFERS
    kept = {key: value for key, value in _below(state, prefix).items() if key.rsplit(".", 1)[-1] not in buffers}
    return unflatten(table.convert_all(kept))


# The older TST models name the refiner's blocks differently; no checkpoint of them is published.
_OLDER_NAMES = {
    "pd_linear1": "pd_proj",
    "pd_linear2": "pd_proj2",
    "sd_linear1": "feat_proj",
    "sd_linear2": "onehot_proj",
    "local_ca": "cross_attn",
    "local_ca2": "cross_attn2",
    "local_sa": "self_attn",
    "class_embed": "class_head",
    "mask_embed": "mask_head",
}


def _older_name(key: str) -> str:
    block, rest = key.split(".", 1)
    return f"{_OLDER_NAMES.get(block, block)}.{rest}"


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in kept.items() if key.rsplit(".", 1)[-1] not in tst_tables.BUFFERS}
