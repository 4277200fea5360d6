"""Binary data on stdin and stdout: never to a terminal, and a seekable copy of what comes in."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from codecctl.errors import UsageError


def binary_stdout(hint: str) -> BinaryIO:
    """stdout for bytes. Raises `UsageError` with `hint`, what to type instead, if it is a terminal."""
    if sys.stdout.isatty():
        raise UsageError(f"the result is binary and stdout is a terminal; type `{hint}`")
    return sys.stdout.buffer


@contextlib.contextmanager
def naming_stdout() -> Iterator[None]:
    """Around writing to stdout: the system does not say which file is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "stdout"
        raise


@contextlib.contextmanager
def as_file(source: Path) -> Iterator[tuple[Path, str]]:
    """A path that can be read and a name for messages; `-` is stdin, copied to a temporary file."""
    if str(source) != "-":
        yield source, str(source)
        return
    if sys.stdin.isatty():
        raise UsageError("'-' reads from stdin, which is a terminal; pipe a file into this command or give its name")
    with tempfile.NamedTemporaryFile(prefix="codecctl-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name), "stdin"
