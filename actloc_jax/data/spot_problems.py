"""Finds what is wrong with a data set for learning with few labels, at once, before the first step (numpy only).

`detection_problems.py` finds what is wrong with each split; here is what depends on who is labelled, on the fixed
number of steps, and on scores of whole videos.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actloc_jax.data import detection_problems
from actloc_jax.data.problems import Problem
from actloc_jax.data.rescaled import resize_linear
from actloc_jax.data.semi_supervised import Part, SemiSupervised
from actloc_jax.data.spot_files import VideoScore

SHARE_TOLERANCE = 2.0
"""Points of per cent by which a stated division may differ from the share asked for: divisions are random draws."""

LISTED = 3  # names shown of many


def find_problems(
    data: SemiSupervised, *, read_values: bool = True, scores: Mapping[str, VideoScore] | None = None
) -> list[Problem]:
    """Checks the training and the evaluation videos.

    Args:
        data: the data set and its division.
        read_values: read all features, to look for NaN, infinite and constant channels.
        scores: of whole videos, if the evaluation uses them.

    Returns:
        All problems; empty if there are none.
    """
    try:
        _, found = data.folder.parsed
    except (FileNotFoundError, ValueError) as error:
        return [Problem("error", str(error))]
    found = [*found]
    for split in (data.train, data.evaluation):
        found += detection_problems.find_problems(data.folder, split, read_values=read_values)
    try:
        data.split  # noqa: B018  (divides the videos, or says why it cannot)
        evaluation = data.annotated("evaluation")
    except (FileNotFoundError, ValueError) as error:
        return list(dict.fromkeys([*found, Problem("error", str(error))]))
    found += _share_of_labels(data)
    found += _unseen_classes(data)
    if not any(problem.severity == "error" for problem in found):
        for part in ("labelled", "unlabelled", "evaluation"):
            found += _without_targets(data, part)
        if read_values:
            found += _constant_channels(data)
    if scores is not None:
        found += _missing_scores([video.video for video in evaluation], scores)
    return list(dict.fromkeys(found))


def _share_of_labels(data: SemiSupervised) -> list[Problem]:
    """No labelled video, or a stated division of another share than was asked for."""
    split = data.split
    labelled, total = len(split.labelled), len(split.labelled) + len(split.unlabelled)
    if not labelled:
        return [Problem("error", f"none of {total} training videos is labelled ({split.rule}); nothing can be learnt")]
    wrong = abs(split.per_cent - data.labels) > SHARE_TOLERANCE and abs(labelled - total * data.labels / 100) > 1
    if not wrong:
        return []
    return [
        Problem(
            "error",
            f"{labelled} of {total} training videos are labelled, {split.per_cent:.3g} % ({split.rule}), but "
            f"labels={data.labels:g} per cent were asked for; choose the file of that share",
        )
    ]


def _unseen_classes(data: SemiSupervised) -> list[Problem]:
    """Classes of the evaluation that no labelled video shows."""
    names = data.folder.class_names
    shown = {label for video in data.split.labelled for label in video.labels.tolist()}
    wanted = {label for video in data.annotated("evaluation") for label in video.labels.tolist()}
    unseen = sorted(wanted - shown)
    if not unseen or not data.split.labelled:
        return []
    listed = ", ".join(names[label] for label in unseen[:LISTED]) + ", ..." * (len(unseen) > LISTED)
    return [
        Problem("warning", f"no labelled video shows {len(unseen)} of the {len(wanted)} evaluated classes: {listed}")
    ]


def _without_targets(data: SemiSupervised, part: Part) -> list[Problem]:
    """Videos that are left out, or taught as background, because no segment of theirs counts."""
    total = data.annotated(part)
    if not total:
        return []
    filtered = part == "evaluation" and data.quirks.filter_evaluation
    try:
        counted = set(data.evaluated(need_features=False)) if filtered else set()
        empty = (
            [video.video for video in total if video.video not in counted] if filtered else data.without_targets(part)
        )
    except ValueError as error:
        return [Problem("error", str(error))]
    if not empty:
        return []
    fate = {
        "labelled": "left out" if data.quirks.long_segments_only else "taught as background",
        "unlabelled": "left out" if data.quirks.filter_unlabelled else "used all the same",
        "evaluation": "not evaluated" if filtered else "evaluated all the same",
    }[part]
    needed = part == "labelled" or filtered
    return [
        Problem(
            "error" if needed and len(empty) == len(total) else "warning",
            f"{len(empty)} of {len(total)} {part} videos have no segment that counts at {data.steps} steps, e.g. "
            f"{', '.join(empty[:LISTED])}; they are {fate}",
        )
    ]


def _constant_channels(data: SemiSupervised) -> list[Problem]:
    """Videos with a channel that never changes: scaling it to 0..1 divides zero by zero."""
    constant: dict[str, int] = {}
    videos = [*data.videos("labelled"), *data.videos("unlabelled")]
    for video in videos:
        features = resize_linear(data.folder.read_features(video.annotation), data.steps)
        count = np.count_nonzero(features.max(axis=0) == features.min(axis=0))
        if count:
            constant[video.annotation.video] = count
    if not constant:
        return []
    first, count = next(iter(constant.items()))
    return [
        Problem(
            "warning",
            f"{len(constant)} of {len(videos)} training videos have channels that never change, the first is {first} "
            f"with {count}; scaled to 0..1 they become 0 (the original: NaN)",
        )
    ]


def _missing_scores(videos: list[str], scores: Mapping[str, VideoScore]) -> list[Problem]:
    """Evaluation videos without a score of the whole video."""
    lacking = [video for video in videos if video not in scores]
    if not lacking:
        return []
    return [
        Problem(
            "error" if len(lacking) == len(videos) else "warning",
            f"{len(lacking)} of {len(videos)} evaluation videos have no score of the whole video, the first is "
            f"{lacking[0]}; their class comes from the model, or switch the scores off",
        )
    ]
