"""Key sets of RAFT's files, as its code names and shapes its arrays."""

from __future__ import annotations

from tests.convert.published import Shapes

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
STAGES = {"large": (64, 64, 96, 128), "small": (32, 32, 64, 96)}
FEATURES = {"large": {"fnet": 256, "cnet": 256}, "small": {"fnet": 128, "cnet": 160}}


def raft_shapes(size: str) -> Shapes:
    """The keys of a file, with the prefix of DataParallel."""
    shapes: Shapes = {}
    for encoder, features in FEATURES[size].items():
        shapes |= _encoder(size, features, has_norms=(size, encoder) == ("large", "cnet"), name=encoder)
    shapes |= {f"update_block.{key}": shape for key, shape in _update(size).items()}
    return {f"module.{key}": shape for key, shape in shapes.items()}


def _conv(name: str, inputs: int, outputs: int, rows: int, columns: int = 0) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, rows, columns or rows), f"{name}.bias": (outputs,)}


def _norm(name: str, features: int) -> Shapes:
    return {f"{name}.{part}": () if part == NORM[-1] else (features,) for part in NORM}


def _encoder(size: str, features: int, *, has_norms: bool, name: str) -> Shapes:
    stem, *stages = STAGES[size]
    shapes = (_norm("norm1", stem) if has_norms else {}) | _conv("conv1", 3, stem, 7)
    inputs = stem
    for number, width in enumerate(stages, start=1):
        for block in range(2):
            below, own = f"layer{number}.{block}", {}
            if size == "large":
                own |= _conv("conv1", inputs, width, 3) | _conv("conv2", width, width, 3)
            else:
                own |= _conv("conv1", inputs, width // 4, 1) | _conv("conv2", width // 4, width // 4, 3)
                own |= _conv("conv3", width // 4, width, 1)
            strides = block == 0 and number > 1
            if has_norms:
                own |= _norm("norm1", width) | _norm("norm2", width) | (_norm("norm3", width) if strides else {})
            if strides:
                own |= _conv("downsample.0", inputs, width, 1) | (_norm("downsample.1", width) if has_norms else {})
            shapes |= {f"{below}.{key}": shape for key, shape in own.items()}
            inputs = width
    shapes |= _conv("conv2", inputs, features, 1)
    return {f"{name}.{key}": shape for key, shape in shapes.items()}


def _update(size: str) -> Shapes:
    if size == "small":
        shapes = _conv("encoder.convc1", 196, 96, 1) | _conv("encoder.convf1", 2, 64, 7)
        shapes |= _conv("encoder.convf2", 64, 32, 3) | _conv("encoder.conv", 128, 80, 3)
        for gate in "zrq":
            shapes |= _conv(f"gru.conv{gate}", 242, 96, 3)
        return shapes | _conv("flow_head.conv1", 96, 128, 3) | _conv("flow_head.conv2", 128, 2, 3)
    shapes = _conv("encoder.convc1", 324, 256, 1) | _conv("encoder.convc2", 256, 192, 3)
    shapes |= _conv("encoder.convf1", 2, 128, 7) | _conv("encoder.convf2", 128, 64, 3)
    shapes |= _conv("encoder.conv", 256, 126, 3)
    for gate in "zrq":
        shapes |= _conv(f"gru.conv{gate}1", 384, 128, 1, 5) | _conv(f"gru.conv{gate}2", 384, 128, 5, 1)
    shapes |= _conv("flow_head.conv1", 128, 256, 3) | _conv("flow_head.conv2", 256, 2, 3)
    return shapes | _conv("mask.0", 128, 256, 3) | _conv("mask.2", 256, 576, 1)
