"""Feature files of one video each: `.npy` arrays whose axes come in several published orders.

Layouts, by the axes on disk:

* `channels_first`: [channels, time] or [crops, channels, time] (the published I3D features);
* `time_first`: [time, channels] or [time, crops, channels] (the latter is what DiffAct reads);
* `crops_first`: [crops, time, channels].

In memory features are [time, channels] or, with several spatial crops, [crops, time, channels].
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np
from etils import epath

TRANSPOSITIONS = {
    ("channels_first", 2): (1, 0),
    ("time_first", 2): (0, 1),
    ("channels_first", 3): (0, 2, 1),
    ("time_first", 3): (1, 0, 2),
    ("crops_first", 3): (0, 1, 2),
}
"""(layout, number of axes) -> order of the axes on disk that gives [(crops,) time, channels]."""

LAYOUTS = ("auto", "channels_first", "time_first", "crops_first")


@dataclasses.dataclass(frozen=True)
class FeatureShape:
    """Sizes of a feature file read in some layout. `crops` is None for arrays of two axes."""

    frames: int
    channels: int
    crops: int | None


def shape_in_layout(shape: tuple[int, ...], layout: str) -> FeatureShape | None:
    """Sizes of an array with axes `shape` on disk; None if the layout does not exist for that number of axes."""
    order = TRANSPOSITIONS.get((layout, len(shape)))
    if order is None:
        return None
    sizes = [shape[axis] for axis in order]
    return FeatureShape(frames=sizes[-2], channels=sizes[-1], crops=sizes[0] if len(sizes) == 3 else None)


def read_shape(path: epath.PathLike) -> tuple[int, ...]:
    """Axes of a `.npy` file on disk, from its header alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a `.npy` file of numbers with two or three axes.
    """
    path = epath.Path(path)
    try:
        with path.open("rb") as file:
            shape, dtype = read_header(file)
    except ValueError as error:
        raise ValueError(f"{path} is not a NumPy .npy file ({error}); save features with numpy.save") from error
    if dtype.kind not in "fiu":
        raise ValueError(f"{path} holds {dtype} values; expected numbers (float32), saved with numpy.save")
    if len(shape) not in (2, 3):
        raise ValueError(f"{path} has {len(shape)} axes {shape}; expected [channels, time], [time, channels] or crops")
    return shape


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Axes and type of the array in an open `.npy` file, or in a member of a `.npz` file.

    Raises:
        ValueError: something else.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_features(path: epath.PathLike, layout: str) -> np.ndarray:
    """Reads a feature file in a known layout.

    Returns:
        [time, channels] or [crops, time, channels] float32, possibly a transposed view of what is on disk.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a feature file, a truncated one, or one whose number of axes the layout does not know.
    """
    path = epath.Path(path)
    shape = read_shape(path)
    order = TRANSPOSITIONS.get((layout, len(shape)))
    if order is None:
        raise ValueError(
            f"{path} has axes {shape}, which cannot be read as {layout}; use one of {known_layouts(shape)}"
        )
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it may be truncated: copy or extract it again") from error
    return np.asarray(array, np.float32).transpose(order)


def known_layouts(shape: tuple[int, ...]) -> list[str]:
    """Layouts that exist for an array with these axes."""
    return [layout for layout, axes in TRANSPOSITIONS if axes == len(shape)]


def detect_layout(
    shapes: Mapping[str, tuple[int, ...]],
    label_counts: Mapping[str, int],
    *,
    feature_dim: int | None = None,
    sample_rate: int = 1,
) -> str:
    """Finds the layout in which most files have the right width and as many frames as labels.

    A file votes for a layout once if its channel axis has the expected width (`feature_dim`, else the most frequent
    size of that axis) and once if its time axis fits the number of labels.

    Args:
        shapes: video -> axes on disk.
        label_counts: video -> number of frame labels, where known.
        feature_dim: expected number of channels, if known.
        sample_rate: frames per used frame; lengths may differ by that much.

    Raises:
        ValueError: no layout has the most votes; the message shows what was found.
    """
    candidates = sorted({layout for shape in shapes.values() for layout in known_layouts(shape)})
    votes: dict[str, int] = {}
    for layout in candidates:
        read = {video: shape_in_layout(shape, layout) for video, shape in shapes.items()}
        widths = collections.Counter(size.channels for size in read.values() if size is not None)
        width = feature_dim if feature_dim is not None else widths.most_common(1)[0][0]
        votes[layout] = sum(
            (size.channels == width) + _fits(size.frames, label_counts.get(video), sample_rate)
            for video, size in read.items()
            if size is not None
        )
    best = max(votes.values(), default=0)
    winners = [layout for layout, count in votes.items() if count == best]
    if best > 0 and len(winners) == 1:
        return winners[0]
    seen = "; ".join(
        f"{video}: axes {shape}, {label_counts.get(video, 'no')} labels" for video, shape in list(shapes.items())[:3]
    )
    if best == 0 and feature_dim is not None:
        raise ValueError(
            f"no axis of the features is the {feature_dim} channels expected ({seen}); use features of the extractor "
            "that the model was trained with, or set feature_dim to train on others"
        )
    width = "unknown feature_dim" if feature_dim is None else f"feature_dim={feature_dim}"
    raise ValueError(
        f"cannot tell which axis of the features is time ({width}; {seen}); both {' and '.join(winners)} fit equally: "
        f"set the layout ({', '.join(LAYOUTS[1:])}) or feature_dim"
    )


def allowed_difference(num_labels: int, sample_rate: int = 1) -> int:
    """Largest difference between feature frames and labels that is cut away with a warning: 1 %, or one sample."""
    return max(sample_rate, num_labels // 100)


def _fits(frames: int, num_labels: int | None, sample_rate: int) -> bool:
    return num_labels is not None and abs(frames - num_labels) <= allowed_difference(num_labels, sample_rate)


def read_video_features(path: epath.PathLike, *, feature_dim: int, layout: str = "auto") -> np.ndarray:
    """Reads the features of a video without labels (prediction on own files).

    Args:
        path: `.npy` file.
        feature_dim: channels that the model expects.
        layout: one of `LAYOUTS`; `"auto"` takes the axis of size `feature_dim` for the channels.

    Returns:
        [time, channels] or [crops, time, channels] float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: wrong width, both axes of that width, NaN or infinite values.
    """
    shape = read_shape(path)
    known = known_layouts(shape)
    fitting = [name for name in known if shape_in_layout(shape, name).channels == feature_dim]
    if layout != "auto":
        fitting = [name for name in fitting if name == layout]
    if not fitting:
        raise ValueError(
            f"{path} has axes {shape}, none of which is the {feature_dim} channels that the model expects"
            + ("" if layout == "auto" else f" (layout {layout})")
            + "; use features of the extractor that the model was trained with"
        )
    if len(fitting) > 1:
        raise ValueError(f"{path} has axes {shape}: {' and '.join(fitting)} fit equally; set the layout")
    features = read_features(path, fitting[0])
    require_finite(features, path)
    return features


def require_finite(features: np.ndarray, path: epath.PathLike) -> None:
    """Raises ValueError if features hold NaN or infinite values, naming the first bad frame.

    Args:
        features: [(crops,) time, channels].
        path: the file, for the message.
    """
    text = describe_not_finite(features)
    if text:
        raise ValueError(f"{path}: {text}; extract the features of this video again")


def describe_not_finite(features: np.ndarray) -> str:
    """Number of NaN or infinite values in [(crops,) time, channels], and the first frame; empty if all are finite."""
    finite = np.isfinite(features)
    if finite.all():
        return ""
    bad_frames = np.flatnonzero(
        ~finite.all(axis=tuple(axis for axis in range(features.ndim) if axis != features.ndim - 2))
    )
    return (
        f"{np.count_nonzero(~finite)} NaN or infinite values in {len(bad_frames)} of {features.shape[-2]} frames, "
        f"first in frame {bad_frames[0]}"
    )


def input_files(paths: Sequence[str], suffix: str) -> list[epath.Path]:
    """The files that a user names: files as they are, of a folder those with `suffix`, sorted.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no such file.
        ValueError: two files have the same name, so that the results of one would replace the other's.
    """
    files: list[epath.Path] = []
    for name in paths:
        path = epath.Path(name)
        if not path.exists():
            raise FileNotFoundError(f"--inputs: {path} does not exist; expected a {suffix} file or a folder of them.")
        found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
        if not found:
            raise FileNotFoundError(f"--inputs: {path} holds no {suffix} files; expected one per video.")
        files += found
    by_name: dict[str, epath.Path] = {}
    for path in files:
        if path.stem in by_name:
            raise ValueError(
                f"--inputs: {by_name[path.stem]} and {path} have the same name, and results are named by it; rename "
                "one, or predict them into different workdirs."
            )
        by_name[path.stem] = path
    return files
