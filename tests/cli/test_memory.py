"""Where memory is limited, one line says so."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from codecctl.cli.main import explain_memory


@pytest.mark.slow
def test_a_limit_of_memory_ends_in_one_line() -> None:
    limit = 500_000_000  # too little for PyTorch
    done = subprocess.run(
        [sys.executable, "-m", "codecctl.cli.main", "info", "--json", __file__.replace(".py", ".pt")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 3000000000 bytes."
        ),
    ],
)
def test_errors_of_allocations_are_explained(error: Exception) -> None:
    message = explain_memory(error)
    assert message is not None
    assert message.index("\n") == len(message) - 1
    assert ("3000 MB more" in message) == ("3000000000" in str(error))


def test_other_errors_are_not_explained() -> None:
    assert explain_memory(RuntimeError("shape '[2]' is invalid")) is None
    assert explain_memory(FileNotFoundError(2, "No such file or directory")) is None
