"""Tables of names for TST, DiffAct and ASFormer: PyTorch on the left, ours on the right; they hold for every size."""

from __future__ import annotations

from actloc_jax.ops import diffusion
from convert.mapping import Rule, Table

DIFFACT_LAYER = Table(
    [
        Rule("conv_block.0", "conv", "conv"),
        Rule("att_linear_{q|k|v}", "att_{q|k|v}", "pointwise"),
        Rule("ffn_block.0", "ffn_in", "pointwise"),
        Rule("ffn_block.2", "ffn_out", "pointwise"),
    ]
)
DIFFACT = Table(
    [
        Rule("encoder.conv_{in|out}", "encoder/conv_{in|out}", "pointwise"),
        *DIFFACT_LAYER.under("encoder.encoder.layers.{i}.", "encoder/layers/{i}/"),
        Rule("decoder.time_in.{i}", "decoder/time_in/{i}", "linear"),
        Rule("decoder.conv_{in|out}", "decoder/conv_{in|out}", "pointwise"),
        Rule("decoder.module.time_proj", "decoder/time_proj", "linear"),
        *DIFFACT_LAYER.under("decoder.module.layers.{i}.", "decoder/layers/{i}/"),
    ]
)

DILATED_STACK = Table(
    [  # an MS-TCN stage: TST's pixel decoder, ASRF's boundary stages
        Rule("conv_{in|out}", "conv_{in|out}", "pointwise"),
        Rule("layers.{i}.conv_dilated", "layers/{i}/conv_dilated", "conv"),
        Rule("layers.{i}.conv_in", "layers/{i}/conv_in", "pointwise"),
    ]
)
REFINER = Table(
    [
        Rule("feat_down", "feat_down", "linear"),
        *DILATED_STACK.under("pixel_decoder.", "pixel_decoder/"),
        Rule("{pd_proj|pd_proj2|onehot_proj}.layers.{i}", "{pd_proj|pd_proj2|onehot_proj}/layers/{i}", "linear"),
        Rule("{feat_proj|class_head|mask_head}", "{feat_proj|class_head|mask_head}", "linear"),
        Rule("label_embedding", "label_embedding", "embedding"),
        Rule(
            "{cross_attn|cross_attn2|self_attn}.{tgt2_linear|linear1|linear2}",
            "{cross_attn|cross_attn2|self_attn}/{tgt2_linear|linear1|linear2}",
            "linear",
        ),
        Rule(
            "{cross_attn|cross_attn2|self_attn}.{norm1|norm2|norm3}",
            "{cross_attn|cross_attn2|self_attn}/{norm1|norm2|norm3}",
            "norm",
        ),
        Rule("self_attn.conv_out", "self_attn/conv_out", "pointwise"),
        Rule("self_attn.self_attn", "self_attn/self_attn/in_proj", "in_projection"),
        Rule("self_attn.self_attn.out_proj", "self_attn/self_attn/out_proj", "linear"),
    ]
)

_ASFORMER_STACK = Table(
    [
        Rule("conv_{1x1|out}", "conv_{1x1|out}", "pointwise"),
        Rule("layers.{i}.feed_forward.layer.0", "layers/{i}/feed_forward", "conv"),
        Rule(
            "layers.{i}.att_layer.{query_conv|key_conv|value_conv|conv_out}",
            "layers/{i}/att_layer/{query_conv|key_conv|value_conv|conv_out}",
            "pointwise",
        ),
        Rule("layers.{i}.conv_1x1", "layers/{i}/conv_1x1", "pointwise"),
    ]
)
ASFORMER = Table(
    [
        *_ASFORMER_STACK.under("encoder.", "encoder/"),
        *_ASFORMER_STACK.under("decoders.{i}.", "decoders/{i}/"),
    ]
)
ASRF = Table(
    [
        *_ASFORMER_STACK.under("shared_layers.", "shared_layers/"),
        Rule("conv_{cls|bound}", "conv_{cls|bound}", "pointwise"),
        *_ASFORMER_STACK.under("asb.{i}.", "asb/{i}/"),
        *DILATED_STACK.under("brb.{i}.", "brb/{i}/"),
    ]
)


def combined(backbone: Table) -> Table:
    """The table of backbone and refiner in one file, as TST publishes them."""
    return Table([*backbone.under("adapter.backbone.", "backbone/"), *REFINER.under("refiner.", "refiner/")])


# Names of the diffusion schedule's buffers in a DiffAct state dict; they are not parameters.
BUFFERS = tuple(diffusion.schedule_buffers(1))


def alone(backbone: Table) -> Table:
    """The table of a backbone in a file of its own."""
    return Table(backbone.under("", "backbone/"))
