"""Videos at a fixed number of steps, and SPOT's targets on them (numpy only).

A video's features are resized to T steps. Its segments become shares of the seconds that the features cover, 0 to 1,
and then spans of whole steps. `DataQuirks` names what the published code does differently from what one would do:
among others, videos without a target are left out.

Source: `sauradip/SPOT:spot_lib/spot_dataloader.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from actloc_jax.data.annotations import VideoAnnotation
from actloc_jax.data.detection import VideoStore
from actloc_jax.data.grid import whole_video
from actloc_jax.data.samples import Record, Sample

WINDOW_STEPS = 17
"""The published rule keeps segments longer than this many steps of T: `num_frame + 1` with num_frame = 16."""


@dataclasses.dataclass(frozen=True)
class DataQuirks:
    """What the published data code does; False is the sane choice. In brackets: the number in the list of quirks.

    Attributes:
        last_segment_only: only the last annotation of a video is a target, the others are taught as background (1).
            False: all.
        long_segments_only: only segments longer than 17 of the T steps are targets, and labelled videos without are
            left out (2). False: all that lie in the video; a video without is taught as background.
        filter_unlabelled: the same for unlabelled videos, which looks at their hidden annotations. False: all of them.
        filter_evaluation: mAP counts only the validation videos that survive the same rule (2). False: all of them.
        inherit_empty: a video without annotation takes over the segment of the video before it.
        shave_targets: spans lose one step in front and two behind, and can become empty (3). False: all steps that a
            segment touches.
        pretrain_on_labelled: the first stage, which needs no labels, sees only labelled videos (4). False: all.
    """

    last_segment_only: bool = True
    long_segments_only: bool = True
    filter_unlabelled: bool = True
    filter_evaluation: bool = True
    inherit_empty: bool = True
    shave_targets: bool = True
    pretrain_on_labelled: bool = True


AS_PUBLISHED = DataQuirks()
FIXED = DataQuirks(**{field.name: False for field in dataclasses.fields(DataQuirks)})


@dataclasses.dataclass(frozen=True)
class RescaledVideo:
    """A video and the segments that are its targets.

    Attributes:
        annotation: all that is known about it.
        seconds: that its features cover.
        positions: [n, 2] float64, start and end of each target as a share of `seconds`, in 0..1.
        labels: [n] int32, their classes.
    """

    annotation: VideoAnnotation
    seconds: float
    positions: np.ndarray
    labels: np.ndarray

    def spans(self, steps: int, *, shave: bool) -> np.ndarray:
        """[n, 2] int32, the first step of each target and the one behind its last; not above 0 long: no step at all.

        Args:
            steps: T.
            shave: one step less in front and two behind, as published; otherwise all steps that a target touches.
        """
        first = np.floor(steps * self.positions[:, 0])
        if shave:
            return np.stack([first + 1, np.floor(steps * self.positions[:, 1]) - 1], axis=1).astype(np.int32)
        return np.stack([first, np.ceil(steps * self.positions[:, 1])], axis=1).astype(np.int32)


def rescale(
    videos: Sequence[VideoAnnotation],
    covered_seconds: Callable[[VideoAnnotation], float],
    steps: int,
    quirks: DataQuirks = AS_PUBLISHED,
) -> list[RescaledVideo]:
    """The targets of every video; videos without any are still there (see `surviving`).

    Args:
        videos: in the order of the file, which `inherit_empty` depends on.
        covered_seconds: seconds that the features of a video cover.
        steps: T.
        quirks: `last_segment_only`, `long_segments_only` and `inherit_empty` are looked at.

    Raises:
        ValueError: the first video has no annotation and `inherit_empty` is on, where the original stops as well.
    """
    found = []
    previous: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for video in videos:
        seconds = covered_seconds(video)
        if len(video.labels) or not quirks.inherit_empty:
            chosen = slice(-1, None) if quirks.last_segment_only else slice(None)
            segments = video.segments[chosen]
            factor = steps / (seconds * WINDOW_STEPS)
            windows = segments[:, 1] * factor - segments[:, 0] * factor  # unclipped, and rounded as in the original
            previous = np.clip(segments / seconds, 0, 1), video.labels[chosen], windows
        elif previous is None:
            raise ValueError(
                f"{video.video} has no annotation and there is no video before it whose segment it could take over; "
                "switch inherit_empty off, or annotate it"
            )
        positions, labels, windows = previous
        kept = windows > 1 if quirks.long_segments_only else positions[:, 1] > positions[:, 0]
        found.append(RescaledVideo(video, seconds, positions[kept], labels[kept]))
    return found


def surviving(videos: Sequence[RescaledVideo]) -> list[RescaledVideo]:
    """The videos that have a target."""
    return [video for video in videos if len(video.labels)]


def resize_linear(features: np.ndarray, steps: int) -> np.ndarray:
    """Resizes a sequence to `steps` rows: half-pixel centres, the ends repeated, no smoothing before shrinking.

    Step i is read at the row (i + 0.5) * rows / steps - 0.5, rounded to float32 as in PyTorch.

    Args:
        features: [time, channels].
        steps: T.

    Returns:
        [steps, channels] float32.
    """
    features = np.asarray(features, np.float32)
    scale = float(np.float32(len(features) / steps))
    at = np.maximum((scale * (np.arange(steps) + 0.5) - 0.5).astype(np.float32), 0)  # rounded once, as a fused step is
    below = np.minimum(at.astype(np.int64), len(features) - 1)
    above = np.minimum(below + 1, len(features) - 1)
    share = (at - below.astype(np.float32))[:, None]
    return (1 - share) * features[below] + share * features[above]


class RescaledSource:
    """Random access to videos at T steps, read when asked for.

    Attributes:
        folder: where they are.
        rescaled: the videos and their targets; a record's `index` is the position here.
        annotations: what is known about each video.
        videos: their names.
        steps: T.
        lengths: T for every video; no file is opened for that.

    Args:
        folder: where the features are.
        rescaled: from `rescale`.
        steps: T.
        shave: see `RescaledVideo.spans`.
        keep_in_memory: keep the resized features of videos once read (4 bytes * T * channels each); text files take
            longer to read than a step of training takes on an accelerator.

    Raises:
        ValueError: no videos.
    """

    def __init__(
        self,
        folder: VideoStore,
        rescaled: Sequence[RescaledVideo],
        *,
        steps: int,
        shave: bool = True,
        keep_in_memory: bool = False,
    ) -> None:
        if not rescaled:
            raise ValueError(f"no videos of {folder.root} were chosen; expected at least one")
        self.folder = folder
        self.rescaled = tuple(rescaled)
        self.annotations = tuple(video.annotation for video in rescaled)
        self.videos = tuple(video.video for video in self.annotations)
        self.steps = steps
        self.lengths = (steps,) * len(rescaled)
        self._shave = shave
        self._kept: dict[int, np.ndarray] | None = {} if keep_in_memory else None

    def __len__(self) -> int:
        return len(self.rescaled)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order of their index."""
        return self.folder.class_names

    def __getitem__(self, position: int) -> Record:
        return self.record(position)

    def record(self, position: int, epoch: int = 0) -> Record:
        """One video.

        Args:
            position: number of the video.
            epoch: not used; sources whose records change from epoch to epoch need it.

        Returns:
            `video` (name), `index` (position), `features` [T, channels] float32, `spans` [n, 2] int32 and `span_labels`
            [n] int32 of the targets, `segments` [m, 2] float32 seconds and `labels` [m] int32 as annotated, `duration`
            (seconds), `fps`, and `grid`, which second a step begins at.
        """
        del epoch
        rescaled = self.rescaled[position]
        video = rescaled.annotation
        return {
            "video": video.video,
            "index": position,
            "features": self._features(position),
            "spans": rescaled.spans(self.steps, shave=self._shave),
            "span_labels": rescaled.labels,
            "segments": video.segments.astype(np.float32),
            "labels": video.labels,
            "duration": video.duration,
            "fps": video.fps,
            "grid": whole_video(rescaled.seconds, self.steps, align="start"),
        }

    def _features(self, position: int) -> np.ndarray:
        if self._kept is not None and position in self._kept:
            return self._kept[position]
        features = resize_linear(self.folder.read_features(self.annotations[position]), self.steps)
        if self._kept is not None:
            self._kept[position] = features
        return features


