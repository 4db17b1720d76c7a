"""Scores of whole videos by another model: how likely each video shows each class (numpy only).

| form | used by |
|---|---|
| `{"results": {video: [score of each class]}, "class": [names]}` | CUHK's results on ActivityNet, as codes share them |
| `{"results": {video: [{"label", "score"}]}}` | ActivityNet's classification format; G-TAD's files of HACS |
| `{video: {"class", "score"}}` | SPOT and TAGS: the best class alone |
| `{video: [score of each class]}` | anyone; classes in the order of the data set |

Names of videos may leave out ActivityNet's prefix "v_", or have it where the data set has not. A class that a file does
not mention has score 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from actloc_jax.data.json_files import read_json
from actloc_jax.data.spot_files import read_video_scores
from actloc_jax.data.video_folder import PREFIX

WHAT = 'scores of whole videos, e.g. {"results": {video: [score of each class]}, "class": [names]}'


class VideoScores:
    """Scores by video.

    Attributes:
        path: of the file, for messages.
    """

    def __init__(self, path: epath.PathLike, rows: Mapping[str, np.ndarray]) -> None:
        self.path = path
        self._rows = {_plain(video): row for video, row in rows.items()}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, video: str) -> np.ndarray:
        """Scores [classes] float64 of a video. Raises KeyError if it has none."""
        return self._rows[_plain(video)]

    def missing(self, videos: Sequence[str]) -> str:
        """Says how many of the videos have no scores; empty if all have."""
        lacking = [video for video in videos if _plain(video) not in self._rows]
        if not lacking:
            return ""
        return (
            f"{self.path} has scores of {len(self)} videos, but not of {len(lacking)} of the {len(videos)} that are "
            f"predicted, e.g. {', '.join(lacking[:3])}; use scores of the same data set, or the network's own classes "
            "(--config.decode.classifier=own)"
        )


def read_class_scores(path: epath.PathLike, class_names: Sequence[str]) -> VideoScores:
    """Reads a file in any of the forms above.

    Args:
        path: `.json` or `.json.gz`.
        class_names: the classes of the data set, by index.

    Raises:
        FileNotFoundError: no such file.
        ValueError: something else, other classes, or values that are no numbers.
    """
    content = read_json(path, what=WHAT)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no videos; expected {WHAT}")
    results = content.get("results", content)
    if not isinstance(results, dict) or not results:
        raise ValueError(f"{path} holds no videos; expected {WHAT}")
    first = next(iter(results.values()))
    if isinstance(first, dict):
        best = read_video_scores(path, class_names)
        return VideoScores(path, {video: _row({row.label: row.score}, class_names) for video, row in best.items()})
    listed = content["class"] if "results" in content and "class" in content else class_names
    places = _places(path, listed, class_names)
    rows: dict[str, np.ndarray] = {}
    wrong: list[str] = []
    for video, scores in results.items():
        found = _scores(scores, places, {name: number for number, name in enumerate(class_names)})
        if isinstance(found, str):
            wrong.append(f"{video}: {found}")
        else:
            rows[video] = _row(found, class_names)
    if wrong:
        raise ValueError(f"{path} cannot be used: {len(wrong)} videos, e.g. {wrong[0]}; expected {WHAT}")
    return VideoScores(path, rows)


def _places(path: epath.PathLike, listed: Any, class_names: Sequence[str]) -> list[int]:
    """Index in the data set of every class of a file."""
    index = {name: number for number, name in enumerate(class_names)}
    unknown = [name for name in listed if name not in index] if isinstance(listed, Sequence) else [listed]
    if unknown:
        raise ValueError(
            f"{path} scores {len(unknown)} classes that are not among the {len(index)} of the data set, e.g. "
            f"{unknown[0]!r}; use scores of the same classes, spelt alike"
        )
    return [index[name] for name in listed]


def _scores(scores: Any, places: Sequence[int], index: Mapping[str, int]) -> dict[int, float] | str:
    """Class -> score of one video, or what is wrong with it."""
    if not isinstance(scores, list):
        return f"{type(scores).__name__} is no list of scores"
    if scores and isinstance(scores[0], dict):
        labels = [row.get("label") for row in scores if isinstance(row, dict)]
        unknown = [label for label in labels if label not in index]
        if unknown or len(labels) < len(scores):
            return f"label {unknown[0]!r} is not among the {len(index)} classes" if unknown else "rows are no objects"
        pairs = [(index[label], row.get("score")) for label, row in zip(labels, scores, strict=True)]
    elif len(scores) != len(places):
        return f"it has {len(scores)} scores for {len(places)} classes"
    else:
        pairs = list(zip(places, scores, strict=True))
    if not all(isinstance(score, int | float) and math.isfinite(score) for _, score in pairs):
        return "a score is no number"
    return dict(pairs)


def _row(scores: Mapping[int, float], class_names: Sequence[str]) -> np.ndarray:
    """[classes] float64, 0 where nothing is said."""
    row = np.zeros(len(class_names))
    row[list(scores)] = list(scores.values())
    return row


def _plain(video: str) -> str:
    """A name without ActivityNet's prefix."""
    return video.removeprefix(PREFIX)
