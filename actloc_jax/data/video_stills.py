"""Small pictures of a video, for pages that show it where the file itself cannot be played (numpy and Pillow only)."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from actloc_jax.data.video_files import VideoFile, read_index

_QUALITY = 70  # of JPEG


class Still(NamedTuple):
    """A picture: its time in seconds, and the bytes of a JPEG file."""

    time: float
    jpeg: bytes


def read_stills(path: epath.PathLike, *, count: int = 24, width: int = 240) -> list[Still]:
    """Evenly spaced frames, each from the middle of its share of the video.

    Args:
        path: a video file.
        count: of pictures; fewer where the video has fewer frames.
        width: of a picture, in pixels; the height follows, and no picture is larger than the frame.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as a video; PyAV is missing.
    """
    if not epath.Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; expected a video file")
    index = read_index(epath.Path(path))
    width = min(width, index.width)
    height = max(1, round(index.height * width / index.width))
    video = VideoFile(path, size=(height, width), index=index)
    count = min(count, len(video))
    stills = []
    for position in ((2 * np.arange(count) + 1) * len(video) // (2 * count)).tolist():
        jpeg = io.BytesIO()
        Image.fromarray(video.read(position, 1)[0]).save(jpeg, format="JPEG", quality=_QUALITY)
        stills.append(Still(float(index.times[position] * index.time_base), jpeg.getvalue()))
    return stills
