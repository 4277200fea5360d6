"""Atomic writes of files and folders, of text and of JSON."""

from __future__ import annotations

import errno
import json
import logging
import math
import multiprocessing
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from codecctl.errors import UsageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk or a quota that is full."""
_LONGEST_NAME = 150  # bytes, of 255; process and machine come behind it
_STALE_SECONDS = 86_400  # since a process of another machine last wrote


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it replaces `path` when the block succeeds and is removed otherwise.

    `durable`: the file is on the disk when the block has ended. What a killed process leaves is removed by the next one
    that writes into this folder.
    """
    partial = partial_path(path)
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        if error.filename is not None and os.fsdecode(error.filename) == str(partial):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which becomes it when the block succeeds and is removed otherwise.

    Raises `UsageError` if `folder` exists and is not an empty folder, or the one that it is to be in does not.
    """
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder}: there is no folder {folder.parent}")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not empty; choose another name, or remove it")
    partial = partial_path(folder.absolute())
    try:
        partial.mkdir()
        yield partial
        os.replace(partial, folder)
    except OSError as error:  # it has no name, or that of a temporary file
        error.filename = str(folder)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(path: Path) -> Path:
    """`.NAME.THREAD.MACHINE.PROCESS.partial` beside `path`, for what is not complete yet."""
    _remove_partials_once(path.parent)
    name = os.fsencode(path.name)
    shown = path.name if len(name) <= _LONGEST_NAME else blake2b(name, digest_size=16).hexdigest()
    return path.with_name(f".{shown}.{threading.get_native_id()}.{_machine_digits()}.{os.getpid()}.partial")


def remove_partials(folder: Path) -> None:
    """Remove the temporary files and folders of processes that have ended. Those of another machine, whose processes
    cannot be looked up, are left for a day after the last write."""
    for partial in folder.glob(".*.partial"):
        machine, process = ("", "", *partial.name.split("."))[-3:-1]
        with suppress(OSError):
            is_over = (
                not is_running(process)
                if machine == _machine_digits()
                else time.time() - partial.stat().st_mtime > _STALE_SECONDS
            )
            if is_over and partial.is_dir() and not partial.is_symlink():
                shutil.rmtree(partial, ignore_errors=True)
            elif is_over:
                partial.unlink(missing_ok=True)


_remove_partials_once = cache(remove_partials)


def is_running(process: int | str) -> bool:
    """Whether a process of this number runs here; one that has ended but was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path("/proc", str(process), "status").read_text(errors="replace")
    except OSError:
        pass  # no such process, or no such file system
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # another user's
    return True


@cache
def machine() -> str | None:
    """Identifies the running system and its process namespace: in another container a pid is another process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


@cache
def _machine_digits() -> str:
    return blake2b((machine() or socket.gethostname()).encode(), digest_size=4).hexdigest()


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """The file under a name in UTF-8, for libraries that open no other; its own name, or that of an open descriptor."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
    else:
        yield path


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, so that it survives a power cut.

    Some network file systems refuse it for folders; then a renamed file may be lost in a power cut, which is logged
    once.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not path.is_dir():
            raise
        _say_not_durable(str(error.strerror))


@cache
def _say_not_durable(reason: str) -> None:
    if multiprocessing.parent_process() is None:
        logging.getLogger(__name__).warning(
            "fsync of a folder fails on this file system (%s): a power cut may undo the last changes",
            reason,
        )


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write an object as indented JSON, atomically; NaN and infinities, which JSON does not have, become null."""
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    write_lines(path, [text + "\n"], durable=durable)


def write_lines(path: Path, lines: Iterable[str], *, durable: bool = True) -> None:
    """Write a text file of lines (newlines included), atomically.

    A byte of a file name that is not UTF-8 becomes the six characters of its JSON escape, which read back as that byte.
    """
    with (
        replacing(path, durable=durable) as partial,
        open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(lines)


def to_json(value: Any) -> str:
    """One line of JSON for programs; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
