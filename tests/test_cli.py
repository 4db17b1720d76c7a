"""The command line: help, and flags that make no sense."""

from __future__ import annotations

import importlib
import pathlib
import subprocess
import sys
import time

import pytest

from actloc_jax import modes, options

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


@pytest.mark.parametrize("mode", modes.MODES)
def test_help_of_a_mode_lists_its_own_flags_with_an_example(mode: str) -> None:
    answer = _run(f"--mode={mode}", "--help").stdout
    flags, _, examples = answer.partition("Examples:")
    assert answer.startswith(f"--mode={mode}\n{modes.MODES[mode].does}")
    for other in modes.MODES.values():
        for flag in other.flags:
            assert (f"\n  --{flag}: " in flags) == (flag in modes.MODES[mode].flags)
    assert f"--mode={mode} " in examples or mode == "train"


def test_options_of_a_config_come_with_value_type_and_comment() -> None:
    answer = _run("--mode=options", "--config=configs/spot_thumos.py:labels=60", "--config.finetune.epochs=3").stdout
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in answer.splitlines() if line.startswith("  ")}
    assert "Arguments: labels (per cent labelled), stage" in answer
    assert rows["finetune.epochs"] == ["int", "3"]
    assert rows["data.labels"] == ["float", "60.0  # per cent of the training videos that are labelled"]  # of the data
    assert rows["train.dtype"][1].endswith("# compute type of the networks: float32 | bfloat16")  # two files further
    assert rows["decode.row_seconds"][0] == "float"
    assert not any(name.startswith("paper.") for name in rows)


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
        (["--config=configs/nope.py"], ["--config: configs/nope.py does not exist"]),
        (["--mode=predict", "--checkpoint=x"], ["--mode=predict needs --inputs"]),
        (["--mode=predict", "--inputs=x.npy"], ["needs --checkpoint"]),
        (["--config=configs/asot_breakfast.py:activity=golf"], ["activity=golf does not exist", "coffee", "and all"]),
        (
            ["--mode=predict", "--config=configs/asot_affinity.py:cost", "--inputs=nowhere"],
            ["error: --inputs: nowhere does not exist; expected a .npy file or a folder of them."],
        ),
        (["--config=configs/tst_gtea.py", "--inputs=x"], ["--mode=train does not take --inputs", "--mode=predict"]),
        (["--mode=options"], ["--mode=options needs --config"]),
        (["--mode=export"], ["--mode=export needs --checkpoint"]),
        (["--mode=export", "--checkpoint=x", "--lengths=long"], ["--lengths=long must be whole numbers"]),
        (
            ["--mode=extract", "--recipe=cola"],
            ["--mode=extract needs --recipe=<name> and --inputs=<videos or folders>"],
        ),
        (["--mode=extract", "--recipe=i3d", "--inputs=a.mp4"], ["recipe 'i3d' is unknown; use mstcn", "--recipe=list"]),
        (["stray"], ["Unexpected argument 'stray'"]),
    ],
)
def test_wrong_flags_end_in_a_sentence(arguments: list[str], expected: list[str]) -> None:
    answer = _run(*arguments)
    said = answer.stdout + answer.stderr
    assert answer.returncode != 0
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1 or arguments == ["stray"]
    for part in expected:
        assert part in said, said[-800:]


@pytest.mark.parametrize("config", sorted(ROOT.glob("configs/[!c]*.py")), ids=lambda path: path.stem)
def test_every_config_lists_its_options(config: pathlib.Path) -> None:
    experiment = importlib.import_module(f"configs.{config.stem}").get_config()
    text = options.describe(experiment, str(config))
    assert "Arguments: " in text
    assert "  train.seed " in text
    assert len([line for line in text.splitlines() if "  # " in line]) > 15


def test_the_recipes_of_features_are_printed() -> None:
    answer = _run("--mode=extract", "--recipe=list")
    assert answer.returncode == 0
    assert "mstcn_15fps\n  D fps" in answer.stdout
    assert "  I crop" in answer.stdout
