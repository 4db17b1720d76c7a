"""Pictures, flow and resized snippets as the published extractors make them."""

from __future__ import annotations

import numpy as np

from actloc_jax.data import flow_values, frame_resizing, tsn_rescaling
from tests.parity.harness import Case, parity


@parity("features", "rgb_transform")
def check_pictures(case: Case) -> None:
    """Pillow's and OpenCV's arithmetic, crops and their rounding, levels to network values."""
    side, crop = case.config["side"], case.config["crop"]
    for given in case.config["frames"]:
        expected = {
            name.split("/")[1]: array for name, array in case.arrays.items() if name.startswith(given["name"] + "/")
        }
        frame = expected["frame"]
        resized = frame_resizing.pillow_edge(frame, side)
        opencv = frame_resizing.opencv_linear(frame, *frame_resizing.opencv_shorter_edge(*frame.shape[:2], side))
        found = {
            "frame": frame,
            "pil_resized": resized,
            "pil_resized_larger_edge_shape": frame_resizing.pillow_edge(frame, side, edge="longer").shape[:2],
            "cv2_resized": opencv,
            "cv2_crop": frame_resizing.centre_crop(opencv, crop, "halves"),
            "pil_lanczos_square": frame_resizing.pillow_lanczos(frame, crop),
            "piergiaj_center_crop_corner": frame_resizing.centre_crop(resized, crop, "even")[:2, :2],
        }
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=f"{given['name']} {name}")
        values = {
            "pil_network_input": _channels_first(frame_resizing.centre_crop(resized, crop)),
            "cv2_network_input_first_row": flow_values.from_levels(found["cv2_crop"])[:1],
        }
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[name], **_tolerance(case), err_msg=f"{given['name']} {name}")
        assert set(found) | set(values) == set(expected)


def _channels_first(picture: np.ndarray) -> np.ndarray:
    """[height, width, channels] levels to [1, channels, 1, height, width] values."""
    return flow_values.from_levels(picture).transpose(2, 0, 1)[None, :, None]


@parity("features", "flow_transform")
def check_flow_values(case: Case) -> None:
    """Levels and values of the three recipes; the bound itself, and no motion."""
    assert case.config["bound"] == flow_values.BOUND
    flow = case.arrays["flow"].transpose(0, 2, 3, 1)
    levels, image = flow_values.shared_levels(flow), flow_values.image_levels(flow)
    shared = flow_values.from_levels(levels)
    size = case.arrays["video_features/network_input_crop8"].shape[-1]
    crops = np.stack([frame_resizing.centre_crop(field, size) for field in shared])
    found = {
        "video_features/quantised": levels,
        "video_features/network_value": shared,
        "mstcn/network_value": flow_values.divided(flow),
        "dense_flow/uint8": image,
        "dense_flow/network_value": flow_values.from_levels(image),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value.transpose(0, 3, 1, 2), case.arrays[name], **_tolerance(case), err_msg=name)
    cropped = crops.transpose(3, 0, 1, 2)[None]
    np.testing.assert_allclose(cropped, case.arrays["video_features/network_input_crop8"], **_tolerance(case))


@parity("features", "tsn_rescale")
def check_rescaled_snippets(case: Case) -> None:
    """Sequences of 1 to 173 snippets at 100 steps."""
    config = case.config
    options = {"steps": config["target"], "samples": config["samples_per_bin"]}
    for given in config["cases"]:
        name = given["name"]
        x = case.arrays[f"{name}/x"]
        video = {"frames": given["duration_frame"], "seconds": given["duration_second"], "interval": config["interval"]}
        found = {
            "bsn_pool_mean_100": tsn_rescaling.pooled(x, **video, **options),
            "bsn_pool_max_100": tsn_rescaling.pooled(x, **video, **options, pool=np.max),
            "linear_endpoints_100": tsn_rescaling.spread(x, steps=config["target"]),
            "mmaction_pool_100": tsn_rescaling.pooled_by_index(x, **options),
        }
        for kind, value in found.items():
            expected = case.arrays[f"{name}/{kind}"]
            np.testing.assert_allclose(value, expected, **_tolerance(case), err_msg=f"{name} {kind}")


def _tolerance(case: Case) -> dict[str, float]:
    return {name: case.meta["tolerance"][name] for name in ("rtol", "atol")}
