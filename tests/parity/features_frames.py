"""From a video to the pictures of each window, against the published extractors and ffmpeg."""

from __future__ import annotations

import fractions
import re

import numpy as np

from actloc_jax.data import constant_rate, grid, window_grids
from tests.parity.harness import Case, parity


@parity("features", "resample_fps")
def check_constant_rate(case: Case) -> None:
    """Which frame is shown when, for constant and for variable rates."""
    for given in case.config["cases"]:
        times = np.arange(given["n"]) if isinstance(given["pts"], str) else np.asarray(given["pts"])
        durations = given["durations"]
        last = 0 if durations is None else 1 if isinstance(durations, str) else durations[-1]
        found = constant_rate.frames_at_rate(
            times, fractions.Fraction(given["time_base"]), fractions.Fraction(given["fps_out"]), last_duration=last
        )
        np.testing.assert_array_equal(found, case.arrays[given["name"]], err_msg=given["name"])


@parity("features", "window_grid")
def check_windows(case: Case) -> None:
    """The frames and fields behind each row, for short and long videos."""
    checked = set()
    for name, expected in case.arrays.items():
        kind, frames, what = name.split("/")
        _check_grid(case.config, kind, int(frames), what, expected, name)
        checked.add(kind)
    assert len(checked) >= 12


def _check_grid(config: dict, kind: str, frames: int, what: str, expected: np.ndarray, name: str) -> None:
    numbers = [int(number) for number in re.findall(r"_(\d+)", kind)]
    if kind.startswith("mstcn"):
        window, batch = config["mstcn_batch4_window_and_batch"] if "batch" in kind else (config["mstcn_window"], 1)
        if kind == "mstcn_centred":
            found = window_grids.centred(frames, window=window)
        else:
            found = window_grids.shifted(frames, window=window, batch=batch)
        values = {
            "frames": found.frames,
            "flow_pairs": found.fields,
            "inside": window_grids.inside(frames, window=window),
        }
        expected = _field_numbers(expected) if what == "flow_pairs" else expected
    elif kind.startswith("thumos"):
        found = window_grids.sliding(frames, window=numbers[0], stride=numbers[1])
        seconds = grid.Grid(stride=numbers[1], window=numbers[0], fps=30.0).to_seconds(np.arange(len(found.frames)))
        values = {"first_frames": found.frames[:, 0], "centre_seconds_30fps": seconds}
    elif kind.startswith("nonoverlap"):
        found = window_grids.without_overlap(frames, window=numbers[0])
        values = {"start_end": found.frames[:, [0, -1]] + [0, 1]}
    elif kind.startswith("tsn"):
        found = window_grids.interval_centres(frames, interval=numbers[0])
        values = {"rgb_frame": found.frames[:, 0], "flow_fields": found.fields}
    else:
        found = window_grids.stacks(frames, window=numbers[0], stride=numbers[1])
        values = {"first_last": found.frames[:, [0, -1]] + [0, 1]}
    np.testing.assert_array_equal(values[what], expected, err_msg=name)


def _field_numbers(pairs: np.ndarray) -> np.ndarray:
    """Pairs of frames to numbers of fields: equal frames and pairs of -1 have no motion."""
    first, second = pairs[..., 0], pairs[..., 1]
    moving = (first >= 0) & (first != second)
    np.testing.assert_array_equal(second[moving], first[moving] + 1)
    return np.where(moving, first, window_grids.NOTHING)
