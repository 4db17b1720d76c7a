"""scripts/tpu.sh says the commands that docs/tpu.md names, and keeps a job going on its host."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "tpu.sh"


def _dry_run(*words: str, **variables: str) -> list[list[str]]:
    """The commands that the script would run, as words."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
    answer = subprocess.run(
        [SCRIPT, "--dry-run", *words], env=environment | variables, capture_output=True, text=True, check=True
    )
    return [shlex.split(line) for line in answer.stdout.splitlines()]


def _documented() -> tuple[dict[str, str], list[str]]:
    """Of docs/tpu.md: the variables that it exports, and its commands."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / "tpu.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    exported = next(line for line in lines if line.startswith("export "))
    return dict(word.split("=", 1) for word in exported.split()[1:]), lines


def test_the_commands_of_the_page_can_be_given() -> None:
    exported, lines = _documented()
    given = [line for line in lines if "scripts/tpu.sh" in line]
    assert len(given) > 5
    for line in given:
        variables, words = line.split("scripts/tpu.sh")
        assert _dry_run(*shlex.split(words), **exported, **dict(pair.split("=") for pair in variables.split()))
    (create,) = _dry_run("create", **exported)
    assert sorted(create) in [sorted(shlex.split(line)) for line in lines]


def test_the_script_is_a_program_that_bash_can_read() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    assert os.access(SCRIPT, os.X_OK)


def test_a_tpu_is_created_and_deleted() -> None:
    (create,) = _dry_run("create")
    assert create[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "actloc-jax"]
    assert {"--accelerator-type=v5litepod-8", "--version=v2-alpha-tpuv5-lite", "--zone=us-central1-a"} < set(create)
    assert _dry_run("delete")[0][3:6] == ["tpu-vm", "delete", "actloc-jax"]
    queued = {"TPU_QUEUED": "1", "TPU_SPOT": "1", "TPU_NAME": "mine", "TPU_PROJECT": "lab", "TPU_TYPE": "v5litepod-16"}
    create, describe = _dry_run("create", **queued)
    assert create[3:6] == describe[3:4] + ["create", "mine"] == ["queued-resources", "create", "mine"]
    assert {"--node-id=mine", "--spot", "--project=lab", "--accelerator-type=v5litepod-16"} < set(create)
    assert "--force" in _dry_run("delete", **queued)[0]


def test_the_package_goes_to_all_hosts() -> None:
    archive, copy, install = _dry_run("install")
    assert archive[0] == "git"
    assert "--worker=all" in copy
    assert "--worker=all" in install
    (command,) = (word.removeprefix("--command=") for word in install if word.startswith("--command="))
    subprocess.run(["bash", "-n", "-c", command], check=True)
    assert "'.[video,gcs]' 'jax[tpu]'" in command


def test_the_job_gets_its_options_as_they_are() -> None:
    options = ["--config=configs/tallformer_thumos.py:fixed", "--config.stages=('fill_bank', 'train')"]
    (run,) = _dry_run("run", *options)
    (command,) = (word.removeprefix("--command=") for word in run if word.startswith("--command="))
    subprocess.run(["bash", "-n", "-c", command], check=True)
    words = shlex.split(command)
    assert words[words.index("on-host") + 1 :][:2] == options
    assert "--worker=2" in _dry_run("logs", TPU_HOST="2")[0]
    with pytest.raises(subprocess.CalledProcessError):
        _dry_run("run")


@pytest.mark.parametrize("words", [["lgos"], ["--dryrun", "create"]])
def test_an_unknown_command_is_an_error_that_lists_the_known(words: list[str]) -> None:
    answer = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "unknown command" in answer.stderr
    assert "logs" in answer.stderr


def _on_host(folder: pathlib.Path, program: str) -> subprocess.Popen:
    """The job on a host, with a shell program in place of Python."""
    python = folder / "python"
    python.write_text(f"#!/usr/bin/env bash\n{program}\n")
    python.chmod(0o755)
    environment = {**os.environ, "TPU_PYTHON": str(python), "TPU_ATTEMPTS": "3", "TPU_PAUSE": "0.1"}
    return subprocess.Popen([SCRIPT, "on-host", "--config=a b"], cwd=folder, env=environment)


@pytest.mark.parametrize(("failures", "status", "attempts"), [(0, 0, 1), (2, 0, 3), (9, 1, 3)])
def test_a_job_that_fails_is_started_again(tmp_path: pathlib.Path, failures: int, status: int, attempts: int) -> None:
    program = f'echo "$*" >> said; (( $(wc -l < said) > {failures} ))'
    assert _on_host(tmp_path, program).wait(timeout=30) == status
    assert (tmp_path / "said").read_text().splitlines() == ["-m actloc_jax.main --config=a b"] * attempts
    assert not (tmp_path / "job.pid").exists()


def test_a_job_that_is_stopped_saves_and_is_not_started_again(tmp_path: pathlib.Path) -> None:
    program = (
        "trap 'sleep 0.5; echo saved >> said; exit 143' TERM; echo started >> said; while true; do sleep 0.1; done"
    )
    job = _on_host(tmp_path, program)
    deadline = time.monotonic() + 30
    while not (tmp_path / "said").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int((tmp_path / "job.pid").read_text()), signal.SIGTERM)
    assert job.wait(timeout=30) == 143
    assert (tmp_path / "said").read_text().split() == ["started", "saved"]
