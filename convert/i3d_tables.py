"""Tables of names for I3D: PyTorch on the left, ours on the right, one per port of the network."""

from __future__ import annotations

from convert.mapping import Rule, Table

STEM = "{1a_7x7|2b_1x1|2c_3x3}"
BLOCKS = "{3b|3c|4b|4c|4d|4e|4f|5b|5c}"
BRANCHES = {  # ours, which are those of port pytorch-i3d -> those of port video_features
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}


def unit(torch: str, ours: str, norm: str) -> list[Rule]:
    """A convolution below the names given, and its batch norm, which the port calls `norm`."""
    return [Rule(f"{torch}.conv3d", ours, "video_conv"), Rule(f"{torch}.{norm}", f"{ours}/norm", "batch_norm")]


PYTORCH_I3D = Table(
    [
        *unit(f"Conv3d_{STEM}", f"conv3d_{STEM}", "bn"),
        *(rule for own in BRANCHES for rule in unit(f"Mixed_{BLOCKS}.{own}", f"mixed_{BLOCKS}/{own}", "bn")),
        Rule("logits.conv3d", "logits", "video_conv"),
    ]
)
VIDEO_FEATURES = Table(
    [
        *unit(f"conv3d_{STEM}", f"conv3d_{STEM}", "batch3d"),
        *(
            rule
            for own, torch in BRANCHES.items()
            for rule in unit(f"mixed_{BLOCKS}.{torch}", f"mixed_{BLOCKS}/{own}", "batch3d")
        ),
        Rule("conv3d_0c_1x1.conv3d", "logits", "video_conv"),
    ]
)
TABLES = {"pytorch-i3d": PYTORCH_I3D, "video_features": VIDEO_FEATURES}
"""By the names of `actloc_jax.backbones.i3d.PORTS`."""
