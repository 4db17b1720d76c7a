"""Files of scored segments: pseudo proposals, detections, in ActivityNet's results format (numpy only).

`{"method": text, "results": {video: [{"label": name, "score": number, "segment": [start, end]}, ...]}}`, seconds. This
is what FuSTAL's generator hands to its student, what the student writes, and what ActivityNet's evaluation reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from actloc_jax.data.json_files import read_json, write_json
from actloc_jax.data.problems import Problem, require_no_errors

WHAT = '{"results": {video: [{"label", "score", "segment"}]}}'


@dataclasses.dataclass(frozen=True)
class ScoredSegments:
    """Scored segments of one video.

    Attributes:
        segments: [n, 2] float64 seconds.
        scores: [n] float64; of proposals they need not be probabilities.
        labels: [n] int32 class indices.
    """

    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray) -> ScoredSegments:
        """The segments of an index array or a mask."""
        return ScoredSegments(self.segments[chosen], self.scores[chosen], self.labels[chosen])


@dataclasses.dataclass(frozen=True)
class Proposals:
    """The content of a file.

    Attributes:
        method: what made them.
        class_names: the classes by index.
        videos: name -> scored segments, in the order of the file.
    """

    method: str
    class_names: tuple[str, ...]
    videos: Mapping[str, ScoredSegments]


def read_proposals(path: epath.PathLike, class_names: Sequence[str]) -> Proposals:
    """Reads a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: all that is wrong with it, labels that are not among `class_names` included.
    """
    proposals, problems = parse_proposals(path, class_names)
    require_no_errors(problems)
    return proposals


def parse_proposals(path: epath.PathLike, class_names: Sequence[str]) -> tuple[Proposals, list[Problem]]:
    """Reads a file as far as possible, and says what is wrong with the rest.

    Args:
        path: `.json` or `.json.gz`.
        class_names: the classes by index.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or JSON of something else.
    """
    path = epath.Path(path)
    content = read_json(path, what=f"scored segments: {WHAT}")
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        kind = "annotations ('database')" if isinstance(content, dict) and "database" in content else "something else"
        raise ValueError(f"{path} holds {kind}; expected scored segments: {WHAT}")
    index = {name: number for number, name in enumerate(class_names)}
    problems: list[Problem] = []
    unknown: dict[str, list[str]] = {}
    videos = {}
    for video, listed in results.items():
        rows = []
        for item in listed if isinstance(listed, list) else [listed]:
            row = _row(item)
            if row is None:
                problems.append(Problem("error", f"{path}: video {video} has {item!r:.80}, expected {WHAT}"))
            elif row[3] not in index:
                unknown.setdefault(row[3], []).append(video)
            else:
                rows.append((*row[:3], index[row[3]]))
        table = np.array(rows, np.float64).reshape(-1, 4)
        videos[video] = ScoredSegments(table[:, :2], table[:, 2], table[:, 3].astype(np.int32))
    for label, where in unknown.items():
        problems.append(
            Problem(
                "error",
                f"{path}: label {label!r} of {len(where)} proposals (first in {where[0]}) is not among the "
                f"{len(class_names)} classes ({', '.join(class_names[:5])}{', ...' * (len(class_names) > 5)}); "
                "it may be a file of another data set",
            )
        )
    return Proposals(str(content.get("method", "")), tuple(class_names), videos), problems


def write_proposals(
    path: epath.PathLike,
    videos: Mapping[str, ScoredSegments],
    class_names: Sequence[str],
    *,
    method: str = "",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a file; the order of videos and segments is kept.

    Args:
        path: `.json` or `.json.gz`.
        videos: name -> scored segments.
        class_names: the classes by index.
        method: what made them.
        extra: further fields of the file, e.g. ActivityNet's `version` and `external_data`.

    Raises:
        ValueError: NaN or infinite values, which JSON does not have.
    """
    for video, found in videos.items():
        if not (np.isfinite(found.segments).all() and np.isfinite(found.scores).all()):
            raise ValueError(f"the scored segments of {video} hold NaN or infinite values; {path} was not written")
    results = {
        video: [
            {"label": class_names[label], "score": score, "segment": segment}
            for label, score, segment in zip(
                found.labels.tolist(), found.scores.tolist(), found.segments.tolist(), strict=True
            )
        ]
        for video, found in videos.items()
    }
    write_json(path, {"method": method, **(extra or {}), "results": results})


def read_extra(path: epath.PathLike, name: str) -> Any:
    """A further field of a file, as `write_proposals` was given it; None if there is none.

    Raises:
        FileNotFoundError, ValueError: no such file, or not JSON.
    """
    content = read_json(path, what=f"scored segments: {WHAT}")
    return content.get(name) if isinstance(content, dict) else None


def fit_problems(proposals: Proposals, durations: Mapping[str, float], *, path: epath.PathLike) -> list[Problem]:
    """Says whether proposals are of a data set.

    Args:
        proposals: what was read.
        durations: video -> seconds (`inf` if unknown), of all videos that need proposals.
        path: the file, for messages.

    Returns:
        An error if no video has proposals, or segments end before they start; warnings for videos without proposals,
        for proposals of other videos, and for segments that begin after the end of their video.
    """
    if not durations:
        raise ValueError("no videos to compare proposals with")
    shared = [video for video in durations if video in proposals.videos]
    if not shared:
        return [
            Problem(
                "error",
                f"{path} holds proposals of {len(proposals.videos)} videos ({_few(proposals.videos)}), none of which "
                f"is among the {len(durations)} videos of this split ({_few(durations)}); it is of another data set or "
                "split: generate proposals for these videos",
            )
        ]
    found = []
    missing = [video for video in durations if video not in proposals.videos]
    if missing:
        found.append(
            Problem(
                "warning", f"{path} has no proposals for {len(missing)} of {len(durations)} videos ({_few(missing)})"
            )
        )
    others = [video for video in proposals.videos if video not in durations]
    if others:
        found.append(
            Problem("warning", f"{path}: {len(others)} videos ({_few(others)}) are not of this split: left out")
        )
    for video in shared:
        segments = proposals.videos[video].segments
        turned = np.count_nonzero(segments[:, 1] < segments[:, 0])
        if turned:
            found.append(Problem("error", f"{path}: video {video}: {turned} proposals end before they start"))
        late = segments[segments[:, 0] >= durations[video]]
        if len(late):
            found.append(
                Problem(
                    "warning",
                    f"{path}: video {video}: {len(late)} proposals begin after its end at {durations[video]:.2f} s, "
                    f"e.g. [{late[0, 0]:.2f}, {late[0, 1]:.2f}]",
                )
            )
    return found


def _row(item: Any) -> tuple[float, float, float, str] | None:
    """(start, end, score, label) of one entry; None if it cannot be read."""
    try:
        (start, end), score, label = item["segment"], item["score"], item["label"]
        values = float(start), float(end), float(score)
    except (KeyError, TypeError, ValueError):
        return None
    return (*values, str(label)) if all(map(math.isfinite, values)) else None


def _few(names: Iterable[str]) -> str:
    """The first names."""
    names = list(names)
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)
