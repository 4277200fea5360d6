"""Binary data on stdin, stdout and named pipes: never a terminal, and a seekable copy of the input."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from codecctl.errors import CodecctlError, UsageError

_OPEN_FILES = Path("/proc/self/fd")


def check_inputs(inputs: Sequence[Path]) -> None:
    """Raises `CodecctlError` if none of the inputs exists: this answer need not wait for torch."""
    if not any(str(path) == "-" or os.path.lexists(path) for path in inputs):
        raise CodecctlError(f"{inputs[0]}: no such file")


def binary_stdout(hint: str) -> BinaryIO:
    """stdout for bytes. Raises `UsageError` with `hint`, what to type instead, if it is a terminal, `OSError` if it is
    closed or full."""
    if sys.stdout.isatty():
        raise UsageError(f"the result is binary and stdout is a terminal; type `{hint}`")
    with naming_stdout(), contextlib.suppress(io.UnsupportedOperation):  # no descriptor: a notebook's
        os.write(sys.stdout.fileno(), b"")
    return sys.stdout.buffer


def binary_stdin(inputs: Sequence[Path]) -> BinaryIO:
    """stdin for bytes. Raises `UsageError` for other inputs than `-`, and if it is a terminal."""
    if [str(path) for path in inputs] != ["-"]:
        raise UsageError("--stream reads from stdin: the input is -")
    return _stdin("pipe a stream into this command")


def _stdin(advice: str) -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        state = "closed" if sys.stdin is None else "a terminal"
        raise UsageError(f"'-' reads from stdin, which is {state}; {advice}")
    return sys.stdin.buffer


def naming_stdout() -> contextlib.AbstractContextManager[None]:
    return naming("stdout")


@contextlib.contextmanager
def naming(target: str | Path) -> Iterator[None]:
    """Around writes: adds the name to errors such as that of a full disk, which the system gives without."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(target)
        raise


@contextlib.contextmanager
def as_file(source: Path) -> Iterator[tuple[Path, str]]:
    """A seekable file with the content of `source`, and a name for messages.

    stdin (`-`) and pipes, as in `encode <(sox ...)`, are copied to a temporary file.
    """
    if str(source) == "-":
        with _copy(_stdin("pipe a file into this command or name a file")) as path:
            yield path, "stdin"
    elif _is_pipe(source):
        with source.open("rb") as pipe, _copy(pipe) as path:
            yield path, str(source)
    else:
        yield source, str(source)


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False  # the reader's message says why


@contextlib.contextmanager
def _copy(stream: BinaryIO) -> Iterator[Path]:
    """A copy in a temporary file; where the system allows, one without a name, which no signal can leave behind."""
    is_nameless = _OPEN_FILES.is_dir()
    with tempfile.TemporaryFile() if is_nameless else tempfile.NamedTemporaryFile(prefix="codecctl-") as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        yield _OPEN_FILES / str(copy.fileno()) if is_nameless else Path(copy.name)
