"""The command line: help, and flags that make no sense."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "actloc_jax.main", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_help_answers_at_once_and_names_the_modes() -> None:
    start = time.monotonic()
    answer = _run("--help")
    assert time.monotonic() - start < 6, "3 s on an idle machine"
    for word in (
        "train",
        "evaluate",
        "predict",
        "inspect",
        "--config",
        "--checkpoint",
        ":demo",
        ":fixed",
        ":split=all",
    ):
        assert word in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mode=fly"], ["fly", "train", "evaluate", "predict", "inspect"]),
        ([], ["--config is needed", "configs/tst_gtea.py:demo"]),
        (["--config=configs/tst_gtea.py:quick"], ["Unknown config argument 'quick'", "known: split"]),
        (
            ["--config=configs/tst_gtea.py", "--config.tst.epoch=3"],
            ["error: the config has no field 'epoch'. Did you mean"],
        ),
        (["--config=configs/tst_gtea.py", "--config.nothing.at=3"], ["error: the config has no field 'nothing'"]),
        (["--config=configs/nope.py"], ["No such file", "configs/nope.py"]),
        (["--mode=predict", "--checkpoint=x"], ["--mode=predict needs --inputs"]),
        (["--mode=predict", "--inputs=x.npy"], ["needs --checkpoint"]),
        (["--config=configs/asot_breakfast.py:activity=golf"], ["activity=golf does not exist", "coffee", "and all"]),
        (
            ["--mode=predict", "--config=configs/asot_affinity.py:cost", "--inputs=nowhere"],
            ["error: --inputs: nowhere does not exist; expected a .npy file or a folder of them."],
        ),
        (["stray"], ["Unexpected argument 'stray'"]),
    ],
)
def test_wrong_flags_end_in_a_sentence(arguments: list[str], expected: list[str]) -> None:
    answer = _run(*arguments)
    said = answer.stdout + answer.stderr
    assert answer.returncode != 0
    assert "Traceback" not in said or ":" in arguments[0]  # absl quotes what a config file raises
    for part in expected:
        assert part in said, said[-800:]