def span_labels(spans: np.ndarray, labels: np.ndarray, steps: int, background: int) -> np.ndarray:
    """[steps] int32, the class of every step; later spans win where spans overlap.

    Args:
        spans: [n, 2], first step and the one behind the last.
        labels: [n] classes.
        steps: T.
        background: class of the other steps.
    """
    classes = np.full(steps, background, np.int32)
    for (start, end), label in zip(spans, labels, strict=True):
        classes[start : max(end, 0)] = label
    return classes


def span_masks(spans: np.ndarray, steps: int) -> np.ndarray:
    """[steps, steps] float32, row t: 1 on the span that holds step t; 0 in rows outside all spans.

    Overlapping spans are united in the rows that both hold. Symmetric.
    """
    masks = np.zeros([steps, steps], np.float32)
    for start, end in spans:
        masks[start : max(end, 0), start : max(end, 0)] = 1
    return masks


@dataclasses.dataclass(frozen=True)
class RescaledSample:
    """Sample of a video at T steps: `features` and `index`, and with `targets` what SPOT learns from.

    * `labels` [T] int32, class of every step, `num_classes` for background;
    * `masks` [T, T] float32, see `span_masks`.

    Attributes:
        steps: T.
        num_classes: without background.
        targets: False for unlabelled videos and for prediction.
    """

    steps: int
    num_classes: int
    targets: bool = True

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        del rng
        sample: Sample = {"features": record["features"], "index": np.int32(record["index"])}
        if self.targets:
            spans = record["spans"]
            sample["labels"] = span_labels(spans, record["span_labels"], self.steps, self.num_classes)
            sample["masks"] = span_masks(spans, self.steps)
        return sample

    def length(self, frames: int) -> int:
        """Rows of a sample."""
        return self.steps
