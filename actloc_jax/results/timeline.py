"""What a model found in one video, for readers: segments in seconds, as text, as a figure and as a page."""

from __future__ import annotations

import dataclasses
import logging
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from actloc_jax.data.video_stills import read_stills
from actloc_jax.plotting import detections as detection_plots
from actloc_jax.plotting import timeline as label_plots
from actloc_jax.plotting.detections import SegmentRow
from actloc_jax.plotting.report import VideoReport
from actloc_jax.plotting.web_pages import video_page
from actloc_jax.results import formats
from actloc_jax.results.types import Segment

log = logging.getLogger(__name__)

PLAYED = (".mp4", ".m4v", ".webm", ".mov")  # containers that browsers play
_LIKELY = 1 / 3  # of the best score: from there on detections are shown at first, and become subtitles

Kind = Literal["truth", "labels", "detections"]


@dataclasses.dataclass(frozen=True)
class Track:
    """The segments of one source.

    Attributes:
        name: of the source ("ground truth", "TST").
        kind: "truth"; "labels", which do not overlap and leave no gap but ignored frames; "detections", which may
            overlap and each have a score.
        segments: by their start.
    """

    name: str
    kind: Kind
    segments: tuple[Segment, ...]

    def likely_score(self) -> float | None:
        """The score from which detections are shown at first: a third of the best one; None of other kinds."""
        if self.kind != "detections":
            return None
        return _LIKELY * max([0.0, *(segment.score for segment in self.segments)])


@dataclasses.dataclass(frozen=True)
class Timeline:
    """All that is known of one video.

    Attributes:
        video: its name.
        tracks: top to bottom as they are drawn: the ground truth where there is one, other sources, and last the
            model's own answer.
        class_names: by class index.
        duration: of the video, in `unit`; where nothing says it, the end of the last segment.
        frame_rate: of the labels, per second; 0 of detections, and where it is not known.
        unit: "seconds", or "frames" where labels have no known frame rate.
        background: names of classes that are no action.
        confidence: float [time] of the own labels, in 0..1, or None.
        scores: metric -> value, where there is ground truth.
        media: the video file, where it is known.
        facts: name -> value, what made this.
    """

    video: str
    tracks: tuple[Track, ...]
    class_names: tuple[str, ...]
    duration: float
    frame_rate: float = 0.0
    unit: Literal["seconds", "frames"] = "seconds"
    background: tuple[str, ...] = ()
    confidence: np.ndarray | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    media: epath.Path | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The model's own answer."""
        return self.tracks[-1].segments

    def likely(self, min_score: float | None = None) -> tuple[Segment, ...]:
        """The own segments from a score on; those without score all.

        Args:
            min_score: by default a third of the best score of detections, and no limit for labels.
        """
        least = self.tracks[-1].likely_score() if min_score is None else min_score
        return tuple(s for s in self.segments if least is None or s.score is None or s.score >= least)

    def to_json(self) -> str:
        """The own segments in ActivityNet's results format; "unit" says where they are not in seconds."""
        return formats.json_text(self.video, self.segments, {} if self.unit == "seconds" else {"unit": self.unit})

    def to_csv(self) -> str:
        """The own segments, a line each: video, start, end, label, score."""
        return formats.csv_text({self.video: self.segments})

    def to_srt(self, min_score: float | None = None) -> str:
        """The own segments as SubRip subtitles, without background; see `likely` and `formats.cues`.

        Raises:
            ValueError: the frame rate is not known.
        """
        self._require_seconds("subtitles")
        return formats.srt_text(self.likely(min_score), without=self.background)

    def to_vtt(self, min_score: float | None = None) -> str:
        """The same as WebVTT."""
        self._require_seconds("subtitles")
        return formats.vtt_text(self.likely(min_score), without=self.background)

    def plot(self) -> Figure:
        """The figure that `--mode=predict` writes."""
        own = self.tracks[-1]
        if own.kind == "detections":
            truth = [_segment_row(track, self.class_names) for track in self.tracks if track.kind == "truth"]
            others = [_segment_row(track, self.class_names) for track in self.tracks if track.kind != "truth"]
            return detection_plots.detection_timeline(
                truth[0] if truth else None, others, self.class_names, title=self.video, duration=self.duration
            )
        rows = [self._label_row(track) for track in self.tracks]
        return label_plots.timeline(
            rows, self.class_names, frame_rate=self.frame_rate, title=self.video,
            confidence=None if self.confidence is None else {"confidence": self.confidence},
        )  # fmt: skip

    def to_html(
        self,
        folder: epath.PathLike | None = None,
        *,
        files: Mapping[str, str] | None = None,
        home: str | None = None,
        root: epath.PathLike | None = None,
    ) -> str:
        """The page of this video, one file that needs no network.

        Args:
            folder: where it will be saved. A video that lies there or below `root` is played from the page, by its
                relative address; of another one, and without `folder`, the page holds pictures.
            files: name -> address of files that the page links to.
            home: address of the index of all videos.
            root: the folder that will be moved as a whole, if at all; the one above `folder` by default.
        """
        address = None
        if folder is not None and self.media is not None:
            above = epath.Path(folder).parent if root is None else root
            address = relative_address(self.media, epath.Path(folder), epath.Path(above))
        return video_page(
            self.video,
            [_segment_row(track, self.class_names) for track in self.tracks],
            self.class_names,
            duration=self.duration,
            minima={track.name: track.likely_score() for track in self.tracks if track.kind == "detections"},
            exclusive=[] if self.tracks[-1].kind == "detections" else [track.name for track in self.tracks],
            unit=self.unit,
            background=self.background,
            video=address,
            stills=() if address is not None or self.media is None else _stills(self.media),
            scores=self.scores,
            facts=self.facts,
            files=files,
            home=home,
        )

    def _label_row(self, track: Track) -> label_plots.Row:
        """Segments as labels of frames again; frames without segment are -1."""
        rate = label_plots.known_rate(self.frame_rate)
        labels = np.full(round(self.duration * rate), -1)
        index = {name: number for number, name in enumerate(self.class_names)}
        for segment in track.segments:
            labels[round(segment.start * rate) : round(segment.end * rate)] = index[segment.label]
        return label_plots.Row(track.name, labels)

    def _require_seconds(self, what: str) -> None:
        if self.unit != "seconds":
            raise ValueError(
                f"{self.video}: {what} need times in seconds, but the checkpoint does not know the frame rate of its "
                "labels; train it with data.frame_rate set."
            )


