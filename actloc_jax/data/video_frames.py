"""Videos as random access to frames: a video file, a folder of decoded images, or a `.npy` array (numpy only).

```
<video>.mp4, .mkv, .avi ...     decoded when needed, see video_files.py
<video>/00001.png ...           one image per frame in order of their names, as `ffmpeg -vf fps=15 ... %05d.png` writes
<video>.npy                     uint8 [time, height, width, 3] RGB, memory-mapped
```
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from actloc_jax.data.video_files import VIDEO_SUFFIXES, VideoFile

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

Rate = float | Callable[[int], float]
"""Frames per second of decoded frames, or what tells it by their number."""


class Frames(Protocol):
    """The frames of a video at `fps` frames per second; `shape` is (height, width, 3)."""

    fps: float

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def read(self, first: int, count: int) -> np.ndarray:
        """[count, height, width, 3] uint8 RGB."""


class FrameFolder:
    """A folder with one image per frame.

    Args:
        path: the folder.
        fps: frames per second at which they were taken.

    Attributes:
        files: the images.

    Raises:
        FileNotFoundError: no images.
    """

    def __init__(self, path: epath.PathLike, *, fps: Rate) -> None:
        self.path = epath.Path(path)
        folder = self.path if self.path.is_dir() else None
        self.files = (
            sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES) if folder else []
        )
        if not self.files:
            raise FileNotFoundError(f"{self.path} holds no images; expected one per frame, 00001.png, 00002.png ...")
        self._shape = decode_image(self.files[0].read_bytes(), self.files[0]).shape
        self.fps = fps(len(self.files)) if callable(fps) else fps

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels, those of the first image."""
        return self._shape

    def read(self, first: int, count: int) -> np.ndarray:
        """[count, height, width, 3] uint8 RGB.

        Raises:
            ValueError: frames that are not there, an image that cannot be read or is of another size.
        """
        check_range(self.path, len(self), first, count)
        files = self.files[first : first + count]
        return decode_images([(file.read_bytes(), file) for file in files], self.shape)


class FrameArray:
    """A `.npy` file of frames, read where it is needed.

    Args:
        path: the file, uint8 [time, height, width, 3] RGB.
        fps: frames per second at which they were taken.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another type or shape.
    """

    def __init__(self, path: epath.PathLike, *, fps: Rate) -> None:
        self.path = epath.Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist; expected frames, uint8 [time, height, width, 3]")
        try:
            self._frames = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{self.path} cannot be read as a .npy file ({error}); write it again") from error
        if self._frames.dtype != np.uint8 or self._frames.ndim != 4 or self._frames.shape[-1] != 3:
            found = f"{self._frames.dtype} {list(self._frames.shape)}"
            raise ValueError(f"{self.path} is {found}; expected uint8 [time, height, width, 3]")
        self.fps = fps(len(self._frames)) if callable(fps) else fps

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self._frames.shape[1:]

    def read(self, first: int, count: int) -> np.ndarray:
        """[count, height, width, 3] uint8 RGB. Raises ValueError for frames that are not there."""
        check_range(self.path, len(self), first, count)
        return np.array(self._frames[first : first + count])


def open_frames(
    path: epath.PathLike,
    *,
    fps: float | None,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    rate: Callable[[int], float] | None = None,
) -> Frames:
    """Opens a video in any of the three forms.

    Args:
        path: the video; for decoded frames the folder or the `.npy` file.
        fps: frames per second of the result, None keeps those of a video file; decoded frames must have been taken at
            it.
        size: (height, width); decoded frames must have it.
        max_frames: see `VideoFile`.
        rate: number of decoded frames -> their frames per second, where `fps` is None.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: something else, frames of another size, decoded frames of an unknown rate, or a file that is not
            local.
    """
    path = epath.Path(path)
    if "://" in os.fspath(path) and path.suffix.lower() in (*VIDEO_SUFFIXES, ".npy"):
        raise ValueError(
            f"{path} is not a local file: parts of video files and of .npy files of frames are read where they lie. "
            f"Copy them to a local disk or mount the bucket (docs/tpu.md)"
        )
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFile(path, fps=fps, size=size, max_frames=max_frames)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a video file, a folder of images or a .npy file")
    if not path.is_dir() and path.suffix != ".npy":
        raise ValueError(
            f"{path} is no video: expected {', '.join(VIDEO_SUFFIXES)}, a folder of images, or a .npy file of frames"
        )
    known = known_rate(path, fps, rate)
    frames = FrameFolder(path, fps=known) if path.is_dir() else FrameArray(path, fps=known)
    require_size(frames, path, size)
    return frames


def known_rate(path: epath.PathLike, fps: float | None, rate: Callable[[int], float] | None) -> Rate:
    """The rate of decoded frames. Raises ValueError if nobody says it."""
    if fps is None and rate is None:
        raise ValueError(
            f"{path} holds decoded frames, and it is not known how many of them are a second; name the rate at which "
            f"they were taken (--config.data.fps), or give the video file"
        )
    return rate if fps is None else fps


def require_size(frames: Frames, path: epath.PathLike, size: tuple[int, int] | None) -> None:
    """Raises ValueError if decoded frames are not of this (height, width)."""
    if size is not None and frames.shape[:2] != tuple(size):
        raise ValueError(
            f"{path} has frames of {frames.shape[0]}x{frames.shape[1]}, expected {size[0]}x{size[1]} (height x width); "
            f"extract them again at that size or change the config's frame size"
        )


def decode_images(images: Sequence[tuple[bytes, object]], shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes images, each with its name for messages: [images, height, width, 3] uint8.

    Raises:
        ValueError: an image that cannot be read, or of another size.
    """
    frames = np.empty([len(images), *shape], np.uint8)
    for frame, (content, name) in zip(frames, images, strict=True):
        image = decode_image(content, name)
        if image.shape != shape:
            raise ValueError(f"{name} is {image.shape[:2]} large, the first frame {shape[:2]}; extract them again")
        frame[:] = image
    return frames


def decode_image(content: bytes, name: object) -> np.ndarray:
    """[height, width, 3] uint8 RGB. Raises ValueError if it is no image."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name} cannot be read as an image ({error}); extract the frames again") from error


def check_range(name: object, frames: int, first: int, count: int) -> None:
    """Raises ValueError for frames that a video does not have."""
    if first < 0 or count < 0 or first + count > frames:
        raise ValueError(f"{name} has {frames} frames; asked for {count} from {first} on")
