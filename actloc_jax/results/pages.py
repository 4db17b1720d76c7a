"""The files of many videos: CSV and subtitles, a page per video, and an index of the pages."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from actloc_jax.data.video_files import VIDEO_SUFFIXES, read_index
from actloc_jax.plotting.web_pages import VideoRow, index_page
from actloc_jax.results import formats
from actloc_jax.results.files import file_stem, write_text
from actloc_jax.results.timeline import Timeline, likely_row

log = logging.getLogger(__name__)

MOST_PAGES = 200  # of an evaluation; the index stays below 1 MB, and nobody looks at more
FOLDER = "timelines"


def write_texts(timelines: Sequence[Timeline], workdir: epath.Path) -> None:
    """Writes `timelines/<video>.csv`, `.srt` and `.vtt`, and `segments.csv` with all videos.

    Videos whose labels have no known frame rate get no subtitles.
    """
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for timeline in timelines:
        stem = file_stem(timeline.video)
        write_text(folder / f"{stem}.csv", timeline.to_csv())
        if timeline.unit == "seconds":
            write_text(folder / f"{stem}.srt", timeline.to_srt())
            write_text(folder / f"{stem}.vtt", timeline.to_vtt())
    write_text(workdir / "segments.csv", formats.csv_text({line.video: line.segments for line in timelines}))


def write_pages(
    timelines: Iterable[Timeline],
    workdir: epath.Path,
    *,
    title: str,
    videos: int,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    links: Mapping[str, str] | None = None,
    most: int | None = None,
) -> epath.Path:
    """Writes `timelines/<video>.html` and `index.html`.

    Args:
        timelines: of the videos, in the order of the index.
        workdir: where the files go; what lies in it or beside it is moved together with it.
        title: heading of the index.
        videos: how many timelines there are.
        scores: source -> metric -> value over all videos.
        links: name -> address of files beside the index.
        most: pages that are written, of the first videos; None for all.

    Returns:
        path of the index.
    """
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows, classes, background = [], {}, {}
    for timeline in itertools.islice(timelines, most):
        stem = file_stem(timeline.video)
        files = {suffix.upper(): f"{stem}.{suffix}" for suffix in ("csv", "srt", "vtt")}
        files = {name: urllib.parse.quote(file) for name, file in files.items() if (folder / file).exists()}
        page = timeline.to_html(folder, files=files, home="../index.html", root=epath.Path(workdir).resolve().parent)
        write_text(folder / f"{stem}.html", page)
        classes |= dict.fromkeys(timeline.class_names)
        background |= dict.fromkeys(timeline.background)
        rows.append((timeline, f"{FOLDER}/{urllib.parse.quote(stem)}.html"))
    names = list(classes)
    text = index_page(
        title,
        [_index_row(timeline, link, names) for timeline, link in rows],
        names,
        scores=scores,
        background=list(background),
        links=links,
        count=f"{videos} video{'s' * (videos != 1)}" + (f", the first {most} of them here" * (len(rows) < videos)),
    )
    write_text(workdir / "index.html", text)
    return workdir / "index.html"


def with_media(timeline: Timeline, media: Mapping[str, epath.Path], **facts: Any) -> Timeline:
    """The timeline with the file of its video, where `media` has one, and its length; and with further facts."""
    timeline = dataclasses.replace(timeline, facts={**timeline.facts, **facts})
    if timeline.video not in media:
        return timeline
    path, duration = media[timeline.video], timeline.duration
    try:
        index = read_index(path)
        if timeline.unit == "seconds":
            duration = max(duration, float((index.times[-1]) * index.time_base) + 1 / index.fps)
    except (ValueError, OSError) as error:
        log.warning("%s: %s", timeline.video, error)
    return dataclasses.replace(timeline, media=path, duration=duration)


def find_videos(paths: Iterable[epath.PathLike]) -> dict[str, epath.Path]:
    """Video files by name without suffix, of files and of (local) folders with all that is below them.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    found = {}
    for path in map(os.fspath, paths):
        if not epath.Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist; expected a video, or a folder of them.")
        below = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in sorted(names)]
        files = [epath.Path(file) for file in below or [path]]
        found |= {file.stem: file for file in files if file.suffix.lower() in VIDEO_SUFFIXES}
    return found


def _index_row(timeline: Timeline, link: str, class_names: Sequence[str]) -> VideoRow:
    strips = [likely_row(track, class_names) for track in timeline.tracks]
    duration = timeline.duration if timeline.unit == "seconds" else None
    return VideoRow(timeline.video, link, duration, strips, timeline.scores)
