"""Which jobs are joined: nothing, the variables of JAX, SLURM, and the hosts of a Cloud TPU."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import jax
import pytest

from actloc_jax.training import sharding

VARIABLES = (
    "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES",
    "TPU_PROCESS_ADDRESSES",
)  # fmt: skip


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The arguments with which jobs are joined, in an environment that describes none."""
    calls: list[tuple] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: calls.append(arguments))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"SLURM_NTASKS": "1"}, []),
        ({"SLURM_NTASKS": "2"}, [()]),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, []),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, [()]),
        (
            {"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            [("host:1234", 2, 1)],
        ),
    ],
)
def test_a_job_is_joined_where_the_environment_describes_one(
    joined: list[tuple], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: list[tuple]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sharding.initialise_distributed()
    assert joined == expected


def test_half_a_description_is_an_error(joined: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID"):
        sharding.initialise_distributed()


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A metadata server that answers with the last text of the list; 404 while it is empty."""
    answers: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = answers and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(answers[-1].encode() if known else b"")

        log_message = staticmethod(lambda *arguments: None)  # or it would print every request

    with http.server.HTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(sharding, "TPU_HOSTS_URL", f"http://localhost:{server.server_port}/hosts")
        yield answers
        server.shutdown()


def test_the_hosts_of_a_tpu_vm_find_each_other(
    joined: list[tuple], metadata: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.append("id:1:10.0.0.1,id:2:10.0.0.2")
    sharding.initialise_distributed()
    assert joined == [], "the server must not be asked where there is no TPU"
    monkeypatch.setattr(sharding, "_has_tpu", lambda: True)
    sharding.initialise_distributed()
    assert joined == [()]
    metadata.append("id:1:10.0.0.1")
    sharding.initialise_distributed()
    assert joined == [()]
    metadata.clear()
    sharding.initialise_distributed()
    assert joined == [()]
