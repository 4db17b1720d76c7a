"""The table of names for RAFT: PyTorch on the left, ours on the right; it serves both sizes."""

from __future__ import annotations

from convert.mapping import Rule, Table

ENCODERS, STAGES = "{fnet|cnet}", "{layer1|layer2|layer3}"

RAFT = Table(
    [
        Rule(f"{ENCODERS}.{{conv1|conv2}}", f"{ENCODERS}/{{conv1|conv2}}", "image_conv"),
        Rule(f"{ENCODERS}.norm1", f"{ENCODERS}/norm1/batch", "batch_norm"),
        Rule(
            f"{ENCODERS}.{STAGES}.{{i}}.{{conv1|conv2|conv3}}",
            f"{ENCODERS}/{STAGES}/{{i}}/{{conv1|conv2|conv3}}",
            "image_conv",
        ),
        Rule(
            f"{ENCODERS}.{STAGES}.{{i}}.{{norm1|norm2}}",
            f"{ENCODERS}/{STAGES}/{{i}}/{{norm1|norm2}}/batch",
            "batch_norm",
        ),
        Rule(f"{ENCODERS}.{STAGES}.{{i}}.downsample.0", f"{ENCODERS}/{STAGES}/{{i}}/downsample", "image_conv"),
        Rule(f"{ENCODERS}.{STAGES}.{{i}}.downsample.1", f"{ENCODERS}/{STAGES}/{{i}}/norm3/batch", "batch_norm"),
        Rule(
            "update_block.encoder.{convc1|convc2|convf1|convf2|conv}",
            "update_block/encoder/{convc1|convc2|convf1|convf2|conv}",
            "image_conv",
        ),
        Rule("update_block.gru.{convz|convr|convq}", "update_block/gru/{convz|convr|convq}", "image_conv"),
        Rule("update_block.gru.{convz|convr|convq}1", "update_block/gru_horizontal/{convz|convr|convq}", "image_conv"),
        Rule("update_block.gru.{convz|convr|convq}2", "update_block/gru_vertical/{convz|convr|convq}", "image_conv"),
        Rule("update_block.flow_head.{conv1|conv2}", "update_block/flow_head/{conv1|conv2}", "image_conv"),
        Rule("update_block.mask.0", "update_block/mask_head/conv1", "image_conv"),
        Rule("update_block.mask.2", "update_block/mask_head/conv2", "image_conv"),
    ]
)
