"""Feature-grid arithmetic: the one place that says which second a row of features stands for (numpy only).

A recipe takes windows of `window` frames, one every `stride` frames, from a video at `fps` frames per second. Positions
on the grid are real numbers; position g is the second

    seconds = (g * stride + shift) / fps        grid = (seconds * fps - shift) / stride

* `align="centre"`, shift = window / 2: position i is the CENTRE of the window of row i. This is the rule of
  ActionFormer, TriDet and FuSTAL's student; a segment that begins at second 0 has the position -window / (2 * stride).
* `align="start"`, shift = 0: position i is where row i begins, i + 1 where it ends; so positions are the edges of rows.
  This is the rule of CoLA and FuSTAL's generator, of SPOT's rescaled sequences and of TALLFormer's frames.

Keeping every r-th row multiplies the stride and leaves the window. Resizing a sequence to a fixed number of steps gives
a grid of equal steps over all frames that the features cover. Positions are real numbers: they are never rounded or
clipped here. Where a recipe does not state its own rate (`fps=None`), that of the video is needed: `grid.at(fps)`.

Sources: `happyharrycn/actionformer_release:libs/datasets/{thumos14,anet,epic_kitchens}.py`, `zhang-can/CoLA`,
`fqhank/FuSTAL`, `sauradip/SPOT`, `klauscc/TALLFormer`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

Align = Literal["centre", "start"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the rows of a feature sequence lie in time; see the module for the arithmetic.

    Attributes:
        stride: frames from one row to the next.
        window: frames behind one row.
        fps: frames per second of the sequence that the windows were taken from; None: the video's own rate.
        align: what an integer position is: the centre of a row's window, or its start.
    """

    stride: float
    window: float
    fps: float | None = None
    align: Align = "centre"

    def __post_init__(self) -> None:
        if self.align not in ("centre", "start"):
            raise ValueError(f'align={self.align!r} is unknown; use "centre" or "start"')
        for name in ("stride", "window", "fps"):
            value = getattr(self, name)
            if not (value is None and name == "fps") and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} of a feature grid must be a positive number")

    @property
    def shift(self) -> float:
        """Frame at grid position 0."""
        return 0.5 * self.window if self.align == "centre" else 0.0

    @property
    def seconds_per_step(self) -> float:
        """Seconds from one row to the next."""
        return self.stride / self._rate()

    @property
    def margin(self) -> float:
        """Grid steps by which the first and the last window reach beyond the positions of their rows."""
        return self.shift / self.stride

    def at(self, fps: float | None) -> Grid:
        """This grid for a video of `fps` frames per second; a rate that the recipe states stays as it is."""
        return dataclasses.replace(self, fps=fps) if self.fps is None else self

    def to_grid(self, seconds: np.ndarray | float) -> np.ndarray:
        """Seconds, any shape -> grid positions, float64 (or float32 for float32)."""
        return (np.asarray(seconds) * self._rate() - self.shift) / self.stride

    def to_seconds(self, positions: np.ndarray | float) -> np.ndarray:
        """Grid positions, any shape -> seconds; the inverse of `to_grid`."""
        return (np.asarray(positions) * self.stride + self.shift) / self._rate()

    def downsampled(self, rate: int) -> Grid:
        """The grid of every `rate`-th row, beginning with the first."""
        return dataclasses.replace(self, stride=self.stride * rate)

    def resized(self, rows: int, steps: int) -> Grid:
        """The grid after a sequence of `rows` rows was resized to `steps` steps (ActionFormer on ActivityNet)."""
        stride = self.covered_frames(rows) / steps
        return dataclasses.replace(self, stride=stride, window=stride)

    def covered_frames(self, rows: int) -> float:
        """Frames from the start of the first window to the end of the last one."""
        return (rows - 1) * self.stride + self.window

    def covered_seconds(self, rows: int) -> float:
        """Seconds from the start of the first window to the end of the last one."""
        return self.covered_frames(rows) / self._rate()

    def rows(self, frames: int) -> int:
        """Rows of a video of `frames` frames (at the rate of the grid) whose windows all lie inside the video."""
        return max(int((frames - self.window) // self.stride) + 1, 0)

    def _rate(self) -> float:
        """Frames per second.

        Raises:
            ValueError: the recipe takes the video's own rate, and none was given.
        """
        if self.fps is None:
            raise ValueError(
                "the frame rate of the video is unknown, so grid positions are not seconds; give fps in the annotation "
                "file, or a default_fps"
            )
        return self.fps


def thumos14_i3d(fps: float | None = None) -> Grid:
    """ActionFormer, TriDet and FuSTAL's student on THUMOS14: windows of 16 frames every 4 at the native rate (~30)."""
    return Grid(stride=4, window=16, fps=fps)


def wtal_i3d() -> Grid:
    """CoLA and FuSTAL's generator: 25 frames per second, windows of 16 without overlap; row i begins at 16 i / 25 s."""
    return Grid(stride=16, window=16, fps=25.0, align="start")


def activitynet_i3d() -> Grid:
    """ActionFormer on ActivityNet with I3D: 25 frames per second, 16 frames without overlap."""
    return Grid(stride=16, window=16, fps=25.0)


def activitynet_tsp() -> Grid:
    """ActionFormer on ActivityNet with TSP: 15 frames per second, 16 frames without overlap."""
    return Grid(stride=16, window=16, fps=15.0)


def epic_slowfast() -> Grid:
    """ActionFormer on EPIC-Kitchens with SlowFast: 30 frames per second, 32 frames every 16."""
    return Grid(stride=16, window=32, fps=30.0)


def whole_video(duration: float, steps: int, *, align: Align = "centre") -> Grid:
    """Features of fixed length that cover a video evenly: `steps` steps in `duration` seconds.

    ActionFormer's third case (`feat_stride <= 0`). The grid is measured in seconds, fps = 1.
    """
    return Grid(stride=duration / steps, window=duration / steps, fps=1.0, align=align)


def spot_rescaled(duration: float, frames: int, feature_frames: int, *, steps: int = 100) -> Grid:
    """SPOT, BMN and BSN: the video rescaled to `steps`; position g is g / steps of the corrected length.

    Args:
        duration: seconds of the video.
        frames: all its frames.
        feature_frames: those that the snippets cover; the corrected length is feature_frames / frames * duration.
        steps: temporal scale.
    """
    return whole_video(feature_frames / frames * duration, steps, align="start")


def tallformer_frames(fps: float = 15.0) -> Grid:
    """TALLFormer's positions: frames of the video decoded at `fps` (an integer there)."""
    return Grid(stride=1, window=1, fps=fps, align="start")


def tallformer_rows(fps: float = 15.0, *, temporal_stride: int = 2) -> Grid:
    """TALLFormer's rows of backbone features and of the memory bank: row r begins at frame r * temporal_stride."""
    return Grid(stride=temporal_stride, window=temporal_stride, fps=fps, align="start")
