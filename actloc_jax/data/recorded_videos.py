"""Reads videos from ArrayRecord files, which `video_records.py` writes (numpy only).

```
<folder>/videos.json                         where each video is, see `Place`
<folder>/videos-00000-of-00003.array_record  records one after another
```
Any record is read on its own, so that a chunk of a video costs no more than its frames.
"""

from __future__ import annotations

import dataclasses
import fractions
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from actloc_jax.data.json_files import read_json
from actloc_jax.data.video_files import VideoFile, VideoIndex
from actloc_jax.data.video_folder import spellings
from actloc_jax.data.video_frames import Frames, Rate, check_range, decode_images, known_rate, require_size

INDEX = "videos.json"
Form = Literal["file", "image", "array"]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a video is among the records.

    Attributes:
        form: a `"file"` as it was, or frame by frame: an encoded `"image"`, or the bytes of an `"array"` [height,
            width, 3] uint8.
        first: its first record; of a file the times of its frames as int64, its bytes follow.
        frames: how many.
        shape: (height, width, 3) of a frame.
        fps: of frames, None if unknown.
        suffix: of a file.
        time_base, start: of a file, see `VideoIndex`; the first as [numerator, denominator].
    """

    form: Form
    first: int
    frames: int
    shape: tuple[int, int, int]
    fps: float | None = None
    suffix: str = ""
    time_base: tuple[int, int] = (1, 1)
    start: int = 0


def holds_records(folder: epath.PathLike) -> bool:
    """Whether a folder holds videos in ArrayRecord files."""
    return (epath.Path(folder) / INDEX).exists()


class RecordedVideos:
    """The videos in the ArrayRecord files of a folder.

    Attributes:
        names: of the videos, in alphabetical order.

    Raises:
        FileNotFoundError: the folder lacks its index or one of its files.
        ValueError: the index is of something else, or a file cannot be read.
    """

    def __init__(self, root: epath.PathLike) -> None:
        self.root = epath.Path(root)
        what = "the index of videos in ArrayRecord files: {shards, videos}"
        content = read_json(self.root / INDEX, what=what)
        if not isinstance(content, dict) or not {"shards", "videos"} <= content.keys():
            raise ValueError(f"{self.root / INDEX} is not {what}; write the records again")
        paths = [self.root / name for name in content["shards"]]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise FileNotFoundError(
                f"{self.root} lacks {len(missing)} of its {len(paths)} ArrayRecord files, e.g. {missing[0]}; copy "
                f"them, or write them again with python -m actloc_jax.data.video_records"
            )
        self._places = {name: Place(**entry) for name, entry in content["videos"].items()}
        self._records = _Records(paths)
        self.names = tuple(sorted(self._places))

    def open(
        self,
        video: str,
        *,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
        max_frames: int | None = None,
        rate: Callable[[int], float] | None = None,
    ) -> Frames:
        """The frames of a video; as `open_frames`, but for decoded frames that were written with their rate.

        Raises:
            FileNotFoundError: no such video.
            ValueError: frames of another size, another rate, or an unknown one.
        """
        found = next((name for name in spellings(video) if name in self._places), None)
        if found is None:
            raise FileNotFoundError(f"{self.root} has no video {video} among its {len(self._places)}; write it there")
        place, name = self._places[found], self.root / found
        if place.form == "file":
            times = np.frombuffer(self._records.read([place.first])[0], np.int64)
            index = VideoIndex(times, fractions.Fraction(*place.time_base), place.start, *place.shape[:2])
            path = name.with_name(name.name + place.suffix)
            return VideoFile(
                path,
                fps=fps,
                size=size,
                max_frames=max_frames,
                index=index,
                content=lambda: self._records.read([place.first + 1])[0],
            )
        if place.fps is None:
            written = known_rate(name, fps, rate)
        elif fps is None or abs(fps - place.fps) <= 1e-3 * fps:
            written = place.fps
        else:
            raise ValueError(
                f"{name} was written at {place.fps:g} frames per second, but {fps:g} are asked for; write it again "
                f"with --fps={fps:g}, or set --config.data.fps={place.fps:g}"
            )
        frames = RecordedFrames(name, place, self._records, written)
        require_size(frames, name, size)
        return frames


class _Records:
    """Random access to the records of some files, by number. Raises ValueError for a file that cannot be read."""

    def __init__(self, paths: Sequence[epath.Path]) -> None:
        data_source = array_record_module("array_record_data_source").ArrayRecordDataSource
        self._folder = paths[0].parent
        for path in paths:  # one by one, so that a damaged one can be named
            try:
                len(data_source(str(path)))
            except RuntimeError as error:
                raise ValueError(
                    f"{path} cannot be read ({error}); it is truncated or damaged: copy it again"
                ) from error
        self._source = data_source([str(path) for path in paths])

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """The records of these numbers. Raises ValueError if they cannot be read."""
        if not numbers:
            return []
        try:
            return self._source.__getitems__(numbers)
        except RuntimeError as error:
            raise ValueError(
                f"records {numbers[0]} to {numbers[-1]} of {self._folder} cannot be read ({error}); a file is damaged: "
                f"copy it again"
            ) from error


class RecordedFrames:
    """Frames in records, one each.

    Args:
        name: of the video, for messages.
        place: of its records.
        records: all records.
        fps: frames per second.
    """

    def __init__(self, name: object, place: Place, records: _Records, fps: Rate) -> None:
        self._name, self._place, self._records = name, place, records
        self.fps = fps(place.frames) if callable(fps) else fps

    def __len__(self) -> int:
        return self._place.frames

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return tuple(self._place.shape)

    def read(self, first: int, count: int) -> np.ndarray:
        """[count, height, width, 3] uint8 RGB.

        Raises:
            ValueError: frames that are not there, or an image that cannot be read.
        """
        check_range(self._name, len(self), first, count)
        numbers = range(first, first + count)
        contents = self._records.read([self._place.first + number for number in numbers])
        if self._place.form == "array":
            return np.frombuffer(b"".join(contents), np.uint8).reshape(count, *self.shape).copy()
        names = [f"{self._name}, frame {number}" for number in numbers]
        return decode_images(list(zip(contents, names, strict=True)), self.shape)


def array_record_module(name: str) -> Any:
    """A module of ArrayRecord, imported where it is used: it is not built for every platform.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(f"array_record.python.{name}")
    except ImportError as error:
        raise ValueError(
            f"videos in ArrayRecord files need the package array-record ({error}): pip install array-record; where "
            f"there is none for your platform, name a folder of videos with --config.data.videos"
        ) from error
