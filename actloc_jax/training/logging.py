"""What a run says: metrics.jsonl, TensorBoard events and Weights & Biases for scalars, log.txt for sentences.

This module knows nothing of jax: values may be anything that `float` accepts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from actloc_jax.training.textfiles import AppendFile, replace_text

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
TENSORBOARD_FOLDER = "tensorboard"
RESERVED = ("time", "stage", "step", "epoch")


class MetricWriter:
    """Writes scalars and figures of a run; only process 0 writes anything.

    `metrics.jsonl` has one row per `write`: `{"time": seconds since 1970, "stage": ..., "step": ..., "epoch": ...,
    name: value, ...}`, where a value that is not finite is `null`. TensorBoard gets one run per stage under
    `tensorboard/`, since steps start anew in every stage.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        process_index: int = 0,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | bool | None = None,
    ) -> None:
        """Opens the files in `workdir` for appending.

        Args:
            workdir: made if it does not exist; may be a remote path such as `gs://bucket/run`.
            process_index: this process; all but 0 write nothing.
            tensorboard: whether to write TensorBoard events (local workdirs only; said in the log otherwise).
            wandb: None or False for no Weights & Biases, else arguments for `wandb.init` (True: none).

        Raises:
            ModuleNotFoundError: Weights & Biases is asked for and not installed.
        """
        self._workdir = epath.Path(workdir)
        self._active = process_index == 0
        self._tensorboard: dict[str, SummaryWriter] = {}
        self._purge_step: dict[str, int] = {}
        self._wandb: Any = None
        if not self._active:
            return
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._rows = AppendFile(self._workdir / METRICS_FILE)
        self._use_tensorboard = tensorboard and "://" not in os.fspath(self._workdir)
        if tensorboard and not self._use_tensorboard:
            log.warning("no TensorBoard events: %s is not a local folder; %s has all scalars", workdir, METRICS_FILE)
        if wandb:
            self._wandb = _start_wandb({} if wandb is True else dict(wandb), self._workdir)

    def resume(self, step: int, *, stage: str) -> None:
        """Says that `stage` goes on after `step`: what an interrupted run logged beyond that is removed.

        Rows of `stage` beyond `step` go, and so does whatever else was logged after the stage began. Call it before
        the stage's first `write`.
        """
        if not self._active:
            return
        self._rows.close()
        drop_rows_after(self._workdir, stage, step)
        self._rows = AppendFile(self._workdir / METRICS_FILE)
        self._purge_step[stage] = step + 1

    def write(self, step: int, scalars: Mapping[str, Any], *, stage: str, epoch: float | None = None) -> None:
        """Logs scalars of a step.

        Args:
            step: train steps taken in `stage`.
            scalars: name -> number, or array without axes; names may have parts, as in `train/loss`.
            stage: name of the stage.
            epoch: epochs done, if the caller counts them.

        Raises:
            ValueError: a scalar's name is one of the row's own (time, stage, step, epoch).
        """
        if not self._active:
            return
        taken = sorted(set(scalars) & set(RESERVED))
        if taken:
            raise ValueError(f"Scalars must not be named {taken}: these are columns of every row of {METRICS_FILE}.")
        values = {name: float(value) for name, value in scalars.items()}
        row = {"time": round(time.time(), 3), "stage": stage, "step": int(step), "epoch": epoch}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._rows.write(json.dumps(row) + "\n")
        if self._use_tensorboard:
            events = self._events(stage)
            for name, value in values.items():
                events.add_scalar(name, value, int(step))
        if self._wandb is not None:
            self._wandb.log({f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": int(step)})

    def figure(self, step: int, name: str, figure: Figure, *, stage: str = "figures") -> None:
        """Saves a figure as `figures/<name>.png` and shows it in TensorBoard and Weights & Biases.

        `name` may have parts, as in `timelines/S1_Tea_C1`; the file of an earlier step is replaced.
        """
        if not self._active:
            return
        path = self._workdir / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            figure.savefig(file, format="png", dpi=110)
        if self._use_tensorboard:
            self._events(stage).add_figure(name, _with_canvas(figure), int(step), close=False)
        if self._wandb is not None:
            import wandb

            self._wandb.log({f"{stage}/{name}": wandb.Image(figure), f"{stage}/step": int(step)})

    def close(self) -> None:
        """Writes out and closes everything; a second call does nothing."""
        if not self._active:
            return
        self._active = False
        self._rows.close()
        for events in self._tensorboard.values():
            events.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self.close()

    def _events(self, stage: str) -> SummaryWriter:
        if stage not in self._tensorboard:
            folder = os.fspath(self._workdir / TENSORBOARD_FOLDER / stage)
            self._tensorboard[stage] = SummaryWriter(folder, purge_step=self._purge_step.get(stage), flush_secs=30)
        return self._tensorboard[stage]


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a workdir's metrics.jsonl in order; no file gives no row, rows cut by a crash are left out."""
    path = epath.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for line in filter(None, path.read_text().split("\n")):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s: left out a row that was cut by a crash: %.60s", path, line)
    return rows


def drop_rows_after(workdir: epath.PathLike, stage: str, step: int) -> int:
    """Removes from metrics.jsonl, atomically, what was logged after `step` of `stage`.

    Kept are the rows before the stage's first one, and the stage's rows up to `step`. With no row of the stage all
    rows stay.

    Returns:
        the number of rows removed.
    """
    path = epath.Path(workdir) / METRICS_FILE
    rows = read_metrics(workdir)
    first = next((position for position, row in enumerate(rows) if row["stage"] == stage), len(rows))
    kept = rows[:first] + [row for row in rows[first:] if row["stage"] == stage and row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    if path.exists() and path.read_text() != text:
        replace_text(path, text)
    return len(rows) - len(kept)


@contextlib.contextmanager
def log_to_file(workdir: epath.PathLike, *, process_index: int = 0) -> Iterator[None]:
    """While entered, what Python's logging says (level INFO and above) is appended to `workdir/log.txt` too.

    Only process 0 writes. The root logger's own level still holds.
    """
    if process_index != 0:
        yield
        return
    epath.Path(workdir).mkdir(parents=True, exist_ok=True)
    file = AppendFile(epath.Path(workdir) / LOG_FILE)
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        file.close()


class TerminalHandler(logging.StreamHandler):
    """Prints to standard error without tearing a progress bar; for `logging.basicConfig(handlers=[...])`."""

    def __init__(self) -> None:
        super().__init__(_AboveBars())


class _AboveBars:
    """Standard error, written to above the progress bars."""

    def write(self, text: str) -> None:
        """Writes text that ends a line."""
        tqdm.tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        """Writes out what is buffered."""
        sys.stderr.flush()


def _start_wandb(options: dict[str, Any], workdir: epath.Path) -> Any:
    """Starts or, in a workdir that has been logged before, continues a Weights & Biases run."""
    try:
        import wandb
    except ImportError as error:
        raise ModuleNotFoundError(
            "Logging to Weights & Biases was asked for, but the package wandb is not installed. "
            'Install it with `pip install "actloc_jax[wandb]"`, or leave train.wandb unset.'
        ) from error
    id_file = workdir / "wandb_run_id.txt"
    if id_file.exists():
        options.setdefault("id", id_file.read_text().strip())
    if "://" not in os.fspath(workdir):
        options.setdefault("dir", os.fspath(workdir))
    run = wandb.init(resume="allow", **options)
    replace_text(id_file, run.id)
    return run


def _with_canvas(figure: Figure) -> Figure:
    """TensorBoard's writer draws on the Agg canvas."""
    FigureCanvasAgg(figure)
    return figure
