"""Tables of names for FuSTAL, TriDet and ActionFormer: PyTorch on the left, ours on the right, for every size.

Student checkpoints of FuSTAL, and those of TriDet and ActionFormer, have the prefix `module.` before every key.
"""

from __future__ import annotations

from convert.mapping import Rule, Table

GENERATOR = Table(
    [
        Rule("aness_module.f_embed.0", "f_embed", "conv"),
        Rule("aness_module.f_cls.0", "f_cls", "pointwise"),
    ]
)

SGP_BLOCK = Table(
    [
        Rule("ln", "ln", "channel_norm"),
        Rule("gn", "gn", "norm"),
        Rule("{psi|fc|convw|convkw|global_fc}", "{psi|fc|convw|convkw|global_fc}", "conv"),
        Rule("mlp.0", "mlp/linear_in", "pointwise"),
        Rule("mlp.2", "mlp/linear_out", "pointwise"),
        Rule("downsample.1", "downsample", "pointwise"),
        Rule("{drop_path_out|drop_path_mlp}", "{drop_path_out|drop_path_mlp}", "channel_scale"),
    ]
)
ATTENTION = Table(
    [
        Rule("{query|key|value}_conv.conv", "{query|key|value}_conv", "conv"),
        Rule("{query|key|value}_norm", "{query|key|value}_norm", "channel_norm"),
        Rule("{query|key|value|proj}", "{query|key|value|proj}", "pointwise"),
    ]
)
POSITION_BIAS = Rule("attn", "attn", "position_bias")
TRANSFORMER_BLOCK = Table(
    [
        Rule("{ln1|ln2}", "{ln1|ln2}", "channel_norm"),
        *ATTENTION.under("attn.", "attn/"),
        POSITION_BIAS,
        Rule("mlp.0", "mlp/linear_in", "pointwise"),
        Rule("mlp.3", "mlp/linear_out", "pointwise"),
        Rule("{drop_path_attn|drop_path_mlp}", "{drop_path_attn|drop_path_mlp}", "channel_scale"),
    ]
)
CONV_BLOCK = Table([Rule("{conv1|conv2|downsample}.conv", "{conv1|conv2|downsample}", "conv")])

NECK = Table(
    [
        Rule("fpn_norms.{i}", "fpn_norms/{i}", "channel_norm"),
        Rule("{lateral_convs|fpn_convs}.{i}.conv", "{lateral_convs|fpn_convs}/{i}", "conv"),
    ]
)
HEAD = Table(
    [
        Rule("head.{i}.conv", "head/{i}", "conv"),
        Rule("norm.{i}", "norm/{i}", "channel_norm"),
        Rule("{cls_head|offset_head}.conv", "{cls_head|offset_head}", "conv"),
        Rule("scale.{i}", "scale/{i}", "scalar"),
    ]
)


def detector(block: Table) -> Table:
    """The table of a whole network with these blocks."""
    heads = ("cls_head", "start_head", "end_head", "reg_head")
    return Table(
        [
            Rule("backbone.embd.{i}.conv", "backbone/embd/{i}", "conv"),
            Rule("backbone.embd_norm.{i}", "backbone/embd_norm/{i}", "channel_norm"),
            *block.under("backbone.{stem|branch}.{i}.", "backbone/{stem|branch}/{i}/"),
            *NECK.under("neck.", "neck/"),
            *(rule for head in heads for rule in HEAD.under(f"{head}.", f"{head}/")),
        ]
    )


TRIDET = detector(SGP_BLOCK)
ACTIONFORMER = detector(TRANSFORMER_BLOCK)
CONV_DETECTOR = detector(CONV_BLOCK)
