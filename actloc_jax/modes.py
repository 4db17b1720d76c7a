"""The modes of the command line: what each does, which flags it takes, how it is called.

`--help` is written from this table, and a flag that the chosen mode does not take is refused by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

COMMAND = "python -m actloc_jax.main"
EVERYWHERE = ("mode", "traceback", "compilation_cache")  # flags that any mode takes
NETWORKS = ("rgb", "flow", "optical_flow", "raft")  # flags that say what makes features of videos


@dataclasses.dataclass(frozen=True)
class Mode:
    """A value of `--mode`.

    Attributes:
        does: a sentence.
        flags: names of the flags it takes, beside those of all modes; the needed ones first.
        examples: commands, without what is the same in all of them.
    """

    does: str
    flags: tuple[str, ...]
    examples: tuple[str, ...]


MODES: dict[str, Mode] = {
    "train": Mode(
        "Trains what the config describes, evaluates it and writes a report; the default. A second run in the same "
        "workdir goes on where the first one stopped.",
        ("config", "workdir", "sweep"),
        (
            "--config=configs/tst_gtea.py:split=1 --workdir=runs/gtea_1",
            "--config=configs/tst_gtea.py:demo --workdir=runs/seeds --sweep=train.seed=1,2,3",
        ),
    ),
    "evaluate": Mode(
        "Scores a trained or converted model, or results of any program, and writes figures and a report.",
        ("config", "workdir", "checkpoint", "predictions", "videos", "sweep"),
        (
            "--mode=evaluate --config=configs/tst_gtea.py:split=1 --workdir=runs/gtea_1",
            "--mode=evaluate --config=configs/tridet_thumos.py --predictions=detections.json --workdir=runs/theirs",
        ),
    ),
    "predict": Mode(
        "Predicts a user's own files with a trained or converted model; writes tables, subtitles, figures and pages.",
        ("inputs", "checkpoint", "workdir", "config", "videos", *NETWORKS),
        (
            "--mode=predict --checkpoint=runs/gtea_1 --inputs=features/ --workdir=out",
            "--mode=predict --checkpoint=runs/gtea_1 --inputs=cooking.mp4 --rgb=checkpoints/i3d_rgb "
            "--flow=checkpoints/i3d_flow --workdir=out",
        ),
    ),
    "extract": Mode(
        "Makes features of videos, as a published recipe does, with a file beside them that says how. Features that "
        "are there already are left alone; a video that fails is reported, and the others go on.",
        ("recipe", "inputs", "workdir", *NETWORKS),
        (
            "--mode=extract --recipe=mstcn_15fps --inputs=videos/ --rgb=checkpoints/i3d_rgb "
            "--flow=checkpoints/i3d_flow --workdir=features",
            "--mode=extract --recipe=list",
        ),
    ),
    "inspect": Mode(
        "Reads the data, reports every problem at once and describes what would be trained on it; trains nothing.",
        ("config", "workdir"),
        ("--mode=inspect --config=configs/tst_gtea.py",),
    ),
    "export": Mode(
        "Writes the inference function of a checkpoint as StableHLO, with its parameters, a description and a script "
        "that runs it without this package.",
        ("checkpoint", "workdir", "config", "lengths", "batch", "platforms"),
        ("--mode=export --checkpoint=runs/gtea_1 --workdir=out --platforms=cpu,cuda",),
    ),
    "options": Mode(
        "Prints the arguments and all fields of a config: value, type and what the file says of it.",
        ("config",),
        ("--mode=options --config=configs/tst_gtea.py",),
    ),
}


def help_of(mode: str, flag_help: Mapping[str, str]) -> str:
    """What `--mode=<mode> --help` prints.

    Args:
        mode: a key of `MODES`.
        flag_help: what each flag is for, by name.
    """
    chosen = MODES[mode]
    lines = [f"--mode={mode}", chosen.does, "", "Flags:"]
    lines += [f"  --{name}: {flag_help[name]}" for name in (*chosen.flags, *EVERYWHERE)]
    lines += ["", "Examples:", *(f"  {COMMAND} {example}" for example in chosen.examples)]
    return "\n".join(lines)


def overview() -> str:
    """What `--help` prints of all modes: a sentence and the first example of each."""
    rows = [f"  {name:<10}{mode.does}\n            {COMMAND} {mode.examples[0]}" for name, mode in MODES.items()]
    return "\n".join(["Modes (more of one, with its flags: --mode=<mode> --help):", *rows])


def refuse_others(mode: str, given: Collection[str]) -> None:
    """Refuses flags that the mode would ignore.

    Args:
        mode: a key of `MODES`.
        given: names of the flags on the command line; those that are in no mode's list are left alone.

    Raises:
        ValueError: a flag belongs to other modes only; they are named.
    """
    for flag in sorted(given):
        takers = [name for name, other in MODES.items() if flag in other.flags]
        if takers and mode not in takers:
            raise ValueError(f"--mode={mode} does not take --{flag}; it belongs to --mode={', '.join(takers)}.")
