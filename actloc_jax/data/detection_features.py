"""Features of untrimmed videos, where and in whatever format published code keeps them (numpy only).

A pattern says where the features of a video are, below the data folder:

| pattern | used by |
|---|---|
| `features/{video}.npy` | ActionFormer, TriDet, FuSTAL's student |
| `features/{subset}/{stream}/{video}.npy` with `streams=("rgb", "flow")` | CoLA, FuSTAL's generator |
| `csv/{video}.csv` | BSN, BMN, SPOT: a header line, then one line per row |
| `slowfast/{video}.npz:feats` | EPIC-Kitchens: the array `feats` of each file |
| `tsp.h5:{video}` | one file with a dataset per video; needs h5py |

Prefixes and extensions are part of the pattern. What follows the ":" names the array in a `.npz` or `.h5` file; without
it the file must hold one array only. Streams are concatenated along the channels in their order (RGB first), after all
were cut to the shortest.
"""

from __future__ import annotations

import dataclasses
import io
import os
import types
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from actloc_jax.data import feature_files

SUFFIXES = (".npy", ".npz", ".csv", ".h5", ".hdf5")

STREAM_SLACK = 1
"""Rows by which streams may differ: optical flow has one frame less than the images."""


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """Finds and reads the features of videos.

    Attributes:
        root: folder of the data set.
        pattern: where a video's features are under `root`, see the module.
        streams: values of `{stream}` in the pattern, in the order of the channels.
        layout: axes on disk, "time_first" [time, channels] or "channels_first".
        feature_dim: expected channels of all streams together, if known.
        downsample: every how many rows are kept.
    """

    root: epath.PathLike
    pattern: str = "features/{video}.npy"
    streams: Sequence[str] = ()
    layout: str = "time_first"
    feature_dim: int | None = None
    downsample: int = 1

    def __post_init__(self) -> None:
        path, _ = _split_key(self.pattern)
        if not path.endswith(SUFFIXES):
            raise ValueError(f"feature pattern {self.pattern!r} ends with none of {', '.join(SUFFIXES)}")
        if "{video}" not in self.pattern or ("{stream}" in self.pattern) != bool(self.streams):
            raise ValueError(
                f"feature pattern {self.pattern!r} with the streams {list(self.streams)}: expected {{video}} in it, "
                "and {stream} exactly if there are streams"
            )
        try:
            self.pattern.format(video="", subset="", stream="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"feature pattern {self.pattern!r} has an unknown field ({error}); "
                "use {video}, {subset} and {stream}"
            ) from error
        if self.layout not in ("time_first", "channels_first"):
            raise ValueError(f'layout={self.layout!r} is unknown; use "time_first" or "channels_first"')
        if self.downsample < 1:
            raise ValueError(f"downsample={self.downsample} must be at least 1")

    def locations(self, video: str, subset: str = "") -> list[str]:
        """The files of a video, one per stream, with ":<array>" where the pattern has it."""
        return [
            os.fspath(epath.Path(self.root) / self.pattern.format(video=video, subset=subset, stream=stream))
            for stream in self.streams or ("",)
        ]

    def missing(self, video: str, subset: str = "") -> list[str]:
        """The locations of a video that do not exist."""
        return [location for location in self.locations(video, subset) if not _exists(location)]

    def shape(self, video: str, subset: str = "") -> tuple[int, int]:
        """Rows and channels of a video as `read` gives them; only headers are read (of csv files: the lines counted).

        Raises:
            FileNotFoundError: no such file, or no such array in it.
            ValueError: not a feature file, the wrong width, or streams of different lengths.
        """
        locations = self.locations(video, subset)
        sizes = [self._axes(_read_shape(location), location) for location in locations]
        return self._joined(locations, sizes)

    def read(self, video: str, subset: str = "") -> np.ndarray:
        """Features of a video.

        Returns:
            [time, channels] float32.

        Raises:
            FileNotFoundError: no such file, or no such array in it.
            ValueError: not a feature file, the wrong width, streams of different lengths, NaN or infinite values.
        """
        features = self.read_unchecked(video, subset)
        feature_files.require_finite(features, ", ".join(self.locations(video, subset)))
        return features

    def read_unchecked(self, video: str, subset: str = "") -> np.ndarray:
        """As `read`, [time, channels] float32, but NaN and infinite values pass."""
        locations = self.locations(video, subset)
        arrays = []
        for location in locations:
            array = _read_array(location)
            self._axes(array.shape, location)
            arrays.append(np.asarray(array if self.layout == "time_first" else array.T, np.float32))
        self._joined(locations, [array.shape for array in arrays])
        shortest = min(map(len, arrays))
        joined = np.concatenate([array[:shortest] for array in arrays], axis=1) if len(arrays) > 1 else arrays[0]
        return np.ascontiguousarray(joined[:: self.downsample])

    def _axes(self, shape: tuple[int, ...], location: str) -> tuple[int, int]:
        """Rows and channels of an array with these axes on disk."""
        if len(shape) != 2:
            raise ValueError(f"{location} has axes {tuple(shape)}; expected two, {self._axes_text()}")
        return shape if self.layout == "time_first" else shape[::-1]

    def _axes_text(self) -> str:
        return "[time, channels]" if self.layout == "time_first" else "[channels, time]"

    def _joined(self, locations: list[str], sizes: list[tuple[int, int]]) -> tuple[int, int]:
        """Rows and channels after concatenation and downsampling."""
        rows = [size[0] for size in sizes]
        if max(rows) - min(rows) > STREAM_SLACK:
            listed = ", ".join(f"{location}: {count} rows" for location, count in zip(locations, rows, strict=True))
            raise ValueError(f"the streams of a video differ by more than {STREAM_SLACK} row ({listed}); extract again")
        if min(rows) == 0:
            raise ValueError(f"{locations[rows.index(0)]} has no rows; extract the features of this video again")
        channels = sum(size[1] for size in sizes)
        if self.feature_dim not in (None, channels):
            raise ValueError(
                f"{' + '.join(locations)}: {channels} channels (read as {self._axes_text()}), expected "
                f"{self.feature_dim}; set feature_dim or the layout, or use features of the right extractor"
            )
        return -(-min(rows) // self.downsample), channels


def _split_key(location: str) -> tuple[str, str | None]:
    """A file and the array in it: "a.h5:x" -> ("a.h5", "x"); other colons belong to the path."""
    for suffix in (".h5", ".hdf5", ".npz"):
        path, found, key = location.rpartition(f"{suffix}:")
        if found:
            return path + suffix, key
    return location, None


def _exists(location: str) -> bool:
    path, key = _split_key(location)
    if not epath.Path(path).exists():
        return False
    if key is None or not path.endswith((".h5", ".hdf5")):
        return True
    with _open_h5(path) as file:
        return key in file


def _read_shape(location: str) -> tuple[int, ...]:
    """Axes of the array on disk."""
    path, key = _split_key(location)
    if path.endswith(".npy"):
        return feature_files.read_shape(path)
    _require_file(path)
    if path.endswith(".npz"):
        with epath.Path(path).open("rb") as file, _open_zip(file, path) as archive:
            names = {name.removesuffix(".npy"): name for name in archive.namelist()}
            with archive.open(names[_choose(list(names), key, path)]) as member:
                return _array_header(member, location)
    if path.endswith(".csv"):
        lines = epath.Path(path).read_text().splitlines()
        rows = sum(bool(line.strip()) for line in lines[_header_lines(lines) :])
        return rows, len(lines[0].split(",")) if lines else 0
    with _open_h5(path) as file:
        return _h5_dataset(file, key, path).shape


def _read_array(location: str) -> np.ndarray:
    """The array on disk, as it is."""
    path, key = _split_key(location)
    if path.endswith(".npy"):
        return feature_files.read_features(path, "time_first")
    _require_file(path)
    if path.endswith(".npz"):
        try:
            with np.load(io.BytesIO(epath.Path(path).read_bytes()), allow_pickle=False) as file:
                return file[_choose(file.files, key, path)]
        except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
            raise ValueError(f"{location} cannot be read ({error}); copy or extract it again") from error
    if path.endswith(".csv"):
        return _read_csv(path)
    with _open_h5(path) as file:
        return _h5_dataset(file, key, path)[()]


def _require_file(path: str) -> None:
    if not epath.Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; expected the features of a video")


def _open_zip(file: Any, path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a .npz file ({error}); save features with numpy.savez") from error


def _array_header(file: Any, location: str) -> tuple[int, ...]:
    """Axes of the `.npy` content of an open file."""
    try:
        shape, dtype = feature_files.read_header(file)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{location} holds no array ({error}); save features with numpy.savez") from error
    if dtype.kind not in "fiu":
        raise ValueError(f"{location} holds {dtype} values; expected numbers (float32)")
    return shape


def _choose(names: list[str], key: str | None, path: str) -> str:
    """The array of a file: the one asked for, else the only one."""
    if key is None and len(names) == 1:
        return names[0]
    if key in names:
        return key
    listed = ", ".join(map(repr, names[:5])) + ", ..." * (len(names) > 5) or "nothing"
    if key is None:
        raise ValueError(f"{path} holds {len(names)} arrays ({listed}); name one behind a ':' in the feature pattern")
    raise FileNotFoundError(f"{path} holds no array {key!r}, but {listed}; correct what follows ':' in the pattern")


def _header_lines(lines: list[str]) -> int:
    """1 if the first line names the columns: by words, or by their numbers 0, 1, 2, ... as pandas writes them."""
    if not lines:
        return 0
    names = [name.strip() for name in lines[0].split(",")]
    try:
        [float(name) for name in names]
    except ValueError:
        return 1
    return int(len(names) > 2 and names == [str(column) for column in range(len(names))])


def _read_csv(path: str) -> np.ndarray:
    """[rows, columns] float32 of a csv file with or without a header line."""
    lines = epath.Path(path).read_text().splitlines()
    lines = [line for line in lines[_header_lines(lines) :] if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no rows of numbers; expected one line per row of features")
    try:
        return np.loadtxt(lines, delimiter=",", dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is not a table of numbers ({error}); expected one line per row") from error


def _h5py() -> types.ModuleType:
    try:
        import h5py  # optional: only .h5 features need it
    except ImportError as error:
        raise ValueError(
            "features in .h5 files need h5py, which is not installed; pip install h5py, or convert them to .npy"
        ) from error
    return h5py


def _open_h5(path: str) -> Any:
    """An open `.h5` file."""
    try:
        return _h5py().File(os.fspath(path), "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be opened as .h5 file ({error})") from error


def _h5_dataset(file: Any, key: str | None, path: str) -> Any:
    if key is None or key not in file:  # a key may lead into groups ("a/b"), which the listing does not show
        key = _choose(list(file), key, path)
    if not hasattr(file[key], "shape"):
        raise ValueError(f"{path}: {key!r} is a group, not an array; name the array in it, e.g. {path}:{key}/features")
    return file[key]
