"""Finds everything that is wrong with a split of a segmentation data set, at once and before the first step."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Literal

from actloc_jax.data import feature_files
from actloc_jax.data.segmentation import SegmentationFolder, length_message

LISTED_LINES = 3  # line numbers shown of an unknown class


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong with the data.

    Attributes:
        severity: `"error"` (training would fail or be wrong) or `"warning"` (the published rule applies, e.g. a frame
            is cut away).
        message: what was found, where, what was expected, what to do.
    """

    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"


def find_problems(
    folder: SegmentationFolder, subset: str, split: int, *, read_values: bool = True, need_features: bool = True
) -> list[Problem]:
    """Checks the videos of a subset.

    Args:
        folder: the data set.
        subset: "train", "val" or "test".
        split: number of the split.
        read_values: read all features to look for NaN and infinite values; without it only their headers are read.
        need_features: False for ground truth without features (evaluating published predictions).

    Returns:
        All problems, in the order of the videos; empty if there are none.
    """
    bundle = folder.bundle_path(subset, split)
    try:
        videos = folder.videos(subset, split)
    except FileNotFoundError as error:
        return [Problem("error", str(error))]
    if not videos:
        return [Problem("error", f'{bundle} lists no videos; expected one "<video>.txt" per line')]
    problems = [
        Problem("error", f"{bundle} lists {video} {count} times; list every video once")
        for video, count in collections.Counter(videos).items()
        if count > 1
    ]
    problems += _shared_videos(folder, subset, split, videos)
    if need_features:
        try:
            folder.layout  # noqa: B018  (detects the axes of the feature files, or says why it cannot)
        except (FileNotFoundError, ValueError) as error:
            problems.append(Problem("error", str(error)))
            need_features = False
    widths: dict[int, list[str]] = {}
    for video in dict.fromkeys(videos):
        num_labels = _check_labels(folder, video, problems)
        if need_features:
            _check_features(folder, video, num_labels, read_values, widths, problems)
    if folder.feature_dim is None and len(widths) > 1:
        problems.append(_mixed_widths(folder, widths))
    return problems


def require_no_errors(problems: Iterable[Problem]) -> None:
    """Raises one ValueError that lists all errors; warnings pass."""
    errors = [problem.message for problem in problems if problem.severity == "error"]
    if errors:
        listed = "\n".join(f"  {number}. {message}" for number, message in enumerate(errors, start=1))
        raise ValueError(f"{len(errors)} problem{'s' * (len(errors) > 1)} with the data:\n{listed}")


def _shared_videos(folder: SegmentationFolder, subset: str, split: int, videos: list[str]) -> list[Problem]:
    """Videos that are both in the training and in the test subset."""
    other = {"train": "test", "test": "train"}.get(subset)
    if other is None or not folder.bundle_path(other, split).exists():
        return []
    shared = sorted(set(videos) & set(folder.videos(other, split)))
    if not shared:
        return []
    return [
        Problem(
            "warning",
            f"{len(shared)} videos are in both the train and the test bundle of split {split}, e.g. {shared[0]}: "
            "scores will not show how the model does on new videos",
        )
    ]


def _check_labels(folder: SegmentationFolder, video: str, problems: list[Problem]) -> int | None:
    """Adds what is wrong with the ground truth of a video; returns the number of its labels if it can be read."""
    try:
        names = folder.label_names(video)
    except (FileNotFoundError, ValueError) as error:
        problems.append(Problem("error", str(error)))
        return None
    for name, lines in folder.unknown_classes(names).items():
        where = ", ".join(map(str, lines[:LISTED_LINES])) + (", ..." if len(lines) > LISTED_LINES else "")
        problems.append(
            Problem(
                "error",
                f"{folder.label_path(video)}: class {name!r} in {len(lines)} lines ({where}) is not in mapping.txt "
                f"(known: {', '.join(folder.class_names)}); add it there or correct the lines",
            )
        )
    if len(names) < folder.sample_rate:
        problems.append(
            Problem(
                "error",
                f"{folder.label_path(video)} has {len(names)} frames, fewer than the sample rate {folder.sample_rate}",
            )
        )
    return len(names)


def _check_features(
    folder: SegmentationFolder,
    video: str,
    num_labels: int | None,
    read_values: bool,
    widths: dict[int, list[str]],
    problems: list[Problem],
) -> None:
    """Adds what is wrong with the features of a video, and notes their width."""
    try:
        size = folder.feature_shape(video)
    except (FileNotFoundError, ValueError) as error:
        problems.append(Problem("error", str(error)))
        return
    path = folder.feature_path(video)
    widths.setdefault(size.channels, []).append(video)
    if folder.feature_dim is not None and size.channels != folder.feature_dim:
        problems.append(
            Problem(
                "error",
                f"{path} has {size.channels} channels (read as {folder.layout}), expected {folder.feature_dim}; "
                "set feature_dim or the layout, or extract the features again",
            )
        )
    if num_labels is not None and size.frames != num_labels:
        small = abs(size.frames - num_labels) <= feature_files.allowed_difference(num_labels, folder.sample_rate)
        message = length_message(folder, video, size.frames, num_labels)
        problems.append(Problem("warning", message + ": cut to the shorter") if small else Problem("error", message))
    if read_values:
        try:
            not_finite = feature_files.describe_not_finite(feature_files.read_features(path, folder.layout))
        except ValueError as error:
            problems.append(Problem("error", str(error)))
            return
        if not_finite:
            problems.append(Problem("error", f"{path}: {not_finite}; extract the features of this video again"))


def _mixed_widths(folder: SegmentationFolder, widths: dict[int, list[str]]) -> Problem:
    """Says which widths the features have when no width was asked for."""
    usual = max(widths, key=lambda width: len(widths[width]))
    others = ", ".join(f"{width} ({names[0]})" for width, names in widths.items() if width != usual)
    return Problem(
        "error",
        f"the features of {folder.features_dir} have different widths: {usual} channels in most files, but {others}",
    )
