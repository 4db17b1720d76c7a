"""Who says which classes a video shows: the network, another model, or the annotation.

Detections without a class are given the best classes of their video (ActivityNet, HACS); of those with a class, only
those of the best classes are kept (THUMOS14, where the network is asked for nothing more unless that is wished).
Source: `klauscc/TALLFormer:AFSD/anet_video_cls/test.py` (`builtin`, `cuhk`, `gt`), `tools/test.py` (`--dataset anet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from actloc_jax.data.video_scores import VideoScores, read_class_scores

OWN, EXTERNAL, TRUTH = "own", "external", "truth"
CLASSIFIERS = (OWN, EXTERNAL, TRUTH)


class VideoClasses:
    """The scores of the classes of each video, by anyone but the network.

    Args:
        config: its `decode` group says who.
        class_names: of the data set, by index.

    Raises:
        FileNotFoundError, ValueError: nobody of that name, or a file of scores that cannot be used.
    """

    def __init__(self, config: ConfigDict, class_names: Sequence[str]) -> None:
        self._who, self._classes = config.decode.classifier, len(class_names)
        if self._who not in CLASSIFIERS:
            raise ValueError(f"config.decode.classifier={self._who!r} is unknown; use {', '.join(CLASSIFIERS)}.")
        path = config.decode.video_scores
        if self._who == EXTERNAL and not path:
            raise ValueError(
                "config.decode.classifier=external needs a file with another model's scores of whole videos; name it "
                "with --config.decode.video_scores=<file>.json"
            )
        self._scores: VideoScores | None = read_class_scores(path, class_names) if self._who == EXTERNAL else None

    def require(self, source: Any) -> None:
        """Raises ValueError if a video of a source cannot be classified."""
        if self._who == OWN:
            return
        records = [source.record(position) for position in range(len(source))]
        if self._scores is not None:
            lacking = self._scores.missing([record["video"] for record in records])
            if lacking:
                raise ValueError(lacking)
        elif any("labels" not in record for record in records):
            raise ValueError(
                "config.decode.classifier=truth takes the classes of videos from their annotation, which videos of "
                "your own have not; use own or external."
            )

    def scores(self, video: str, labels: Sequence[int]) -> np.ndarray | None:
        """Scores [classes] float64 of a video; None where the network itself is to say them.

        Args:
            video: its name.
            labels: of its annotated segments; the class of the first counts, as published.
        """
        if self._who == OWN:
            return None
        if self._scores is not None:
            return self._scores[video]
        truth = np.zeros(self._classes)
        truth[list(labels[:1])] = 1.0
        return truth


def best_classes(scores: np.ndarray, most: int) -> np.ndarray:
    """The most probable classes by falling score, without those of score 0: [at most `most`] int64."""
    best = np.argsort(-scores, kind="stable")[:most]
    return best[scores[best] > 0]
