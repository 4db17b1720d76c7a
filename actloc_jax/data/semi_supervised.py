"""Labelled and unlabelled training videos of a detection data set, and the videos of an evaluation (numpy only).

Which videos are labelled is said by the data set (SPOT's ratio files, or a list `labelled` of a `DetectionFolder`), or
drawn from a seed. Once they are divided, the labels of the others are looked at only where a published quirk does so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from actloc_jax.data.annotations import VideoAnnotation
from actloc_jax.data.detection import VideoStore
from actloc_jax.data.rescaled import AS_PUBLISHED, DataQuirks, RescaledSource, RescaledVideo, rescale, surviving
from actloc_jax.data.spot_files import SpotFolder

Part = Literal["labelled", "unlabelled", "pretraining", "evaluation"]
PARTS: tuple[Part, ...] = ("labelled", "unlabelled", "pretraining", "evaluation")


@dataclasses.dataclass(frozen=True)
class LabelSplit:
    """The training videos, divided.

    Attributes:
        labelled, unlabelled: in the order of the annotations.
        rule: who divided them, for messages.
    """

    labelled: tuple[VideoAnnotation, ...]
    unlabelled: tuple[VideoAnnotation, ...]
    rule: str

    @property
    def per_cent(self) -> float:
        """Share of labelled videos in per cent."""
        return 100 * len(self.labelled) / max(len(self.labelled) + len(self.unlabelled), 1)


def draw_split(videos: Sequence[VideoAnnotation], *, labels: float, seed: int) -> LabelSplit:
    """Draws which videos are labelled.

    Videos come in a random order, those that show a class for the first time before all others, so that a small share
    still has as many classes as it has room for. A larger share of the same seed contains a smaller one.

    Args:
        videos: the training videos.
        labels: share of labelled videos in per cent, rounded to whole videos, at least one.
        seed: of the order.

    Raises:
        ValueError: no videos, or a share that is not above 0 and at most 100.
    """
    if not 0 < labels <= 100:
        raise ValueError(f"labels={labels} is the share of labelled videos in per cent; expected 0 < labels <= 100")
    if not videos:
        raise ValueError("there are no training videos to choose labelled ones from")
    new, rest, seen = [], [], set()
    for position in np.random.default_rng(seed).permutation(len(videos)).tolist():
        shown = set(videos[position].labels.tolist())
        (rest if shown <= seen else new).append(position)
        seen |= shown
    count = max(round(len(videos) * labels / 100), 1)
    chosen = set((new + rest)[:count])
    return LabelSplit(
        tuple(video for position, video in enumerate(videos) if position in chosen),
        tuple(video for position, video in enumerate(videos) if position not in chosen),
        f"drawn with seed {seed}",
    )


class DividedStore(VideoStore, Protocol):
    """What is needed of the place where the videos are: a `DetectionFolder`, or a `PreparedDetection`."""

    def annotated(self, split: str) -> list[VideoAnnotation]: ...

    def videos(self, split: str) -> list[VideoAnnotation]: ...

    def has_split(self, split: str) -> bool: ...

    def covered_seconds(self, video: VideoAnnotation) -> float: ...


def split_labels(folder: DividedStore, train: str = "train", *, labels: float, seed: int) -> LabelSplit:
    """The division that the data set states, else one drawn from the seed.

    A data set states it by its splits `labelled` and `unlabelled`: those of a `SpotFolder` with a ratio file, or of a
    `DetectionFolder` with `lists={"labelled": "labelled.txt"}` or subsets of these names. With `labels=100` all are
    labelled.

    Raises:
        ValueError, FileNotFoundError: as `DetectionFolder.annotated` and `draw_split`.
    """
    videos = folder.annotated(train)
    if labels == 100:
        return LabelSplit(tuple(videos), (), "all are labelled")
    stated = {
        name: {video.video for video in folder.annotated(name)} if folder.has_split(name) else None
        for name in ("labelled", "unlabelled")
    }
    if stated["labelled"] is None:
        named = {video.video for video in videos} - (stated["unlabelled"] or set())
    else:
        named = stated["labelled"]
    labelled = [video for video in videos if video.video in named]
    if len(labelled) == len(videos):  # nobody says that any video is unlabelled
        return draw_split(videos, labels=labels, seed=seed)
    where = folder.info_path if isinstance(folder, SpotFolder) else folder.root
    return LabelSplit(
        tuple(labelled), tuple(video for video in videos if video.video not in named), f"stated by {where}"
    )


class SemiSupervised:
    """The videos of an experiment with few labels, at T steps.

    Args:
        folder: the data set.
        steps: T.
        labels: share of labelled training videos in per cent.
        seed: of the division, where the data set does not state one.
        train, evaluation: splits of the folder.
        quirks: what is done as published.
        keep_in_memory: see `RescaledSource`.
    """

    def __init__(
        self,
        folder: DividedStore,
        *,
        steps: int,
        labels: float,
        seed: int = 0,
        train: str = "train",
        evaluation: str = "val",
        quirks: DataQuirks = AS_PUBLISHED,
        keep_in_memory: bool = False,
    ) -> None:
        self.folder = folder
        self.steps = steps
        self.labels = labels
        self.seed = seed
        self.train = train
        self.evaluation = evaluation
        self.quirks = quirks
        self._keep_in_memory = keep_in_memory
        self._present: dict[str, set[str]] = {}  # split -> videos with features; looked up once

    @functools.cached_property
    def split(self) -> LabelSplit:
        """Which training videos are labelled. Raises as `split_labels`."""
        return split_labels(self.folder, self.train, labels=self.labels, seed=self.seed)

    def annotated(self, part: Part) -> list[VideoAnnotation]:
        """The videos of a part before any is left out, in the order of the annotations.

        Raises:
            ValueError: an unknown part.
        """
        if part == "evaluation":
            return self.folder.annotated(self.evaluation)
        if part == "labelled" or (part == "pretraining" and self.quirks.pretrain_on_labelled):
            return list(self.split.labelled)
        if part == "pretraining":
            return self.folder.annotated(self.train)
        if part == "unlabelled":
            return list(self.split.unlabelled)
        raise ValueError(f"part {part!r} is unknown; known: {', '.join(PARTS)}")

    def videos(self, part: Part, *, need_features: bool = True) -> list[RescaledVideo]:
        """The videos of a part that are trained on or predicted, with their targets.

        All videos of the evaluation are predicted, whichever of them count (see `evaluated`).

        Args:
            part: "labelled", "unlabelled", "pretraining" or "evaluation".
            need_features: leave out, or refuse, videos without features, as the folder's `missing_features` says.
                Without it the folder must know the seconds that features cover from elsewhere.

        Raises:
            FileNotFoundError: features are missing.
            ValueError: an unknown part, or annotations that cannot be used.
        """
        videos = self._rescaled(part, need_features)
        return surviving(videos) if self._filtered(part) else videos

    def without_targets(self, part: Part, *, need_features: bool = True) -> list[str]:
        """The videos of a part that have no target under the rules of the quirks, whether or not they are used."""
        return [video.annotation.video for video in self._rescaled(part, need_features) if not len(video.labels)]

    def source(self, part: Part) -> RescaledSource:
        """Random access to the videos of a part. Raises as `videos`, and ValueError if none is left."""
        videos = self.videos(part)
        if not videos:
            raise ValueError(
                f"no {part} video is left of {len(self.annotated(part))}: none has a segment that counts (the division "
                f"is {self.split.rule}); raise labels, or switch long_segments_only off"
            )
        return RescaledSource(
            self.folder,
            videos,
            steps=self.steps,
            shave=self.quirks.shave_targets,
            keep_in_memory=self._keep_in_memory,
        )

    def evaluated(self, *, filtered: bool | None = None, need_features: bool = True) -> list[str]:
        """The videos whose instances count in the evaluation.

        Two protocols: as published, only validation videos that survive the rules of training, so that the hardest are
        not asked for; and all of them, as other publications do. The same predictions score several points of mAP more
        under the first: never compare the two.

        Args:
            filtered: as published; None: as `quirks.filter_evaluation` says.
            need_features: as published, a video without features does not count either.
        """
        if filtered is None:
            filtered = self.quirks.filter_evaluation
        if not filtered:
            return [video.video for video in self.annotated("evaluation")]
        rules = dataclasses.replace(AS_PUBLISHED, inherit_empty=self.quirks.inherit_empty)
        videos = self._rescaled("evaluation", need_features, rules)
        return [video.annotation.video for video in surviving(videos)]

    def describe(self) -> str:
        """Lines that say how many videos each part has, and how many were left out."""
        split = self.split
        lines = [
            f"{split.per_cent:.3g} % of {len(split.labelled) + len(split.unlabelled)} training videos are labelled "
            f"({split.rule})"
        ]
        for part in ("labelled", "unlabelled", "evaluation"):
            total, empty = len(self.annotated(part)), len(self.without_targets(part))
            fate = "left out" if self._filtered(part) else "kept"
            lines.append(f"{part}: {total} videos, {empty} of them without a segment that counts ({fate})")
        return "\n".join(lines)

    def _filtered(self, part: Part) -> bool:
        """Whether videos without targets are left out of a part."""
        if part == "unlabelled":
            return self.quirks.filter_unlabelled
        labelled = part == "labelled" or (part == "pretraining" and self.quirks.pretrain_on_labelled)
        return labelled and self.quirks.long_segments_only

    def _rules(self, part: Part) -> DataQuirks:
        """What decides about the targets of a part: a filter of unlabelled videos follows the published rules."""
        if part == "unlabelled" and self.quirks.filter_unlabelled:
            return dataclasses.replace(AS_PUBLISHED, inherit_empty=self.quirks.inherit_empty)
        return self.quirks

    def _rescaled(self, part: Part, need_features: bool, rules: DataQuirks | None = None) -> list[RescaledVideo]:
        videos = self._with_features(part) if need_features else self.annotated(part)
        return rescale(videos, self.folder.covered_seconds, self.steps, rules or self._rules(part))

    def _with_features(self, part: Part) -> list[VideoAnnotation]:
        """The videos of a part that have features; one that lacks them is refused, or left out with a warning."""
        split = self.evaluation if part == "evaluation" else self.train
        if split not in self._present:
            self._present[split] = {video.video for video in self.folder.videos(split)}
        return [video for video in self.annotated(part) if video.video in self._present[split]]
