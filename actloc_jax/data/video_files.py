"""Video files as frames at a fixed rate and size, decoded with PyAV (the extra `video`; numpy only).

The rate is reached as ffmpeg's `fps` filter does: frame k of the result is the last frame of the file whose time,
rounded to whole result frames (halves up), is at most k. The size is reached as `ffmpeg -s` does: bicubic, the aspect
ratio not kept. Times come from the file, not from its nominal frame rate, which is often wrong. A file that says that
its frames are to be turned gets them turned.
Source: `klauscc/TALLFormer:tools/data/extract_frames.sh` (fps=15, 256x256).
"""

from __future__ import annotations

import fractions
import io
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from actloc_jax.data.constant_rate import frames_at_rate

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts")

NO_TIMES = 0x80
"""Flag of ffmpeg's formats without time stamps (AVFMT_NOTIMESTAMPS), whose frame rate ffmpeg makes up."""


class VideoIndex(NamedTuple):
    """What a file says about its frames before any is decoded.

    Attributes:
        times: [frames] int64, time of each frame in units of `time_base`, the first is 0.
        time_base: seconds of a unit.
        start: time of the first frame in the file.
        height, width: of a frame, as it is shown.
    """

    times: np.ndarray
    time_base: fractions.Fraction
    start: int
    height: int
    width: int

    @property
    def fps(self) -> float:
        """Mean frames per second; 1 for a single frame."""
        return 1.0 if len(self.times) < 2 else (len(self.times) - 1) / float(self.times[-1] * self.time_base)


