"""Annotated videos as random access to records with frames (numpy only).

The videos lie in a folder (`video_folder.py`) or in ArrayRecord files (`recorded_videos.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from etils import epath

from actloc_jax.data.annotations import VideoAnnotation
from actloc_jax.data.problems import Problem, require_no_errors
from actloc_jax.data.recorded_videos import RecordedVideos, holds_records
from actloc_jax.data.samples import Record
from actloc_jax.data.video_folder import VideoFolder
from actloc_jax.data.video_frames import Frames

MissingVideos = Literal["error", "skip"]

TOLERANCE_SECONDS = 0.5
"""Annotations may end this much behind the last frame: durations are rounded in most files."""

ROUNDING = 0.02
"""Share by which decoded frames may be more or less than their annotation says, beyond two of them."""


class VideoStore(Protocol):
    """Where the videos are."""

    names: tuple[str, ...]

    def open(self, video: str, **options: Any) -> Frames:
        """The frames of a video; options as for `open_frames`.

        Raises:
            FileNotFoundError, ValueError: the video is missing or cannot be read.
        """


def open_store(root: epath.PathLike) -> VideoStore:
    """The videos of a folder, or those in its ArrayRecord files.

    Raises:
        FileNotFoundError, ValueError: it does not exist, or its ArrayRecord files cannot be read.
    """
    return RecordedVideos(root) if holds_records(root) else VideoFolder(root)


class AnnotatedVideos:
    """Videos with their segments; each is opened once and its frames are read when asked for.

    Args:
        root: folder of the videos.
        videos: their annotations.
        fps: frames per second of the records; None keeps those of video files, and takes for decoded frames what the
            annotation says, see `rate_of_frames`.
        size: (height, width) of their frames; None keeps that of the files.
        max_frames: most frames of a record, see `VideoFile`.
        open_ended: leave out segments that begin behind the last frame and clip the others, with a warning, instead of
            counting them as errors; THUMOS14 has such.
        missing: `"error"`, or `"skip"`: videos that are missing or cannot be read are left out with a warning.

    Attributes:
        annotated: all annotations, with those of videos that are left out.

    Raises:
        ValueError: an unknown option.
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
        missing: MissingVideos = "error",
    ) -> None:
        if missing not in ("error", "skip"):
            raise ValueError(f'missing_videos={missing!r} is unknown; use "error" or "skip"')
        self.root = epath.Path(root)
        self.annotated = tuple(videos)
        self._options = {"fps": fps, "size": size, "max_frames": max_frames}
        self._open_ended = open_ended
        self._missing: MissingVideos = missing

    def __len__(self) -> int:
        return len(self.videos)

    @functools.cached_property
    def _store(self) -> VideoStore | Problem:
        """Where the videos are, or why they cannot be opened."""
        try:
            return open_store(self.root)
        except (FileNotFoundError, ValueError) as error:
            return Problem("error", str(error))

    @functools.cached_property
    def _opened(self) -> tuple[dict[str, Frames], dict[str, str]]:
        """Video -> its frames, and video -> why it cannot be read."""
        opened: dict[str, Frames] = {}
        unreadable: dict[str, str] = {}
        for video in self.annotated if not isinstance(self._store, Problem) else ():
            rate = functools.partial(rate_of_frames, video, max_frames=self._options["max_frames"])
            try:
                opened[video.video] = self._store.open(video.video, **self._options, rate=rate)
            except (FileNotFoundError, ValueError) as error:
                unreadable[video.video] = str(error)
        return opened, unreadable

    @functools.cached_property
    def videos(self) -> tuple[VideoAnnotation, ...]:
        """The annotations, without those of videos that are left out. Raises ValueError if this cannot be known."""
        if self._missing == "error":
            return self.annotated
        if isinstance(self._store, Problem):
            require_no_errors([self._store])
        opened, _ = self._opened
        return tuple(video for video in self.annotated if video.video in opened)

    @functools.cached_property
    def _problems(self) -> list[Problem]:
        if isinstance(self._store, Problem):
            return [self._store]
        opened, unreadable = self._opened
        problems = [
            problem
            for video in self.annotated
            if video.video in opened
            for problem in self._check(video, opened[video.video])
        ]
        if self._missing == "error" or not unreadable:
            return [Problem("error", reason) for reason in unreadable.values()] + problems
        names = ", ".join(list(unreadable)[:10]) + ", ..." * (len(unreadable) > 10)
        message = (
            f"{len(unreadable)} of {len(self.annotated)} videos are missing or cannot be read: {names} (of the first: "
            f"{next(iter(unreadable.values()))})"
        )
        return [Problem("warning", f"{message}; left out") if opened else Problem("error", message), *problems]

    def problems(self) -> list[Problem]:
        """Videos that are missing or cannot be read, and segments beyond their end."""
        return self._problems

    @functools.cached_property
    def frames(self) -> tuple[Frames, ...]:
        """The frames of each of `videos`. Raises ValueError with all that is wrong."""
        require_no_errors(self._problems)
        return tuple(self._opened[0][video.video] for video in self.videos)

    @property
    def readable(self) -> list[tuple[VideoAnnotation, Frames]]:
        """The videos that can be read, whatever else is wrong."""
        opened, _ = self._opened
        return [(video, opened[video.video]) for video in self.annotated if video.video in opened]

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

    def _check(self, video: VideoAnnotation, frames: Frames) -> list[Problem]:
        seconds = len(frames) / frames.fps
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


def rate_of_frames(video: VideoAnnotation, frames: int, *, max_frames: int | None = None) -> float:
    """Frames per second of decoded frames that are a whole video: by its annotation.

    With a rate and a duration they must fit the number of frames, or the frames be those of a lowered rate.

    Args:
        video: its annotation.
        frames: how many were decoded.
        max_frames: to which the rate was lowered, None if it was not.

    Raises:
        ValueError: the annotation has neither a duration nor a rate, or they contradict the number of frames.
    """
    if not math.isfinite(video.duration):
        if video.fps is None:
            raise ValueError(
                f"video {video.video} is {frames} decoded frames, and its annotation has neither a duration nor fps, "
                f"so their rate is unknown; add one of them, or name the rate of all with --config.data.fps"
            )
        return video.fps
    if video.fps is None:
        return frames / video.duration
    every = video.fps * video.duration
    kept = every if max_frames is None else min(every, max_frames)
    if abs(frames - every) <= 2 + ROUNDING * every:
        return video.fps
    if abs(frames - kept) <= 2 + ROUNDING * kept:
        return frames / video.duration
    raise ValueError(
        f"video {video.video} is {frames} decoded frames, but its annotation says {video.duration:.2f} s at "
        f"{video.fps:g} fps, which is {every:.0f}{f', at most {max_frames}' if max_frames else ''}; extract them "
        f"again, or name the rate at which they were taken (--config.data.fps)"
    )