def relative_address(path: epath.Path, folder: epath.Path, root: epath.Path) -> str | None:
    """The address of a file for a page in `folder`; None if it is not below `root`, or no browser plays such files."""
    path, folder, root = (os.path.abspath(os.fspath(each)) for each in (path, folder, root))
    inside = os.path.commonpath([path, root]) == root
    if not inside or not path.lower().endswith(PLAYED):
        return None
    return urllib.parse.quote(os.path.relpath(path, folder).replace(os.sep, "/"))


def label_timeline(
    report: VideoReport,
    class_names: Sequence[str],
    *,
    frame_rate: float,
    background: Sequence[str] = (),
    truth: bool = False,
) -> Timeline:
    """The timeline of labelled frames.

    Args:
        report: rows as in the figures, the own one at the bottom; their labels are int [time].
        class_names: by class index.
        frame_rate: of the labels; 0 if unknown: times are then in frames.
        background: names of classes that are no action.
        truth: whether the first row is the ground truth.
    """
    *others, own = report.rows
    tracks = [Track(row.name, "labels", label_segments(row.labels, class_names, frame_rate)) for row in others]
    if truth:
        tracks[0] = dataclasses.replace(tracks[0], kind="truth")
    found = label_segments(own.labels, class_names, frame_rate, report.confidence)
    return Timeline(
        report.name,
        (*tracks, Track(own.name, "labels", found)),
        tuple(class_names),
        label_plots.duration_sec(report.rows, frame_rate),
        frame_rate=max(frame_rate, 0.0),
        unit="seconds" if frame_rate > 0 else "frames",
        background=tuple(background),
        confidence=report.confidence,
        scores=report.scores,
    )


def label_segments(
    labels: np.ndarray, class_names: Sequence[str], frame_rate: float, confidence: np.ndarray | None = None
) -> tuple[Segment, ...]:
    """Runs of equal labels; ignored (negative) frames belong to none.

    Args:
        labels: int [time].
        class_names: by class index.
        frame_rate: of the labels; 0 if unknown: times are then in frames.
        confidence: float [time], whose mean over a run is its score.
    """
    borders, classes = label_plots.label_runs(labels)
    rate = label_plots.known_rate(frame_rate)
    return tuple(
        Segment(
            start / rate,
            end / rate,
            class_names[label],
            None if confidence is None else float(np.mean(confidence[start:end])),
        )
        for start, end, label in zip(borders[:-1].tolist(), borders[1:].tolist(), classes.tolist(), strict=True)
        if label >= 0
    )


def likely_row(track: Track, class_names: Sequence[str]) -> SegmentRow:
    """The segments that are shown at first, as a row of a figure."""
    least = track.likely_score()
    likely = track.segments if least is None else tuple(s for s in track.segments if s.score >= least)
    return _segment_row(dataclasses.replace(track, segments=likely), class_names)


def _segment_row(track: Track, class_names: Sequence[str]) -> SegmentRow:
    index = {name: number for number, name in enumerate(class_names)}
    scored = bool(track.segments) and all(segment.score is not None for segment in track.segments)
    scored = scored or track.kind == "detections"
    return SegmentRow(
        track.name,
        np.array([[segment.start, segment.end] for segment in track.segments], np.float64).reshape(-1, 2),
        np.array([index[segment.label] for segment in track.segments], np.int64),
        np.array([segment.score for segment in track.segments], np.float64) if scored else None,
    )


def _stills(path: epath.Path) -> list[tuple[float, bytes]]:
    """Pictures of the video; none if it cannot be read, since the page does without."""
    try:
        return [(still.time, still.jpeg) for still in read_stills(path)]
    except (ValueError, OSError) as error:
        log.warning("no pictures of %s: %s", path, error)
        return []
