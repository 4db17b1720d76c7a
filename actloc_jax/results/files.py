"""Files that the results of every task share: prediction files, figures, texts; whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
from matplotlib.figure import Figure

from actloc_jax.results.types import FrameLabels

HEADER = "### Frame level recognition: ###"


def write_frame_labels(results: Sequence[FrameLabels], names: Sequence[str], folder: epath.Path) -> None:
    """One file per video as MS-TCN and TST write them: a header line, then the names of all labels in one line."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        words = " ".join(names[label] for label in result.labels)
        write_text(folder / result.video, f"{HEADER}\n{words}")


def write_text(path: epath.Path, text: str) -> None:
    """Replaces the file by one that holds `text`."""
    temporary = path.parent / f".{path.name}.unfinished"
    temporary.write_text(text)
    temporary.replace(path)


def save_figure(figure: Figure, path: epath.Path) -> None:
    """Writes the figure as PNG."""
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=110)
