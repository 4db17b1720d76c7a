"""Small videos for tests, in each form that is read."""

from __future__ import annotations

import fractions
import pathlib
import struct

import numpy as np
from PIL import Image


def pictures(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """[frames, height, width, 3] uint8: a bright square on grey that moves to the right, frame by frame."""
    found = np.full([frames, height, width, 3], 90, np.uint8)
    for number in range(frames):
        left = 2 * number % (width - 8)
        found[number, 8:20, left : left + 8] = (230, 40 + 5 * number % 200, 60)
    return found


def write_video(path: pathlib.Path, frames: np.ndarray, times: list[int], rate: int = 30) -> None:
    """Writes frames that are shown at `times`, in units of 1 / rate seconds, with a key frame every 12."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate, stream.gop_size = "yuv420p", 4_000_000, 12
        stream.codec_context.time_base = fractions.Fraction(1, rate)
        for picture, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, fractions.Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_images(folder: pathlib.Path, frames: np.ndarray) -> None:
    """Writes 00001.png, 00002.png ..."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(frames, start=1):
        Image.fromarray(picture).save(folder / f"{number:05d}.png")


def turn(path: pathlib.Path, degrees: int) -> None:
    """Says in an `.mp4` file that its frames are shown turned with the clock, by 90, 180 or 270 degrees."""
    matrices = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    a, b, c, d = matrices[degrees]
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # the matrix of the track header, version 0
    unit = 1 << 16
    content[place : place + 36] = struct.pack(">9i", a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
