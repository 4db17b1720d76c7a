"""Files that the results of every task share: prediction files, figures, texts; whole or not at all."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from actloc_jax.plotting.curves import training_curves
from actloc_jax.plotting.report import html_report
from actloc_jax.results.types import FrameLabels
from actloc_jax.training.logging import read_metrics

HEADER = "### Frame level recognition: ###"


def write_frame_labels(results: Sequence[FrameLabels], names: Sequence[str], folder: epath.Path) -> None:
    """One file per video as MS-TCN and TST write them: a header line, then the names of all labels in one line."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        words = " ".join(names[label] for label in result.labels)
        write_text(folder / result.video, f"{HEADER}\n{words}")


def read_frame_labels(folder: epath.Path, names: Sequence[str] | None = None) -> list[FrameLabels]:
    """Reads what `write_frame_labels` wrote, or others in the same format.

    Args:
        folder: one file per video.
        names: by class index; None: those in the files, sorted.

    Raises:
        FileNotFoundError: no such folder, or no files in it.
        ValueError: a file of another format, or a name that is not among `names`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one with a file of frame labels per video.")
    words = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        lines = path.read_text().splitlines()
        if len(lines) != 2 or lines[0] != HEADER:
            raise ValueError(
                f"{path} has {len(lines)} lines; expected {HEADER!r} and a line with the names of all frames."
            )
        words[path.name] = lines[1].split()
    if not words:
        raise FileNotFoundError(f"{folder} is empty; expected a file of frame labels per video.")
    names = sorted({name for line in words.values() for name in line}) if names is None else names
    index = {name: number for number, name in enumerate(names)}
    unknown = {name: video for video, line in words.items() for name in line if name not in index}
    if unknown:
        name, video = next(iter(unknown.items()))
        raise ValueError(f"{folder / video}: label {name!r} is not among the {len(names)} classes of the data set.")
    return [FrameLabels(video, np.array([index[name] for name in line], np.int32)) for video, line in words.items()]


def write_text(path: epath.Path, text: str) -> None:
    """Replaces the file by one that holds `text`, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Replaces the file by one that holds `content`; if that fails, the file stays as it was."""
    temporary = path.parent / f".{path.name}.unfinished"
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_figure(figure: Figure, path: epath.Path) -> None:
    """Writes the figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_bytes(path, content.getvalue())


def file_stem(video: str) -> str:
    """A video's name as the beginning of a file name: without characters that a path gives a meaning."""
    return re.sub(r"[/\\\0]", "_", video).lstrip(".") or "_"


def training_figures(workdir: epath.Path, title: str) -> dict[str, Figure]:
    """{"Training": curves} of what a training logged in the workdir; empty without one."""
    logged = read_metrics(workdir)
    return {"Training": training_curves(logged, title=title)} if logged else {}


def write_report(workdir: epath.Path, title: str, **parts: Any) -> epath.Path:
    """Writes `report.html`, of parts as `plotting.report.html_report` takes them; its path."""
    path = workdir / "report.html"
    write_text(path, html_report(title, **parts))
    return path
