"""The command line in processes of its own, which are waited for, killed or asked to stop."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TIMEOUT_SEC = 300.0  # of a run; generous, since other tests share the cores


class Job:
    """The command line, run by one process or by several that find each other on this machine.

    Args:
        options: of the command line.
        folder: of what the processes of all jobs say, one file each.
        cache: of compiled programs.
        processes: their number.
    """

    def __init__(self, *options: str, folder: pathlib.Path, cache: pathlib.Path, processes: int = 2) -> None:
        command = [sys.executable, "-m", "actloc_jax.main", f"--compilation_cache={cache}", *options]
        # Compiling takes most of the time, and every process but the first does it in every run.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        if processes > 1:
            environment |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}", "JAX_NUM_PROCESSES": str(processes)}
        folder.mkdir(parents=True, exist_ok=True)
        said = pathlib.Path(tempfile.mkdtemp(dir=folder))
        self._outputs = [said / f"process_{index}.txt" for index in range(processes)]
        self._processes = []
        for index, path in enumerate(self._outputs):
            with path.open("w") as file:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env={**environment, "JAX_PROCESS_ID": str(index)},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def outputs(self) -> list[str]:
        """What each process has said so far."""
        return [path.read_text() for path in self._outputs]

    def finish(self) -> list[str]:
        """Waits until all processes have ended well; returns what they said."""
        self._wait(lambda codes: all(code == 0 for code in codes), broken=lambda code: code not in (None, 0))
        return self.outputs()

    def kill_when(self, ready: Callable[[], bool]) -> None:
        """Kills all processes at the first moment that `ready` holds; none may have ended before."""
        self._wait(lambda codes: ready(), broken=lambda code: code is not None)
        self._kill()

    def signal_when(self, ready: Callable[[], bool], number: int, *, to: int) -> list[int]:
        """Sends a signal to one process once `ready` holds, waits for the end of all; returns their exit codes."""
        self._wait(lambda codes: ready(), broken=lambda code: code is not None)
        self._processes[to].send_signal(number)
        self._wait(lambda codes: None not in codes, broken=lambda code: False)
        return [process.returncode for process in self._processes]

    def _wait(self, done: Callable[[list[int | None]], bool], broken: Callable[[int | None], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SEC
        while True:
            codes = [process.poll() for process in self._processes]
            late = time.monotonic() > deadline
            if late or any(map(broken, codes)):
                self._kill()
                said = "\n".join(f"--- process {i}:\n{text[-3000:]}" for i, text in enumerate(self.outputs()))
                pytest.fail(f"{'too late' if late else 'ended too early or badly'}, exit codes {codes}\n{said}")
            if done(codes):
                return
            time.sleep(0.02)

    def _kill(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