class VideoFile:
    """A video file as frames. Its index is read at once, frames are decoded when asked for, from the key frame before.

    Args:
        path: the file.
        fps: frames per second of the result; None keeps the frames of the file.
        size: (height, width) of the result; None keeps that of the file.
        max_frames: lowers `fps` so that about this many frames remain at most (ActivityNet: 768), never raises it.
        index: what `read_index` gave for it, where that is known.
        content: gives the bytes of a file that lies elsewhere (in a record), with its `index`; `path` is then a name.

    Attributes:
        path: the file.
        index: what it says about its frames.
        fps: frames per second of the result.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no video, a truncated one, or one that does not say when its frames are shown; PyAV is missing.
    """

    def __init__(
        self,
        path: epath.PathLike,
        *,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
        max_frames: int | None = None,
        index: VideoIndex | None = None,
        content: Callable[[], bytes] | None = None,
    ) -> None:
        self.path, self._content = epath.Path(path), content
        if content is None and not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist; expected a video file")
        self.index = read_index(self.path) if index is None else index
        self.fps = self.index.fps if fps is None else float(fps)
        if max_frames is not None:
            self.fps *= min(1.0, max_frames / (len(self.index.times) * self.fps / self.index.fps))
        self._size = size
        every = fps is None and self.fps == self.index.fps
        self._taken = np.arange(len(self.index.times)) if every else sample_frames_at(self.index, self.fps)

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a frame of the result."""
        height, width = self._size or (self.index.height, self.index.width)
        return height, width, 3

    def read(self, first: int, count: int) -> np.ndarray:
        """Frames `first` to `first + count` of the result: [count, height, width, 3] uint8 RGB.

        Raises:
            ValueError: frames that the video does not have, or that cannot be decoded.
        """
        if first < 0 or count < 0 or first + count > len(self):
            raise ValueError(
                f"{self.path} has {len(self)} frames at {self.fps:g} fps; asked for {count} from {first} on"
            )
        frames = np.empty([count, *self.shape], np.uint8)
        times = self.index.times[self._taken[first : first + count]]
        waiting = {int(time) for time in times}
        for time, frame in self._decode(times) if count else ():
            if time in waiting:
                waiting.remove(time)
                frames[times == time] = self._picture(frame)
        if waiting:
            raise ValueError(self._undecoded(waiting))
        return frames

    def frames(self) -> Iterator[np.ndarray]:
        """All frames of the result, one after another, each decoded once: [height, width, 3] uint8 RGB.

        Raises:
            ValueError: the file is damaged.
        """
        times, repeats = np.unique(self.index.times[self._taken], return_counts=True)
        waiting = dict(zip(times.tolist(), repeats.tolist(), strict=True))
        for time, frame in self._decode(times):
            if time in waiting:
                picture = self._picture(frame)
                for _ in range(waiting.pop(time)):
                    yield picture
        if waiting:
            raise ValueError(self._undecoded(waiting))

    def _undecoded(self, times: Iterable[int]) -> str:
        times = list(times)
        return (
            f"{self.path}: {len(times)} frames from second {float(min(times) * self.index.time_base):.2f} on "
            f"cannot be decoded; the file is damaged. Copy or encode it again."
        )

    def _decode(self, times: np.ndarray) -> Iterator[tuple[int, Any]]:
        """(time, decoded frame) from the key frame before `times[0]` to `times[-1]`."""
        av, start = _pyav(), self.index.start
        try:
            with av.open(str(self.path) if self._content is None else io.BytesIO(self._content())) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                if times[0] > 0:
                    container.seek(int(times[0]) + start, stream=stream)
                for frame in container.decode(stream):
                    time = frame.pts if frame.pts is not None else frame.dts
                    if time is None:
                        continue
                    yield time - start, frame
                    if time - start >= times[-1]:
                        return
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path} cannot be decoded ({error}); the file is damaged. Copy it again.") from error

    def _picture(self, frame: Any) -> np.ndarray:
        turns = _quarter_turns(frame)
        if self._size is not None:
            height, width = self._size[::-1] if turns % 2 else self._size
            frame = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def sample_frames_at(index: VideoIndex, fps: float) -> np.ndarray:
    """Which frame of the file each frame at another rate is, [frames] int64; see the head of this file."""
    step = int(index.times[-1] - index.times[-2]) if len(index.times) > 1 else 0
    taken = frames_at_rate(index.times, index.time_base, fps, last_duration=step)
    return taken if len(taken) else np.zeros(1, np.int64)


def read_index(path: epath.Path) -> VideoIndex:
    """Reads when the frames of a file are shown, without decoding them.

    Raises:
        ValueError: see `VideoFile`.
    """
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream; expected a video file")
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            height, width = stream.height, stream.width
            if _first_turn(container, stream) % 2:
                height, width = width, height
            time_base, stated = stream.time_base, stream.frames
            timed = not container.format.flags & NO_TIMES
            seconds = 0.0
            if stream.duration:
                seconds = float(stream.duration * time_base)
            elif container.duration and len(container.streams) == 1:
                seconds = container.duration / av.time_base
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a video ({error}); it is damaged or something else") from error
    shown = [packet.pts if packet.pts is not None else packet.dts for packet in packets if not packet.is_discard]
    if not shown or not timed or time_base is None or any(time is None for time in shown):
        raise ValueError(
            f"{path} does not say when its {len(shown)} frames are shown, so its frame rate is unknown. Put it into a "
            f"container that does: ffmpeg -r <fps> -i {path.name} -c copy {path.stem}.mkv"
        )
    times = np.unique(np.asarray(shown, np.int64))
    index = VideoIndex(times - times[0], time_base, int(times[0]), height, width)
    found = len(times) / index.fps
    if len(packets) < stated or found < 0.95 * seconds - 0.5:
        raise ValueError(
            f"{path} ends after {found:.2f} of {seconds:.2f} seconds, with {len(packets)} frames"
            f"{f' of {stated}' if stated else ''}: it is truncated. Copy it again."
        )
    return index


def _first_turn(container: Any, stream: Any) -> int:
    """Quarter turns of the first frame that can be decoded; 0 if none can."""
    av = _pyav()
    try:
        container.seek(0)
        return next((_quarter_turns(frame) for frame in container.decode(stream)), 0)
    except av.error.FFmpegError:
        return 0  # what is wrong is told when frames are read


def _quarter_turns(frame: Any) -> int:
    """How often a frame is turned by 90 degrees against the clock to be shown: phones store upright videos lying."""
    return round(frame.rotation / 90) % 4


def _pyav() -> ModuleType:
    """PyAV, imported when a video is read: it is not needed for frames on disk."""
    try:
        import av
    except ImportError as error:
        raise ValueError(
            "reading video files needs PyAV: pip install 'actloc_jax[video]' (or: pip install av)"
        ) from error
    return av
