"""Resizing and cropping of frames exactly as the published extractors did it (numpy and Pillow).

The same picture resized by another program differs by a grey level here and there, which moves I3D's features by 1e-2.
`pillow_*` is Pillow's own; `opencv_linear` computes what OpenCV's `INTER_LINEAR` computes, bit for bit on uint8.
Pictures are [height, width, channels].
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image

_BITS = 11  # of OpenCV's weights


def pillow_edge(picture: np.ndarray, size: int, *, edge: str = "shorter") -> np.ndarray:
    """Bilinear with antialias, until the shorter (or longer) edge is `size`; the other edge is rounded down.

    Source: `v-iashin/video_features:models/transforms.py`.

    Args:
        picture: [height, width, 3] uint8 RGB.
        size: pixels.
        edge: "shorter" or "longer".
    """
    height, width = picture.shape[:2]
    if min(height, width) == size:
        return picture
    if (width < height) == (edge == "shorter"):
        wanted = size, int(size * height / width)
    else:
        wanted = int(size * width / height), size
    return np.asarray(Image.fromarray(picture).resize(wanted, Image.Resampling.BILINEAR))


def pillow_lanczos(picture: np.ndarray, size: int) -> np.ndarray:
    """Lanczos to a square, the aspect ratio not kept (the mode `resize` of THUMOS14's extractor).

    [height, width, 3] uint8 RGB to [size, size, 3].
    """
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


def opencv_shorter_edge(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width when the shorter edge becomes `size`; the other edge is rounded, halves up (MS-TCN)."""
    scale = np.float32(size / min(height, width))
    return tuple(math.floor(float(scale * np.float32(edge)) + 0.5) for edge in (height, width))


def opencv_linear(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialias, as OpenCV's `INTER_LINEAR`.

    Args:
        picture: uint8, computed in whole numbers as OpenCV does; or float32, ordinary bilinear (for optical flow).
        height: of the result.
        width: of the result.

    Returns:
        [height, width, channels] of the same type.
    """
    if picture.shape[:2] == (height, width):
        return picture
    upper, lower, low, high = _weights(picture.shape[0], height, False)
    left, right, near, far = _weights(picture.shape[1], width, True)
    if picture.dtype != np.uint8:
        near, far, low, high = (table.astype(np.float32) / 2**_BITS for table in _exact(picture.shape, height, width))
    near, far = near[None, :, None], far[None, :, None]
    rows, position = np.unique(np.concatenate([upper, lower]), return_inverse=True)
    taken = picture[rows] if picture.dtype != np.uint8 else picture[rows].astype(np.int32)
    across = taken[:, left] * near + taken[:, right] * far
    above, below = across[position[:height]], across[position[height:]]
    low, high = low[:, None, None], high[:, None, None]
    if picture.dtype != np.uint8:
        return (above * low + below * high).astype(picture.dtype)
    # OpenCV keeps 16 of the bits of each product before it adds them
    total = ((low * (above >> 4)) >> 16) + ((high * (below >> 4)) >> 16)
    return ((total + 2) >> 2).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int, across: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel its two old ones, and their weights as integers that add up to 2048.

    Beyond the edge there is one pixel only: across, the weights say so; down, both are that pixel.
    """
    first, share = _positions(old, new)
    if across:
        share = np.where((first < 0) | (first >= old - 1), np.float32(0), share)
    weights = np.rint((1 - share) * 2**_BITS).astype(np.int32), np.rint(share * 2**_BITS).astype(np.int32)
    return np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1), *weights


def _exact(shape: tuple[int, ...], height: int, width: int) -> tuple[np.ndarray, ...]:
    """The weights across and down times 2048, not rounded."""
    _, down = _positions(shape[0], height)
    first, across = _positions(shape[1], width)
    across = np.where((first < 0) | (first >= shape[1] - 1), np.float32(0), across)
    return tuple(share * 2**_BITS for share in (1 - across, across, 1 - down, down))


def _positions(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """The old pixel before each new one, int64, and how far behind it the new one lies, float32 in 0..1."""
    places = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(places)
    return first.astype(np.int64), places - first


def corner(height: int, width: int, size: int, rule: str) -> tuple[int, int]:
    """First row and column of the square in the centre.

    Args:
        height: of the picture.
        width: of the picture.
        size: of the square.
        rule: how halves are rounded. "floor" ((n - size) // 2: video_features), "halves" (n // 2 - size // 2: MS-TCN),
            or "even" (round half to even: pytorch-i3d).

    Raises:
        ValueError: the picture is smaller than the square, or the rule is unknown.
    """
    if min(height, width) < size:
        raise ValueError(f"a picture of {height}x{width} (height x width) is smaller than the crop of {size}x{size}")
    if rule == "floor":
        return (height - size) // 2, (width - size) // 2
    if rule == "halves":
        return height // 2 - size // 2, width // 2 - size // 2
    if rule == "even":
        return round((height - size) / 2), round((width - size) / 2)
    raise ValueError(f"rule={rule!r} is unknown; use floor, halves or even")


def centre_crop(picture: np.ndarray, size: int, rule: str = "floor") -> np.ndarray:
    """The square in the centre, [size, size, channels]; see `corner`."""
    top, left = corner(*picture.shape[:2], size, rule)
    return picture[top : top + size, left : left + size]


def ten_crops(picture: np.ndarray, size: int) -> np.ndarray:
    """[10, size, size, channels]: top left, top right, centre, bottom left, bottom right, and those of the mirror.

    Mirrored optical flow keeps the sign of its horizontal part, as published. Source:
    `Finspire13/pytorch-i3d-feature-extraction:extract_features.py`.
    """
    return np.concatenate([_five_crops(picture, size), _five_crops(picture[:, ::-1], size)])


def _five_crops(picture: np.ndarray, size: int) -> np.ndarray:
    height, width = picture.shape[:2]
    right, bottom = width - size, height - size
    corners = [(0, 0), (0, right), corner(height, width, size, "floor"), (bottom, 0), (bottom, right)]
    return np.stack([picture[top : top + size, left : left + size] for top, left in corners])
