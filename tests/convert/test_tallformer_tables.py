"""Tables of names of Video Swin: what is left out of files, and what 2-D networks become."""

from __future__ import annotations

import numpy as np
import pytest

from actloc_jax.backbones.video_swin import PRESETS, VideoSwin
from actloc_jax.layers.functional import Network, count, flatten
from convert import tallformer_tables

# torch.nn.functional.interpolate of [0, 1, 4, 9, 16] to 3 and to 8 values, mode "bicubic"
DOWN = (0.148149, 4.0, 14.074071)
UP = (-0.092834, 0.187561, 1.176514, 2.619385, 5.441650, 8.471436, 13.395081, 16.649841)


def test_every_parameter_of_the_published_sizes_has_a_name() -> None:
    shapes = flatten(Network(lambda rngs: VideoSwin(PRESETS["base"], rngs=rngs)).shapes())
    assert count(shapes) == 87_638_984
    empty = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    names = tallformer_tables.VIDEO_SWIN.to_torch(empty)
    assert names["patch_embed.proj.weight"].shape == (128, 3, 2, 4, 4)
    assert names["layers.2.blocks.17.attn.relative_position_bias_table"].shape == (2535, 16)
    assert names["layers.0.downsample.reduction.weight"].shape == (256, 512)
    assert len(names) == len(shapes)


def test_the_backbone_is_found_in_every_kind_of_file() -> None:
    plain = {"patch_embed.proj.weight": np.ones(2), "norm.bias": np.zeros(3)}
    buffers = {"layers.0.blocks.0.attn.relative_position_index": 1, "layers.0.blocks.0.dummy_tensor": 2}
    detector = {f"module.backbone.{key}": value for key, value in (plain | buffers).items()} | {"module.neck.0": 3}
    kinetics = {
        "meta": {},
        "state_dict": {f"backbone.{key}": plain[key] for key in plain} | {"cls_head.fc_cls.bias": 4},
    }
    for file in (plain, detector, kinetics, {"model": plain | buffers}):
        assert list(tallformer_tables.backbone_state(file)) == list(plain)
    with pytest.raises(ValueError, match=r"no patch_embed\.proj\.weight; first keys: \['neck"):
        tallformer_tables.backbone_state({"neck.0.weight": 0})


def test_a_still_video_gives_what_the_picture_gave() -> None:
    draw = np.random.default_rng(0)
    kernel = draw.standard_normal((5, 3, 4, 4))
    video = tallformer_tables.inflated({"patch_embed.proj.weight": kernel}, 2, (8, 7, 7))["patch_embed.proj.weight"]
    assert video.shape == (5, 3, 2, 4, 4)
    np.testing.assert_allclose(video.sum(axis=2), kernel)


def test_tables_of_other_windows_are_resized_as_pytorch_does() -> None:
    row = np.arange(5.0) ** 2
    np.testing.assert_allclose(tallformer_tables.bicubic(5, 3) @ row, DOWN, atol=1e-5)
    np.testing.assert_allclose(tallformer_tables.bicubic(5, 8) @ row, UP, atol=1e-5)
    bad = {"patch_embed.proj.weight": np.zeros((1, 3, 4, 4)), "a.relative_position_bias_table": np.zeros((24, 2))}
    with pytest.raises(ValueError, match="no square"):
        tallformer_tables.inflated(bad, 2, (8, 7, 7))


def test_an_inflated_table_is_the_same_at_every_distance_in_time() -> None:
    draw = np.random.default_rng(1)
    state = {
        "patch_embed.proj.weight": np.zeros((1, 3, 4, 4)),
        "same.relative_position_bias_table": draw.standard_normal((9, 2)),
        "resized.relative_position_bias_table": np.ones((25, 2)),
    }
    state = tallformer_tables.inflated(state, 2, (4, 2, 2))
    same = state["same.relative_position_bias_table"].reshape(7, 9, 2)
    np.testing.assert_array_equal(same, np.broadcast_to(same[:1], same.shape))
    np.testing.assert_allclose(state["resized.relative_position_bias_table"], np.ones((63, 2)), atol=1e-6)


def test_conversion_is_undone_by_its_inverse() -> None:
    kernel = np.random.default_rng(2).standard_normal((2, 4, 4, 3, 5))
    state = tallformer_tables.VIDEO_SWIN.to_torch({"patch_embed/kernel": kernel})
    np.testing.assert_array_equal(tallformer_tables.VIDEO_SWIN.convert_all(state)["patch_embed/kernel"], kernel)
