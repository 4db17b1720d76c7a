"""Settings of every test: the CPU, a figure backend without a screen, and short property tests."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import tempfile
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time of the tests is compilation. `XLA_FLAGS= python -m pytest` tests what users run, at twice the time.
# Only jax 0.10 knows the second flag, and a process that names an unknown one ends.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
)
# All workers and the programs that tests start share what they compile.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="actloc_jax_tests_"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import hypothesis
import jax
import pytest

pytest.register_assert_rewrite("tests.parity")

# Compilation makes the first example slow, so there is no time limit per example.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=15, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

MEMORY_MB = 2500  # of a worker, beyond which compiled programs are dropped; the shared folder still has them


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """Drops compiled programs between modules when a worker has grown large."""
    yield
    pages = pathlib.Path("/proc/self/statm")
    if pages.exists() and int(pages.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") > MEMORY_MB * 2**20:
        jax.clear_caches()
