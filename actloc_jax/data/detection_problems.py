"""Finds everything that is wrong with a split of a detection data set, at once, before the first step (numpy only)."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np

from actloc_jax.data import feature_files
from actloc_jax.data.annotations import VideoAnnotation, remove_duplicates
from actloc_jax.data.detection import DetectionFolder
from actloc_jax.data.problems import Problem

ROUNDING = 0.02
"""Share of a duration by which features may be longer without a warning: durations are often rounded."""


def find_problems(
    folder: DetectionFolder, split: str, *, read_values: bool = True, need_features: bool = True
) -> list[Problem]:
    """Checks the videos of a split.

    Args:
        folder: the data set.
        split: "train", "test", ... as in the folder's subsets.
        read_values: read all features to look for NaN and infinite values; without it only their headers are read.
        need_features: False for ground truth without features (evaluating predictions).

    Returns:
        All problems: of the annotation file (all splits), then of the videos in their order.
    """
    try:
        _, problems = folder.parsed
        videos = folder.annotated(split)
    except (FileNotFoundError, ValueError) as error:
        return [Problem("error", str(error))]
    problems = list(problems)
    problems += _listed_twice(folder, split)
    problems += _shared_videos(folder, split, videos)
    without = [video.video for video in videos if not len(video.labels)]
    if without:
        problems.append(
            Problem(
                "error" if len(without) == len(videos) and split == "train" else "warning",
                f"{folder.annotation_path}: {len(without)} of {len(videos)} videos of split {split!r} have no "
                f"annotation, e.g. {', '.join(without[:3])}; they count as background",
            )
        )
    for video in videos:
        problems += _check_segments(folder, video)
    if need_features:
        problems += _check_features(folder, split, videos, read_values)
    return problems


def _listed_twice(folder: DetectionFolder, split: str) -> list[Problem]:
    """Videos that the list of a split names more than once."""
    if split not in folder.lists:
        return []
    path = folder.root / folder.lists[split]
    names = collections.Counter(line.strip() for line in path.read_text().splitlines() if line.strip())
    return [
        Problem("error", f"{path} lists {name} {count} times; list every video once")
        for name, count in names.items()
        if count > 1
    ]


def _shared_videos(folder: DetectionFolder, split: str, videos: list[VideoAnnotation]) -> list[Problem]:
    """Videos that are both in the training and in the test split."""
    other = {"train": "test", "test": "train"}.get(split)
    try:
        others = {video.video for video in folder.annotated(other)} if other else set()
    except (FileNotFoundError, ValueError):
        return []
    shared = sorted(others & {video.video for video in videos})
    if not shared:
        return []
    return [
        Problem(
            "warning",
            f"{len(shared)} videos are in both the train and the test split, e.g. {shared[0]}: scores will not show "
            "how the model does on new videos",
        )
    ]


def _check_segments(folder: DetectionFolder, video: VideoAnnotation) -> list[Problem]:
    """What is wrong with the segments of a video; each kind is said once, with the first segment of it."""
    starts, ends = video.segments.T
    outside = (starts >= video.duration) | (ends <= 0)
    outside &= ends > starts
    partly = ((starts < 0) | (ends > video.duration)) & ~outside & (ends > starts)
    _, kept = remove_duplicates(video.segments, video.labels)
    where = f"{folder.annotation_path}: video {video.video}"
    length = f"(duration {video.duration:.2f} s)"
    found = []
    for severity, wrong, text in (
        ("error", ends < starts, "end before their start; swap or remove them"),
        ("warning", ends == starts, "have no length: nothing can be learnt from them or match them"),
        (folder.outside, outside, f"lie outside the video {length}: correct the times or the duration"),
        ("warning", partly, f"reach over the ends of the video {length}"),
    ):
        if wrong.any():
            first = video.segments[wrong][0]
            found.append(
                Problem(
                    severity,
                    f"{where}: {np.count_nonzero(wrong)} of {len(wrong)} segments {text}; e.g. "
                    f"[{first[0]:.2f}, {first[1]:.2f}]",
                )
            )
    if len(kept) < len(video.labels):
        found.append(Problem("warning", f"{where}: {len(video.labels) - len(kept)} segments are annotated twice"))
    return found


def _check_features(
    folder: DetectionFolder, split: str, videos: list[VideoAnnotation], read_values: bool
) -> list[Problem]:
    """What is wrong with the features of the videos."""
    found = []
    try:
        missing = folder.without_features(split)
    except ValueError as error:  # a .h5 file that cannot be opened
        return [Problem("error", str(error))]
    if missing:
        severe = folder.missing_features == "error" or len(missing) == len(videos)
        message = folder.missing_features_message(split, missing)
        found.append(Problem("error", message) if severe else Problem("warning", f"{message}; left out"))
    skipped = {video.video for video in missing}
    widths: dict[int, list[str]] = {}
    misfits: list[Problem] = []
    for video in videos:
        if video.video not in skipped:
            found += _check_video_features(folder, video, read_values, widths, misfits)
    # Published data have a few videos with frames missing; where most do not fit, the grid is wrong.
    systematic = len(misfits) > (len(videos) - len(missing)) / 2
    found += [dataclasses.replace(problem, severity="error") for problem in misfits] if systematic else misfits
    if len(widths) > 1:
        usual = max(widths, key=lambda width: len(widths[width]))
        others = ", ".join(f"{width} ({names[0]})" for width, names in widths.items() if width != usual)
        found.append(
            Problem("error", f"the features have different widths: {usual} channels in most videos, but {others}")
        )
    return found


def _check_video_features(
    folder: DetectionFolder,
    video: VideoAnnotation,
    read_values: bool,
    widths: dict[int, list[str]],
    misfits: list[Problem],
) -> list[Problem]:
    """What is wrong with the features of one video; notes their width, and whether they are too short or too long."""
    subset = folder.subset_folder(video)
    where = ", ".join(folder.features.locations(video.video, subset))
    try:
        rows, channels = folder.features.shape(video.video, subset)
        widths.setdefault(channels, []).append(video.video)
        misfits += _check_length(folder, video, rows, where)
        not_finite = ""
        if read_values:
            not_finite = feature_files.describe_not_finite(folder.features.read_unchecked(video.video, subset))
    except (FileNotFoundError, ValueError) as error:
        return [Problem("error", str(error))]
    if not_finite:
        return [Problem("error", f"{where}: {not_finite}; extract the features of this video again")]
    return []


def _check_length(folder: DetectionFolder, video: VideoAnnotation, rows: int, where: str) -> list[Problem]:
    """Compares what the features cover with the duration of the video."""
    grid = folder.grid(video, rows)
    covered = grid.covered_seconds(rows)
    window = max(grid.window, grid.stride) / grid.fps
    if not math.isfinite(video.duration):
        return []
    text = f"{where}: {rows} rows cover {covered:.2f} s, but {video.video} lasts {video.duration:.2f} s"
    advice = "check stride, window and fps of the feature grid, or extract the features of this video again"
    if covered < video.duration - window:
        lost = np.count_nonzero(video.segments[:, 1] > covered + window)
        return [
            Problem(
                "warning", f"{text}, more than a window ({window:.2f} s) longer; {lost} segments end behind; {advice}"
            )
        ]
    if covered > video.duration * (1 + ROUNDING) + window:
        return [Problem("warning", f"{text}, more than a window ({window:.2f} s) shorter; {advice}")]
    return []
