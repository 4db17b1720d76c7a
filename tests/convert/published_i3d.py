"""Key sets of I3D's two ports, as their code names and shapes its arrays, at any share of the published widths."""

from __future__ import annotations

from tests.convert.published import Shapes

BLOCKS = {  # in channels, widths of the four branches
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
BRANCHES = {
    "pytorch-i3d": ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"),
    "video_features": ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1"),
}
NORMS = {"pytorch-i3d": "bn", "video_features": "batch3d"}


def i3d_shapes(port: str, *, channels: int = 3, classes: int = 400, divisor: int = 1, counters: bool = False) -> Shapes:
    """The keys of a file of one stream; with `counters` as PyTorch writes it since 0.4.1."""
    norm, is_first = NORMS[port], port == "pytorch-i3d"

    def unit(name: str, kernel: int, inputs: int, outputs: int) -> Shapes:
        shapes: Shapes = {f"{name}.conv3d.weight": (outputs, inputs, kernel, kernel, kernel)}
        shapes |= {f"{name}.{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
        return shapes | ({f"{name}.{norm}.num_batches_tracked": ()} if counters else {})

    stem, block = ("Conv3d", "Mixed") if is_first else ("conv3d", "mixed")
    width = 1024 // divisor
    logits: Shapes = {
        f"{'logits' if is_first else 'conv3d_0c_1x1'}.conv3d.weight": (classes, width, 1, 1, 1),
        f"{'logits' if is_first else 'conv3d_0c_1x1'}.conv3d.bias": (classes,),
    }
    shapes = dict(logits) if is_first else {}
    shapes |= unit(f"{stem}_1a_7x7", 7, channels, 64 // divisor)
    shapes |= unit(f"{stem}_2b_1x1", 1, 64 // divisor, 64 // divisor)
    shapes |= unit(f"{stem}_2c_3x3", 3, 64 // divisor, 192 // divisor)
    for name, widths in BLOCKS.items():
        inputs, *outputs = (number // divisor for number in widths)
        before = (inputs, inputs, outputs[1], inputs, outputs[3], inputs)
        for place, branch in enumerate(BRANCHES[port]):
            kernel = 3 if place in (2, 4) else 1
            shapes |= unit(f"{block}_{name}.{branch}", kernel, before[place], outputs[place])
    return shapes | logits
