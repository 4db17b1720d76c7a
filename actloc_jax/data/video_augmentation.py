"""What is drawn for one training clip: crop, colours, rotation, flip; one draw for all its frames (numpy only).

Crops are cut here. Everything that makes new pixel values is only drawn here and done on the device
(`ops/video_frames.py`), so that frames travel as uint8 and no value is rounded.
Sources: `klauscc/TALLFormer:vedatad/datasets/pipelines/transforms.py`, the order of the draws as there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Random = np.random.Generator | np.random.RandomState
Draws = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much frames are changed; defaults as published.

    Attributes:
        distort: probability of a change of colours.
        brightness: added, at most this many of 255 grey levels up or down.
        contrast, saturation: least and largest factor.
        hue: turned by at most this many degrees.
        rotate: probability of a rotation.
        angle: by at most this many degrees.
        flip: probability of a horizontal flip.
    """

    distort: float = 0.5
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    rotate: float = 0.5
    angle: float = 45.0
    flip: float = 0.5

    def draw(self, rng: Random) -> Draws:
        """One clip's draws, scalars except for `channel_order` [3]; see `ops.video_frames.Changes`."""
        return {**draw_colours(self, rng), "angle": draw_angle(self, rng), "flip": draw_flip(self, rng)}


def unchanged() -> Draws:
    """The draws that leave a clip as it is: evaluation."""
    return {**_same_colours(), "angle": np.float32(0), "flip": np.bool_(False)}


def draw_colours(settings: Augmentation, rng: Random) -> Draws:
    """Brightness, contrast, saturation, hue and order of the channels."""
    draws = _same_colours()
    if rng.uniform(0, 1) > settings.distort:
        return draws
    draws["distort"] = np.bool_(True)
    if _coin(rng):
        draws["brightness"] = np.float32(rng.uniform(-settings.brightness, settings.brightness))
    contrast_first = _coin(rng)
    if contrast_first and _coin(rng):
        draws["contrast_before"] = np.float32(rng.uniform(*settings.contrast))
    if _coin(rng):
        draws["saturation"] = np.float32(rng.uniform(*settings.saturation))
    draws["hue"] = np.float32(rng.uniform(-settings.hue, settings.hue))  # always, other than the rest
    if not contrast_first and _coin(rng):
        draws["contrast_after"] = np.float32(rng.uniform(*settings.contrast))
    if _coin(rng):
        # The published order is that of blue, green, red; ours is of red, green, blue.
        draws["channel_order"] = (2 - rng.permutation(3)[::-1]).astype(np.int32)
    return draws


def draw_angle(settings: Augmentation, rng: Random) -> np.float32:
    """Degrees, clockwise; 0 for no rotation."""
    turned = rng.uniform(0, 1) <= settings.rotate
    return np.float32(rng.uniform(-settings.angle, settings.angle) if turned else 0.0)


def draw_flip(settings: Augmentation, rng: Random) -> np.bool_:
    """Whether left and right are exchanged."""
    return np.bool_(rng.uniform(0, 1) < settings.flip)


def draw_crop(height: int, width: int, size: tuple[int, int], rng: Random) -> tuple[int, int]:
    """Upper left corner (y, x) of a random crop of (height, width) `size`; 0 along an axis that is no longer."""
    y, x = (draw_integer(rng, max(have - want, 0) + 1) for have, want in zip((height, width), size, strict=True))
    return y, x


def centre_crop(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Upper left corner (y, x) of the crop in the middle; 0 along an axis that is no longer."""
    y, x = (max(have - want, 0) // 2 for have, want in zip((height, width), size, strict=True))
    return y, x


def crop(frames: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """[time, height, width, 3] cut to at most `size` (height, width) from `corner` (y, x) on."""
    return frames[:, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]


def draw_integer(rng: Random, below: int) -> int:
    """0 to `below - 1`."""
    return int(rng.randint(below) if isinstance(rng, np.random.RandomState) else rng.integers(below))


def _same_colours() -> dict[str, Any]:
    return {
        "distort": np.bool_(False),
        "brightness": np.float32(0),
        "contrast_before": np.float32(1),
        "saturation": np.float32(1),
        "hue": np.float32(0),
        "contrast_after": np.float32(1),
        "channel_order": np.arange(3, dtype=np.int32),
    }


def _coin(rng: Random) -> bool:
    return bool(draw_integer(rng, 2))
