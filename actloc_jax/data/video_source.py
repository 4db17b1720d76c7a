"""Annotated videos as random access to records with frames (numpy only).

```
<root>/<video>.mp4 (.mkv, .avi ...)  or  <root>/<video>/00001.png ...  or  <root>/<video>.npy
```
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from etils import epath

from actloc_jax.data.annotations import VideoAnnotation
from actloc_jax.data.problems import Problem, require_no_errors
from actloc_jax.data.samples import Record
from actloc_jax.data.video_files import VIDEO_SUFFIXES
from actloc_jax.data.video_frames import Frames, open_frames

TOLERANCE_SECONDS = 0.5
"""Annotations may end this much behind the last frame: durations are rounded in most files."""


class AnnotatedVideos:
    """Videos with their segments; each is opened once and its frames are read when asked for.

    Args:
        root: folder of the videos.
        videos: their annotations.
        fps: frames per second of the records; None keeps those of video files.
        size: (height, width) of their frames; None keeps that of the files.
        max_frames: most frames of a record, see `VideoFile`.
        open_ended: leave out segments that begin behind the last frame and clip the others, with a warning, instead of
            counting them as errors; THUMOS14 has such.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(
        self,
        root: epath.PathLike,
        videos: Sequence[VideoAnnotation],
        *,
        fps: float | None,
        size: tuple[int, int] | None = None,
        max_frames: int | None = None,
        open_ended: bool = False,
    ) -> None:
        self.root = epath.Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} does not exist; expected a folder of videos, one <video>.mp4 each")
        self.videos = tuple(videos)
        self._options = {"fps": fps, "size": size, "max_frames": max_frames}
        self._open_ended = open_ended

    def __len__(self) -> int:
        return len(self.videos)

    @functools.cached_property
    def opened(self) -> tuple[list[Frames | None], list[Problem]]:
        """The frames of each video, None where they cannot be read, and all that is wrong with the videos."""
        names = {path.name for path in self.root.iterdir()}
        opened: list[Frames | None] = []
        problems: list[Problem] = []
        for video in self.videos:
            try:
                frames = open_frames(self._path(video.video, names), **self._options)
            except (FileNotFoundError, ValueError) as error:
                problems.append(Problem("error", str(error)))
                opened.append(None)
                continue
            opened.append(frames)
            problems += self._check(video, len(frames) / frames.fps)
        return opened, problems

    def problems(self) -> list[Problem]:
        """Videos that are missing or cannot be read, and segments beyond their end."""
        return self.opened[1]

    @functools.cached_property
    def frames(self) -> tuple[Frames, ...]:
        """The frames of each video. Raises ValueError with all that is wrong."""
        opened, problems = self.opened
        require_no_errors(problems)
        return tuple(frames for frames in opened if frames is not None)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each video."""
        return tuple(map(len, self.frames))

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video: `video`, `index`, `frames`, `segments` [n, 2] float64 seconds within it, `labels` [n] int32."""
        del epoch
        video, frames = self.videos[position], self.frames[position]
        segments = np.clip(video.segments, 0.0, len(frames) / frames.fps)
        kept = segments[:, 0] < segments[:, 1]
        return {
            "video": video.video,
            "index": position,
            "frames": frames,
            "segments": segments[kept],
            "labels": video.labels[kept],
        }

    def _path(self, video: str, names: set[str]) -> epath.Path:
        for name in (*(video + suffix for suffix in VIDEO_SUFFIXES), video, f"{video}.npy"):
            if name in names:
                return self.root / name
        raise FileNotFoundError(
            f"{self.root} has no video {video}; expected {video}.mp4 (or {', '.join(VIDEO_SUFFIXES[1:4])} ...), "
            f"a folder {video}/ of images, or {video}.npy"
        )

    def _check(self, video: VideoAnnotation, seconds: float) -> list[Problem]:
        beyond = video.segments[video.segments[:, 1] > seconds + TOLERANCE_SECONDS]
        if not len(beyond):
            return []
        stated = f", annotated as {video.duration:.2f}" if math.isfinite(video.duration) else ""
        first = beyond[0]
        message = (
            f"video {video.video} is {seconds:.2f} seconds long{stated}, but {len(beyond)} of its segments end later, "
            f"e.g. {first[0]:.2f} to {first[1]:.2f}: the file is another or cut version. "
        )
        if self._open_ended:
            return [Problem("warning", message + "They are clipped or left out")]
        return [Problem("error", message + "Replace it, or clip them with --config.data.open_ended=True")]
