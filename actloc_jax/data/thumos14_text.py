"""THUMOS14's own annotations: one text file per class, one line "<video>  <start> <end>" (seconds) per instance.

```
<folder>/BaseballPitch_val.txt     ... one per class
<folder>/Ambiguous_val.txt         regions that are neither action nor background
<folder>/detclasslist.txt          "<number> <class name>" per line; the order numbers the classes
```
Duration and frame rate are not in these files; `read_video_info` reads them from a csv file such as AFSD's.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from etils import epath

from actloc_jax.data.annotations import AMBIGUOUS, Annotations, read_class_names, video_annotation

CLASS_LIST = "detclasslist.txt"


def read_thumos14_text(
    folder: epath.PathLike,
    subset: str,
    *,
    class_names: Sequence[str] | None = None,
    video_info: Mapping[str, tuple[float, float]] | None = None,
) -> Annotations:
    """Reads the class files of one subset.

    Args:
        folder: the files.
        subset: the end of their names: "val" or "test"; also the subset of the videos.
        class_names: the classes by index; otherwise those of detclasslist.txt, else of the files in alphabetical order.
        video_info: video -> (duration in seconds, frames per second); unknown (inf, None) otherwise.

    Returns:
        The videos in alphabetical order; the instances of a video in order of class and line.

    Raises:
        FileNotFoundError: no such folder, or no class files.
        ValueError: all lines that cannot be read, and files of unknown classes.
    """
    folder = epath.Path(folder)
    suffix = f"_{subset}.txt"
    files = {path.name.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}"))}
    ambiguous_file = files.pop(AMBIGUOUS, None)
    if not files:
        raise FileNotFoundError(f"{folder} has no files <class>{suffix}; expected one per class, a line per instance")
    if class_names is None:
        listed = folder / CLASS_LIST
        class_names = read_class_names(listed) if listed.exists() else tuple(files)
    problems = [
        f"{files[name]} is of class {name!r}, which is not in the class list; add it there or remove the file"
        for name in files
        if name not in class_names
    ]
    rows: dict[str, list[tuple[float, float, int]]] = {}
    for label, name in enumerate(class_names):
        if name in files:
            for video, start, end in _read_lines(files[name], problems):
                rows.setdefault(video, []).append((start, end, label))
    regions: dict[str, list[tuple[float, float]]] = {}
    for video, start, end in _read_lines(ambiguous_file, problems) if ambiguous_file is not None else []:
        regions.setdefault(video, []).append((start, end))
    if problems:
        raise ValueError(f"{len(problems)} problems with {folder}:\n  " + "\n  ".join(problems))
    videos = {}
    for video in sorted({*rows, *regions}):
        duration, fps = (video_info or {}).get(video, (math.inf, None))
        videos[video] = video_annotation(video, subset, duration, fps, rows.get(video, []), regions.get(video, []))
    return Annotations(tuple(class_names), videos)


def read_video_info(path: epath.PathLike) -> dict[str, tuple[float, float]]:
    """Video -> (duration in seconds, frames per second), from a csv file with the columns video, fps and count.

    The duration is count / fps.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or a line has no such numbers.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a csv file with the columns video, fps and count")
    reader = csv.DictReader(io.StringIO(path.read_text()))
    missing = {"video", "fps", "count"} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"{path} has the columns {reader.fieldnames}; {', '.join(sorted(missing))} missing")
    info = {}
    for number, row in enumerate(reader, start=2):
        try:
            fps, count = float(row["fps"]), float(row["count"])
            info[row["video"]] = (count / fps, fps)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{path}, line {number}: {row} has no frame rate and count ({error})") from error
    return info


def _read_lines(path: epath.Path, problems: list[str]) -> list[tuple[str, float, float]]:
    """(video, start, end) of every line; what cannot be read is added to `problems`."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            video, start, end = parts
            bounds = float(start), float(end)
        except ValueError:
            bounds = (math.nan, math.nan)
        if not all(map(math.isfinite, bounds)):
            problems.append(f'{path}, line {number} is {line.strip()!r}, expected "<video> <start> <end>" in seconds')
            continue
        found.append((video, *bounds))
    return found
