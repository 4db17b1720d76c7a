"""How published features were made, by name: everything between a video file and a row of features (numpy only).

A model that was trained on features works on those of the same recipe alone: another rate, stride, flow or network
shifts them, and that is almost always why a published model fails on somebody's own videos. So a recipe names all of
it. What the authors or their code say is documented; the rest is inferred, and `table` says which is which.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from actloc_jax.data import flow_values, frame_resizing, window_grids
from actloc_jax.data.grid import Grid
from actloc_jax.data.window_grids import Windows

CROP = 224
"""Pixels of what I3D reads."""

CHOICES = {
    "windows": ("centred", "shifted", "sliding", "without_overlap", "stacks"),
    "ends": ("repeated", "zeros", "dropped"),
    "resize": ("pillow_256", "opencv_256", "opencv_340x256"),
    "crop": ("centre", "ten", "squash"),
    "optical_flow": ("tvl1", "tvl1_opencv", "raft", "dis"),
    "flow_of": ("own_size", "resized"),
    "flow_values": ("divided", "levels", "images"),
    "streams": ("rgb+flow", "rgb", "flow"),
    "files": ("channels_first", "time_first", "video_features"),
}
"""Field -> the values that it can have."""

_ROUNDING = {"pillow_256": "floor", "opencv_256": "halves", "opencv_340x256": "floor"}
PER_FRAME = ("centred", "shifted")
"""Windows of which each frame has one."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides what a row of features is.

    Attributes:
        name: of the published recipe.
        fps: frames per second to which the video is brought; 0 for its own.
        windows: where windows lie, a function of `window_grids.py`.
        window: frames, and fields, of a window.
        stride: frames from one window to the next. Of recipes with one row per frame: 1, or more for an approximation
            that computes every so many rows and interpolates between them.
        ends: what stands in for frames beyond the ends: the first or last one, zeros, or there are no such windows.
        resize: how frames become smaller, with the arithmetic of which program.
        crop: the centre; ten crops (the features get an axis); or the whole frame squashed to a square.
        optical_flow: the algorithm.
        flow_of: which frames the flow is computed on, those of the video or the resized ones.
        flow_padded: the flow of RAFT keeps the border that it adds to the frames.
        flow_values: how pixels of motion become network values, see `flow_values.py`.
        streams: of the features, in this order.
        port: the program whose I3D it was; they differ for windows that are no multiple of 8.
        layer: whose output the features are: averages of 2 x 7 x 7 positions, and their mean over time.
        files: layout of the `.npy` files.
    """

    name: str
    fps: float
    windows: str
    window: int
    stride: int
    ends: str
    resize: str
    crop: str
    optical_flow: str
    flow_of: str
    flow_padded: bool
    flow_values: str
    streams: str
    port: str
    layer: str
    files: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", float(self.fps))  # so that 25 and 25.0 are one recipe
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"recipe {self.name}: {field}={getattr(self, field)!r}; use {', '.join(choices)}")
        if self.fps < 0 or self.stride < 1 or self.window < 10:
            raise ValueError(
                f"recipe {self.name}: fps={self.fps:g}, window={self.window}, stride={self.stride}; expected a rate of "
                "0 (the video's own) or more, a window of at least 10 frames (I3D needs them) and a stride of 1 or more"
            )
        if self.windows in PER_FRAME and self.window % 2 == 0:
            raise ValueError(f"recipe {self.name}: window={self.window} has no frame in its middle; use an odd number")
        if (self.ends == "dropped") == self.per_frame:
            wanted = "repeated or zeros" if self.per_frame else "dropped"
            raise ValueError(f"recipe {self.name}: ends={self.ends} does not fit windows={self.windows}; use {wanted}")
        if self.windows == "without_overlap" and self.stride != self.window:
            raise ValueError(f"recipe {self.name}: windows without overlap have stride=window; use windows=sliding")
        if self.crop == "squash" and self.has("flow") and self.flow_values != "images":
            raise ValueError(f"recipe {self.name}: crop=squash resizes flow as images; set flow_values=images")

    def has(self, stream: str) -> bool:
        """Whether the features have this stream, "rgb" or "flow"."""
        return stream in self.streams.split("+")

    @property
    def crops(self) -> int:
        """Pictures that a frame gives."""
        return 10 if self.crop == "ten" else 1

    @property
    def per_frame(self) -> bool:
        """Whether there is one row for each frame."""
        return self.windows in PER_FRAME

    @property
    def no_motion(self) -> float:
        """The network value of a field in which nothing moves."""
        return 0.0 if self.flow_values == "divided" else 2 * 128 / 255 - 1

    def grid(self, fps: float) -> Grid:
        """Which second a row stands for, of a video at `fps` frames per second."""
        if self.per_frame:
            return Grid(stride=1, window=1, fps=self.fps or fps)
        return Grid(stride=self.stride, window=self.window, fps=self.fps or fps)

    def windows_of(self, frames: int) -> Windows:
        """What the rows of a video of `frames` frames (at the rate of the recipe) read.

        A video that is too short for one window gets one, in which its last frame stands still.
        """
        if frames >= self.least_frames:
            return self._windows_of(frames)
        return window_grids.standing_still(self._windows_of(self.least_frames), frames)

    @functools.cached_property
    def least_frames(self) -> int:
        """Frames of the shortest video that has a window."""
        return next(frames for frames in itertools.count(1) if len(self._windows_of(frames).frames))

    def _windows_of(self, frames: int) -> Windows:
        if self.per_frame:
            found = getattr(window_grids, self.windows)(frames, window=self.window)
            if self.ends == "zeros":
                inside = window_grids.inside(frames, window=self.window)
                found = found._replace(frames=np.where(inside, found.frames, window_grids.NOTHING))
            return Windows(*(array[self.computed_rows(frames)] for array in found))
        if self.windows == "without_overlap":
            return window_grids.without_overlap(frames, window=self.window)
        found = getattr(window_grids, self.windows)(frames, window=self.window, stride=self.stride)
        if self.windows == "sliding" and self.has("flow"):
            rows = window_grids.field_rows(frames, window=self.window, stride=self.stride)
            found = Windows(found.frames[:rows], found.fields[:rows])
        return found

    def computed_rows(self, frames: int) -> np.ndarray:
        """Of one row per frame, those that are computed, int [rows]; between them is interpolated."""
        rows = np.arange(0, frames, self.stride)
        return rows if not frames or rows[-1] == frames - 1 else np.append(rows, frames - 1)

    def resized(self, frame: np.ndarray) -> np.ndarray:
        """A frame of the video, uint8 [height, width, 3], at the size that is cropped."""
        if self.resize == "pillow_256":
            return frame_resizing.pillow_edge(frame, 256)
        return frame_resizing.opencv_linear(frame, *self._size(*frame.shape[:2]))

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return (256, 340) if self.resize == "opencv_340x256" else frame_resizing.opencv_shorter_edge(height, width, 256)

    def rgb_pictures(self, resized: np.ndarray) -> np.ndarray:
        """What the rgb network reads of a resized frame: uint8 [crops, 224, 224, 3], levels."""
        return self._cropped(resized)

    def flow_pictures(self, flow: np.ndarray) -> np.ndarray:
        """What the flow network reads of a field.

        Args:
            flow: float32 [height, width, 2] in pixels, of the frames that `flow_of` names.

        Returns:
            [crops, 224, 224, 2]: uint8 levels if `flow_values` is "images", else float32 network values.
        """
        if self.flow_of == "own_size":
            flow = frame_resizing.opencv_linear(flow, *self._size(*flow.shape[:2]))
        if self.flow_values == "images":
            return self._cropped(flow_values.image_levels(flow))
        cropped = self._cropped(flow)
        if self.flow_values == "divided":
            return flow_values.divided(cropped)
        return flow_values.from_levels(flow_values.shared_levels(cropped))

    def _cropped(self, picture: np.ndarray) -> np.ndarray:
        if self.crop == "ten":
            return frame_resizing.ten_crops(picture, CROP)
        if self.crop == "centre":
            return frame_resizing.centre_crop(picture, CROP, _ROUNDING[self.resize])[None]
        if picture.shape[-1] == 3:
            return frame_resizing.pillow_lanczos(picture, CROP)[None]
        channels = [frame_resizing.pillow_lanczos(channel, CROP) for channel in np.moveaxis(picture, -1, 0)]
        return np.stack(channels, axis=-1)[None]

    def fields(self) -> dict[str, Any]:
        """All fields but the name."""
        values = dataclasses.asdict(self)
        del values["name"]
        return values


_MSTCN = Recipe(
    name="mstcn", fps=0, windows="centred", window=21, stride=1, ends="repeated", resize="opencv_256", crop="centre",
    optical_flow="tvl1", flow_of="own_size", flow_padded=False, flow_values="divided", streams="rgb+flow",
    port="pytorch-i3d", layer="mixed_5c, pooled", files="channels_first",
)  # fmt: skip
_THUMOS = dataclasses.replace(
    _MSTCN, name="actionformer", windows="sliding", window=16, stride=4, ends="dropped", resize="opencv_340x256",
    flow_of="resized", flow_values="images", files="time_first",
)  # fmt: skip
_COLA = dataclasses.replace(
    _MSTCN, name="cola", fps=25, windows="without_overlap", window=16, stride=16, ends="dropped", files="time_first"
)
_VIDEO_FEATURES = Recipe(
    name="video_features", fps=0, windows="stacks", window=64, stride=64, ends="dropped", resize="pillow_256",
    crop="centre", optical_flow="raft", flow_of="resized", flow_padded=True, flow_values="levels", streams="rgb+flow",
    port="video_features", layer="mixed_5c, pooled", files="video_features",
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _MSTCN,
        dataclasses.replace(_MSTCN, name="mstcn_15fps", fps=15),
        dataclasses.replace(_MSTCN, name="mstcn_30fps", fps=30),
        _THUMOS,
        _COLA,
        dataclasses.replace(_COLA, name="anet_25fps_16"),
        _VIDEO_FEATURES,
    )
}
"""The recipes, by name."""

_DOCUMENTED_MSTCN = {
    "fps": "yabufarha/ms-tcn issue 3: no resampling", "window": "ms-tcn issues 34, 19", "stride": "ms-tcn issue 34",
    "windows": "ms-tcn issue 34; the published program is late by one frame from row 13 on: windows=shifted",
    "ends": "ahsaniqbal/Kinetics-FeatureExtractor (issue 34 says zeros: ends=zeros)",
    "resize": "ahsaniqbal/Kinetics-FeatureExtractor", "crop": "ahsaniqbal/Kinetics-FeatureExtractor",
    "optical_flow": "ahsaniqbal/Kinetics-FeatureExtractor (OpenCV's on a GPU)",
    "flow_of": "ahsaniqbal/Kinetics-FeatureExtractor", "flow_values": "ahsaniqbal/Kinetics-FeatureExtractor",
    "streams": "ms-tcn issues 12, 29", "layer": "ahsaniqbal/Kinetics-FeatureExtractor",
}  # fmt: skip
_DOCUMENTED_COLA = {
    "fps": "sujoyp/wtalc-pytorch issue 9", "windows": "wtalc-pytorch issue 5", "window": "wtalc-pytorch issue 5",
    "stride": "wtalc-pytorch issue 5", "ends": "wtalc-pytorch issue 5", "streams": "wtalc-pytorch",
}  # fmt: skip
DOCUMENTED: dict[str, Mapping[str, str]] = {
    "mstcn": _DOCUMENTED_MSTCN,
    "mstcn_15fps": _DOCUMENTED_MSTCN | {"fps": "the rate of GTEA and Breakfast (ms-tcn issue 3)"},
    "mstcn_30fps": _DOCUMENTED_MSTCN | {"fps": "the rate of 50Salads (ms-tcn issue 3)"},
    "actionformer": {
        "fps": "Finspire13/CMCS-Temporal-Action-Localization issue 29 (a README says 25)",
        "windows": "Finspire13/pytorch-i3d-feature-extraction", "window": "happyharrycn/actionformer_release",
        "stride": "happyharrycn/actionformer_release", "ends": "Finspire13/pytorch-i3d-feature-extraction",
        "resize": "Finspire13/pytorch-i3d-feature-extraction: images of 340x256",
        "port": "Finspire13/pytorch-i3d-feature-extraction", "layer": "Finspire13/pytorch-i3d-feature-extraction",
        "streams": "actionformer_release issue 60",
    },
    "cola": _DOCUMENTED_COLA,
    "anet_25fps_16": dict.fromkeys(("fps", "windows", "window", "stride", "streams"), "actionformer_release"),
    "video_features": dict.fromkeys(Recipe.__dataclass_fields__, "v-iashin/video_features"),
}  # fmt: skip
"""Recipe -> field -> who says so; fields that are not there are inferred."""

OUT_OF_REACH = {
    "tsn": "outputs of two TSN classifiers that were trained on ActivityNet (BSN, BMN, SPOT), which are not part of "
    "this package",
    "dense_trajectories": "Fisher vectors of dense trajectories (ASOT), which are no network's",
    "generated": "generated numbers of a demo, which belong to no video",
    "tsp": "R(2+1)D networks of TSP, which are not part of this package",
}
"""Features that configs name and that cannot be made here, and why."""


def recipe_of(text: str) -> Recipe:
    """A recipe by its name, with changed fields behind a colon: `video_features:fps=25,window=24,stride=24`.

    Raises:
        ValueError: an unknown name, field or value; what is known is listed.
    """
    name, _, changes = text.partition(":")
    if name in OUT_OF_REACH:
        raise ValueError(f"features {name!r} cannot be extracted: they are {OUT_OF_REACH[name]}")
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; use {', '.join(RECIPES)} (--recipe=list explains them)")
    recipe, values = RECIPES[name], {}
    for item in filter(None, changes.split(",")):
        field, _, value = item.partition("=")
        if field not in recipe.fields():
            raise ValueError(f"recipe {name} has no field {field!r}; it has {', '.join(recipe.fields())}")
        values[field] = _typed(name, field, value, getattr(recipe, field))
    return dataclasses.replace(recipe, **values)


def text_of(fields: Mapping[str, Any]) -> str:
    """What `recipe_of` reads as this recipe.

    Args:
        fields: `name` and all fields.
    """
    standard = RECIPES[fields["name"]].fields()
    changed = [f"{field}={fields[field]}" for field in standard if fields[field] != standard[field]]
    return ":".join([fields["name"], ",".join(changed)] if changed else [fields["name"]])


def _typed(name: str, field: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"recipe {name}: {field}={text!r}; use true or false")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError as error:
        raise ValueError(f"recipe {name}: {field}={text!r} is no number") from error


def said_as(field: str, value: Any) -> str:
    """The value of a field in words."""
    if field == "fps":
        return f"{value:g}" if value else "the video's own"
    return str(value)


def table(recipe: Recipe) -> str:
    """The fields of a recipe, one a line: D for documented, with the source, or I for inferred."""
    said, lines = DOCUMENTED[recipe.name], [recipe.name]
    for field, value in recipe.fields().items():
        mark, source = ("D", said[field]) if field in said else ("I", "")
        if value != getattr(RECIPES[recipe.name], field):
            mark, source = "-", "changed"
        lines.append(f"  {mark} {field:13} {said_as(field, value):17} {source}".rstrip())
    return "\n".join(lines)


def tables() -> str:
    """All recipes, for people who choose one."""
    head = (
        "D: documented by the authors or their code, I: inferred.\n"
        "Change a field: --recipe=<name>:<field>=<value>,<field>=<value>"
    )
    choices = [f"  {field}: {', '.join(values)}" for field, values in CHOICES.items()]
    lost = [f"  {name}: {why}" for name, why in OUT_OF_REACH.items()]
    parts = ["Fields with choices:", *choices], ["Out of reach:", *lost]
    return "\n\n".join([head, *(table(recipe) for recipe in RECIPES.values()), *map("\n".join, parts)])
