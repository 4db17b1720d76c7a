"""A folder of videos, or of their features, and a table of segments become a data set.

    python -m actloc_jax.data.import_csv segments.csv data/kitchen --task=segmentation --frame-rate=15 \\
        --features=features
    python -m actloc_jax.data.import_csv segments.csv data/kitchen --task=detection --videos=videos

Segmentation: the folder layout of MS-TCN, where every frame has one class; what no segment covers is background.
Detection: ActivityNet's JSON, where segments may overlap. The table is described in `segment_csv.py`. All problems are
reported at once, and nothing is written if there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath

from actloc_jax.data import feature_files
from actloc_jax.data.activitynet_json import write_activitynet_json
from actloc_jax.data.annotations import Annotations, video_annotation
from actloc_jax.data.feature_manifests import manifest_of
from actloc_jax.data.problems import Problem, require_no_errors
from actloc_jax.data.segment_csv import LabelledVideo, Segment, read_segments
from actloc_jax.data.video_files import read_index
from actloc_jax.data.video_folder import VideoFolder

BEYOND_SEC = 0.5  # a segment may end so much behind its video, and is cut there; more is an error
TASKS = ("segmentation", "detection")


@dataclasses.dataclass(frozen=True)
class Import:
    """What is imported, and how.

    Attributes:
        table: file of segments.
        root: folder of the data set that is made.
        task: "segmentation" or "detection".
        videos: folder of the videos, for their durations and rates; None if there are only features.
        features: folder of the features, a `.npy` per video; None if they are extracted later.
        frame_rate: of the labels and features, per second (segmentation).
        feature_dim: channels, where the axes of the features do not tell.
        times: what the times of the table count: "seconds" or "frames" of the video.
        fps: frames per second of the videos, where times are frames and there are no video files.
        background: class of what no segment covers (segmentation).
        test_share: of the videos, drawn from `seed` where the table has no column `subset`.
        seed: of that division.
    """

    table: str
    root: str
    task: str
    videos: str | None = None
    features: str | None = None
    frame_rate: float | None = None
    feature_dim: int | None = None
    times: str = "seconds"
    fps: float | None = None
    background: str = "background"
    test_share: float = 0.25
    seed: int = 0


@dataclasses.dataclass
class Video:
    """A video of the data set: its segments in seconds, its length and its subset."""

    segments: list[Segment]
    subset: str
    seconds: float
    fps: float | None = None
    rows: int | None = None


def import_csv(options: Import) -> str:
    """Reads the table, checks it against the videos or features, and writes the data set.

    Returns:
        a summary, with the command to go on with.

    Raises:
        FileNotFoundError: the table or a folder is not there.
        ValueError: options that do not go together, or all that is wrong with the data.
    """
    _check(options)
    table, problems = read_segments(options.table)
    features = _Features(options, problems)
    videos = {name: _video(name, found, options, features, problems) for name, found in table.items()}
    known = {name: video for name, video in videos.items() if video is not None}
    if options.task == "segmentation":
        _check_overlaps(options, known, problems)
    _divide(options, known, problems)
    _check_unlisted(options, table, problems)
    for problem in problems:
        if problem.severity == "warning":
            print(problem, file=sys.stderr)
    require_no_errors(problems)
    write = _write_segmentation if options.task == "segmentation" else _write_detection
    classes = write(epath.Path(options.root), known, options)
    if options.features is not None:
        _link(epath.Path(options.features), epath.Path(options.root) / "features")
    return _summary(options, known, classes, features)


def _check(options: Import) -> None:
    """Refuses options that make no sense together, and a folder that holds a data set already."""
    root = epath.Path(options.root)
    taken = [name for name in ("groundTruth", "mapping.txt", "splits", "annotations.json") if (root / name).exists()]
    wrong = [
        (options.task not in TASKS, f"task {options.task!r} is unknown; use {' or '.join(TASKS)}"),
        (options.times not in ("seconds", "frames"), f"times {options.times!r} are unknown; use seconds or frames"),
        (bool(taken), f"{root} has {', '.join(taken)} already; choose another folder, or remove them"),
        (
            options.task == "segmentation" and not options.frame_rate,
            "segmentation needs --frame-rate: labels, and rows of features, per second",
        ),
        (
            options.task == "segmentation" and not (options.videos or options.features),
            "segmentation needs --features or --videos, to know how long each video is",
        ),
        (not 0 < options.test_share < 1, f"--test-share={options.test_share} must be between 0 and 1"),
    ]
    found = [message for is_wrong, message in wrong if is_wrong]
    if found:
        raise ValueError("; ".join(found))


class _Features:
    """The feature files of the data set, whose axes are found from all of them together."""

    def __init__(self, options: Import, problems: list[Problem]) -> None:
        self._folder = None if options.features is None else epath.Path(options.features)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._layout, self.channels, self.recipe = "time_first", options.feature_dim, ""
        if self._folder is None:
            return
        if not self._folder.is_dir():
            raise FileNotFoundError(f"{self._folder} does not exist; expected a folder with a .npy file per video")
        for path in sorted(self._folder.glob("*.npy")):
            try:
                self._shapes[path.stem] = feature_files.read_shape(path)
            except ValueError as error:
                problems.append(Problem("error", str(error)))
        if self._shapes:
            self._layout = feature_files.detect_layout(self._shapes, {}, feature_dim=options.feature_dim)
            sizes = [feature_files.shape_in_layout(shape, self._layout) for shape in self._shapes.values()]
            self.channels = next((size.channels for size in sizes if size is not None), None)
        self._find_recipe(problems)

    def _find_recipe(self, problems: list[Problem]) -> None:
        """The one recipe that manifests beside the features name, where there are any."""
        manifests = [manifest_of(self._folder / f"{video}.npy") for video in self._shapes]
        names = sorted({manifest.recipe["name"] for manifest in manifests if manifest is not None})
        if len(names) > 1:
            message = f"{self._folder} holds features of several recipes ({', '.join(names)}); extract all by one"
            problems.append(Problem("error", message))
        self.recipe = names[0] if names else ""

    def rows(self, video: str, problems: list[Problem]) -> int | None:
        """Rows of a video; None without features, which is a problem if there is a folder of them."""
        if self._folder is None:
            return None
        size = feature_files.shape_in_layout(self._shapes[video], self._layout) if video in self._shapes else None
        if size is None:
            problems.append(Problem("error", f"{self._folder / f'{video}.npy'} is missing: the features of {video}"))
            return None
        return size.frames


def _video(
    name: str, found: LabelledVideo, options: Import, features: _Features, problems: list[Problem]
) -> Video | None:
    """The segments of a video in seconds, checked against its length; None if the length cannot be known."""
    rows, fps, seconds = features.rows(name, problems), options.fps, found.duration
    if options.videos is not None:
        try:
            index = read_index(VideoFolder(options.videos).path(name))
        except (FileNotFoundError, ValueError) as error:
            problems.append(Problem("error", str(error)))
            return None
        fps, seconds = index.fps, len(index.times) / index.fps
    if options.task == "segmentation" and rows is not None:
        own = rows / options.frame_rate
        if seconds is not None and abs(own - seconds) > max(1.0, 0.02 * seconds):
            problems.append(
                Problem(
                    "error",
                    f"{name}: {rows} rows of features at {options.frame_rate:g} per second are {own:.1f} s, but the "
                    f"video lasts {seconds:.1f} s; correct --frame-rate, or extract the features again",
                )
            )
        seconds = own
    if options.times == "frames" and fps is None:
        problems.append(Problem("error", f"{name}: times are frames, but the frame rate is unknown; give --fps"))
        return None
    if seconds is None:
        problems.append(
            Problem("error", f"{name}: its duration is unknown; give --videos, or add a column duration (seconds)")
        )
        return None
    scale = 1.0 if options.times == "seconds" else 1.0 / fps
    segments = []
    for segment in found.segments:
        start, end = segment.start * scale, segment.end * scale
        if end > seconds + BEYOND_SEC or start >= seconds:
            problems.append(
                Problem(
                    "error",
                    f"{options.table}, line {segment.line}: the segment from {start:g} to {end:g} s lies outside "
                    f"{name}, which lasts {seconds:.2f} s",
                )
            )
        segments.append(segment._replace(start=start, end=min(end, seconds)))
    return Video(sorted(segments), found.subset, seconds, fps, rows)


def _check_overlaps(options: Import, videos: Mapping[str, Video], problems: list[Problem]) -> None:
    """Adds segments that a frame would have to choose between."""
    half_frame = 0.5 / options.frame_rate
    for name, video in videos.items():
        for first, second in zip(video.segments, video.segments[1:], strict=False):
            if second.start < first.end - half_frame:
                problems.append(
                    Problem(
                        "error",
                        f"{options.table}, lines {first.line} and {second.line}: {first.label!r} and {second.label!r} "
                        f"overlap in {name} from {second.start:g} to {min(first.end, second.end):g} s; a frame has one "
                        "class in segmentation (detection allows it)",
                    )
                )


def _check_unlisted(options: Import, table: Mapping[str, LabelledVideo], problems: list[Problem]) -> None:
    """Adds videos that the table does not name."""
    left_out = [] if options.videos is None else sorted(set(VideoFolder(options.videos).names) - table.keys())
    if left_out:
        message = f"{len(left_out)} videos of {options.videos} have no segments and are left out, e.g. {left_out[0]}"
        problems.append(Problem("warning", message))


def _divide(options: Import, videos: dict[str, Video], problems: list[Problem]) -> None:
    """Fills in the subsets: as the table says, or drawn from the seed where it has none."""
    without = [name for name, video in videos.items() if not video.subset]
    if without and len(without) < len(videos):
        problems.append(
            Problem(
                "error", f"{options.table}: {len(without)} videos have no subset, e.g. {without[0]}; give all or none"
            )
        )
    elif without:
        order = np.random.default_rng(options.seed).permutation(sorted(videos))
        count = min(max(round(options.test_share * len(order)), 1), len(order) - 1)
        for place, name in enumerate(order):
            videos[str(name)].subset = "test" if place < count else "train"
    for subset in ("train", "test"):
        if videos and all(video.subset != subset for video in videos.values()):
            problems.append(Problem("error", f"{options.table}: no video is of subset {subset}"))


def _write_segmentation(root: epath.Path, videos: Mapping[str, Video], options: Import) -> tuple[str, ...]:
    """Writes groundTruth, mapping.txt and splits; returns the classes."""
    labels = {name: _frame_labels(video, options) for name, video in videos.items()}
    present = {label for names in labels.values() for label in names}
    background = [options.background] if options.background in present else []
    classes = (*background, *sorted(present - set(background)))

    def write(folder: epath.Path) -> None:
        (folder / "groundTruth").mkdir(parents=True)
        (folder / "splits").mkdir()
        for name, names in labels.items():
            (folder / "groundTruth" / f"{name}.txt").write_text("".join(f"{label}\n" for label in names))
        for subset in sorted({video.subset for video in videos.values()}):
            listed = "".join(f"{name}.txt\n" for name, video in videos.items() if video.subset == subset)
            (folder / "splits" / f"{subset}.split1.bundle").write_text(listed)
        (folder / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(classes)))

    _write(root, ("groundTruth", "splits", "mapping.txt"), write)
    return classes


def _frame_labels(video: Video, options: Import) -> list[str]:
    """The class of every frame; a frame belongs to the segment that covers its centre. Names have no blanks."""
    frames = video.rows or max(round(video.seconds * options.frame_rate), 1)
    labels = [options.background] * frames
    for segment in video.segments:
        first, last = (math.ceil(time * options.frame_rate - 0.5) for time in (segment.start, segment.end))
        count = min(last, frames) - min(first, frames)
        labels[first : first + count] = ["_".join(segment.label.split())] * count
    return labels


def _write_detection(root: epath.Path, videos: Mapping[str, Video], options: Import) -> tuple[str, ...]:
    """Writes annotations.json and classes.txt; returns the classes."""
    del options
    classes = tuple(sorted({segment.label for video in videos.values() for segment in video.segments}))
    annotations = Annotations(
        classes,
        {
            name: video_annotation(
                name, video.subset, video.seconds, video.fps,
                [(segment.start, segment.end, classes.index(segment.label)) for segment in video.segments],
            )
            for name, video in videos.items()
        },
    )  # fmt: skip

    def write(folder: epath.Path) -> None:
        folder.mkdir(parents=True)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
        write_activitynet_json(annotations, folder / "annotations.json")

    _write(root, ("classes.txt", "annotations.json"), write)
    return classes


def _write(root: epath.Path, names: Sequence[str], write: Callable[[epath.Path], None]) -> None:
    """Writes into a folder of its own first; its parts are moved when all are complete."""
    unfinished = root / ".unfinished"
    if unfinished.exists():
        unfinished.rmtree()
    write(unfinished)
    for name in names:
        (unfinished / name).rename(root / name)
    unfinished.rmtree()


def _link(features: epath.Path, place: epath.Path) -> None:
    """Makes the features part of the data set, without copying them."""
    if not place.exists():
        os.symlink(features.resolve(), place, target_is_directory=True)


def _summary(options: Import, videos: Mapping[str, Video], classes: Sequence[str], features: _Features) -> str:
    """What was written, and the command that looks at it."""
    counts = {subset: sum(video.subset == subset for video in videos.values()) for subset in ("train", "val", "test")}
    divided = ", ".join(f"{count} {subset}" for subset, count in counts.items() if count)
    segments = sum(len(video.segments) for video in videos.values())
    lines = [f"{options.root}: {len(videos)} videos ({divided}), {segments} segments of {len(classes)} classes"]
    width = features.channels or "<channels>"
    if options.task == "segmentation":
        fields = f"--config.data.root={options.root} --config.data.num_classes={len(classes)} "
        fields += f"--config.data.frame_rate={options.frame_rate} --config.data.feature_dim={width}"
        config, recipe = "configs/tst_gtea.py", "--config.data.recipe="
    else:
        view = "--config.data.student."
        fields = f"{view}root={options.root} {view}annotations=annotations.json {view}features=features/{{video}}.npy "
        fields += f"{view}train_subsets=train {view}feature_dim={width} {view}grid.stride=<frames-from-row-to-row> "
        fields += f"{view}grid.window=<frames-of-a-row>"
        config, recipe = "configs/tridet_thumos.py", f"{view}recipe="
    if features.recipe:
        fields += f" {recipe}{features.recipe}"
    return "\n".join([*lines, "Look at it:", f"python -m actloc_jax.main --config={config} --mode=inspect {fields}"])


def main() -> None:
    """Imports a table from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="CSV file: video, start, end, label[, subset][, duration]")
    parser.add_argument("root", help="folder of the data set to make")
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--videos", help="folder of the videos, for their durations and rates")
    parser.add_argument("--features", help="folder of features, a .npy file per video; linked, not copied")
    parser.add_argument("--frame-rate", type=float, help="segmentation: labels and rows of features per second")
    parser.add_argument("--feature-dim", type=int, help="channels, where the axes of the features do not tell")
    parser.add_argument("--times", default="seconds", choices=("seconds", "frames"), help="what plain numbers count")
    parser.add_argument("--fps", type=float, help="frames per second of the videos, for times in frames")
    parser.add_argument("--background", default="background", help="segmentation: class of what no segment covers")
    parser.add_argument("--test-share", type=float, default=0.25, help="of the videos, without a column subset")
    parser.add_argument("--seed", type=int, default=0, help="of that division")
    arguments = parser.parse_args()
    try:
        print(import_csv(Import(**vars(arguments))))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
